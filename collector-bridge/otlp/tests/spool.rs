//! The exporter with a spool: the next run delivers the records that a run could not deliver.
#![forbid(unsafe_code)]
#![expect(clippy::expect_used, reason = "a helper that fails should fail its test")]

mod shared;

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use acceptd_otlp::{
    DropReason, Exporter, ExporterConfig, ExporterError, Order, SpoolConfig, SpoolError, SyncPolicy, Target,
};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceResponse;
use shared::{Collector, batch, dropped, finish, listener, until};
use tonic::Status;

fn config(endpoint: impl std::fmt::Display, folder: &Path) -> ExporterConfig {
    let spool = SpoolConfig {
        folder: folder.to_owned(),
        max_bytes: 1 << 24,
        max_age: Duration::from_hours(24),
        sync: SyncPolicy::Interval,
        order: Order::OldestFirst,
    };
    ExporterConfig { spool: Some(spool), ..shared::config(Target::Grpc(endpoint.to_string())) }
}

/// An address without a listener.
fn unused_address() -> String {
    listener().local_addr().expect("bound").to_string()
}

/// Ends an exporter like a crash: its tasks are cancelled, and the spool is not closed.
fn crash(run: impl Future<Output = Exporter>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let exporter = runtime.block_on(run);
    drop(runtime);
    drop(exporter);
}

#[tokio::test]
async fn the_next_run_delivers_the_records_of_a_run_that_was_stopped() {
    let folder = tempfile::tempdir().expect("a folder");
    let exporter = Exporter::spawn(config(unused_address(), folder.path())).expect("an endpoint");
    exporter.push(batch(1..=3, 0));
    exporter.push(batch(4..=5, 0));
    until(&exporter, "refused", |ledger| ledger.retries >= 2).await;
    let start = Instant::now();
    let ledger = finish(exporter).await;
    assert!(start.elapsed() < Duration::from_secs(5), "it waited for a Collector that is not there");
    assert_eq!((ledger.records, ledger.spooled, ledger.dropped_total()), (5, 5, 0));

    let collector = Collector::default();
    let exporter = Exporter::spawn(config(collector.start(), folder.path())).expect("an endpoint");
    exporter.push(batch([6], 0));
    let ledger = finish(exporter).await;
    assert_eq!((ledger.recovered, ledger.records, ledger.acknowledged, ledger.spooled), (5, 1, 6, 0));
    assert_eq!(collector.accepted(), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn the_next_run_delivers_the_records_of_a_run_that_crashed() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    crash(async {
        let exporter = Exporter::spawn(config(unused_address(), folder)).expect("an endpoint");
        exporter.push(batch(1..=3, 0));
        until(&exporter, "refused", |ledger| ledger.retries >= 1).await;
        exporter.push(batch(4..=5, 0));
        exporter
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let collector = Collector::default();
        let exporter = Exporter::spawn(config(collector.start(), folder)).expect("an endpoint");
        let ledger = finish(exporter).await;
        assert_eq!((ledger.recovered, ledger.acknowledged), (5, 5));
        assert_eq!(collector.accepted(), [1, 2, 3, 4, 5]);
    });
}

/// Half of the request was accepted when the run ended: the next run sends the whole request again.
#[tokio::test]
async fn a_request_of_which_half_was_delivered_is_sent_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let too_large = Err(Status::resource_exhausted("received message larger than max (9 vs. 4)"));
    let later = || Err(Status::unavailable("later"));
    let answers =
        [too_large, Ok(ExportLogsServiceResponse::default())].into_iter().chain((0..500).map(|_| later()));
    let collector = Collector::answering(answers);
    let exporter = Exporter::spawn(config(collector.start(), folder.path())).expect("an endpoint");
    exporter.push(batch(1..=4, 0));
    until(&exporter, "half accepted", |ledger| ledger.acknowledged == 2 && ledger.retries > 0).await;
    let ledger = finish(exporter).await;
    assert_eq!((ledger.records, ledger.acknowledged, ledger.spooled), (4, 2, 2));
    let collector = Collector::default();
    let exporter = Exporter::spawn(config(collector.start(), folder.path())).expect("an endpoint");
    assert_eq!(finish(exporter).await.recovered, 4);
    assert_eq!(collector.accepted(), [1, 2, 3, 4]);
}

#[tokio::test]
async fn a_request_in_the_spool_is_retried_beyond_the_window() {
    let folder = tempfile::tempdir().expect("a folder");
    let later = || Err(Status::unavailable("later"));
    let collector = Collector::answering((0..20).map(|_| later()));
    let spooled = config(collector.start(), folder.path());
    let exporter =
        Exporter::spawn(ExporterConfig { retry_window: Duration::ZERO, ..spooled }).expect("an endpoint");
    exporter.push(batch([1], 0));
    let ledger = until(&exporter, "accepted", |ledger| ledger.acknowledged == 1).await;
    assert_eq!((ledger.retries, ledger.dropped_total()), (20, 0));
    finish(exporter).await;
}

#[tokio::test]
async fn a_request_that_cannot_be_spooled_stays_in_memory() {
    let folder = tempfile::tempdir().expect("a folder");
    let exporter = Exporter::spawn(config(unused_address(), folder.path())).expect("an endpoint");
    fs::remove_dir_all(folder.path()).expect("removed");
    for number in 1..=3 {
        exporter.push(batch([number], 0));
    }
    let ledger = exporter.ledger();
    assert_eq!((ledger.queued + ledger.in_flight, ledger.spooled), (3, 0), "{ledger:?}");
    fs::create_dir(folder.path()).expect("made");
    exporter.push(batch([4], 0));
    assert_eq!(exporter.ledger().spooled, 1, "the spool is used again as soon as it can be written");
    let ledger = exporter.shutdown(Instant::now()).await;
    ledger.balanced().expect("balanced");
    assert_eq!((dropped(&ledger, DropReason::Shutdown), ledger.spooled), (3, 1));
}

#[tokio::test]
async fn an_unusable_folder_is_not_fatal_and_a_locked_one_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("file");
    fs::write(&file, "").expect("written");
    let collector = Collector::default();
    let address = collector.start();
    let exporter = Exporter::spawn(config(address, &file.join("spool"))).expect("without a spool");
    exporter.push(batch([1], 0));
    assert_eq!(finish(exporter).await.acknowledged, 1);

    let first = Exporter::spawn(config(address, folder.path())).expect("a spool");
    let second = Exporter::spawn(config(address, folder.path()));
    assert!(matches!(second, Err(ExporterError::Spool(SpoolError::Locked(_)))), "{second:?}");
    finish(first).await;
}

#[tokio::test]
async fn records_that_were_changed_on_disk_are_counted_and_not_sent() {
    let folder = tempfile::tempdir().expect("a folder");
    let exporter = Exporter::spawn(config(unused_address(), folder.path())).expect("an endpoint");
    exporter.push(batch(1..=3, 0));
    exporter.push(batch(4..=5, 0));
    finish(exporter).await;
    let segment = folder.path().join("0000000000000001.segment");
    let mut bytes = fs::read(&segment).expect("written");
    // A byte in the body of the first frame.
    bytes[60] ^= 1;
    fs::write(&segment, bytes).expect("written");
    let collector = Collector::default();
    let exporter = Exporter::spawn(config(collector.start(), folder.path())).expect("an endpoint");
    let ledger = finish(exporter).await;
    assert_eq!(
        (ledger.recovered, dropped(&ledger, DropReason::SpoolCorrupt), ledger.acknowledged),
        (5, 3, 2)
    );
    assert_eq!(collector.accepted(), [4, 5]);
}
