//! Full accept queues: the agent reports the overflows of a TCP listener that the kernel counts as
//! `ListenOverflows`, and of a UNIX listener those that its clients see.

pub(super) mod reported;
mod tcp;
mod unix;

pub(super) use tcp::{of_a_busy_listener, the_listener_that_was_full, what_the_kernel_counts};
pub(super) use unix::{
    refused_by_a_unix_socket, refused_by_a_unix_socket_that_closed, waiting_for_a_unix_socket,
};
