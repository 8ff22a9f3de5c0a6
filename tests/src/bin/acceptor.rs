//! Accepts on its standard input and tells the truth about each connection, one line each.
//!
//! `acceptor COUNT [PROGRAM ARGUMENTS…]`: after COUNT accepts it waits until the last client closes its connection,
//! and then ends, or becomes PROGRAM with the same listener.
//!
//! `acceptor full COUNT`: may have no descriptor beyond the first three until its parent says otherwise (prlimit(2)). It
//! prints the errno of its first accept.
//!
//! `acceptor connect ADDRESS` is a client instead: of an address and port, or of a path; `acceptor connect mptcp:ADDRESS` by
//! Multipath TCP. It says so when it is connected, and ends when its
//! standard input does.
//!
//! `acceptor publish WRONG NAME COUNT`: publishes NAME as its service's in a process context that is wrong in this way, or valid.
//! `acceptor later NAME COUNT`: publishes NAME after its second accept.
#![forbid(unsafe_code)]
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a tool of the tests: what it cannot do, it says and fails"
)]

use std::{
    io::{
        Read, Write as _, {self},
    },
    net::{SocketAddr, TcpStream},
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::CommandExt as _},
    },
    process::Command,
};

use acceptd_tests::{
    context::{
        Wrong, {self},
    },
    truth::Truth,
    wait,
};
use rustix::{
    io::read,
    net::{
        AddressFamily, SocketType, accept, ipproto, socket, {self},
    },
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

/// Standard input, output and error.
const STANDARD: u64 = 3;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut count = arguments.next();
    let listener = io::stdin();
    if count.as_deref() == Some("connect") {
        return connect(&arguments.next().expect("acceptor connect ADDRESS"));
    }
    if count.as_deref() == Some("full") {
        without_descriptors(&listener);
        count = arguments.next();
    }
    if count.as_deref() == Some("publish") {
        let wrong = arguments.next().and_then(|name| Wrong::named(&name)).expect("acceptor publish WRONG");
        let name = arguments.next().expect("acceptor publish WRONG NAME");
        let published = [
            ("service.name", name.as_str()),
            ("process.pid", "1"),
            ("service.version", "7"),
            ("service.instance.id", "till-7"),
        ];
        context::publish(&published, wrong);
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
        let accepted = accept(&listener).expect("a connection");
        println!("{}", Truth::of(&accepted, &listener));
        io::stdout().flush().expect("a reader");
        last = Some(accepted);
        if let Some(name) = later.take_if(|_| number == 2) {
            context::publish(&[("service.name", &name)], Wrong::Not);
        }
    }
    if let Some(connection) = last {
        // Nothing is ever sent: this returns when the client is gone, in whatever way.
        _ = read(&connection, &mut [0_u8; 1]);
    }
    if let Some(program) = arguments.next() {
        let error = Command::new(program).args(arguments).exec();
        panic!("exec failed: {error}");
    }
}

fn connect(address: &str) {
    let _connection: OwnedFd = if address.starts_with('/') {
        UnixStream::connect(address).expect("somebody listens").into()
    } else if let Some(address) = address.strip_prefix("mptcp:") {
        let address: SocketAddr = address.parse().expect("an address and port");
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let client = socket(family, SocketType::STREAM, Some(ipproto::MPTCP)).expect("a socket");
        net::connect(&client, &address).expect("somebody listens");
        client
    } else {
        TcpStream::connect(address).expect("somebody listens").into()
    };
    println!("connected");
    io::stdout().flush().expect("a reader");
    _ = io::stdin().read(&mut [0; 1]);
}

fn without_descriptors(listener: &io::Stdin) {
    let before = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(STANDARD), ..before }).expect("a lower limit");
    let error = accept(listener).expect_err("there is no descriptor for it");
    println!("{}", error.raw_os_error());
    io::stdout().flush().expect("a reader");
    wait::until("a higher limit", || (getrlimit(Resource::Nofile).current != Some(STANDARD)).then_some(()));
}
