//! Accepts on its standard input and tells the truth about each connection, one line each.
//!
//! `acceptor COUNT [PROGRAM ARGUMENTS…]`: after COUNT accepts it waits until the last client closes its connection,
//! and then ends, or becomes PROGRAM with the same listener.
#![forbid(unsafe_code)]
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a tool of the tests: what it cannot do, it says and fails"
)]

use std::{
    io::{self, Write as _},
    os::unix::process::CommandExt as _,
    process::Command,
};

use acceptd_tests::truth::Truth;
use rustix::{io::read, net::accept};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let count: usize = arguments.next().and_then(|count| count.parse().ok()).expect("acceptor COUNT");
    let listener = io::stdin();
    let mut last = None;
    for _ in 0..count {
        let accepted = accept(&listener).expect("a connection");
        println!("{}", Truth::of(&accepted, &listener));
        io::stdout().flush().expect("a reader");
        last = Some(accepted);
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
