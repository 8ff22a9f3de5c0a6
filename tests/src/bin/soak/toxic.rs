//! A bad network between agent and receiver: a proxy that delays, limits the bandwidth, and cuts or
//! blackholes connections. It replaces netem, which not every kernel has; to TCP, packet loss is delay.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use acceptd_tests::{agent::Agent, inbox::Inbox};
use serde_json::{Value as Json, json};

use crate::{
    chance::{below, between},
    load::Load,
    sink::Sink,
};

/// Bytes that are forwarded at a time. With the pause after each chunk, 0.8 to 4 MB a second.
const CHUNK: usize = 16 << 10;

pub(crate) fn measure(full: bool) -> Json {
    let time = Duration::from_secs(if full { 120 } else { 15 });
    let sink = Sink::start();
    let cuts = Arc::new(AtomicU64::new(0));
    let proxy = proxy(sink.address, &cuts);
    let flags =
        ["--set", "export.timeout=2s", "--set", "queue.max_bytes=256MiB", "--set", "shutdown.timeout=60s"];
    let agent = Agent::sending_to(proxy, Inbox::default(), &flags);
    let load = Load::start(500);
    thread::sleep(time);
    let accepted = load.stop();
    let ledger = agent.terminate();
    let export = &ledger["export"];
    let cuts = cuts.load(Ordering::Relaxed);
    println!(
        "toxic: {} s, {cuts} connections cut or blackholed, {} accepts, {} arrived again; {export}",
        time.as_secs(),
        accepted.len(),
        sink.again()
    );
    assert!(cuts > 0 && export["retries"].as_u64() > Some(0), "{ledger}");
    assert_eq!(export["dropped"], json!({}), "{ledger}");
    assert_eq!(export["acknowledged"].as_u64(), Some(sink.distinct()), "{ledger}");
    assert_eq!(sink.missing(&accepted).len(), 0);
    json!({
        "seconds": time.as_secs(), "cuts": cuts, "accepts": accepted.len(), "records": sink.distinct(),
        "again": sink.again(), "retries": export["retries"],
    })
}

fn proxy(to: SocketAddr, cuts: &Arc<AtomicU64>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let cuts = Arc::clone(cuts);
    thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.expect("a connection");
            let server = TcpStream::connect(to).expect("the sink");
            for (from, to) in [(&client, &server), (&server, &client)] {
                let (from, to) = (from.try_clone().expect("cloned"), to.try_clone().expect("cloned"));
                let cuts = Arc::clone(&cuts);
                thread::spawn(move || forward(from, to, &cuts));
            }
        }
    });
    address
}

/// Forwards one direction of one connection, until it is cut. A blackholed one keeps reading and forwards
/// nothing.
fn forward(mut from: TcpStream, mut to: TcpStream, cuts: &AtomicU64) {
    let mut chunk = [0; CHUNK];
    let mut is_blackhole = false;
    while let Ok(read @ 1..) = from.read(&mut chunk) {
        thread::sleep(between(Duration::from_millis(4), Duration::from_millis(20)));
        match below(200) {
            0 => {
                cuts.fetch_add(1, Ordering::Relaxed);
                break;
            }
            1 if !is_blackhole => {
                cuts.fetch_add(1, Ordering::Relaxed);
                is_blackhole = true;
            }
            _ => {}
        }
        if !is_blackhole && to.write_all(&chunk[..read]).is_err() {
            break;
        }
    }
    _ = from.shutdown(Shutdown::Both);
    _ = to.shutdown(Shutdown::Both);
}
