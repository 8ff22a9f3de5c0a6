//! Shared by xtask, which installs, builds and starts, and by the programs that xtask starts.
//!
//! This crate depends on no crate of the workspace: xtask must compile before their toolchain is installed.
#![forbid(unsafe_code)]

pub mod command;
pub mod extent;
pub mod externals;
pub mod files;
pub mod guests;
pub mod libraries;
pub mod results;
pub mod root;
pub mod workspace;

pub use extent::Extent;
pub use externals::{External, Externals};
pub use workspace::Workspace;
