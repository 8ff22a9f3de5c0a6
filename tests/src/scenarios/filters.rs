//! `filter.*`: which events pass, from the first one on, and that the others are counted.

use std::{
    net::{TcpListener, TcpStream},
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    },
    process::Stdio,
};

use crate::{agent::Agent, mounted::Cgroup, wait};

/// Accepts one connection and returns the listener, which stays.
fn accept_one() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let _client = TcpStream::connect(("127.0.0.1", port)).expect("the listener is up");
    listener.accept().expect("a connection");
    (listener, port)
}

/// Starts an agent with the filter that `filter` makes for the first of two ports, accepts on both ports, and
/// returns for each whether it has records.
fn passed(filter: impl Fn(u16) -> Vec<String>) -> (bool, bool) {
    let free = || TcpListener::bind("127.0.0.1:0").expect("a free port");
    let (first, second) = (free(), free());
    let ports = [&first, &second].map(|listener| listener.local_addr().expect("an address").port());
    let flags: Vec<String> = filter(ports[0]).into_iter().flat_map(|set| ["--set".to_owned(), set]).collect();
    let agent = Agent::with_flags(&flags.iter().map(String::as_str).collect::<Vec<_>>());
    for (listener, port) in [(&first, ports[0]), (&second, ports[1])] {
        let _client = TcpStream::connect(("127.0.0.1", port)).expect("the listener is up");
        listener.accept().expect("a connection");
    }
    let inbox = agent.inbox.clone();
    // Stopping the agent flushes every record, so an absent one was filtered.
    let ledger = agent.stop();
    let found = ports.map(|port| inbox.records().iter().any(|record| record.is_on_port(port)));
    let filtered = ledger["capture"]["filtered"]["filter"].as_u64().expect("a count");
    let ports_without = found.iter().filter(|found| !**found).count() as u64;
    assert!(filtered >= ports_without, "filtered events are counted: {ledger}");
    (found[0], found[1])
}

/// `filter.ports` passes that port only.
pub(super) fn one_port() {
    assert_eq!(passed(|port| vec![format!("filter.ports={port}")]), (true, false));
}

/// `filter.exclude.ports` passes all others.
pub(super) fn not_one_port() {
    assert_eq!(passed(|port| vec![format!("filter.exclude.ports={port}")]), (false, true));
}

/// A port that is both included and excluded is excluded.
pub(super) fn exclude_wins() {
    let both = |port| vec![format!("filter.ports={port}"), format!("filter.exclude.ports={port}")];
    assert_eq!(passed(both), (false, false));
}

/// `filter.pids` compares the accepting process.
pub(super) fn this_process_and_no_other() {
    let own = std::process::id();
    assert_eq!(passed(|_| vec![format!("filter.pids={own},1")]), (true, true));
    assert_eq!(passed(|_| vec!["filter.pids=1".to_owned()]), (false, false));
}

/// Conditions of different keys must all hold.
pub(super) fn and_between_keys() {
    let own = std::process::id();
    assert_eq!(
        passed(|port| vec![format!("filter.pids={own}"), format!("filter.ports={port}")]),
        (true, false)
    );
}

/// `filter.comms` compares the name of the process, not of the accepting thread.
pub(super) fn names_of_processes() {
    // The main thread keeps the executable's name, cut at 15 bytes; the harness renames only other threads.
    let comm = std::fs::read_to_string(format!("/proc/{}/comm", std::process::id())).expect("comm");
    let comm = comm.trim().to_owned();
    assert_eq!(passed(|_| vec![format!("filter.comms={comm}")]), (true, true));
    assert_eq!(passed(|_| vec![format!("filter.exclude.comms={comm}")]), (false, false));
}

/// `filter.netns` compares the inode of the network namespace (`/proc/self/ns/net`).
pub(super) fn network_namespaces() {
    let link = std::fs::read_link("/proc/self/ns/net").expect("a namespace");
    let link = link.to_string_lossy().into_owned();
    let own = link.trim_start_matches("net:[").trim_end_matches(']').to_owned();
    assert_eq!(passed(|_| vec![format!("filter.netns={own}")]), (true, true));
    assert_eq!(passed(|_| vec!["filter.netns=1".to_owned()]), (false, false));
}

/// `filter.families=unix` passes UNIX sockets and drops TCP.
pub(super) fn families() {
    let agent = Agent::with_flags(&["--set", "filter.families=unix"]);
    let (_listener, port) = accept_one();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("server.sock");
    let listener = UnixListener::bind(&path).expect("an unused path");
    let _client = UnixStream::connect(&path).expect("the listener is up");
    let _accepted = listener.accept().expect("a connection");
    let path = path.to_str();
    wait::until("the UNIX accept", || {
        agent
            .inbox
            .records()
            .iter()
            .any(|record| {
                record.log.event_name == "acceptd.socket.accept"
                    && record.text("network.local.address") == path
            })
            .then_some(())
    });
    let inbox = agent.inbox.clone();
    let _ = agent.stop();
    assert!(!inbox.records().iter().any(|record| record.is_on_port(port)));
}

/// `filter.cgroups` takes a path: a process inside the cgroup is recorded, and one outside is not.
pub(super) fn cgroups() {
    let name = format!("acceptd-scenario-{}", std::process::id());
    let group = Cgroup::new(&name);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let agent = Agent::with_flags(&[
        "--set",
        &group.host_root_setting(),
        "--set",
        &format!("filter.cgroups=/{name}"),
    ]);
    let inherited = OwnedFd::from(listener.try_clone().expect("a descriptor"));
    let mut inside = group.acceptor().stdin(inherited).stdout(Stdio::null()).spawn().expect("a shell");
    let client = TcpStream::connect(("127.0.0.1", port)).expect("the listener is up");
    let records = agent.inbox.wait_for_accepts(port, 1);
    assert_eq!(records[0].resource_int("process.pid"), Some(i64::from(inside.id())));
    drop(client);
    inside.wait().expect("waitpid");
    // This process accepts outside the cgroup.
    let client = TcpStream::connect(("127.0.0.1", port)).expect("the listener is up");
    listener.accept().expect("a connection");
    drop(client);
    let inbox = agent.inbox.clone();
    let _ = agent.stop();
    let recorded = inbox.records().iter().filter(|record| record.is_on_port(port)).count();
    assert_eq!(recorded, 1, "only the accept inside the cgroup");
}
