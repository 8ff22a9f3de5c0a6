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
    /// A tracepoint through the perf subsystem, which runs its programs with preemption switched off. Needs
    /// tracefs.
    Perf(&'static str, &'static str),
    /// A place in a module, which may be loaded later.
    Module(ModulePoint),
}

/// Where in a module a program is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ModulePoint {
    /// The entry of a function (kprobe, through the perf subsystem).
    Entry(&'static str),
    /// The return from the first of these functions that the kernel has (kretprobe).
    Return(&'static [&'static str]),
    /// A raw tracepoint. The module cannot be unloaded while a program is attached to it.
    Tracepoint(&'static str),
}

/// A module, and the programs that see what it does.
#[derive(Debug)]
pub(super) struct Module {
    pub(super) name: &'static str,
    /// A module that `/sys/module` shows where it is built into the kernel, as it does not show every
    /// module that is built in. Where this one is, `name` may be built in, too.
    pub(super) base: &'static str,
    /// In the order in which they are attached: all of them, or none.
    pub(super) hooks: &'static [Hook],
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
    /// Copies of the program, in the order in which they are numbered. They are attached where the kernel may
    /// skip programs (ebpf/src/copies.rs).
    copies: &'static [&'static str],
    /// The program that this one is a copy of.
    pub(super) copy_of: Option<&'static str>,
    /// The program that is not attached if this one is. This one is attached only where the kernel may skip
    /// programs: it runs with preemption switched off.
    pub(super) replaces: Option<&'static str>,
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
        copies: &[],
        copy_of: None,
        replaces: None,
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

    const fn copies(self, copies: &'static [&'static str]) -> Self {
        Self { copies, ..self }
    }

    const fn replaces(self, program: &'static str) -> Self {
        Self { replaces: Some(program), ..self }
    }

    /// The program that this one is, or is a copy of.
    pub(super) fn original(&self) -> &'static str {
        self.copy_of.unwrap_or(self.program)
    }

    /// The hook and its copies, in the order in which to attach them so that they run in the order of their
    /// numbers. Of the programs at one function, the one that was attached last runs first
    /// (`bpf_trampoline_link_prog`, kernel/bpf/trampoline.c); at a tracepoint it runs last.
    fn with_copies(self) -> Vec<Self> {
        let copies = self.copies.iter().map(|program| Self {
            program,
            feature: Some(UNSKIPPED),
            copy_of: Some(self.program),
            ..self
        });
        let mut all: Vec<Self> = std::iter::once(self).chain(copies).collect();
        if matches!(self.point, AttachPoint::Entry(_) | AttachPoint::Exit(_)) {
            all.reverse();
        }
        all
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

const UNSKIPPED: &str = "some accepts or their queue times, when the kernel preempts a program";

/// The program that sees a UNIX connection close.
pub(super) const UNIX_RELEASE: &str = "unix_release";

/// The programs that count what the full queue of each TCP listener refuses.
const TCP_OVERFLOWS: [&str; 3] = ["conn_request", "syn_recv_sock_v4", "syn_recv_sock_v6"];

const REFUSED_TCP: &str =
    "the exact number of TCP connection attempts that a full queue refused; it is bounded by other counters";
const REFUSED_SCTP: &str = "SCTP connections that a full queue refused";
const REFUSED_VSOCK: &str = "VSOCK connections that a full queue refused";
const REFUSED_UNIX: &str = "connects to UNIX sockets that a full queue refused, and how long others waited";

/// The programs of tier 1, in the order in which they are attached.
///
/// Exit programs come before entry programs, so that each call whose entry is recorded also has its exit
/// recorded. `sock_graft` comes last: it reports every accept that is not recorded as being inside
/// `do_accept`.
const TIER_1: [Hook; 22] = [
    hook("do_accept_exit", AttachPoint::Exit("do_accept")).copies(&["do_accept_exit_2", "do_accept_exit_3"]),
    hook("inet_sock_set_state", AttachPoint::Tracepoint("inet_sock_set_state"))
        .provides(QUEUE_TIMES)
        .copies(&["inet_sock_set_state_2", "inet_sock_set_state_3"]),
    hook("tcp_destroy_sock", AttachPoint::Tracepoint("tcp_destroy_sock")).provides(RESETS),
    hook("complete_hashdance", AttachPoint::Entry("inet_csk_complete_hashdance")).provides("handshake times"),
    hook("unix_stream_connect", AttachPoint::Entry("security_unix_stream_connect"))
        .provides("queue times of UNIX sockets"),
    hook(UNIX_RELEASE, AttachPoint::Entry("unix_release"))
        .provides("the traces of UNIX connections, and their durations")
        .when(Condition::Closes)
        .off_probe_path(),
    hook(TCP_OVERFLOWS[0], AttachPoint::Entry("tcp_conn_request")).provides(REFUSED_TCP),
    hook(TCP_OVERFLOWS[1], AttachPoint::Entry("tcp_v4_syn_recv_sock")).provides(REFUSED_TCP),
    hook(TCP_OVERFLOWS[2], AttachPoint::Entry("tcp_v6_syn_recv_sock"))
        .provides(REFUSED_TCP)
        .function_is_optional(),
    hook("unix_find_other", AttachPoint::Exit("unix_find_other")).provides(REFUSED_UNIX),
    hook("unix_connect_exit", AttachPoint::Exit("unix_stream_connect"))
        .provides(REFUSED_UNIX)
        .requires("unix_find_other"),
    hook("accept4_exit", AttachPoint::Exit("__sys_accept4"))
        .provides(DESCRIPTORS)
        .copies(&["accept4_exit_2", "accept4_exit_3"]),
    hook("accept4_entry", AttachPoint::Entry("__sys_accept4"))
        .provides(DESCRIPTORS)
        .requires("accept4_exit")
        .copies(&["accept4_entry_2", "accept4_entry_3"]),
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
    hook("do_accept_entry", AttachPoint::Entry("do_accept"))
        .provides(KERNEL_ACCEPTS)
        .copies(&["do_accept_entry_2", "do_accept_entry_3"]),
    hook("sched_process_exit", AttachPoint::Tracepoint("sched_process_exit"))
        .provides(EXITING_THREADS)
        .off_probe_path(),
    hook("sock_graft", AttachPoint::Entry("security_sock_graft"))
        .provides(KERNEL_ACCEPTS)
        .requires("do_accept_entry")
        .copies(&["sock_graft_2", "sock_graft_3"]),
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
const TIER_2: [Hook; 8] = [
    hook("inet_sock_set_state", AttachPoint::Tracepoint("inet_sock_set_state"))
        .copies(&["inet_sock_set_state_2", "inet_sock_set_state_3"]),
    hook("tcp_destroy_sock", AttachPoint::Tracepoint("tcp_destroy_sock")).provides(RESETS),
    hook("sys_exit_by_perf", AttachPoint::Perf("raw_syscalls", "sys_exit"))
        .provides(UNSKIPPED)
        .replaces("sys_exit"),
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

/// The programs in modules, in both tiers. They are attached when their module is there (modules.rs).
pub(super) const MODULES: [Module; 2] = [
    Module {
        name: "sctp",
        base: "sctp",
        hooks: &[
            module_hook("sctp_cookie_echo", ModulePoint::Entry("sctp_sf_do_5_1D_ce")).provides(REFUSED_SCTP)
        ],
    },
    Module {
        name: "vmw_vsock_virtio_transport_common",
        base: "vsock",
        // A request is remembered from `vsock_receive` on: then the other programs are attached.
        hooks: &[
            module_hook("vsock_alloc_packet", ModulePoint::Tracepoint("virtio_transport_alloc_pkt"))
                .provides(REFUSED_VSOCK),
            module_hook("vsock_create_child", ModulePoint::Entry("vsock_create_connected"))
                .provides(REFUSED_VSOCK),
            module_hook(
                "vsock_find_bound",
                ModulePoint::Return(&["vsock_find_bound_socket_net", "vsock_find_bound_socket"]),
            )
            .provides(REFUSED_VSOCK),
            module_hook("vsock_receive", ModulePoint::Tracepoint("virtio_transport_recv_pkt"))
                .provides(REFUSED_VSOCK),
        ],
    },
];

const fn module_hook(program: &'static str, point: ModulePoint) -> Hook {
    hook(program, AttachPoint::Module(point)).off_probe_path()
}

fn in_modules() -> impl Iterator<Item = &'static Hook> {
    MODULES.iter().flat_map(|module| module.hooks)
}

/// The programs to attach for a tier, in the order in which they are attached. `may_skip` says that the
/// kernel may skip programs.
pub(super) fn for_tier(tier: Tier, optional: OptionalHooks, may_skip: bool) -> impl Iterator<Item = Hook> {
    let wanted = all(tier).iter().filter(move |hook| match hook.when {
        Condition::Always => may_skip || hook.replaces.is_none(),
        Condition::Binds => optional.bind,
        Condition::Sockets => optional.create,
        Condition::Attempts => optional.attempts,
        Condition::Closes => optional.traces || optional.connections,
    });
    wanted.flat_map(move |hook| if may_skip { hook.with_copies() } else { vec![*hook] })
}

/// The programs of a tier of which at least one sees each accept: of each list the first one that is
/// attached.
pub(super) const fn witnesses(tier: Tier) -> &'static [&'static [&'static str]] {
    match tier {
        // An accept that `sock_graft` saw is reported by another program, or counted as one whose exit was
        // missed.
        Tier::One => &[&["sock_graft", "do_accept_exit"]],
        Tier::Two => &[&["sys_exit_by_perf", "sys_exit"], &["io_uring_complete"]],
    }
}

/// The program that `program` is a copy of, or `program` itself.
pub(super) fn original_of(tier: Tier, program: &'static str) -> &'static str {
    let hook = all(tier).iter().find(|hook| hook.copies.contains(&program));
    hook.map_or(program, |hook| hook.program)
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
    let is_one_of = |hook: &&Hook| hook.program == program || hook.copies.contains(&program);
    all(tier).iter().chain(in_modules()).find(is_one_of)?.feature
}

/// Whether the programs count what the full queue of each TCP listener refuses, although some are missing.
pub(super) fn counts_tcp_overflows(tier: Tier, mut missing: impl Iterator<Item = &'static str>) -> bool {
    tier == Tier::One && !missing.any(|program| TCP_OVERFLOWS.contains(&program))
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
        let of_tiers = TIER_1.iter().chain(&FALLBACKS).chain(&TIER_2);
        let names: BTreeSet<_> = of_tiers.chain(in_modules()).map(|hook| hook.program).collect();
        assert!(names.into_iter().eq(HOOK_NAMES));
    }

    #[test]
    fn copies_run_in_the_order_of_their_numbers() {
        let names = |may_skip| {
            let hooks = for_tier(Tier::One, OptionalHooks::default(), may_skip);
            hooks.map(|hook| hook.program).collect::<Vec<_>>()
        };
        assert!(!names(false).contains(&"do_accept_exit_2"));
        let programs = names(true);
        assert_eq!(programs[..3], ["do_accept_exit_3", "do_accept_exit_2", "do_accept_exit"]);
        assert_eq!(programs[3..6], ["inet_sock_set_state", "inet_sock_set_state_2", "inet_sock_set_state_3"]);
        assert_eq!(feature_of(Tier::One, "accept4_exit_2"), Some(DESCRIPTORS));
        let copy = for_tier(Tier::One, OptionalHooks::default(), true)
            .find(|hook| hook.program == "accept4_entry_2")
            .expect("a copy");
        assert_eq!(copy.requires, Some("accept4_exit"), "without it, this one records wrong data");
        assert_eq!(original_of(Tier::One, "accept4_entry_2"), "accept4_entry");
        let of_perf = |may_skip| {
            for_tier(Tier::Two, OptionalHooks::default(), may_skip).any(|hook| hook.replaces.is_some())
        };
        assert!(of_perf(true) && !of_perf(false));
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
        let names =
            |optional| for_tier(Tier::One, optional, false).map(|hook| hook.program).collect::<Vec<_>>();
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
