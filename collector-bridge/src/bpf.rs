//! The kernel side of the agent: load the programs, attach them, drain their ring, read their counters.

pub mod anchor;
mod attach;
pub mod counters;
pub mod failures;
pub mod figures;
pub mod hooks;
pub mod lives;
pub mod loader;
pub mod offsets;
pub mod peers;
mod pins;
pub mod ring;
pub mod survey;

pub use hooks::{Tier, Wanted};
pub use loader::{Capture, LoadError, Missing, Programs, Settings, Traces, load};

use aya::maps::MapError;

/// What came of removing a key that may be gone already: a program, or another look, may have removed it.
fn gone(removed: Result<(), MapError>) -> Result<(), MapError> {
    match removed {
        Err(MapError::KeyNotFound) => Ok(()),
        other => other,
    }
}
