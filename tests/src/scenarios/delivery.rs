//! Delivery to the Collector, the agent's own connections, and configuration errors at start.

use std::{
    net::{TcpListener, TcpStream},
    process::Command,
};

use crate::{
    agent::{Agent, binary},
    inbox::Inbox,
    wait,
};

/// Records made while no Collector listens are retried, and all arrive once it does.
pub(super) fn a_collector_that_comes_up_later_gets_everything() {
    let reserved = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = reserved.local_addr().expect("an address");
    drop(reserved);
    let mut agent = Agent::sending_to(address, Inbox::default(), &[]);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    for _ in 0..20 {
        let _client = TcpStream::connect(("127.0.0.1", port)).expect("the listener is up");
        listener.accept().expect("a connection");
    }
    agent.wait_for_message("trying again");
    let collector = wait::until("the reserved port", || TcpListener::bind(address).ok());
    agent.inbox = Inbox::receive_on(collector);
    assert_eq!(agent.inbox.wait_for_accepts(port, 20).len(), 20);
    let ledger = agent.stop();
    assert!(ledger["export"]["retries"].as_u64() > Some(0), "{ledger}");
}

/// The receiver's accept of the agent's connection makes no record, and is counted as `self`.
pub(super) fn the_agents_own_connections_are_excluded_and_counted() {
    let agent = Agent::start();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let _client = TcpStream::connect(("127.0.0.1", port)).expect("the listener is up");
    listener.accept().expect("a connection");
    assert_eq!(agent.inbox.wait_for_accepts(port, 1).len(), 1);
    let ledger = agent.stop();
    assert!(
        ledger["capture"]["self"].as_u64() >= Some(1),
        "the receiver accepted the agent's connection: {ledger}"
    );
}

/// With `filter.self=true` it is a record with `acceptd.self`, which other records lack.
pub(super) fn the_agents_own_connections_are_marked_on_request() {
    let collector = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = collector.local_addr().expect("an address");
    let agent = Agent::sending_to(address, Inbox::receive_on(collector), &["--set", "filter.self=true"]);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let _client = TcpStream::connect(("127.0.0.1", port)).expect("the listener is up");
    listener.accept().expect("a connection");
    assert_eq!(agent.inbox.wait_for_accepts(port, 1)[0].bool("acceptd.self"), None);
    assert_eq!(agent.inbox.wait_for_accepts(address.port(), 1)[0].bool("acceptd.self"), Some(true));
    let ledger = agent.stop();
    assert_eq!(ledger["capture"]["self"], 0, "{ledger}");
}

/// A configuration error exits with code 64 and names the setting at fault.
pub(super) fn bad_configuration_is_an_error_with_its_remedy_and_exit_code_64() {
    let run = |arguments: &[&str]| {
        let output = Command::new(binary("acceptd"))
            .env_clear()
            .arg("run")
            .args(arguments)
            .output()
            .expect("acceptd starts");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for (arguments, expected) in [
        (["--set", "colour=red"], "colour"),
        (["--endpoint", "localhost:70000"], "70000"),
        (["--endpoint", "localhost:0"], "0"),
        (["--set", "batch.timeout=fast"], "batch.timeout"),
        (["--config", "/nonexistent.toml"], "/nonexistent.toml"),
        (["--set", "attributes.include=network.nonsense"], "network.nonsense"),
    ] {
        let (code, stderr) = run(&arguments);
        assert_eq!(code, Some(64), "{arguments:?}: {stderr}");
        assert!(stderr.contains(expected), "{arguments:?}: {stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
    }
}
