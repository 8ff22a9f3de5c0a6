//! Names of UNIX sockets: they lead to the socket, and are shown so that a person can tell them apart.

use std::{
    fs,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
    path::Path,
    process::{Command, Stdio},
};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, listen, socket};

use crate::{
    agent::{Agent, binary},
    record::Record,
    wait,
};

const ACCEPT: &str = "acceptd.socket.accept";

/// Accepts until a record of this socket has the name `expected`. Returns the names before that.
fn until_named(agent: &Agent, listener: &UnixListener, connect: impl Fn(), expected: &str) -> Vec<String> {
    let inode = rustix::fs::fstat(listener).expect("fstat").st_ino;
    let inode = i64::try_from(inode).expect("an inode");
    let mut accepts = 0;
    wait::until(expected, || {
        connect();
        let _accepted = listener.accept().expect("a connection");
        accepts += 1;
        let is_on = |record: &Record| record.int("acceptd.listener.inode") == Some(inode);
        let records = agent.inbox.wait_for_events(ACCEPT, accepts, is_on);
        let names: Vec<String> = records
            .iter()
            .map(|record| {
                let name = record.text("network.local.address").expect("a name");
                assert_eq!(record.text("acceptd.listener.address"), Some(name));
                name.to_owned()
            })
            .collect();
        (names.last().map(String::as_str) == Some(expected)).then_some(names)
    })
}

/// A listener that a process in `folder` bound to the relative name `name`, and passed on as its standard
/// input.
fn bound_in(folder: &Path, name: &str) -> UnixListener {
    let listener = socket(AddressFamily::UNIX, SocketType::STREAM, None).expect("a socket");
    // Only a process has a working directory; this one's is shared by all scenarios.
    let inherited = listener.try_clone().expect("a descriptor");
    let status = Command::new(binary("acceptor"))
        .args(["bind", name])
        .current_dir(folder)
        .stdin(Stdio::from(inherited))
        .status()
        .expect("the acceptor starts");
    assert!(status.success());
    UnixListener::from(listener)
}

/// A socket that was bound to a relative name (postfix, node) has the path of its file, also when it was
/// bound before the agent started, and after its file was removed.
pub(super) fn a_relative_name_becomes_a_path() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name);
    let shown = |name: &str| path(name).to_str().expect("text").to_owned();
    let early = bound_in(folder.path(), "early.sock");
    let agent = Agent::start();
    let connect = |name: &str| {
        _ = UnixStream::connect(path(name)).expect("the listener is up");
    };
    let names = until_named(&agent, &early, || connect("early.sock"), &shown("early.sock"));
    assert_eq!(names.len(), 1, "known from the start: {names:?}");
    let late = bound_in(folder.path(), "late.sock");
    let names = until_named(&agent, &late, || connect("late.sock"), &shown("late.sock"));
    assert!(names[..names.len() - 1].iter().all(|name| name == "late.sock"), "{names:?}");
    let at = bound_in(folder.path(), "@x");
    let names = until_named(&agent, &at, || connect("@x"), &shown("@x"));
    assert!(
        names[..names.len() - 1].iter().all(|name| name == "./@x"),
        "not like an abstract name: {names:?}"
    );
    let _ = agent.stop();
}

/// A server that binds a temporary name and renames it (haproxy) is shown with the name that clients use.
pub(super) fn a_renamed_socket_has_its_new_path() {
    let agent = Agent::start();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (temporary, path) = (folder.path().join("ha.sock.7.tmp"), folder.path().join("ha.sock"));
    let listener = UnixListener::bind(&temporary).expect("an unused path");
    fs::rename(&temporary, &path).expect("the same folder");
    let connect = || _ = UnixStream::connect(&path).expect("the listener is up");
    let text = |path: &Path| path.to_str().expect("text").to_owned();
    let names = until_named(&agent, &listener, connect, &text(&path));
    assert!(names[..names.len() - 1].iter().all(|name| *name == text(&temporary)), "{names:?}");
    // A plain path, which is the usual case, is right from the first accept on.
    let plain = folder.path().join("plain.sock");
    let listener = UnixListener::bind(&plain).expect("an unused path");
    let connect = || _ = UnixStream::connect(&plain).expect("the listener is up");
    assert_eq!(until_named(&agent, &listener, connect, &text(&plain)).len(), 1);
    let _ = agent.stop();
}

/// NULs with which a program pads an abstract name (node) are not shown, and a file that is called `@x` does
/// not look like the abstract name `x`.
pub(super) fn padding_and_an_at_sign() {
    let agent = Agent::start();
    let name = format!("acceptd-padded-{}", std::process::id());
    let mut padded = name.clone().into_bytes();
    padded.resize(107, 0);
    let listener = socket(AddressFamily::UNIX, SocketType::STREAM, None).expect("a socket");
    bind(&listener, &SocketAddrUnix::new_abstract_name(&padded).expect("a name")).expect("an unused name");
    listen(&listener, 1).expect("listen");
    let listener = UnixListener::from(listener);
    let address = SocketAddr::from_abstract_name(&padded).expect("a name");
    let connect = || _ = UnixStream::connect_addr(&address).expect("the listener is up");
    assert_eq!(until_named(&agent, &listener, connect, &format!("@{name}")).len(), 1);
    let _ = agent.stop();
}
