//! Which process an event belongs to: one encoded Resource for each process, made at the process's first
//! event and cached.
//!
//! The eBPF programs capture the facts that vanish with the process. `process.rs` completes them from
//! `/proc`, outside of any hook. `reader.rs` adds what the process publishes about itself; that comes later,
//! and the Resource is encoded again then. `cache.rs` holds all identities.

mod c_string;
mod cache;
mod cgroup;
mod details;
mod environments;
pub mod host;
mod key;
mod passwd;
pub(crate) mod proc_dir;
pub mod process;
mod process_context;
mod published;
mod reader;

pub(crate) use c_string::until_nul;
pub(crate) use cache::ANSWER_TIMEOUT;
pub use cache::{Identities, Identity, ResourceSettings};
