//! The path of an event in user space: from the ring buffer to the outputs.

pub mod destination;
pub mod drain;
pub mod outputs;
pub mod overload;
pub mod recorder;
pub mod spans;
