//! The table of hooks: which programs capture what, in which tier, and what is gone without each. Pure data and choice;
//! `attach.rs` does what is chosen.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A way to capture accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
pub enum Tier {
    /// At the begin and end of the kernel's own functions (fentry, fexit): nothing but accepts pays.
    One,
    /// At tracepoints only: every system call of the host pays.
    Two,
}

impl Tier {
    /// 1 or 2.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::One => 1,
            Self::Two => 2,
        }
    }
}

impl From<Tier> for u8 {
    fn from(tier: Tier) -> Self {
        tier.number()
    }
}

impl TryFrom<u8> for Tier {
    type Error = String;

    fn try_from(number: u8) -> Result<Self, String> {
        match number {
            1 => Ok(Self::One),
            2 => Ok(Self::Two),
            _ => Err(format!("there is no tier {number}")),
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::One => "tier 1: fentry and fexit",
            Self::Two => "tier 2: tracepoints",
        })
    }
}

/// Where a program is attached, with the name that the kernel's BTF has for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Point {
    Tracepoint(&'static str),
    Entry(&'static str),
    Exit(&'static str),
    /// A hook of the BPF security module.
    Security(&'static str),
}

/// When a program is of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Always,
    Binds,
    Sockets,
    Attempts,
    /// For traces, and to count open connections.
    Ends,
}

/// What the configuration wants beside accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wanted {
    /// Binds.
    pub bind: bool,
    /// New sockets.
    pub create: bool,
    /// The begin of accept.
    pub attempts: bool,
    /// The traces of connections.
    pub traces: bool,
    /// Counts of open connections.
    pub lives: bool,
}

/// One program.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hook {
    /// Its name in the object.
    pub(super) program: &'static str,
    pub(super) point: Point,
    /// What is gone without it; a hook without such a word is indispensable for its tier.
    pub(super) feature: Option<&'static str>,
    when: When,
    /// The hook without which this one does harm.
    pub(super) needs: Option<&'static str>,
    /// The hook that this one stands in for where that is not to be had.
    pub(super) instead_of: Option<&'static str>,
    /// Kernels without this function have nothing to see there.
    pub(super) only_if_there: bool,
    /// Whether an accept of ours on the loopback, over TCP and a UNIX socket, leads here.
    pub(super) sings: bool,
}

const fn hook(program: &'static str, point: Point) -> Hook {
    Hook {
        program,
        point,
        feature: None,
        when: When::Always,
        needs: None,
        instead_of: None,
        only_if_there: false,
        sings: true,
    }
}

impl Hook {
    const fn gives(self, feature: &'static str) -> Self {
        Self { feature: Some(feature), ..self }
    }

    const fn when(self, when: When) -> Self {
        Self { when, ..self }
    }

    const fn needs(self, program: &'static str) -> Self {
        Self { needs: Some(program), ..self }
    }

    const fn instead_of(self, program: &'static str) -> Self {
        Self { instead_of: Some(program), ..self }
    }

    const fn only_if_there(self) -> Self {
        Self { only_if_there: true, sings: false, ..self }
    }

    const fn silent(self) -> Self {
        Self { sings: false, ..self }
    }
}

const QUEUE_TIMES: &str =
    "queue and handshake times, abandoned connections, closed listeners and knowing the agent's own";
const DESCRIPTORS: &str = "new descriptors, blocked times and accepts that fail for want of a descriptor";
const BACKSTOP: &str =
    "accepts by the kernel itself, and by threads that already waited in accept at the start";
const UNENDED: &str = "the last accept of a thread that waited in it while somebody else attached a program to the same function";
const RESETS: &str = "connections that were reset in the queue and never accepted";
const ATTEMPTS: &str = "accept attempts";

/// The end of a UNIX connection.
pub(super) const UNIX_RELEASE: &str = "unix_release";

/// Exits before entries: a call that is seen to begin is seen to end. The backstop last: it tells of what is not known to
/// be in `do_accept`.
const TIER_1: [Hook; 17] = [
    hook("do_accept_exit", Point::Exit("do_accept")),
    hook("inet_sock_set_state", Point::Tracepoint("inet_sock_set_state")).gives(QUEUE_TIMES),
    hook("tcp_destroy_sock", Point::Tracepoint("tcp_destroy_sock")).gives(RESETS),
    hook("complete_hashdance", Point::Entry("inet_csk_complete_hashdance")).gives("handshake times"),
    hook("unix_stream_connect", Point::Entry("security_unix_stream_connect"))
        .gives("queue times of UNIX sockets"),
    hook(UNIX_RELEASE, Point::Entry("unix_release"))
        .gives("the traces of UNIX connections, and how long those were")
        .when(When::Ends)
        .silent(),
    hook("accept4_exit", Point::Exit("__sys_accept4")).gives(DESCRIPTORS),
    hook("accept4_entry", Point::Entry("__sys_accept4")).gives(DESCRIPTORS).needs("accept4_exit"),
    hook("listen_exit", Point::Exit("__sys_listen")).gives("listens, and who called listen"),
    hook("listen_socket_exit", Point::Exit("__sys_listen_socket"))
        .gives("listens through io_uring")
        .only_if_there(),
    hook("bind_exit", Point::Exit("__sys_bind")).gives("binds").when(When::Binds),
    hook("bind_socket_exit", Point::Exit("__sys_bind_socket"))
        .gives("binds through io_uring")
        .when(When::Binds)
        .only_if_there(),
    hook("socket_exit", Point::Exit("__sys_socket")).gives("new sockets").when(When::Sockets),
    hook("socket_accept", Point::Entry("security_socket_accept")).gives(ATTEMPTS).when(When::Attempts),
    hook("do_accept_entry", Point::Entry("do_accept")).gives(BACKSTOP),
    hook("sched_process_exit", Point::Tracepoint("sched_process_exit")).gives(UNENDED).silent(),
    hook("sock_graft", Point::Entry("security_sock_graft")).gives(BACKSTOP).needs("do_accept_entry"),
];

/// What stands in for a hook that is not to be had.
const FALLBACKS: [Hook; 2] = [
    hook("socket_accept_lsm", Point::Security("socket_accept")).instead_of("socket_accept"),
    // Its name until 6.2, with the same first argument.
    hook("io_uring_submit_req", Point::Tracepoint("io_uring_submit_sqe"))
        .instead_of("io_uring_submit_req")
        .silent(),
];

/// The order is free: an accept of a connection that was not remembered yet is sent unverified.
const TIER_2: [Hook; 7] = [
    hook("inet_sock_set_state", Point::Tracepoint("inet_sock_set_state")),
    hook("tcp_destroy_sock", Point::Tracepoint("tcp_destroy_sock")).gives(RESETS),
    hook("sys_exit", Point::Tracepoint("sys_exit")),
    hook("io_uring_complete", Point::Tracepoint("io_uring_complete"))
        .gives("accepts through io_uring")
        .silent(),
    hook("io_uring_cqe_overflow", Point::Tracepoint("io_uring_cqe_overflow"))
        .gives("accepts of an io_uring whose completion queue is full")
        .silent(),
    hook("sys_enter", Point::Tracepoint("sys_enter"))
        .gives("accept attempts and blocked times of system calls")
        .when(When::Attempts),
    hook("io_uring_submit_req", Point::Tracepoint("io_uring_submit_req"))
        .gives("accept attempts through io_uring")
        .when(When::Attempts)
        .silent(),
];

/// The programs of a tier that are of use, in the order in which they are attached.
pub(super) fn of(tier: Tier, wanted: Wanted) -> impl Iterator<Item = &'static Hook> {
    all(tier).iter().filter(move |hook| match hook.when {
        When::Always => true,
        When::Binds => wanted.bind,
        When::Sockets => wanted.create,
        When::Attempts => wanted.attempts,
        When::Ends => wanted.traces || wanted.lives,
    })
}

/// What can be tried where the kernel refused `program`.
pub(super) fn fallback(program: &str) -> Option<&'static Hook> {
    FALLBACKS.iter().find(|hook| hook.instead_of == Some(program))
}

/// What is gone without a program, or without the one that it stands in for: nothing for one that is indispensable, and for
/// what is no program of this tier.
#[must_use]
pub fn feature(tier: Tier, program: &str) -> Option<&'static str> {
    let stood_in_for = FALLBACKS.iter().find(|hook| hook.program == program).and_then(|hook| hook.instead_of);
    let program = stood_in_for.unwrap_or(program);
    all(tier).iter().find(|hook| hook.program == program)?.feature
}

/// The name of every program, for those who name one.
pub fn names() -> impl Iterator<Item = &'static str> {
    TIER_1.iter().chain(&FALLBACKS).chain(&TIER_2).map(|hook| hook.program)
}

fn all(tier: Tier) -> &'static [Hook] {
    match tier {
        Tier::One => &TIER_1,
        Tier::Two => &TIER_2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(tier: Tier, program: &str) -> usize {
        all(tier).iter().position(|hook| hook.program == program).expect("a program of this tier")
    }

    #[test]
    fn what_a_hook_needs_is_attached_before_it() {
        for hook in &TIER_1 {
            if let Some(needed) = hook.needs {
                assert!(position(Tier::One, needed) < position(Tier::One, hook.program), "{hook:?}");
            }
        }
        assert_eq!(position(Tier::One, "sock_graft"), TIER_1.len() - 1);
    }

    #[test]
    fn only_what_is_wanted_is_attached() {
        let names = |wanted| of(Tier::One, wanted).map(|hook| hook.program).collect::<Vec<_>>();
        let few = names(Wanted::default());
        assert!(!few.contains(&"bind_exit") && !few.contains(&"socket_accept"), "{few:?}");
        let all = names(Wanted { bind: true, create: true, attempts: true, traces: true, lives: true });
        assert_eq!(all.len(), TIER_1.len());
    }

    #[test]
    fn each_tier_has_what_it_cannot_do_without() {
        let needed = |tier| all(tier).iter().filter(|hook| hook.feature.is_none()).count();
        assert_eq!((needed(Tier::One), needed(Tier::Two)), (1, 2));
        assert_eq!(feature(Tier::One, "socket_accept_lsm"), Some(ATTEMPTS));
        assert_eq!(fallback("socket_accept").map(|hook| hook.program), Some("socket_accept_lsm"));
    }
}
