//! (a) From ring-buffer bytes to the Collector's acknowledgement: records per CPU-second of the sender, for
//! acceptd's pipeline and the OpenTelemetry SDK in turn, each in a child process that sends to a receiver in
//! this one.

use std::{
    net::TcpListener,
    path::Path,
    process::{Command, ExitCode},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use acceptd::{
    bpf::filter::EventFilter,
    config::Config,
    identity::{Identities, ResourceSettings, host, process::Observer},
    mapping::ids::Ids,
    pipeline::{ListenerMonitor, NamedExporter, Outputs, Recorder, RecorderDeps, ReloadableSettings},
};
use acceptd_otlp::{
    AttributeFilter, BatchLimits, Exporter, ExporterConfig, Received, Target, TransportSettings, receiver,
};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value as Json, json};
use zerocopy::IntoBytes as _;

use crate::{sample, sdk};

const RUNS: usize = 5;

/// The producer waits while more records than this are queued, so that the agent's default queue drops none.
const QUEUED: u64 = 8192;

pub(crate) fn measure(full: bool) -> Json {
    let records: u64 = if full { 1_000_000 } else { 100_000 };
    let (endpoint, received) = sink();
    let mut rates = [Vec::new(), Vec::new()];
    for _ in 0..RUNS {
        for (sender, rates) in ["acceptd", "sdk"].into_iter().zip(&mut rates) {
            let before = received.load(Ordering::Acquire);
            let cpu = send_in_a_process(sender, &endpoint, records);
            let arrived = received.load(Ordering::Acquire) - before;
            assert_eq!(arrived, records, "{sender} was given {records} records, {arrived} arrived");
            #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
            rates.push(records as f64 / cpu);
        }
    }
    let [ours, theirs] = rates.map(median);
    let ratio = ours / theirs;
    println!(
        "pipeline: {ours:.0} records per CPU-second, the SDK {theirs:.0}: {ratio:.1} times ({RUNS} runs of {records})"
    );
    json!({ "records": records, "runs": RUNS, "acceptd_per_cpu_second": ours, "sdk_per_cpu_second": theirs, "ratio": ratio })
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

/// Starts a receiver in this process, whose CPU time is not measured. Returns its address and its record
/// count.
pub(crate) fn sink() -> (String, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let endpoint = listener.local_addr().expect("an address").to_string();
    let received = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&received);
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let take = move |message: Received| {
            count.fetch_add(message.records(), Ordering::AcqRel);
            Ok(())
        };
        runtime.block_on(receiver::serve(listener, take, std::future::pending())).expect("the receiver runs");
    });
    (endpoint, received)
}

/// CPU seconds (user and system) that a child process used to send its records.
fn send_in_a_process(sender: &str, endpoint: &str, records: u64) -> f64 {
    let this = std::env::current_exe().expect("a path");
    let output = Command::new(this)
        .args(["send", sender, endpoint, &records.to_string()])
        .output()
        .expect("it starts");
    assert!(output.status.success(), "{sender}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().parse().expect("the sender's CPU seconds")
}

/// The child process: sends the records, and prints the CPU seconds it used.
pub(crate) fn send(sender: &str, endpoint: &str, records: u64) -> ExitCode {
    let before = cpu_seconds();
    match sender {
        "acceptd" => send_ours(endpoint, records),
        _ => sdk::send(endpoint, records),
    }
    println!("{}", cpu_seconds() - before);
    ExitCode::SUCCESS
}

fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
        .as_secs_f64()
}

fn send_ours(endpoint: &str, records: u64) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let exporter = runtime.block_on(async { Exporter::spawn(config(endpoint)).expect("an endpoint") });
    let mut recorder = recorder(exporter.clone());
    let mut samples: Vec<_> = (0..sample::PROCESSES).map(sample::for_process).collect();
    for sequence in 0..records {
        if sequence % 4096 == 0 {
            recorder.begin_burst();
            while exporter.ledger().queued > QUEUED {
                thread::sleep(Duration::from_millis(1));
            }
        }
        let sample = &mut samples[usize::try_from(sequence).unwrap_or(0) % sample::PROCESSES as usize];
        sample.header.sequence = sequence;
        sample.socket.cookie = 1_000_000 + sequence;
        recorder.record(sample.as_bytes());
    }
    recorder.flush();
    let ledger = runtime.block_on(exporter.shutdown(Instant::now() + Duration::from_mins(1)));
    assert_eq!(ledger.acknowledged, records, "{ledger:?}");
}

fn config(endpoint: &str) -> ExporterConfig {
    ExporterConfig {
        target: Target::Grpc(endpoint.to_owned()),
        settings: TransportSettings { timeout: Duration::from_secs(10), ..TransportSettings::default() },
        timeout: Duration::from_secs(10),
        retry_window: Duration::from_mins(1),
        backoff_initial: Duration::from_secs(1),
        backoff_max: Duration::from_secs(30),
        queue_max_bytes: 16 << 20,
        concurrency: 2,
        spool: None,
        sync_interval: Duration::from_secs(1),
    }
}

fn additions() -> ResourceSettings {
    ResourceSettings {
        attributes: Vec::new(),
        agent_attributes: Vec::new(),
        published: true,
        details: Vec::new(),
        value_length: 1024,
    }
}

/// The agent's own recorder with the full attribute profile.
pub(crate) fn recorder(exporter: Exporter) -> Recorder {
    let (facts, _) = host::gather(Path::new("/"), Some("bench"), Some("bench"), Path::new("/nonexistent"));
    let ids = Ids::new("bench", &facts.boot_id);
    let identities =
        Identities::new(facts, Observer::new(Path::new("/"), Path::new("/sys/fs/cgroup")), additions());
    let stalled_after = Duration::from_secs(5);
    Recorder::new(RecorderDeps {
        identities,
        ids,
        outputs: Outputs::new(vec![NamedExporter { name: "default".to_owned(), exporter }]),
        spans: None,
        listeners: ListenerMonitor::new(&[], EventFilter::default(), stalled_after, Duration::from_mins(1)),
        settings: ReloadableSettings {
            attributes: AttributeFilter::new(true, &[], &[], false, 1024).expect("no attribute is named"),
            peers: Config::default().privacy.peer_address,
            events: Config::default().events,
            limits: BatchLimits { max_records: 8192, max_bytes: 3_500_000 },
            timeout: Duration::from_secs(1),
            // As in operation, below the budget.
            max_records_per_second: u64::MAX,
            stalled_after,
        },
    })
}
