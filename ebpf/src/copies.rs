//! Copies of a program on the same hook, for preemptible kernels.
//!
//! While a task is preempted inside a tracing program, the kernel skips that program for every other task of
//! the same CPU (`prog->active`, kernel/bpf/trampoline.c), and only counts this (`recursion_misses`). A copy
//! is a program of its own to the kernel, so it runs. The copies of a hook run one after the other; a copy
//! acts only on events for which every copy before it was skipped.

use aya_ebpf::{macros::map, maps::PerCpuArray};

use crate::{offsets::HAS_COPIES, read::as_scalar, sock::TypedSock};

/// The copies of one hook that ran for the latest event of one thread: bit N stands for copy N.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct RanCopies(u8);

impl RanCopies {
    /// Notes that `copy` runs. Returns whether it has to act: `false` if an earlier copy ran for this event.
    /// Copies run in ascending order, so if this or a later one ran already, a new event has begun.
    #[inline(always)]
    pub fn must_act(&mut self, copy: u8) -> bool {
        let is_new_event = self.0 >> copy != 0;
        let earlier = if is_new_event { 0 } else { self.0 };
        self.0 = earlier | 1 << copy;
        earlier == 0
    }
}

/// The latest TCP transition that a program handled on each CPU: the address of the socket, and the new state
/// in the low bits, which are zero in an address.
#[map]
static LATEST_TRANSITION: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Whether `copy` has to handle the transition of `sk` to the state `new`. It also returns `true` if another
/// transition came between two copies, so what it decides on must have no effect if it is done twice.
#[inline(always)]
pub fn must_handle_transition(copy: u8, sk: TypedSock, new: u8) -> bool {
    if HAS_COPIES.load() == 0 {
        return true;
    }
    let Some(latest) = LATEST_TRANSITION.get_ptr_mut(0) else { return true };
    let transition = as_scalar(sk.address()) | u64::from(new);
    // SAFETY: a non-null map value of eight bytes. A program that preempts this one may write another value;
    // then a copy handles a transition twice.
    unsafe {
        if copy > 0 && *latest == transition {
            return false;
        }
        *latest = transition;
    }
    true
}

/// Makes three programs of one body: the first one, and two copies. The body gets the number of its copy,
/// from 0, under the second name.
macro_rules! with_copies {
    (@program $name:ident $number:literal [$($attributes:tt)*] $ctx:ident $context:ty, $copy:ident $($body:tt)*) => {
        $($attributes)*
        pub fn $name($ctx: $context) -> i32 {
            let $copy: u8 = $number;
            $($body)*
            0
        }
    };
    ($(
        $(#[$attribute:meta])*
        fn $first:ident, $second:ident, $third:ident($ctx:ident: $context:ty, $copy:ident) { $($body:tt)* }
    )*) => {
        $(
            $crate::copies::with_copies! { @program $first 0 [$(#[$attribute])*] $ctx $context, $copy $($body)* }
            $crate::copies::with_copies! { @program $second 1 [$(#[$attribute])*] $ctx $context, $copy $($body)* }
            $crate::copies::with_copies! { @program $third 2 [$(#[$attribute])*] $ctx $context, $copy $($body)* }
        )*
    };
}
pub(crate) use with_copies;
