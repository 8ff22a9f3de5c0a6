//! `filter.*`: which events pass, from the first one on, and that the others are counted.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    },
    process::Stdio,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{AddressFamily, SocketType, bind, getsockname, socket},
};

use crate::{agent::Agent, mounted::Cgroup, record::Record, sk_lookup::Redirect, wait};

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

/// Connects to `port` on the loopback from another of its addresses.
fn connect_from(from: IpAddr, port: u16) -> OwnedFd {
    let family = if from.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let to: IpAddr = if from.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
    let client = socket(family, SocketType::STREAM, None).expect("a socket");
    bind(&client, &SocketAddr::new(from, 0)).expect("an address of the loopback");
    rustix::net::connect(&client, &SocketAddr::new(to, port)).expect("the listener is up");
    client
}

const PROBE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 9, 8, 7));
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const CLIENT_6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// The peers that have records with this filter, of accepts from [`PROBE`], [`CLIENT`] and [`CLIENT_6`]. The
/// listener is one of IPv6, so the first two have IPv4-mapped addresses; then one of IPv4, without the third.
fn recorded_peers(settings: &[&str]) -> Vec<String> {
    let flags: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
    let agent = Agent::with_flags(&flags);
    let listeners = ["[::]:0", "0.0.0.0:0"].map(|address| TcpListener::bind(address).expect("a free port"));
    let ports = listeners.each_ref().map(|listener| listener.local_addr().expect("an address").port());
    let mut clients = Vec::new();
    for (listener, port) in listeners.iter().zip(ports) {
        for from in [PROBE, CLIENT, CLIENT_6] {
            if from.is_ipv6() && port == ports[1] {
                continue;
            }
            clients.push(connect_from(from, port));
            listener.accept().expect("a connection");
        }
    }
    let inbox = agent.inbox.clone();
    let ledger = agent.stop();
    let of = |port: u16| -> Vec<String> {
        let found = inbox.events("acceptd.socket.accept", |record| record.is_on_port(port));
        found.iter().map(|record| record.text("network.peer.address").expect("a peer").to_owned()).collect()
    };
    let [mapped, plain] = ports.map(of);
    let is_ipv4 = |peer: &&String| peer.contains('.');
    assert_eq!(mapped.iter().filter(is_ipv4).collect::<Vec<_>>(), plain.iter().collect::<Vec<_>>());
    let filtered = ledger["capture"]["filtered"]["filter"].as_u64().expect("a count");
    assert!(filtered >= 5 - (mapped.len() + plain.len()) as u64, "filtered events are counted: {ledger}");
    mapped
}

/// `filter.peers` and `filter.exclude.peers` compare the peer's address with networks, IPv4-mapped addresses
/// as what they are. Exclude wins, however the networks contain each other.
pub(super) fn networks_of_peers() {
    assert_eq!(recorded_peers(&["filter.exclude.peers=127.9.0.0/16"]), ["127.0.0.1", "::1"]);
    assert_eq!(recorded_peers(&["filter.peers=127.9.0.0/16"]), ["127.9.8.7"]);
    assert_eq!(recorded_peers(&["filter.peers=::/0"]), ["::1"]);
    assert_eq!(recorded_peers(&["filter.exclude.peers=0.0.0.0/0"]), ["::1"]);
    assert_eq!(recorded_peers(&["filter.peers=127.0.0.1,::1"]), ["127.0.0.1", "::1"]);
    let inside = ["filter.peers=127.0.0.0/8", "filter.exclude.peers=127.9.8.0/24"];
    assert_eq!(recorded_peers(&inside), ["127.0.0.1"]);
    let around = ["filter.peers=127.9.8.7", "filter.exclude.peers=127.0.0.0/8"];
    assert_eq!(recorded_peers(&around), [""; 0]);
}

/// A filter for peers is about connections: an abandoned one is compared as well, a UNIX connection has no
/// address to include, and a listener has no peer.
pub(super) fn peers_and_listeners() {
    let agent = Agent::with_flags(&["--set", "filter.peers=127.9.0.0/16"]);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let listens = |record: &Record| record.int("acceptd.listener.port") == Some(i64::from(port));
    let _ = agent.inbox.wait_for_events("acceptd.socket.listen", 1, listens);
    let clients = [PROBE, CLIENT].map(|from| connect_from(from, port));
    drop(listener);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("server.sock");
    let unix = UnixListener::bind(&path).expect("an unused path");
    let _client = UnixStream::connect(&path).expect("the listener is up");
    let _accepted = unix.accept().expect("a connection");
    let abandoned = "acceptd.listener.abandoned";
    let found = agent.inbox.wait_for_events(abandoned, 1, |record| record.is_on_port(port));
    assert_eq!(found[0].text("network.peer.address"), Some("127.9.8.7"));
    let inbox = agent.inbox.clone();
    let _ = agent.stop();
    assert_eq!(inbox.events(abandoned, |record| record.is_on_port(port)).len(), 1);
    let path = path.to_str();
    let unix = |record: &Record| record.text("network.local.address") == path;
    assert_eq!(inbox.events("acceptd.socket.accept", unix).len(), 0);
    drop(clients);
}

/// `--set` takes a list as the file has it.
pub(super) fn lists_in_the_form_of_the_file() {
    assert_eq!(passed(|port| vec![format!("filter.ports=[{port}, 1]")]), (true, false));
    assert_eq!(passed(|_| vec![r#"filter.exclude.comms=["nginx", "a,b"]"#.to_owned()]), (true, true));
}

/// A connection whose local port is not that of its listener, as with a transparent proxy, matches by either
/// port.
pub(super) fn the_port_of_the_listener() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    // Bound without listening: no other scenario gets the port, whose connections are redirected.
    let reserved = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    bind(&reserved, &SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0)).expect("a free port");
    let asked = SocketAddr::try_from(getsockname(&reserved).expect("an address")).expect("IPv4").port();
    let redirect = Redirect::new(asked, &listener);
    let own = listener.local_addr().expect("an address").port();
    for (key, port, is_recorded) in [
        ("filter.ports", own, true),
        ("filter.ports", asked, true),
        ("filter.ports", 1, false),
        ("filter.exclude.ports", own, false),
        ("filter.exclude.ports", asked, false),
        ("filter.exclude.ports", 1, true),
    ] {
        let setting = format!("{key}={port}");
        let agent = Agent::with_flags(&["--set", &setting]);
        let client = TcpStream::connect(("127.0.0.1", asked)).expect("the redirect is up");
        let (accepted, _) = listener.accept().expect("a connection");
        assert_eq!(accepted.local_addr().expect("an address").port(), asked, "the redirect works");
        drop(client);
        let inbox = agent.inbox.clone();
        let _ = agent.stop();
        let found = inbox.events("acceptd.socket.accept", |record| record.is_on_port(asked));
        assert_eq!(found.len(), usize::from(is_recorded), "{setting}");
        for record in &found {
            assert_eq!(record.int("acceptd.listener.port"), Some(i64::from(own)), "{setting}");
        }
    }
    drop(redirect);
}

/// A cgroup stands for everything below it: services often put their workers into cgroups of their own.
pub(super) fn cgroups_inside_cgroups() {
    let name = format!("acceptd-subtree-{}", std::process::id());
    let group = Cgroup::new(&name);
    let worker = group.child("worker").child("one");
    for (key, is_recorded) in [("filter.cgroups", true), ("filter.exclude.cgroups", false)] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let agent =
            Agent::with_flags(&["--set", &group.host_root_setting(), "--set", &format!("{key}=/{name}")]);
        accept_in(&worker, &listener, port);
        // This process accepts outside of the cgroup.
        let client = TcpStream::connect(("127.0.0.1", port)).expect("the listener is up");
        listener.accept().expect("a connection");
        drop(client);
        let inbox = agent.inbox.clone();
        let _ = agent.stop();
        let found = inbox.events("acceptd.socket.accept", |record| record.is_on_port(port));
        assert_eq!(found.len(), 1, "{key}");
        let own = Some(i64::from(std::process::id()));
        assert_eq!(found[0].resource_int("process.pid") == own, !is_recorded, "{key}");
    }
}

/// Accepts one connection in a process inside of the cgroup.
fn accept_in(group: &Cgroup, listener: &TcpListener, port: u16) {
    let inherited = OwnedFd::from(listener.try_clone().expect("a descriptor"));
    let mut inside = group.acceptor().stdin(inherited).stdout(Stdio::null()).spawn().expect("a shell");
    let client = TcpStream::connect(("127.0.0.1", port)).expect("the listener is up");
    // The process waits until its client closes, and then exits.
    wait::until("the accept", || {
        (rustix::net::getpeername(&client).is_ok() && !is_queued(listener)).then_some(())
    });
    drop(client);
    inside.wait().expect("waitpid");
}

/// Whether a connection waits to be accepted.
fn is_queued(listener: &TcpListener) -> bool {
    let mut watched = [PollFd::new(listener, PollFlags::IN)];
    poll(&mut watched, Some(&Timespec::default())).expect("poll") > 0
}

/// A cgroup that does not exist at the start is a warning, and is found when it comes. A cgroup that is
/// removed and made anew, as at each restart of a service, is found again.
pub(super) fn cgroups_that_come_and_go() {
    let name = format!("acceptd-comes-{}", std::process::id());
    let parent = Cgroup::new(&format!("acceptd-stays-{}", std::process::id()));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let mut agent = Agent::with_flags(&[
        "--set",
        &parent.host_root_setting(),
        "--set",
        &format!("filter.cgroups={}/{name}", parent.v2_path()),
        "--set",
        "log.level=debug",
    ]);
    agent.wait_for_message("there is no cgroup");
    let is_ours = |record: &Record| record.is_on_port(port);
    for round in 1..=3 {
        let group = parent.child(&name);
        wait::until("the agent to find the cgroup", || {
            (agent.stderr().matches(&format!("{name} is there")).count() == round).then_some(())
        });
        accept_in(&group, &listener, port);
        let _ = agent.inbox.wait_for_events("acceptd.socket.accept", round, is_ours);
        drop(group);
        wait::until("the agent to miss the cgroup", || {
            (agent.stderr().matches(&format!("{name} is gone")).count() == round).then_some(())
        });
        // Outside of any configured cgroup.
        let _client = TcpStream::connect(("127.0.0.1", port)).expect("the listener is up");
        listener.accept().expect("a connection");
    }
    let inbox = agent.inbox.clone();
    let _ = agent.stop();
    assert_eq!(inbox.events("acceptd.socket.accept", is_ours).len(), 3);
}
