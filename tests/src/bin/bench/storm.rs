//! (b) The highest accept rate of this machine, without and with the agent, and the agent's CPU time and
//! memory.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddrV4, TcpListener},
    process::{Child, Command, ExitCode, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use acceptd_tests::{agent::Agent, inbox::Inbox};
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, bind, connect, shutdown, socket_with};
use serde_json::{Value as Json, json};

use crate::pipeline;

/// The number of listeners, each on its own address, with one thread that accepts and one that connects.
const PAIRS: u8 = 4;

pub(crate) fn measure(full: bool) -> Json {
    let seconds = if full { 60 } else { 5 };
    let (_, without) = finish(start_load(seconds));
    let (endpoint, _) = pipeline::sink();
    let endpoint = endpoint.parse().expect("an address");
    // The load binds each client to an address, which real clients rarely do, so binds are not recorded.
    let flags = ["--set", "batch.timeout=1s", "--set", "events.bind=false"];
    let agent = Agent::sending_to(endpoint, Inbox::default(), &flags);
    let pid = agent.pid().as_raw_nonzero().get();
    let rss_start = agent.anonymous_kib();
    let cpu_before = cpu_ticks(pid);
    let mut load = start_load(seconds);
    let mut rss_peak = rss_start;
    while load.try_wait().expect("waitpid").is_none() {
        rss_peak = rss_peak.max(agent.anonymous_kib());
        thread::sleep(Duration::from_millis(50));
    }
    let (accepts, with) = finish(load);
    let cpu = cpu_ticks(pid) - cpu_before;
    let ledger = agent.terminate();
    let acknowledged = ledger["export"]["acknowledged"].as_u64().expect("a count");
    let lost = ledger["capture"]["lost"]["ring"].as_u64().expect("a count");
    // The load and the sink share the CPUs. If the load leaves the sink too little time, the queue fills up;
    // the agent then drops records and counts them.
    let dropped = ledger["export"]["dropped"]["queue_full"].as_u64().unwrap_or(0);
    // Other processes accept, too, so there may be more records than accepts, but not fewer.
    assert!(
        acknowledged + dropped >= accepts,
        "{accepts} accepts, {acknowledged} records and {dropped} dropped: {ledger}"
    );
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let cpu_per_accept = cpu as f64 * 10_000.0 / accepts as f64;
    println!(
        "storm: {without:.0} accepts/s without, {with:.0} with the agent ({:.2} times), {seconds} s, lost {lost}, dropped {dropped} by a full queue; agent {cpu_per_accept:.2} us of CPU an accept",
        with / without
    );
    println!(
        "storm: anonymous memory {rss_start} KiB after the start, {rss_peak} KiB at most; ring 4096 KiB"
    );
    json!({
        "seconds": seconds, "accepts": accepts, "per_second_without": without, "per_second_with": with,
        "ratio": with / without, "lost": lost, "dropped_queue_full": dropped, "agent_cpu_us_per_accept": cpu_per_accept,
        "rss_anon_start_kib": rss_start, "rss_anon_peak_kib": rss_peak, "ring_kib": 4096,
    })
}

fn start_load(seconds: u64) -> Child {
    let this = std::env::current_exe().expect("a path");
    Command::new(this)
        .args(["load", &seconds.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the load starts")
}

/// Waits for the load. Returns its accepts, and accepts per second.
fn finish(load: Child) -> (u64, f64) {
    let output = load.wait_with_output().expect("the load ends");
    assert!(output.status.success(), "the load failed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (accepts, rate) = text.trim().split_once(' ').expect("accepts and rate");
    (accepts.parse().expect("a count"), rate.parse().expect("a rate"))
}

/// The child process: accepts and connects for this many seconds, and prints accepts and rate.
pub(crate) fn load(seconds: u64) -> ExitCode {
    let stop = AtomicBool::new(false);
    let accepted = AtomicU64::new(0);
    let started = Instant::now();
    thread::scope(|scope| {
        for pair in 0..PAIRS {
            let address = Ipv4Addr::new(127, 1, 0, 1 + pair);
            let listener = TcpListener::bind((address, 0)).expect("a free port");
            let port = listener.local_addr().expect("an address").port();
            let (stop, accepted) = (&stop, &accepted);
            scope.spawn(move || {
                // Let the client close first: TIME_WAIT then occupies ports of the client's many addresses.
                while !stop.load(Ordering::Relaxed) {
                    let (mut connection, _) = listener.accept().expect("a connection");
                    accepted.fetch_add(1, Ordering::Relaxed);
                    _ = std::io::Read::read(&mut connection, &mut [0]);
                }
            });
            scope.spawn(move || {
                let mut from = 0_u32;
                // One more connection after the stop wakes a blocked acceptor; it may find the listener
                // closed.
                loop {
                    let last = stop.load(Ordering::Relaxed);
                    let connected = one_connection(SocketAddrV4::new(address, port), pair, from);
                    if last {
                        break;
                    }
                    if !stop.load(Ordering::Relaxed) {
                        connected.expect("the listener accepts and closes");
                    }
                    from = from.wrapping_add(1);
                }
            });
        }
        thread::sleep(Duration::from_secs(seconds));
        stop.store(true, Ordering::Relaxed);
    });
    let accepts = accepted.load(Ordering::Relaxed);
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let rate = accepts as f64 / started.elapsed().as_secs_f64();
    println!("{accepts} {rate}");
    ExitCode::SUCCESS
}

/// Connects from one of many addresses, and closes with FIN.
fn one_connection(to: SocketAddrV4, pair: u8, number: u32) -> rustix::io::Result<()> {
    let [_, high, middle, low] = number.to_be_bytes();
    let from = Ipv4Addr::new(127, 16 + pair * 16 + (high & 15), middle, low.clamp(1, 254));
    let socket =
        socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).expect("a socket");
    bind(&socket, &SocketAddrV4::new(from, 0)).expect("an address of this host");
    connect(&socket, &to)?;
    // Wait for the acceptor: if the queue overflowed, the SYN retransmission timer would limit the rate.
    shutdown(&socket, Shutdown::Write)?;
    rustix::io::read(&socket, &mut [0_u8; 1]).map(|_| ())
}

/// CPU time (user and system) of a process, in ticks of 10 ms (fields 14 and 15 of `/proc/PID/stat`).
pub(crate) fn cpu_ticks(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the agent runs");
    let (_, fields) = stat.rsplit_once(')').expect("a name in parentheses");
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = |index: usize| fields[index].parse::<u64>().expect("a number");
    ticks(11) + ticks(12)
}
