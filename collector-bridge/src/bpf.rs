//! The kernel side of the agent: load the programs, attach them, drain their ring, read their counters.

pub mod counters;
pub mod failures;
pub mod loader;
pub mod offsets;
pub mod ring;
pub mod survey;

pub use loader::{LoadError, Missing, Programs, Settings, load};
