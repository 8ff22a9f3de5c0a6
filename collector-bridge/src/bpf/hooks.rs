//! The table of hooks: where each eBPF program is attached, in which tier, and which feature is missing
//! without it. Data and selection only; `attach.rs` attaches the selected programs.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One of the two ways to capture accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
pub enum Tier {
    /// At entry and exit of kernel functions (fentry, fexit). Only accepts pay for the programs.
    One,
    /// At tracepoints only. Every system call on the host pays for the programs.
    Two,
}

impl Tier {
    /// The tier's number: 1 or 2.
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

/// Where a program is attached. The names are those of the kernel's BTF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AttachPoint {
    Tracepoint(&'static str),
    Entry(&'static str),
    Exit(&'static str),
    /// A hook of the BPF security module (LSM).
    Security(&'static str),
}

/// When a program is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    Always,
    Binds,
    Sockets,
    Attempts,
    /// For traces, and for counts of open connections.
    Closes,
}

/// The configuration's requests besides accepts: they select the programs that are attached only on demand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OptionalHooks {
    /// `bind` calls.
    pub bind: bool,
    /// `socket` calls.
    pub create: bool,
    /// Entries into accept.
    pub attempts: bool,
    /// Traces of connections.
    pub traces: bool,
    /// Counts of open connections.
    pub connections: bool,
}

/// One eBPF program and where it is attached.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hook {
    /// The program's name in the object file.
    pub(super) program: &'static str,
    pub(super) point: AttachPoint,
    /// The feature that is missing without the program. `None` marks a program that its tier cannot work
    /// without.
    pub(super) feature: Option<&'static str>,
    when: Condition,
    /// The program that must be attached too, because without it this one records wrong data.
    pub(super) requires: Option<&'static str>,
    /// The program that this one replaces where the kernel refuses it.
    pub(super) fallback_for: Option<&'static str>,
    /// Whether a kernel without this function has nothing to report there, so no feature is missing.
    pub(super) function_is_optional: bool,
    /// Whether the agent's own probe accepts (TCP on the loopback, and a UNIX socket) run through this
    /// program.
    pub(super) on_probe_path: bool,
}

const fn hook(program: &'static str, point: AttachPoint) -> Hook {
    Hook {
        program,
        point,
        feature: None,
        when: Condition::Always,
        requires: None,
        fallback_for: None,
        function_is_optional: false,
        on_probe_path: true,
    }
}

impl Hook {
    const fn provides(self, feature: &'static str) -> Self {
        Self { feature: Some(feature), ..self }
    }

    const fn when(self, when: Condition) -> Self {
        Self { when, ..self }
    }

    const fn requires(self, program: &'static str) -> Self {
        Self { requires: Some(program), ..self }
    }

    const fn fallback_for(self, program: &'static str) -> Self {
        Self { fallback_for: Some(program), ..self }
    }

    const fn function_is_optional(self) -> Self {
        Self { function_is_optional: true, on_probe_path: false, ..self }
    }

    const fn off_probe_path(self) -> Self {
        Self { on_probe_path: false, ..self }
    }
}

const QUEUE_TIMES: &str = "queue and handshake times, abandoned connections, closed listeners and recognizing the agent's own connections";
const DESCRIPTORS: &str =
    "new descriptors, blocked times and accepts that fail because no descriptor is free";
const KERNEL_ACCEPTS: &str =
    "accepts by the kernel itself, and by threads that were already blocked in accept at the start";
const EXITING_THREADS: &str = "accepts whose exit the kernel skipped, if their thread ends soon after";
const RESETS: &str = "connections that were reset in the queue and never accepted";
const ATTEMPTS: &str = "accept attempts";

/// The program that sees a UNIX connection close.
pub(super) const UNIX_RELEASE: &str = "unix_release";

/// The programs of tier 1, in the order in which they are attached.
///
/// Exit programs come before entry programs, so that each call whose entry is recorded also has its exit
/// recorded. `sock_graft` comes last: it reports every accept that is not recorded as being inside
/// `do_accept`.
const TIER_1: [Hook; 17] = [
    hook("do_accept_exit", AttachPoint::Exit("do_accept")),
    hook("inet_sock_set_state", AttachPoint::Tracepoint("inet_sock_set_state")).provides(QUEUE_TIMES),
    hook("tcp_destroy_sock", AttachPoint::Tracepoint("tcp_destroy_sock")).provides(RESETS),
    hook("complete_hashdance", AttachPoint::Entry("inet_csk_complete_hashdance")).provides("handshake times"),
    hook("unix_stream_connect", AttachPoint::Entry("security_unix_stream_connect"))
        .provides("queue times of UNIX sockets"),
    hook(UNIX_RELEASE, AttachPoint::Entry("unix_release"))
        .provides("the traces of UNIX connections, and their durations")
        .when(Condition::Closes)
        .off_probe_path(),
    hook("accept4_exit", AttachPoint::Exit("__sys_accept4")).provides(DESCRIPTORS),
    hook("accept4_entry", AttachPoint::Entry("__sys_accept4")).provides(DESCRIPTORS).requires("accept4_exit"),
    hook("listen_exit", AttachPoint::Exit("__sys_listen")).provides("listens, and who called listen"),
    hook("listen_socket_exit", AttachPoint::Exit("__sys_listen_socket"))
        .provides("listens through io_uring")
        .function_is_optional(),
    hook("bind_exit", AttachPoint::Exit("__sys_bind")).provides("binds").when(Condition::Binds),
    hook("bind_socket_exit", AttachPoint::Exit("__sys_bind_socket"))
        .provides("binds through io_uring")
        .when(Condition::Binds)
        .function_is_optional(),
    hook("socket_exit", AttachPoint::Exit("__sys_socket")).provides("new sockets").when(Condition::Sockets),
    hook("socket_accept", AttachPoint::Entry("security_socket_accept"))
        .provides(ATTEMPTS)
        .when(Condition::Attempts),
    hook("do_accept_entry", AttachPoint::Entry("do_accept")).provides(KERNEL_ACCEPTS),
    hook("sched_process_exit", AttachPoint::Tracepoint("sched_process_exit"))
        .provides(EXITING_THREADS)
        .off_probe_path(),
    hook("sock_graft", AttachPoint::Entry("security_sock_graft"))
        .provides(KERNEL_ACCEPTS)
        .requires("do_accept_entry"),
];

/// Programs that replace a hook which the kernel refused.
const FALLBACKS: [Hook; 2] = [
    hook("socket_accept_lsm", AttachPoint::Security("socket_accept")).fallback_for("socket_accept"),
    // The tracepoint's name until Linux 6.2; its first argument is the same.
    hook("io_uring_submit_req", AttachPoint::Tracepoint("io_uring_submit_sqe"))
        .fallback_for("io_uring_submit_req")
        .off_probe_path(),
];

/// The programs of tier 2. Their order does not matter: an accept of a connection that no program has seen
/// yet is sent as unverified.
const TIER_2: [Hook; 7] = [
    hook("inet_sock_set_state", AttachPoint::Tracepoint("inet_sock_set_state")),
    hook("tcp_destroy_sock", AttachPoint::Tracepoint("tcp_destroy_sock")).provides(RESETS),
    hook("sys_exit", AttachPoint::Tracepoint("sys_exit")),
    hook("io_uring_complete", AttachPoint::Tracepoint("io_uring_complete"))
        .provides("accepts through io_uring")
        .off_probe_path(),
    hook("io_uring_cqe_overflow", AttachPoint::Tracepoint("io_uring_cqe_overflow"))
        .provides("accepts of an io_uring whose completion queue is full")
        .off_probe_path(),
    hook("sys_enter", AttachPoint::Tracepoint("sys_enter"))
        .provides("accept attempts and blocked times of system calls")
        .when(Condition::Attempts),
    hook("io_uring_submit_req", AttachPoint::Tracepoint("io_uring_submit_req"))
        .provides("accept attempts through io_uring")
        .when(Condition::Attempts)
        .off_probe_path(),
];

/// The programs to attach for a tier, in the order in which they are attached.
pub(super) fn for_tier(tier: Tier, optional: OptionalHooks) -> impl Iterator<Item = &'static Hook> {
    all(tier).iter().filter(move |hook| match hook.when {
        Condition::Always => true,
        Condition::Binds => optional.bind,
        Condition::Sockets => optional.create,
        Condition::Attempts => optional.attempts,
        Condition::Closes => optional.traces || optional.connections,
    })
}

/// The hook to try when the kernel refused `program`.
pub(super) fn fallback_of(program: &str) -> Option<&'static Hook> {
    FALLBACKS.iter().find(|hook| hook.fallback_for == Some(program))
}

/// The feature that is missing without `program`, or without the program that it replaces. `None` if the tier
/// cannot work without the program, or has no such program.
#[must_use]
pub(crate) fn feature_of(tier: Tier, program: &str) -> Option<&'static str> {
    let replaced = FALLBACKS.iter().find(|hook| hook.program == program).and_then(|hook| hook.fallback_for);
    let program = replaced.unwrap_or(program);
    all(tier).iter().find(|hook| hook.program == program)?.feature
}

fn all(tier: Tier) -> &'static [Hook] {
    match tier {
        Tier::One => &TIER_1,
        Tier::Two => &TIER_2,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::HOOK_NAMES;

    fn position(tier: Tier, program: &str) -> usize {
        all(tier).iter().position(|hook| hook.program == program).expect("a program of this tier")
    }

    #[test]
    fn the_configuration_accepts_the_name_of_every_program() {
        let names: BTreeSet<_> =
            TIER_1.iter().chain(&FALLBACKS).chain(&TIER_2).map(|hook| hook.program).collect();
        assert!(names.into_iter().eq(HOOK_NAMES));
    }

    #[test]
    fn required_programs_are_attached_first() {
        for hook in &TIER_1 {
            if let Some(needed) = hook.requires {
                assert!(position(Tier::One, needed) < position(Tier::One, hook.program), "{hook:?}");
            }
        }
        assert_eq!(position(Tier::One, "sock_graft"), TIER_1.len() - 1);
    }

    #[test]
    fn only_requested_programs_are_attached() {
        let names = |optional| for_tier(Tier::One, optional).map(|hook| hook.program).collect::<Vec<_>>();
        let few = names(OptionalHooks::default());
        assert!(!few.contains(&"bind_exit") && !few.contains(&"socket_accept"), "{few:?}");
        let all = names(OptionalHooks {
            bind: true,
            create: true,
            attempts: true,
            traces: true,
            connections: true,
        });
        assert_eq!(all.len(), TIER_1.len());
    }

    #[test]
    fn each_tier_has_programs_that_it_cannot_work_without() {
        let needed = |tier| all(tier).iter().filter(|hook| hook.feature.is_none()).count();
        assert_eq!((needed(Tier::One), needed(Tier::Two)), (1, 2));
        assert_eq!(feature_of(Tier::One, "socket_accept_lsm"), Some(ATTEMPTS));
        assert_eq!(fallback_of("socket_accept").map(|hook| hook.program), Some("socket_accept_lsm"));
    }
}
