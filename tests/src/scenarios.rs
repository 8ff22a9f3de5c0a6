//! What acceptd reports of real accepts, against what the kernel told the process that accepted.
//!
//! Each scenario is a plain function that panics when the two differ; what runs them is somebody else's choice.

mod check;
mod delivery;
mod failures;
mod families;
mod filters;
mod handshakes;
mod hooks;
mod itself;
mod kernel;
mod listeners;
mod metrics;
mod peers;
mod processes;
mod related;
mod rings;
mod settings;
mod sockets;
mod start;
mod traces;

use std::{
    net::{IpAddr, SocketAddr, TcpListener},
    path::Path,
};

use acceptd::{
    bpf::Tier,
    mapping::presence::{Case, differences},
};
use rustix::thread::Pid;

use crate::{record::Record, truth::Truth, wait};

/// One scenario.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// `module::function`
    pub name: &'static str,
    /// Panics when it fails.
    pub run: fn(),
    /// What not every host has.
    pub needs: &'static [Need],
    /// Whether nothing else may run at the same time.
    pub alone: bool,
}

/// What a scenario needs and a host may not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// A way of VSOCK that leads back to the same machine.
    VsockLoopback,
    /// SCTP.
    Sctp,
    /// A network interface that a program makes.
    Tun,
    /// A machine that is nobody else's: the scenario changes it as a whole.
    Guest,
    /// A machine that was booted for this scenario.
    OwnGuest,
}

impl Need {
    /// What is missing on the host of the tests. A virtual machine is not asked: tests/kernels.toml says what it lacks.
    #[must_use]
    pub fn is_missing_here(self) -> Option<&'static str> {
        let (is_there, missing) = match self {
            Self::VsockLoopback => {
                (Path::new("/sys/module/vsock_loopback").exists(), "the module vsock_loopback is not loaded")
            }
            Self::Sctp => (families::sctp_socket().is_ok(), "the kernel has no SCTP"),
            Self::Tun => (Path::new("/dev/net/tun").exists(), "there is no /dev/net/tun"),
            Self::Guest => (false, "it changes the whole machine"),
            Self::OwnGuest => (false, "it needs a machine that was booted for it"),
        };
        (!is_there).then_some(missing)
    }
}

/// Each by its name, then in brackets what it needs ([`Need`]), and in parentheses that it runs alone.
macro_rules! scenarios {
    ($($module:ident {
        $($(#[$only:meta])? $function:ident $([needs $need:ident])? $(($alone:ident))?)*
    })*) => {
        /// Every scenario. Each starts an agent of its own and needs root.
        pub const ALL: &[Scenario] = &[$($(
            $(#[$only])?
            Scenario {
                name: concat!(stringify!($module), "::", stringify!($function)),
                run: $module::$function,
                needs: &[$(Need::$need)?],
                alone: scenarios!(@$($alone)?),
            },
        )*)*];
    };
    (@alone) => { true };
    (@) => { false };
}

scenarios! {
    sockets {
        ipv4
        ipv6
        ipv4_on_an_ipv6_socket
        bound_to_any_address
        an_empty_queue_is_counted_and_no_record
        a_failure_is_a_record_with_its_errno
        the_time_in_the_queue_is_the_time_in_the_queue
        reset_while_queued
        closed_while_queued
        a_thread_with_a_name_of_its_own
        mptcp
        #[cfg(target_arch = "x86_64")] i386
    }
    failures {
        bad_address
        bad_address_after_a_wait
        interrupted
        no_descriptor
        no_file [needs Guest] (alone)
    }
    handshakes {
        round_trip
        delayed [needs Tun]
        repeated_answers [needs Tun]
        fast_open
        syn_cookies
    }
    families {
        unix_by_path
        unix_abstract_with_nul_inside
        unix_unnamed_listener
        unix_seqpacket
        unix_queue_time
        vsock_failure
        vsock_loopback [needs VsockLoopback]
        sctp [needs Sctp]
    }
    kernel {
        nfsd [needs Guest] (alone)
    }
    rings {
        single
        by_a_worker
        by_the_polling_thread
        fixed_file_listener
        into_a_chosen_slot
        into_any_slot
        multishot
        a_full_completion_queue
        other_multishot_completions_are_no_accepts
        a_failed_request_is_a_record
        many_threads_that_wait_elsewhere
        unix_single
        a_worker_that_already_waits
    }
    listeners {
        failures_are_counted_beyond_the_budget
        failures_without_a_listener_are_counted_under_the_process
        a_full_queue_drops_what_the_kernel_counts
        connections_that_nobody_accepts
        reset_in_the_queue_and_never_accepted
        a_server_that_stops_accepting
        a_server_that_is_killed_while_clients_wait
        a_unix_server_that_stops_accepting
    }
    related {
        bind_and_listen
        switched_off
        a_bind_that_fails
        create
        attempt_and_blocked_time
        blocked_time_without_attempts
        through_a_ring
        attempt_through_a_ring
    }
    filters {
        one_port
        not_one_port
        exclude_wins
        this_process_and_no_other
        and_between_keys
        names_of_processes
        network_namespaces
        families
        cgroups
    }
    check {
        as_root_everything_is_ok
        the_kernel_chooses_the_tier
        as_nobody
        with_another_btf
        without_a_member_or_a_struct
        with_a_wrong_offset
        without_the_types_of_vsock [needs VsockLoopback]
        with_the_endpoint_closed
        with_another_server_at_the_endpoint
        with_one_of_two_destinations_closed
        in_a_container_without_the_hosts_pid_namespace
        in_a_container_with_the_hosts_root
    }
    start {
        a_thread_that_already_waits_in_accept
        another_tracer_comes_and_goes
        a_thread_that_already_waits_on_a_unix_socket
        connections_that_were_already_queued
        many_threads_that_already_wait (alone)
    }
    hooks {
        the_agent_does_without_one
        the_next_tier_without_an_indispensable_one
        no_other_tier_when_it_was_chosen
        the_security_module_stands_in
    }
    settings {
        lockdown [needs OwnGuest]
        ftrace_switched_off [needs OwnGuest]
    }
    processes {
        two_processes_have_two_resources_in_one_request
        exec_on_an_inherited_listener_is_another_resource
        a_reused_pid_is_another_process
        a_process_that_is_gone_before_anybody_looks
        what_the_resource_says_of_the_host
        the_hosts_name_is_not_the_agents_own
        what_a_process_publishes_names_its_service
        a_wrong_context_hurts_nobody
        the_environment_names_the_service
        four_capabilities_are_enough
        nobody_is_asked_when_that_is_switched_off
        how_it_was_started_is_told_when_that_is_wanted
        who_became_the_same_executable_again_is_not_asked
        peers_are_told_as_far_as_they_may_be
        a_name_that_comes_later_is_taken_later
        who_is_gone_when_asked_again_is_still_who_it_was
        the_cgroup_tells_the_container
        the_cgroup_tells_the_systemd_service
        the_cgroup_is_remembered_for_those_who_are_gone
        a_process_that_is_moved_takes_nobody_with_it
        ten_thousand_processes_accept_once_each (alone)
    }
    metrics {
        of_a_listener
        of_a_server_that_hangs
        of_what_was_not_accepted
        from_one_export_to_the_next
        as_prometheus_reads_them
    }
    traces {
        a_slow_accept
        a_quick_accept_has_none
        a_part_of_the_connections
        who_closed_it
        of_a_unix_socket
        of_multipath_tcp
        queued_before_the_start
        over_a_restart
        over_a_restart_where_nobody_listens_any_more
        what_ended_meanwhile_is_forgotten
        over_a_clock_step [needs Guest] (alone)
        over_a_restart_and_a_clock_step [needs Guest] (alone)
        without_a_bpf_file_system
        peers_as_far_as_they_may_be_told
    }
    peers {
        over_ipv4
        over_ipv6
        over_a_unix_socket
        who_is_gone_before_the_accept
        connected_before_the_start
        nobody_is_kept_for_longer_than_needed
    }
    itself {
        starts_and_stops_are_told
        a_killed_agent_leaves_a_gap_that_the_next_one_tells
        a_second_agent_is_refused
        the_status_is_what_arrived
        what_is_missing_makes_the_status_degraded
        the_metrics_are_the_ledger
        under_overload_a_record_stands_for_several_accepts
        what_is_dropped_is_told_where_it_still_can_be
        each_destination_has_every_record
        a_reload_changes_what_it_can_and_says_what_it_cannot
        a_bad_configuration_is_not_taken
        an_agent_that_only_prints_ends_with_its_terminal
    }
    delivery {
        a_collector_that_comes_up_later_gets_everything
        the_agents_own_connections_are_left_out_and_counted
        the_agents_own_connections_are_marked_when_asked_for
        bad_configuration_is_an_error_with_its_remedy_and_exit_code_64
    }
}

/// Holds one record against the truth of its accept, field by field.
fn assert_tells(record: &Record, truth: &Truth) {
    assert_tells_connection(record, truth);
    assert_eq!(record.int("acceptd.thread.id"), Some(i64::from(truth.tid)), "{record:?}");
    assert_eq!(record.int("acceptd.listener.fd"), Some(i64::from(truth.listener_fd)), "{record:?}");
    let cookie = truth.listener_cookie.to_string();
    assert_eq!(record.text("acceptd.listener.cookie"), Some(cookie.as_str()), "{record:?}");
    assert_eq!(record.int("acceptd.listener.inode"), i64::try_from(truth.listener_inode).ok(), "{record:?}");
}

/// The part that does not depend on how accept was called.
fn assert_tells_connection(record: &Record, truth: &Truth) {
    let id = |id: u64| Some(id.to_string());
    let number = |number: u64| i64::try_from(number).ok();
    assert_eq!(record.resource_int("process.pid"), Some(i64::from(truth.pid)), "{record:?}");
    // Tier 1 does not see the ring install it, nor the end of a call that began before the start.
    let by_ring = record.text("acceptd.accept.syscall") == Some("io_uring");
    let from_before = !by_ring && record.int("acceptd.accept.blocked_time_ns").is_none();
    let is_unknown = record.tier() == Tier::One && (by_ring || from_before);
    let fd = (!is_unknown).then_some(i64::from(truth.fd));
    assert_eq!(record.int("acceptd.socket.fd"), fd, "{record:?}");
    assert_eq!(record.endpoint("local"), Some(shown(truth.local)), "{record:?}");
    if let Some(peer) = truth.peer {
        assert_eq!(record.endpoint("peer"), Some(shown(peer)), "{record:?}");
    }
    assert_eq!(record.text("acceptd.socket.cookie").map(str::to_owned), id(truth.cookie), "{record:?}");
    assert_eq!(record.int("acceptd.socket.inode"), number(truth.inode), "{record:?}");
    assert_eq!(record.log.event_name, "acceptd.socket.accept");
    assert_eq!(record.log.severity_number, 9);
}

/// Holds the attributes of an accept against the table that users read, absence too.
fn assert_fields(record: &Record, case: Case) {
    let differences = differences(record.attributes.keys().map(String::as_str), case, record.tier());
    assert!(differences.is_empty(), "{case:?}: {differences:?}\n{record:?}");
}

/// An address as a record shows it: an IPv4 connection is IPv4 on any socket.
fn shown(address: SocketAddr) -> (IpAddr, u16) {
    (address.ip().to_canonical(), address.port())
}

/// A listener on a free port, and its address.
fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    (listener, address)
}

/// Waits until a thread of this process sleeps in accept or accept4.
fn until_in_accept(tid: Pid) {
    const NUMBERS: [&str; 2] = if cfg!(target_arch = "x86_64") { ["43", "288"] } else { ["202", "242"] };
    wait::until("the thread sleeps in accept", || {
        let call = std::fs::read_to_string(format!("/proc/self/task/{tid}/syscall")).ok()?;
        NUMBERS.contains(&call.split(' ').next()?).then_some(())
    });
}
