//! Missing hooks (simulated with `capture.skip_hooks`): the agent runs without an optional one, falls back,
//! or refuses.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    process::Command,
};

use acceptd::bpf::Tier;
use rustix::net::{accept, sockopt::socket_cookie};
use serde_json::Value as Json;

use crate::{
    agent::{Agent, binary, tier},
    record::Record,
};

/// Accepts one connection and checks the record's peer, port and cookie.
fn one_accept(agent: &Agent) -> Record {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let client = TcpStream::connect(("127.0.0.1", port)).expect("the listener is up");
    let accepted = accept(&listener).expect("a connection");
    let record = agent.inbox.wait_for_accepts(port, 1).remove(0);
    let peer = client.local_addr().expect("connected");
    assert_eq!(record.endpoint("peer"), Some((peer.ip(), peer.port())), "{record:?}");
    assert_eq!(record.int("acceptd.listener.port"), Some(i64::from(port)), "{record:?}");
    let cookie = socket_cookie(&accepted).expect("SO_COOKIE").to_string();
    assert_eq!(record.text("acceptd.socket.cookie"), Some(cookie.as_str()), "{record:?}");
    record
}

/// `[program, reason]` of each missing program in the ledger.
fn missing(ledger: &Json) -> Vec<(&str, &str)> {
    let list = ledger["programs"]["missing"].as_array().expect("a list");
    list.iter().filter_map(|missing| Some((missing["hook"].as_str()?, missing["reason"].as_str()?))).collect()
}

/// Without each optional hook of the tier in turn, accepts are still recorded in the same tier. The agent
/// logs which feature is missing, the attribute of that feature is absent, and the ledger lists exactly that
/// program.
pub(super) fn each_optional_hook_may_be_missing() {
    // Program, feature named in the log, absent attribute.
    let one: &[(&str, &str, Option<&str>)] = &[
        // On a preemptible kernel `complete_hashdance` has the queue time, too; nothing else has the peer.
        ("inet_sock_set_state", "queue and handshake times", Some("acceptd.peer.pid")),
        ("complete_hashdance", "handshake times", Some("acceptd.tcp.handshake_time_ns")),
        ("unix_stream_connect", "queue times of UNIX sockets", None),
        ("accept4_exit", "new descriptors, blocked times", Some("acceptd.socket.fd")),
        ("accept4_entry", "new descriptors, blocked times", Some("acceptd.accept.blocked_time_ns")),
        ("listen_exit", "listens", None),
        ("sock_graft", "accepts by the kernel itself", None),
    ];
    let two: &[(&str, &str, Option<&str>)] = &[
        ("tcp_destroy_sock", "connections that were reset in the queue", None),
        ("io_uring_complete", "accepts through io_uring", None),
        ("io_uring_cqe_overflow", "completion queue is full", None),
    ];
    for (program, feature, absent) in if tier() == Tier::One { one } else { two } {
        let agent = Agent::with_flags(&["--set", &format!("capture.skip_hooks={program}")]);
        let stderr = agent.stderr();
        let line = stderr.lines().find(|line| line.contains(&format!("the program {program} is in")));
        let line = line.unwrap_or_else(|| panic!("{program}: {stderr}"));
        assert!(line.contains("without ") && line.contains(feature), "{program}: {stderr}");
        let record = one_accept(&agent);
        assert_eq!(record.tier(), tier(), "the tier stays the same");
        if let Some(absent) = absent {
            assert_eq!(record.attributes.get(*absent), None, "{program}: {record:?}");
        }
        let ledger = agent.stop();
        let missing = missing(&ledger);
        let found = missing.iter().find(|(name, _)| name == program);
        assert!(found.is_some_and(|(_, reason)| reason.contains("capture.skip_hooks")), "{ledger}");
        let others = missing.iter().filter(|(name, _)| name != program);
        let needs = others.filter(|(_, reason)| !reason.contains(&format!("needs {program}")));
        assert_eq!(needs.count(), 0, "no other program is missing: {ledger}");
    }
}

/// Without `do_accept_exit`, which tier 1 requires, `capture.tier=auto` takes tier 2 and logs the reason.
pub(super) fn falls_back_to_tier_2_without_a_required_hook() {
    let agent =
        Agent::with_flags(&["--set", "capture.tier=auto", "--set", "capture.skip_hooks=do_accept_exit"]);
    let stderr = agent.stderr();
    assert!(stderr.contains("do_accept_exit"), "the log names the reason: {stderr}");
    assert_eq!(one_accept(&agent).tier(), Tier::Two);
    let ledger = agent.stop();
    assert_eq!(ledger["programs"]["tier"], 2, "{ledger}");
    let because = ledger["programs"]["because"].as_str().unwrap_or_default();
    assert!(because.contains("do_accept_exit") && because.contains("capture.skip_hooks"), "{ledger}");
}

/// If the configured tier lacks a required hook, the agent exits with an error and does not fall back.
pub(super) fn a_configured_tier_is_never_replaced() {
    for (tier, program) in [("1", "do_accept_exit"), ("2", "sys_exit")] {
        let output = Command::new(binary("acceptd"))
            .env_clear()
            .args([
                "run",
                "--config",
                "/dev/null",
                "--endpoint",
                "127.0.0.1:9",
                "--set",
                "state.directory=/tmp",
            ])
            .args(["--set", &format!("capture.tier={tier}")])
            .args(["--set", &format!("capture.skip_hooks={program}")])
            .output()
            .expect("acceptd starts");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{stderr}");
        assert!(stderr.contains(program) && !stderr.contains("panicked"), "{stderr}");
    }
}

/// Accept attempts in tier 1: without the function hook `socket_accept`, the BPF LSM hook replaces it where
/// the kernel's list of active security modules has `bpf`; elsewhere the agent logs that attempts are
/// missing, and how to enable the LSM. Tier 2 does not need the hook.
pub(super) fn bpf_lsm_is_the_fallback_hook() {
    const ATTEMPT: &str = "acceptd.socket.accept_attempt";
    let active = fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
    let is_active = active.trim().split(',').any(|module| module == "bpf");
    let wanted = ["--set", "events.accept_attempt=true", "--set", "capture.skip_hooks=socket_accept"];
    let agent = Agent::with_flags(&wanted);
    let stderr = agent.stderr();
    let record = one_accept(&agent);
    let same_listener =
        |other: &Record| other.int("acceptd.listener.inode") == record.int("acceptd.listener.inode");
    let has_attempts = tier() == Tier::Two || is_active;
    if has_attempts {
        assert_eq!(agent.inbox.wait_for_events(ATTEMPT, 1, same_listener).len(), 1);
        assert!(!stderr.contains("socket_accept"), "no feature is missing: {stderr}");
    } else {
        assert!(stderr.contains("without accept attempts") && stderr.contains("lsm="), "{stderr}");
        assert!(agent.inbox.events(ATTEMPT, same_listener).is_empty());
    }
    let ledger = agent.stop();
    let missing = missing(&ledger);
    assert_eq!(missing.iter().any(|(name, _)| *name == "socket_accept"), !has_attempts, "{ledger}");
}
