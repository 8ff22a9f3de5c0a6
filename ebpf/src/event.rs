//! The facts that a hook gathers about one accept. `accept.rs` decides on them, and fills the sample from
//! them.

use acceptd_common::TraceDecision;

use crate::{
    pending::Pending,
    sock::{FileSock, ProbedSock, TypedSock},
    uapi::AF_UNIX,
};

/// The descriptor is not known.
pub const NO_FD: i32 = -1;

/// A call of accept that returned.
#[derive(Clone, Copy)]
pub struct CallResult {
    /// One of `AcceptCall::SYSCALL_…`.
    pub syscall: u8,
    /// A negative errno, or with `is_fd` the new descriptor. Without `is_fd`: a slot of the ring's file
    /// table, or 0 if unknown.
    pub result: i32,
    /// Whether a `result` that is not an errno is a descriptor. `false` for a slot, and when the descriptor
    /// is unknown.
    pub is_fd: bool,
    /// Negative if not known. Not an `Option`; see [`FileSock::NONE`].
    pub listener_fd: i32,
}

/// The facts about one accept.
#[derive(Clone, Copy)]
pub struct Accept {
    pub call: CallResult,
    /// Boot clock, nanoseconds.
    pub now: u64,
    /// 0 if not known.
    pub blocked_ns: u64,
    pub accepted: FileSock,
    pub listener: FileSock,
    /// Whether `accepted` is certainly the socket that the call returned.
    pub verified: bool,
    /// The state of the connection before it was accepted.
    pub pending: Pending,
    /// Whether the agent accepted, or opened the connection.
    pub is_self: bool,
    pub trace: TraceDecision,
}

impl Accept {
    /// An accept whose sockets are not known yet.
    #[inline(always)]
    pub fn new(call: CallResult, now: u64, blocked_ns: u64) -> Self {
        Self {
            call,
            now,
            blocked_ns,
            accepted: FileSock::NONE,
            listener: FileSock::NONE,
            verified: false,
            pending: Pending::UNKNOWN,
            is_self: false,
            trace: TraceDecision { anchor_ns: 0, threshold: 0, flags: 0, reserved: 0 },
        }
    }

    /// The accepted socket, or the listener if the accepted one is not known. They have the same family,
    /// local address and network namespace.
    #[inline(always)]
    pub fn either_socket(&self) -> ProbedSock {
        self.accepted.sk.or(self.listener.sk)
    }

    #[inline(always)]
    pub fn is_unix(&self) -> bool {
        self.either_socket().family() == AF_UNIX
    }

    /// The accepted socket with its type, for the socket storage of tier 1.
    ///
    /// # Safety
    /// The accept is verified, and the path that leads here exists only in tier 1. There the hooks take the
    /// accepted socket of a verified accept from a [`TypedSock`].
    #[inline(always)]
    pub unsafe fn typed_accepted(&self) -> TypedSock {
        // SAFETY: by this function's contract.
        unsafe { TypedSock::new(self.accepted.sk.as_ptr()) }
    }
}
