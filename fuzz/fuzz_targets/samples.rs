//! Ring-buffer bytes, all the way to a batch. Whatever they are, nothing panics and the counts add up. The first byte
//! chooses the kind: with a header that fits, or the bytes as they are.
#![no_main]

use std::{cell::RefCell, path::Path, time::Duration};

use acceptd::{
    bpf::filter::Filter,
    clock,
    config::Config,
    identity::{Additions, Identities, host, process::Observer},
    listener::{series::AllSeries, table::Listeners},
    mapping::ids::Ids,
    pipeline::{
        outputs::Outputs,
        overload::Overload,
        recorder::{Parts, Recorder},
        spans::{Look, Spans},
    },
};
use acceptd_common::{ABI_VERSION, Header, Kind};
use acceptd_otlp::{BatchBuilder, BatchLimits, Profile, Signal, SpanKind};
use libfuzzer_sys::fuzz_target;
use zerocopy::{FromZeros, IntoBytes};

const KINDS: [(Kind, usize); 6] = [
    (Kind::InetAccept, size_of::<acceptd_common::InetAccept>()),
    (Kind::UnixAccept, size_of::<acceptd_common::UnixAccept>()),
    (Kind::SocketCall, size_of::<acceptd_common::SocketCall>()),
    (Kind::ListenerClosed, size_of::<acceptd_common::ListenerState>()),
    (Kind::Abandoned, size_of::<acceptd_common::Abandoned>()),
    (Kind::Closed, size_of::<acceptd_common::Closed>()),
];

/// Nobody is asked: what a pid of the input leads to is another one with each run.
fn additions() -> Additions {
    Additions { every: Vec::new(), own: Vec::new(), published: false, details: Vec::new(), value_length: 256 }
}

fn recorder() -> Recorder {
    let (facts, _) = host::gather(Path::new("/"), Some("fuzz"), Some("fuzz"), Path::new("/nonexistent"));
    let mut events = Config::default().events;
    events.failures = true;
    Recorder::new(Parts {
        ids: Ids::new("fuzz", &facts.boot_id),
        identities: Identities::new(
            facts,
            Observer::new(Path::new("/"), Path::new("/sys/fs/cgroup")),
            additions(),
        ),
        profile: Profile::new(true, &[], &[], true, 256).expect("nothing is named"),
        events,
        peers: Config::default().privacy.peer_address,
        filter: Filter::default(),
        builder: BatchBuilder::new(Signal::Logs, BatchLimits { max_records: 64, max_bytes: 1 << 20 }),
        timeout: Duration::from_secs(1),
        outputs: Outputs::default(),
        listeners: Listeners::new(&[], Duration::from_secs(5), clock::now_boot_nanos()),
        // So few that some are thinned.
        overload: Overload::new(16),
        series: AllSeries::new(clock::now_unix_nanos(), Duration::ZERO),
        spans: Some(Spans::new(
            Look { connection_kind: SpanKind::Server },
            BatchBuilder::new(Signal::Traces, BatchLimits { max_records: 64, max_bytes: 1 << 20 }),
            Outputs::default(),
        )),
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
        recorder.record(&aligned.as_bytes()[..bytes.len()]);
        let counts = recorder.counts();
        assert_eq!(counts.read, counts.malformed + counts.decoded);
        let parts = [counts.records, counts.thinned, counts.too_large, counts.bookkeeping];
        assert_eq!(counts.decoded + counts.made, parts.into_iter().sum::<u64>());
        if counts.read % 64 == 0 {
            recorder.flush();
        }
    });
});
