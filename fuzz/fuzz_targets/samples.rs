//! Bytes from the ring buffer take the whole path to a batch, without a panic, and the counts add up.
//!
//! The first byte chooses a kind of sample: the rest then gets a valid header of that kind. With any other
//! first byte the rest is used as it is.
#![no_main]

use std::{cell::RefCell, path::Path, time::Duration};

use acceptd::{
    bpf::filter::EventFilter,
    config::Config,
    identity::{Identities, ResourceSettings, host, process::Observer},
    mapping::ids::Ids,
    pipeline::{ListenerMonitor, Outputs, Recorder, RecorderDeps, ReloadableSettings, SpanOutput, SpanStyle},
};
use acceptd_common::{ABI_VERSION, Header, Kind};
use acceptd_otlp::{AttributeFilter, BatchLimits, SpanKind};
use libfuzzer_sys::fuzz_target;
use zerocopy::{FromZeros, IntoBytes};

const KINDS: [(Kind, usize); 6] = [
    (Kind::InetAccept, size_of::<acceptd_common::InetAccept>()),
    (Kind::UnixAccept, size_of::<acceptd_common::UnixAccept>()),
    (Kind::SocketCall, size_of::<acceptd_common::SocketCall>()),
    (Kind::ListenerClosed, size_of::<acceptd_common::ListenerState>()),
    (Kind::ConnectionAbandoned, size_of::<acceptd_common::ConnectionAbandoned>()),
    (Kind::ConnectionClosed, size_of::<acceptd_common::ConnectionClosed>()),
];

/// No process is read: a pid in the input would lead to another process with each run.
fn additions() -> ResourceSettings {
    ResourceSettings {
        attributes: Vec::new(),
        agent_attributes: Vec::new(),
        published: false,
        details: Vec::new(),
        value_length: 256,
    }
}

fn recorder() -> Recorder {
    let (facts, _) = host::gather(Path::new("/"), Some("fuzz"), Some("fuzz"), Path::new("/nonexistent"));
    let mut events = Config::default().events;
    events.failures = true;
    let stalled_after = Duration::from_secs(5);
    Recorder::new(RecorderDeps {
        ids: Ids::new("fuzz", &facts.boot_id),
        identities: Identities::new(
            facts,
            Observer::new(Path::new("/"), Path::new("/sys/fs/cgroup")),
            additions(),
        ),
        outputs: Outputs::default(),
        spans: Some(SpanOutput {
            style: SpanStyle { connection_kind: SpanKind::Server },
            outputs: Outputs::default(),
        }),
        listeners: ListenerMonitor::new(&[], EventFilter::default(), stalled_after, Duration::ZERO)
            .with_proc(Some("/nonexistent".into())),
        settings: ReloadableSettings {
            attributes: AttributeFilter::new(true, &[], &[], true, 256).expect("no attribute is named"),
            peers: Config::default().privacy.peer_address,
            events,
            limits: BatchLimits { max_records: 64, max_bytes: 1 << 20 },
            timeout: Duration::from_secs(1),
            // A budget so small that some accepts are sampled.
            max_records_per_second: 16,
            stalled_after,
        },
    })
}

thread_local! {
    static RECORDER: RefCell<Recorder> = RefCell::new(recorder());
}

fuzz_target!(|data: &[u8]| {
    let Some((choice, bytes)) = data.split_first() else { return };
    let mut bytes = bytes.to_vec();
    if let Some((kind, length)) = KINDS.get(usize::from(*choice)) {
        bytes.resize(*length, 0);
        let mut header = Header::new_zeroed();
        header.abi = ABI_VERSION;
        header.kind = *kind as u16;
        header.length = u32::try_from(*length).expect("a small struct");
        bytes[..size_of::<Header>()].copy_from_slice(header.as_bytes());
    }
    // A sample in the ring is aligned to eight.
    let mut aligned = vec![0_u64; bytes.len().div_ceil(8)];
    aligned.as_mut_bytes()[..bytes.len()].copy_from_slice(&bytes);
    RECORDER.with_borrow_mut(|recorder| {
        recorder.begin_burst();
        recorder.record(&aligned.as_bytes()[..bytes.len()]);
        recorder.end_burst();
        let counts = recorder.counts();
        assert_eq!(counts.read, counts.malformed + counts.decoded);
        let parts = [counts.records, counts.thinned, counts.too_large, counts.bookkeeping];
        assert_eq!(counts.decoded + counts.made, parts.into_iter().sum::<u64>());
        if counts.read % 64 == 0 {
            recorder.flush();
        }
    });
});
