//! The kernel side of the agent: loads and attaches the eBPF programs, decodes the samples in their ring
//! buffer, and reads and trims their maps.

pub(crate) mod anchor;
mod attach;
pub(crate) mod attached;
pub(crate) mod connections;
pub(crate) mod counters;
pub(crate) mod decode;
mod error;
pub(crate) mod failures;
pub mod filter;
pub(crate) mod hooks;
pub(crate) mod kernel_path;
mod loader;
mod map;
mod modules;
pub mod offsets;
pub(crate) mod peers;
mod pins;
pub(crate) mod preemption;
pub mod program_stats;
pub(crate) mod refused;
pub(crate) mod ring;
mod settings;
pub mod skipped;
pub(crate) mod survey;
pub mod unix_paths;

pub use error::{CaptureMode, LoadError, MissingFeature};
pub use hooks::{OptionalHooks, Tier};
pub use loader::{Programs, load};
pub use settings::{LoadSettings, TraceSettings};
