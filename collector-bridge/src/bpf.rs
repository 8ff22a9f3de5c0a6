//! The kernel side of the agent: load the programs, attach them, drain their ring, read their counters.

pub mod anchor;
mod attach;
pub mod attached;
pub mod counters;
pub mod decode;
mod error;
pub mod failures;
pub mod figures;
pub mod filter;
pub mod hooks;
pub mod lives;
pub mod loader;
pub mod offsets;
pub mod peers;
mod pins;
pub mod ring;
mod settings;
pub mod survey;

use aya::maps::MapError;
pub use error::{Capture, LoadError, Missing};
pub use hooks::{Tier, Wanted};
pub use loader::{Programs, load};
pub use settings::{Settings, Traces};

/// What came of removing a key that may be gone already: a program, or another look, may have removed it.
fn gone(removed: Result<(), MapError>) -> Result<(), MapError> {
    match removed {
        Err(MapError::KeyNotFound) => Ok(()),
        other => other,
    }
}
