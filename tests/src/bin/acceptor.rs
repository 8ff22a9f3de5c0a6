//! The child process of scenarios: accepts on the listener that is its standard input, and prints the
//! [`GroundTruth`] of each accept on a line of its own.
//!
//! `acceptor COUNT [PROGRAM ARGUMENTS…]` accepts COUNT connections, waits until the last client closes its
//! connection, and exits, or executes PROGRAM with the same listener.
//!
//! `acceptor full COUNT` first lowers its descriptor limit to three and prints the errno of an accept that
//! fails; it continues when its parent raises the limit again (prlimit(2)).
//!
//! `acceptor publish KIND NAME COUNT` first publishes the service NAME in a process context of this kind
//! ([`ContextKind`]); `acceptor later NAME COUNT` publishes it after the second accept.
//!
//! `acceptor bind NAME` binds its standard input, a UNIX socket, to NAME and listens.
//!
//! `acceptor daemon COUNT` accepts once, and when that client closes, shows a title over its environment and
//! forks; the parent ends, and the child accepts COUNT connections. `acceptor worker COUNT` forks first, and
//! only the child shows a title. `acceptor listen COUNT` first makes a bound socket listen, at once shows a
//! title, and forks; the parent ends, and the child accepts.
//!
//! `acceptor serve` reads a byte from each connection, answers it with another, and closes; it runs until it
//! is killed. `acceptor hold COUNT PAUSE` keeps its last COUNT connections open instead, and sleeps for PAUSE
//! milliseconds after each accept.
//!
//! `acceptor connect ADDRESS` is a client instead, of an address and port or of a path, and `acceptor connect
//! mptcp:ADDRESS` one with Multipath TCP. It prints `connected`, and exits at the end of its standard input.
#![forbid(unsafe_code)]
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test tool that cannot continue panics with the reason"
)]

use std::{
    collections::VecDeque,
    io::{self, Read, Write as _},
    net::{SocketAddr, TcpStream},
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::CommandExt as _},
    },
    process::Command,
    thread,
    time::Duration,
};

use acceptd_tests::{
    ground_truth::GroundTruth,
    process_context::{self, ContextKind},
    raw,
    title::Title,
    wait,
};
use rustix::{
    io::read,
    net::{self, AddressFamily, SocketAddrUnix, SocketType, accept, ipproto, socket},
    process::{self, Resource, Rlimit, WaitOptions, getrlimit, setrlimit},
};

/// The descriptors that remain: standard input, output and error.
const STANDARD: u64 = 3;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut count = arguments.next();
    let listener = io::stdin();
    if count.as_deref() == Some("connect") {
        return connect(&arguments.next().expect("acceptor connect ADDRESS"));
    }
    if count.as_deref() == Some("bind") {
        let name = arguments.next().expect("acceptor bind NAME");
        let address = SocketAddrUnix::new(name).expect("a short name");
        net::bind(&listener, &address).expect("an unused name");
        return net::listen(&listener, 16).expect("listen");
    }
    if count.as_deref() == Some("serve") {
        serve(&listener);
    }
    if count.as_deref() == Some("hold") {
        let mut number = || arguments.next().and_then(|number| number.parse().ok());
        let (count, pause) = number().zip(number()).expect("acceptor hold COUNT PAUSE");
        hold(&listener, usize::try_from(count).unwrap_or(usize::MAX), Duration::from_millis(pause));
    }
    if count.as_deref() == Some("full") {
        without_descriptors(&listener);
        count = arguments.next();
    }
    if count.as_deref() == Some("publish") {
        let kind =
            arguments.next().and_then(|name| ContextKind::from_name(&name)).expect("acceptor publish KIND");
        let name = arguments.next().expect("acceptor publish KIND NAME");
        let published = [
            ("service.name", name.as_str()),
            ("process.pid", "1"),
            ("service.version", "7"),
            ("service.instance.id", "till-7"),
        ];
        process_context::publish(&published, kind);
        count = arguments.next();
    }
    if count.as_deref() == Some("daemon") {
        // Until the client closes.
        _ = read(accept_and_print(&listener), &mut [0_u8; 1]);
        Title::new("acceptor: daemon").show();
        if !raw::fork_child() {
            return;
        }
        count = arguments.next();
    }
    if count.as_deref() == Some("listen") {
        let title = Title::new("acceptor: daemon");
        net::listen(&listener, 16).expect("a bound socket");
        title.show();
        if !raw::fork_child() {
            return;
        }
        count = arguments.next();
    }
    if count.as_deref() == Some("worker") {
        if !raw::fork_child() {
            _ = process::wait(WaitOptions::empty());
            return;
        }
        Title::new("acceptor: worker").show();
        count = arguments.next();
    }
    let mut later = None;
    if count.as_deref() == Some("later") {
        later = Some(arguments.next().expect("acceptor later NAME"));
        count = arguments.next();
    }
    let count: usize = count.and_then(|count| count.parse().ok()).expect("acceptor COUNT");
    let mut last = None;
    for number in 1..=count {
        last = Some(accept_and_print(&listener));
        if let Some(name) = later.take_if(|_| number == 2) {
            process_context::publish(&[("service.name", &name)], ContextKind::Valid);
        }
    }
    if let Some(connection) = last {
        // No data is ever sent: read returns when the client closes or resets the connection.
        _ = read(&connection, &mut [0_u8; 1]);
    }
    if let Some(program) = arguments.next() {
        let error = Command::new(program).args(arguments).exec();
        panic!("exec failed: {error}");
    }
}

fn accept_and_print(listener: &io::Stdin) -> OwnedFd {
    let accepted = accept(listener).expect("a connection");
    println!("{}", GroundTruth::from_sockets(&accepted, listener));
    io::stdout().flush().expect("stdout is open");
    accepted
}

fn connect(address: &str) {
    let _connection: OwnedFd = if address.starts_with('/') {
        UnixStream::connect(address).expect("the listener is up").into()
    } else if let Some(address) = address.strip_prefix("mptcp:") {
        let address: SocketAddr = address.parse().expect("an address and port");
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let client = socket(family, SocketType::STREAM, Some(ipproto::MPTCP)).expect("a socket");
        net::connect(&client, &address).expect("the listener is up");
        client
    } else {
        TcpStream::connect(address).expect("the listener is up").into()
    };
    println!("connected");
    io::stdout().flush().expect("stdout is open");
    _ = io::stdin().read(&mut [0; 1]);
}

fn serve(listener: &io::Stdin) -> ! {
    loop {
        let mut connection = TcpStream::from(accept(listener).expect("a connection"));
        let answered = connection.read_exact(&mut [0]).and_then(|()| connection.write_all(b"!"));
        answered.expect("a client that waits for the answer");
    }
}

fn hold(listener: &io::Stdin, count: usize, pause: Duration) -> ! {
    let mut held = VecDeque::new();
    loop {
        held.push_back(accept(listener).expect("a connection"));
        if held.len() > count {
            held.pop_front();
        }
        thread::sleep(pause);
    }
}

fn without_descriptors(listener: &io::Stdin) {
    let before = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(STANDARD), ..before }).expect("a lower limit");
    let error = accept(listener).expect_err("no free descriptor");
    println!("{}", error.raw_os_error());
    io::stdout().flush().expect("stdout is open");
    wait::until("a higher limit", || (getrlimit(Resource::Nofile).current != Some(STANDARD)).then_some(()));
}
