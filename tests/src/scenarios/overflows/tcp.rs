//! Full queues of TCP: the overflows of a listener are those that the kernel counts as `ListenOverflows`.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    io::{Errno, write},
    net::{
        AddressFamily, Protocol, SocketFlags, SocketType, accept, bind, connect, getpeername, getsockname,
        ipproto, listen, socket_with, sockopt,
    },
};

use super::reported::{LISTEN, OVERFLOW, inode, reported, watching};
use crate::{
    inbox::Inbox,
    netns::{in_new_netns, tcp_counter},
    raw,
    record::Record,
    tun_link::{
        TunLink,
        segments::{HOPS, Pending, flag},
    },
    wait,
};

/// The limit of each listener's queue, which is full with one connection more.
const LIMIT: i32 = 4;

/// Calls listen(2), and waits until the agent knows the listeners: in tier 2 it ignores what a network
/// namespace counted before. Listens again until then, since a preemptible kernel may skip the program that
/// reports the call.
fn listen_and_be_known(inbox: &Inbox, listeners: &[&OwnedFd]) {
    for listener in listeners {
        let inode = inode(listener);
        let mut due = Instant::now();
        wait::until("a record of listen", || {
            if Instant::now() >= due {
                listen(listener, LIMIT).expect("bound");
                due = Instant::now() + Duration::from_secs(5);
            }
            let found = inbox.events(LISTEN, |record| record.int("acceptd.listener.inode") == inode);
            (!found.is_empty()).then_some(())
        });
    }
}

/// A TCP listener in a network namespace of its own, with clients of the same host and of a remote host.
struct Server {
    listener: OwnedFd,
    port: u16,
    /// Where local clients connect to.
    to: SocketAddr,
    clients: Vec<OwnedFd>,
    link: Option<TunLink>,
}

impl Server {
    fn is_connected(client: &OwnedFd) -> bool {
        getpeername(client).is_ok()
    }

    /// A local client that does not wait.
    fn begin_connect(&self) -> OwnedFd {
        let family = if self.to.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let client = socket_with(family, SocketType::STREAM, flags, None).expect("a socket");
        assert_eq!(connect(&client, &self.to), Err(Errno::INPROGRESS));
        client
    }

    /// Local clients connect, and are not accepted.
    fn queue(&mut self, connections: i32) {
        for _ in 0..connections {
            let client = self.begin_connect();
            wait::until("a connection", || Self::is_connected(&client).then_some(()));
            self.clients.push(client);
        }
    }

    /// Connections that wait for the client's data (`TCP_DEFER_ACCEPT`) and close with a reset.
    fn defer(&self, connections: i32) -> Vec<OwnedFd> {
        raw::defer_accepts(&self.listener, 30);
        let clients = (0..connections).map(|_| {
            let client = self.begin_connect();
            wait::until("a connection", || Self::is_connected(&client).then_some(()));
            sockopt::set_socket_linger(&client, Some(Duration::ZERO)).expect("a socket");
            client
        });
        let clients = clients.collect();
        raw::defer_accepts(&self.listener, 0);
        clients
    }

    fn fill(&mut self) {
        self.queue(LIMIT + 1);
    }

    fn link(&mut self) -> &mut TunLink {
        self.link.as_mut().expect("the row asked for one")
    }

    /// Handshakes of the remote host that lack the final ACK.
    fn half_open(&mut self, ports: std::ops::Range<u16>) -> Vec<Pending> {
        let port = self.port;
        ports.map(|client| self.link().half_open(client, port)).collect()
    }

    /// Local clients connect until the queue refuses one more.
    fn overflow_once(&mut self) {
        let before = overflows();
        for _ in 0..100 {
            let client = self.begin_connect();
            wait::until("an end", || (Self::is_connected(&client) || overflows() > before).then_some(()));
            self.clients.push(client);
            if overflows() > before {
                return;
            }
        }
        panic!("the queue never refused a connection");
    }
}

fn overflows() -> u64 {
    tcp_counter("ListenOverflows")
}

/// One row of the kernel's table: what happens, and whether the kernel counts an overflow; `None` if releases
/// of the kernel differ in that.
struct Row {
    name: &'static str,
    /// The address of the listener, and its protocol.
    address: &'static str,
    protocol: Option<Protocol>,
    settings: &'static [(&'static str, &'static str)],
    has_link: bool,
    is_overflow: Option<bool>,
    act: fn(&mut Server),
}

const LOCAL: Row = Row {
    name: "",
    address: "127.0.0.1:0",
    protocol: None,
    settings: &[],
    has_link: false,
    is_overflow: Some(true),
    act: |_| {},
};

const REMOTE: Row = Row { address: "10.9.0.1:0", settings: NO_COOKIES, has_link: true, ..LOCAL };

const REMOTE_V6: Row = Row { address: "[fd09::1]:0", ..REMOTE };

const HARMLESS: Row = Row { is_overflow: Some(false), ..REMOTE };

const NO_COOKIES: &[(&str, &str)] = &[("tcp_syncookies", "0")];

/// The queue is full, and new clients send a SYN.
fn new_clients(server: &mut Server) {
    server.fill();
    let refused: Vec<_> = (0..3).map(|_| server.begin_connect()).collect();
    assert!(!refused.iter().any(Server::is_connected));
}

/// The queue is full, and pending handshakes end with the client's data.
fn data_of_deferred_clients(server: &mut Server) {
    let before = overflows();
    let deferred = server.defer(2);
    server.fill();
    for client in &deferred {
        assert_eq!(write(client, b"x"), Ok(1));
    }
    wait::until("two overflows", || (overflows() >= before + 2).then_some(()));
}

/// The queue is full, and pending handshakes of the remote host end.
fn final_acks(server: &mut Server, data: &[u8]) {
    let pending = server.half_open(5000..5003);
    server.fill();
    for pending in pending {
        server.link().finish(pending, data);
    }
}

/// The remote host sends SYNs, and ignores what the server answers.
fn send_syns(server: &mut Server) {
    let port = server.port;
    for client in 5000..5003 {
        server.link().send_flags(client, port, flag::SYN);
    }
}

/// Pending handshakes of [`new_client_beside_pending_handshakes`].
const PENDING: i32 = 3;

/// The queue is full, handshakes are pending, and a new client sends a SYN while the limit is `limit`.
fn new_client_beside_pending_handshakes(server: &mut Server, limit: i32) {
    let _pending = server.half_open(5000..5000 + u16::try_from(PENDING).expect("few"));
    server.fill();
    listen(&server.listener, limit).expect("a listener");
    let refused = server.begin_connect();
    assert!(!Server::is_connected(&refused));
    drop(refused);
    listen(&server.listener, LIMIT).expect("a listener");
}

/// The kernel's table, with numbers of `sk_drops` that differ from those of `ListenOverflows`.
const TABLE: &[Row] = &[
    Row { name: "new SYN", act: new_clients, ..LOCAL },
    Row { name: "new SYN, IPv6", address: "[::1]:0", act: new_clients, ..LOCAL },
    Row { name: "new SYN, IPv4 on IPv6", address: "[::]:0", act: new_clients, ..LOCAL },
    Row { name: "new SYN, Multipath TCP", protocol: Some(ipproto::MPTCP), act: new_clients, ..LOCAL },
    Row { name: "deferred data", act: data_of_deferred_clients, ..LOCAL },
    Row { name: "deferred data, IPv6", address: "[::1]:0", act: data_of_deferred_clients, ..LOCAL },
    Row { name: "deferred data, IPv4 on IPv6", address: "[::]:0", act: data_of_deferred_clients, ..LOCAL },
    Row { name: "final ACK", act: |server| final_acks(server, b""), ..REMOTE },
    Row { name: "final ACK with data", act: |server| final_acks(server, b"x"), ..REMOTE },
    Row {
        name: "final ACK, IPv4 on IPv6",
        address: "[::]:0",
        act: |server| final_acks(server, b""),
        ..REMOTE
    },
    Row {
        name: "final ACK, tcp_abort_on_overflow",
        settings: &[("tcp_syncookies", "0"), ("tcp_abort_on_overflow", "1")],
        act: |server| final_acks(server, b""),
        ..REMOTE
    },
    Row {
        name: "final ACK of a SYN cookie",
        settings: &[("tcp_syncookies", "2")],
        act: |server| final_acks(server, b""),
        ..REMOTE
    },
    Row { name: "final ACK, IPv6", act: |server| final_acks(server, b""), ..REMOTE_V6 },
    Row {
        name: "final ACK of a SYN cookie, IPv6",
        settings: &[("tcp_syncookies", "2")],
        act: |server| final_acks(server, b""),
        ..REMOTE_V6
    },
    Row {
        name: "SYN and ACK again of a queued connection, full queue",
        act: |server| {
            let queued = server.half_open(5000..5003);
            for pending in &queued {
                server.link().finish(*pending, b"");
            }
            server.queue(LIMIT + 1 - 3);
            for pending in queued {
                server.link().send_flags(pending.client, pending.server, flag::SYN);
                server.link().finish(pending, b"");
            }
        },
        ..HARMLESS
    },
    Row {
        name: "SO_ATTACH_FILTER",
        act: |server| {
            raw::drop_all_packets(&server.listener, true);
            send_syns(server);
            raw::drop_all_packets(&server.listener, false);
        },
        ..HARMLESS
    },
    Row {
        name: "IP_MINTTL",
        act: |server| {
            raw::drop_below_ttl(&server.listener, i32::from(HOPS) + 1);
            send_syns(server);
            raw::drop_below_ttl(&server.listener, 0);
        },
        ..HARMLESS
    },
    Row {
        name: "SYN again of a pending handshake, full queue",
        act: |server| {
            let pending = server.half_open(5000..5003);
            server.fill();
            for Pending { client, server: port, .. } in pending {
                server.link().send_flags(client, port, flag::SYN);
            }
        },
        ..HARMLESS
    },
    Row {
        name: "new SYN, also too many pending handshakes",
        act: |server| new_client_beside_pending_handshakes(server, 1),
        ..HARMLESS
    },
    // `inet_csk_reqsk_queue_is_full` compares with `>=` in older releases, and with `>` in newer ones.
    Row {
        name: "new SYN, also as many pending handshakes as the limit",
        is_overflow: None,
        act: |server| new_client_beside_pending_handshakes(server, PENDING),
        ..REMOTE
    },
    Row {
        name: "half-open probes",
        act: |server| {
            for port in 5000..5020 {
                for pending in server.half_open(port..port + 1) {
                    server.link().reset(pending);
                }
            }
        },
        ..HARMLESS
    },
    Row {
        name: "SYN again, and ACK out of the window, of a pending handshake",
        act: |server| {
            for pending in server.half_open(5000..5003) {
                server.link().send_flags(pending.client, pending.server, flag::SYN);
                server.link().send_out_of_window(pending);
            }
        },
        ..HARMLESS
    },
    Row {
        name: "scans",
        act: |server| {
            let port = server.port;
            let xmas = flag::FIN | flag::PSH | flag::URG;
            for flags in [flag::RST, flag::FIN, 0, xmas, flag::SYN | flag::FIN, flag::SYN | flag::RST] {
                server.link().send_flags(5000, port, flags);
            }
        },
        ..HARMLESS
    },
    Row {
        name: "TCP_DEFER_ACCEPT",
        settings: &[],
        has_link: false,
        address: "127.0.0.1:0",
        act: |server| drop(server.defer(3)),
        ..HARMLESS
    },
    Row {
        name: "late RST of a connection that is gone",
        act: |server| {
            for pending in server.half_open(5000..5003) {
                server.link().finish(pending, b"");
                drop(accept(&server.listener).expect("a connection"));
                server.link().reset(pending);
                // The kernel answers with a RST without ACK to what arrives for a socket that is gone.
                for _ in 0..3 {
                    server.link().send_flags(pending.client, pending.server, flag::RST);
                }
            }
        },
        ..HARMLESS
    },
    Row {
        name: "SYN flood without cookies",
        act: |server| {
            let port = server.port;
            for client in 5000..5020 {
                server.link().send_flags(client, port, flag::SYN);
            }
            // The queue of handshakes has no room for the clients that end the row.
            listen(&server.listener, 64).expect("a listener");
            wait::until("room", || {
                let client = server.begin_connect();
                thread::sleep(Duration::from_millis(10));
                Server::is_connected(&client).then_some(())
            });
        },
        ..HARMLESS
    },
    Row {
        name: "SYN flood with cookies, and a bad cookie",
        settings: &[("tcp_syncookies", "2")],
        act: |server| {
            for pending in server.half_open(5000..5020) {
                server.link().send_bad_cookie(pending);
            }
        },
        ..HARMLESS
    },
];

/// The inode of the listener of one row, and the number that the kernel counted.
fn run_row(row: &Row, inbox: &Inbox) -> (i64, u64) {
    let mut result = (0, 0);
    in_new_netns(row.settings, || {
        let address: SocketAddr = row.address.parse().expect("an address");
        let is_wildcard = address.ip().is_unspecified();
        let over = |link: TunLink| {
            if address.is_ipv6() && !is_wildcard { link.over_ipv6() } else { link }
        };
        let link = row.has_link.then(TunLink::new).map(over);
        let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
        let listener = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, row.protocol);
        let listener = listener.expect("a socket");
        // The kernel makes a new IPv6 address valid a little later.
        wait::until("the address", || bind(&listener, &address).ok());
        let inode = inode(&listener);
        let of_this_listener = |record: &Record| record.int("acceptd.listener.inode") == inode;
        listen_and_be_known(inbox, &[&listener]);
        let name: SocketAddr = getsockname(&listener).expect("bound").try_into().expect("an address");
        let mut to = name;
        if is_wildcard {
            to.set_ip([127, 0, 0, 1].into());
        }
        let mut server = Server { listener, port: name.port(), to, clients: Vec::new(), link };
        (row.act)(&mut server);
        if let Some(is_overflow) = row.is_overflow {
            assert_eq!(overflows() > 0, is_overflow, "{}: {} overflows", row.name, overflows());
        }
        // Every row ends with an overflow: once that is reported, everything before it was, too.
        server.overflow_once();
        server.clients.clear();
        let counted = overflows();
        wait::until_ok(|| {
            let reported = reported(inbox, of_this_listener);
            if reported >= counted {
                Ok(())
            } else {
                Err(format!("{}: {reported} of {counted} are reported", row.name))
            }
        });
        for record in inbox.events(OVERFLOW, of_this_listener) {
            assert_eq!(record.resource_int("process.pid"), Some(i64::from(std::process::id())), "{record:?}");
            assert_eq!(record.log.severity_number, 17);
        }
        result = (inode.expect("a socket"), counted);
    });
    result
}

/// Each row of the kernel's table: the overflow events add up to what the kernel counted as
/// `ListenOverflows`, although `sk_drops` of the listener grew by less, more, or for another reason.
pub(in crate::scenarios) fn what_the_kernel_counts() {
    let agent = watching(&[]);
    let inbox = agent.inbox.clone();
    let counted: Vec<_> = thread::scope(|scope| {
        let rows: Vec<_> = TABLE
            .iter()
            .map(|row| {
                let inbox = inbox.clone();
                (row, scope.spawn(move || run_row(row, &inbox)))
            })
            .collect();
        rows.into_iter().map(|(row, thread)| (row, thread.join())).collect()
    });
    let _ = agent.stop();
    let mut wrong = Vec::new();
    for (row, result) in counted {
        match result {
            Ok((inode, counted)) => {
                let reported = reported(&inbox, |record| record.int("acceptd.listener.inode") == Some(inode));
                if reported != counted {
                    wrong.push(format!("{}: {reported} reported, {counted} counted", row.name));
                }
            }
            Err(_) => wrong.push(format!("{}: see the message above", row.name)),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Two listeners in one network namespace: probes at the one do not become overflows, and the overflows of
/// the other are its own.
pub(in crate::scenarios) fn the_listener_that_was_full() {
    let agent = watching(&[]);
    let inbox = agent.inbox.clone();
    in_new_netns(NO_COOKIES, || {
        let netns = fs::metadata("/proc/thread-self/ns/net").expect("a namespace").ino().cast_signed();
        let in_this_namespace = |record: &Record| record.int("acceptd.netns.inode") == Some(netns);
        let link = TunLink::new();
        let [probed, full] = [0, 1].map(|_| {
            let flags = SocketFlags::CLOEXEC;
            let listener =
                socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).expect("a socket");
            bind(&listener, &TunLink::server()).expect("the interface is up");
            listener
        });
        listen_and_be_known(&inbox, &[&probed, &full]);
        let server = |listener, link| {
            let name: SocketAddr = getsockname(&listener).expect("bound").try_into().expect("an address");
            Server { listener, port: name.port(), to: name, clients: Vec::new(), link }
        };
        let (mut probed, mut full) = (server(probed, Some(link)), server(full, None));
        new_clients(&mut full);
        for port in 5000..5020 {
            for pending in probed.half_open(port..port + 1) {
                probed.link().reset(pending);
            }
        }
        let counted = overflows();
        wait::until_ok(|| {
            let reported = reported(&inbox, in_this_namespace);
            if reported >= counted { Ok(()) } else { Err(format!("{reported} of {counted} are reported")) }
        });
        let inode = inode(&full.listener);
        for record in inbox.events(OVERFLOW, in_this_namespace) {
            assert_eq!(record.int("acceptd.listener.inode"), inode, "{record:?}");
        }
        assert_eq!((reported(&inbox, in_this_namespace), overflows()), (counted, counted));
    });
    let _ = agent.stop();
}

/// A server that accepts while more clients connect than its queue holds: overflows are reported while it
/// happens, and all of them in the end.
pub(in crate::scenarios) fn of_a_busy_listener() {
    const CLIENTS: usize = 4;
    let agent = watching(&[]);
    let inbox = agent.inbox.clone();
    in_new_netns(&[], || {
        let netns = fs::metadata("/proc/thread-self/ns/net").expect("a namespace").ino().cast_signed();
        let in_this_namespace = |record: &Record| record.int("acceptd.netns.inode") == Some(netns);
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let listener = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).expect("a socket");
        bind(&listener, &SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
        listen_and_be_known(&inbox, &[&listener]);
        let address: SocketAddr = getsockname(&listener).expect("bound").try_into().expect("an address");
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| {
                    while !is_over.load(Ordering::Relaxed) {
                        _ = TcpStream::connect_timeout(&address, Duration::from_millis(20));
                    }
                });
            }
            let accept_all = || while accept(&listener).is_ok() {};
            wait::until("a hundred overflows", || {
                thread::sleep(Duration::from_millis(5));
                accept_all();
                (overflows() >= 100).then_some(())
            });
            is_over.store(true, Ordering::Relaxed);
        });
        // Clients that were refused go on until then.
        drop(listener);
        let counted = overflows();
        wait::until_ok(|| {
            let reported = reported(&inbox, in_this_namespace);
            if reported >= counted { Ok(()) } else { Err(format!("{reported} of {counted} are reported")) }
        });
        assert_eq!(reported(&inbox, in_this_namespace), counted);
    });
    let _ = agent.stop();
}
