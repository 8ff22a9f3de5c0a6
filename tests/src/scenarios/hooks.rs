//! Hooks that a kernel does not have: the agent does without, and says so.

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

/// The record of one accept that works.
fn one_accept(agent: &Agent) -> Record {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let client = TcpStream::connect(("127.0.0.1", port)).expect("somebody listens");
    let accepted = accept(&listener).expect("a connection");
    let record = agent.inbox.of_port(port, 1).remove(0);
    let peer = client.local_addr().expect("connected");
    assert_eq!(record.endpoint("peer"), Some((peer.ip(), peer.port())), "{record:?}");
    assert_eq!(record.int("acceptd.listener.port"), Some(i64::from(port)), "{record:?}");
    let cookie = socket_cookie(&accepted).expect("SO_COOKIE").to_string();
    assert_eq!(record.text("acceptd.socket.cookie"), Some(cookie.as_str()), "{record:?}");
    record
}

/// The programs that are missing, by name, each with its reason.
fn missing(ledger: &Json) -> Vec<(&str, &str)> {
    let list = ledger["programs"]["missing"].as_array().expect("a list");
    list.iter().filter_map(|missing| Some((missing["hook"].as_str()?, missing["reason"].as_str()?))).collect()
}

/// Each hook that its tier can do without: the program that is left out, a word of what is gone, and an attribute that is.
pub(super) fn the_agent_does_without_one() {
    let one: &[(&str, &str, Option<&str>)] = &[
        ("inet_sock_set_state", "queue and handshake times", Some("acceptd.accept.queue_time_ns")),
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
    for (program, feature, gone) in if tier() == Tier::One { one } else { two } {
        let agent = Agent::with(&["--set", &format!("capture.skip_hooks={program}")]);
        let said = agent.said();
        let line = said.lines().find(|line| line.contains(&format!("the program {program} is in")));
        let line = line.unwrap_or_else(|| panic!("{program}: {said}"));
        assert!(line.contains("without ") && line.contains(feature), "{program}: {said}");
        let record = one_accept(&agent);
        assert_eq!(record.tier(), tier(), "it stays in its tier");
        if let Some(gone) = gone {
            assert_eq!(record.attributes.get(*gone), None, "{program}: {record:?}");
        }
        let ledger = agent.stop();
        let missing = missing(&ledger);
        let found = missing.iter().find(|(name, _)| name == program);
        assert!(found.is_some_and(|(_, reason)| reason.contains("capture.skip_hooks")), "{ledger}");
        let others = missing.iter().filter(|(name, _)| name != program);
        let needs = others.filter(|(_, reason)| !reason.contains(&format!("needs {program}")));
        assert_eq!(needs.count(), 0, "nothing else is missing: {ledger}");
    }
}

/// Without `do_accept_exit` there is no tier 1.
pub(super) fn the_next_tier_without_an_indispensable_one() {
    let agent = Agent::with(&["--set", "capture.tier=auto", "--set", "capture.skip_hooks=do_accept_exit"]);
    let said = agent.said();
    assert!(said.contains("do_accept_exit"), "it says why: {said}");
    assert_eq!(one_accept(&agent).tier(), Tier::Two);
    let ledger = agent.stop();
    assert_eq!(ledger["programs"]["tier"], 2, "{ledger}");
    let because = ledger["programs"]["because"].as_str().unwrap_or_default();
    assert!(because.contains("do_accept_exit") && because.contains("capture.skip_hooks"), "{ledger}");
}

/// Whoever chose a tier gets that or an error.
pub(super) fn no_other_tier_when_it_was_chosen() {
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
            .expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{said}");
        assert!(said.contains(program) && !said.contains("panicked"), "{said}");
    }
}

/// What the attempts are told by in tier 1: the hook of the BPF security module where the function's begin is not to be had
/// and the module is active, and nothing, with the reason, where it is not.
pub(super) fn the_security_module_stands_in() {
    const ATTEMPT: &str = "acceptd.socket.accept_attempt";
    let active = fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
    let is_active = active.trim().split(',').any(|module| module == "bpf");
    let wanted = ["--set", "events.accept_attempt=true", "--set", "capture.skip_hooks=socket_accept"];
    let agent = Agent::with(&wanted);
    let said = agent.said();
    let record = one_accept(&agent);
    let of = |other: &Record| other.int("acceptd.listener.inode") == record.int("acceptd.listener.inode");
    let stands_in = tier() == Tier::Two || is_active;
    if stands_in {
        assert_eq!(agent.inbox.of_event(ATTEMPT, 1, of).len(), 1);
        assert!(!said.contains("socket_accept"), "nothing is gone: {said}");
    } else {
        assert!(said.contains("without accept attempts") && said.contains("lsm="), "{said}");
        assert!(agent.inbox.found(ATTEMPT, of).is_empty());
    }
    let ledger = agent.stop();
    let missing = missing(&ledger);
    assert_eq!(missing.iter().any(|(name, _)| *name == "socket_accept"), !stands_in, "{ledger}");
}
