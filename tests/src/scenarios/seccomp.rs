//! System calls that a seccomp filter refuses.

use std::{net::SocketAddr, thread};

use acceptd::bpf::Tier;
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, accept, accept_with, bind, getsockname, listen, socket},
};

use crate::{
    agent::{Agent, tier},
    inbox::ACCEPT,
    raw,
    record::Record,
};

/// The system call numbers of accept4 and listen.
const REFUSED: [u32; 2] = if cfg!(target_arch = "x86_64") { [288, 50] } else { [242, 201] };

/// A call that a filter refuses is no event: it never ran. A call that the same filter allows is recorded.
pub(super) fn refused_calls_are_no_events() {
    let agent = Agent::start();
    let idle = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    bind(&idle, &"127.0.0.1:0".parse::<SocketAddr>().expect("an address")).expect("a free port");
    let port = SocketAddr::try_from(getsockname(&idle).expect("bound")).expect("inet").port();
    let filtered = thread::spawn(move || {
        raw::refuse_system_calls(&REFUSED);
        assert_eq!(accept_with(&idle, SocketFlags::CLOEXEC).expect_err("refused"), Errno::PERM);
        assert_eq!(listen(&idle, 1), Err(Errno::PERM));
        assert_eq!(accept(&idle).expect_err("not a listener"), Errno::INVAL);
    });
    filtered.join().expect("the calls end as the filter says");
    let on_port = |record: &Record| record.is_on_port(port);
    let failed = agent.inbox.wait_for_events(ACCEPT, 1, on_port);
    assert_eq!(failed[0].text("error.type"), Some("EINVAL"), "{failed:?}");
    let inbox = agent.inbox.clone();
    let ledger = agent.stop();
    assert_eq!(inbox.events(ACCEPT, on_port).len(), 1, "the refused call is no accept");
    let listened = inbox.events("acceptd.socket.listen", on_port);
    assert!(listened.is_empty(), "the refused call did not listen: {listened:?}");
    // Tier 1 does not see the calls; tier 2 counts them.
    let counted = ledger["capture"]["aggregated"]["seccomp"].as_u64();
    assert!(if tier() == Tier::One { counted == Some(0) } else { counted >= Some(2) }, "{ledger}");
}
