//! The list of all scenarios.
//!
//! A scenario is a plain function that panics when the agent's records differ from what the kernel returned
//! to the accepting process. `tests/scenarios.rs` runs them natively as libtest trials, `runner.rs` without
//! cargo inside a virtual machine.

mod check;
mod cookies;
mod delivery;
mod failures;
mod families;
mod filters;
mod handshakes;
mod hooks;
mod kernel;
mod listeners;
mod metrics;
mod overflows;
mod overflows_of_families;
mod owners;
mod peers;
mod preemption;
mod processes;
mod related;
mod rings;
mod seccomp;
mod self_report;
mod series;
mod settings;
mod sockets;
mod start;
mod support;
mod traces;
pub mod under_load;
mod unix_names;

use crate::scenario::{Need, Scenario};

/// Lists functions by module; `[needs …]` names a [`Need`], `(alone)` keeps other scenarios from running
/// meanwhile.
macro_rules! scenarios {
    ($($module:ident {
        $($(#[$only:meta])? $function:ident $([needs $need:ident])? $(($alone:ident))?)*
    })*) => {
        /// Every scenario.
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
        an_empty_queue_is_counted_without_a_record
        a_failure_is_recorded_with_its_errno
        queue_time
        reset_while_queued
        closed_while_queued
        named_thread
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
        delayed_final_ack [needs Tun]
        retransmitted_syn_ack [needs Tun]
        retransmitted_syn_ack_with_time_stamps [needs Tun]
        deferred
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
        smc_with_fallback [needs Smc]
        a_family_without_connections_is_counted [needs Alg]
    }
    cookies {
        as_without_the_agent (alone)
        of_sctp_as_without_the_agent [needs Sctp] (alone)
        of_vsock_as_without_the_agent [needs VsockLoopback] (alone)
    }
    seccomp {
        refused_calls_are_no_events
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
        multishot_into_slots
        a_cancelled_request_is_only_counted
        multishot
        a_full_completion_queue
        multishot_poll_is_not_an_accept
        a_failed_request_is_recorded
        many_threads_blocked_on_other_listeners
        unix_single
        a_worker_already_blocked_at_start
    }
    listeners {
        failures_are_counted_beyond_the_budget
        failures_without_a_listener_are_counted_under_the_process
        connections_never_accepted
        reset_in_the_queue_and_never_accepted
        a_server_that_stops_accepting
        a_server_that_is_killed_while_clients_wait
        a_unix_server_that_stops_accepting
    }
    overflows_of_families {
        refused_by_an_sctp_socket [needs Sctp]
        refused_by_a_vsock_socket [needs VsockLoopback]
        refused_after_the_module_was_loaded [needs OwnGuest]
    }
    overflows {
        what_the_kernel_counts [needs Tun]
        the_listener_that_was_full [needs Tun]
        of_a_busy_listener
        refused_by_a_unix_socket
        refused_by_a_unix_socket_that_closed
        waiting_for_a_unix_socket
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
        cgroups_inside_cgroups
        cgroups_that_come_and_go
        networks_of_peers
        peers_and_listeners
        lists_in_the_form_of_the_file
        the_port_of_the_listener
    }
    unix_names {
        a_relative_name_becomes_a_path
        a_renamed_socket_has_its_new_path
        padding_and_an_at_sign
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
        a_thread_already_blocked_in_accept
        another_tracer_attaches_and_detaches
        a_thread_already_blocked_on_a_unix_socket
        connections_already_queued
        many_threads_already_blocked (alone)
    }
    hooks {
        each_optional_hook_may_be_missing
        falls_back_to_tier_2_without_a_required_hook
        a_configured_tier_is_never_replaced
        bpf_lsm_is_the_fallback_hook
    }
    settings {
        lockdown [needs OwnGuest]
        ftrace_switched_off [needs OwnGuest]
    }
    processes {
        two_processes_have_two_resources_in_one_request
        exec_on_an_inherited_listener_is_another_resource
        a_reused_pid_is_another_process
        a_process_that_exits_before_it_is_identified
        host_attributes
        host_name_is_not_the_agents_uts_name
        a_process_context_names_the_service
        a_malformed_process_context_is_ignored
        the_environment_names_the_service
        four_capabilities_are_enough
        published_identity_can_be_disabled
        command_line_attributes_are_opt_in
        a_re_exec_is_not_read_for_an_earlier_accept
        peer_address_privacy
        a_service_name_published_later_is_picked_up
        identity_survives_a_refresh_after_exit
        container_id_from_the_cgroup
        service_name_from_the_systemd_unit
        container_id_of_an_exited_process
        moving_a_process_does_not_relabel_its_cgroup
        a_title_over_the_environment_keeps_the_service
        a_title_right_after_listen_keeps_the_service
        the_parent_of_the_same_program_names_the_service
        a_title_of_its_own_where_the_executable_says_less
        short_lived_acceptors_have_path_and_owner
        ten_thousand_processes_accept_once_each (alone)
    }
    metrics {
        of_a_listener
        of_a_server_that_hangs
        of_connections_never_accepted
        delta_temporality
        prometheus_exposition
    }
    owners {
        of_a_daemon
        of_a_socket_that_children_accept_on
        of_a_process_that_executes_another_program
        of_workers_with_a_queue_each (alone)
        of_namespaces_that_end_during_a_survey (alone)
    }
    series {
        of_network_namespaces
        of_a_container
        of_generated_names
        of_more_listeners_than_fit
        of_multipath_tcp
        of_sctp [needs Sctp]
        of_vsock [needs VsockLoopback]
    }
    traces {
        a_slow_accept
        a_quick_accept_has_no_trace
        ratio_sampling
        closed_by
        of_a_unix_socket
        of_multipath_tcp
        queued_before_the_start
        over_a_restart
        over_a_restart_in_another_network_namespace
        connections_closed_between_agents_are_forgotten
        over_a_clock_step [needs Guest] (alone)
        over_a_restart_and_a_clock_step [needs Guest] (alone)
        without_a_bpf_file_system
        peer_address_privacy
    }
    peers {
        over_ipv4
        over_ipv6
        over_a_unix_socket
        client_exits_before_the_accept
        connected_before_the_start
        client_entries_are_removed
    }
    preemption {
        two_workers_and_forty_clients (alone)
        #[cfg(target_arch = "x86_64")] nginx [needs Nginx] (alone)
        #[cfg(target_arch = "x86_64")] redis [needs Redis] (alone)
    }
    under_load {
        starts (alone)
        stops (alone)
    }
    self_report {
        start_and_stop_events
        the_next_agent_reports_the_gap_after_a_kill
        a_second_agent_is_refused
        status_matches_what_arrived
        a_missing_program_degrades_the_status
        metrics_match_the_ledger
        under_overload_a_record_stands_for_several_accepts
        drops_are_reported_to_the_other_destinations
        each_destination_has_every_record
        a_reload_applies_runtime_settings_and_names_the_others
        a_bad_configuration_is_rejected_on_reload
        watch_exits_with_its_terminal
    }
    delivery {
        a_collector_that_comes_up_later_gets_everything
        the_agents_own_connections_are_excluded_and_counted
        the_agents_own_connections_are_marked_on_request
        bad_configuration_is_an_error_with_its_remedy_and_exit_code_64
    }
}
