//! Accepts by kernel threads.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    process::Command,
};

use acceptd::bpf::Tier;

use super::support::canonical;
use crate::{
    agent::{Agent, tier},
    inbox::ACCEPT,
    record::Record,
    wait,
};

const NFSD: &str = "/proc/fs/nfsd";

/// A running nfsd, which is stopped on drop.
struct Server;

impl Server {
    fn start(listener: &TcpListener) -> Self {
        if fs::read_dir(NFSD).expect("the module nfsd is loaded").next().is_none() {
            let mounted = Command::new("mount").args(["-t", "nfsd", "nfsd", NFSD]).status();
            assert!(mounted.expect("mount").success());
        }
        let write = |file: &str, text: &str| {
            fs::write(format!("{NFSD}/{file}"), text).unwrap_or_else(|error| panic!("{file}: {error}"));
        };
        // Enable only NFSv4: versions 2 and 3 need a portmapper and a lock manager. A kernel without them
        // refuses the write.
        for version in ["-2", "-3"] {
            _ = fs::write(format!("{NFSD}/versions"), format!("{version}\n"));
        }
        let server = Self;
        write("portlist", &format!("{}\n", listener.as_raw_fd()));
        write("threads", "1\n");
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        _ = fs::write(format!("{NFSD}/threads"), "0\n");
    }
}

/// nfsd accepts in a kernel thread, without a system call. Tier 1 records it once, with the thread as its
/// process and without attributes of a system call; tier 2 sees no such accept, and the kernel's own socket
/// list proves that it happened.
pub(super) fn nfsd() {
    let agent = Agent::start();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let server = Server::start(&listener);
    let client = TcpStream::connect(address).expect("the listener is up");
    let on_port = |record: &Record| record.is_on_port(address.port());
    if tier() == Tier::One {
        let record = agent.inbox.wait_for_events(ACCEPT, 1, on_port).remove(0);
        assert_eq!(record.text("acceptd.accept.syscall"), Some("kernel"), "{record:?}");
        assert_eq!(record.endpoint("local"), Some(canonical(address)));
        assert_eq!(record.endpoint("peer"), Some(canonical(client.local_addr().expect("connected"))));
        let pid = record.resource_int("process.pid").expect("a process id");
        let comm = fs::read_to_string(format!("/proc/{pid}/comm")).expect("the thread is alive");
        // In brackets, as ps(1) shows kernel threads.
        let name = format!("[{}]", comm.trim());
        let service = format!("unknown_service:{name}");
        assert_eq!(record.resource_text("service.name"), Some(service.as_str()), "{record:?}");
        for absent in ["process.executable.name", "process.executable.path"] {
            assert_eq!(record.resource.get(absent), None, "a kernel thread has no executable: {record:?}");
        }
        let command_line = fs::read_to_string(format!("/proc/{pid}/cmdline"));
        assert!(command_line.is_ok_and(|line| line.is_empty()), "a kernel thread has no command line");
        assert_eq!(record.int("acceptd.thread.id"), Some(pid));
        assert!(record.int("acceptd.accept.queue_time_ns").is_some_and(|nanos| nanos > 0), "{record:?}");
        assert!(record.text("acceptd.socket.cookie").is_some(), "{record:?}");
        for absent in [
            "acceptd.listener.fd",
            "acceptd.socket.fd",
            "acceptd.accept.blocked_time_ns",
            "acceptd.accept.verified",
        ] {
            assert_eq!(record.attributes.get(absent), None, "{absent}: {record:?}");
        }
    } else {
        let queue = || {
            let text = fs::read_to_string("/proc/net/tcp").expect("sockets");
            let is_listener = |line: &&str| {
                let mut words = line.split_whitespace().skip(1);
                let port = format!("0100007F:{:04X}", address.port());
                // State 0A is LISTEN; the rx_queue field is then the number of queued connections.
                words.next() == Some(port.as_str()) && words.nth(1) == Some("0A")
            };
            let line = text.lines().find(is_listener).expect("the listener in /proc/net/tcp").to_owned();
            line.split_whitespace().nth(4).expect("queues").to_owned()
        };
        wait::until("the kernel accepts", || (queue() == "00000000:00000000").then_some(()));
    }
    // Once a later accept has arrived, records of earlier ones would have, too.
    let later = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = later.local_addr().expect("an address").port();
    let _client = TcpStream::connect(("127.0.0.1", port)).expect("the listener is up");
    later.accept().expect("a connection");
    assert_eq!(agent.inbox.wait_for_accepts(port, 1).len(), 1);
    let expected = usize::from(tier() == Tier::One);
    assert_eq!(
        agent.inbox.events(ACCEPT, on_port).len(),
        expected,
        "tier 2 does not see the kernel's accepts"
    );
    drop(server);
    let _ = agent.stop();
}
