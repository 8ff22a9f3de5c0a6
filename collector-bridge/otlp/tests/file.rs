//! The exporter with a file of OTLP JSON lines as its target.
#![forbid(unsafe_code)]
#![expect(clippy::expect_used, reason = "a helper that fails should fail its test")]

mod shared;

use std::{
    fs::{self, File},
    io,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::{Duration, Instant},
};

use acceptd_otlp::{Exporter, ExporterConfig, Signal, Target, recorded};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use prost::Message as _;
use shared::{batch, finish, numbers, until};

fn config(path: &Path) -> ExporterConfig {
    ExporterConfig { concurrency: 4, ..shared::config(Target::File(path.to_owned())) }
}

/// The numbers of the records in the file, and the number of unreadable lines.
fn read(path: &Path) -> (Vec<u64>, usize) {
    let (mut found, mut unreadable) = (Vec::new(), 0);
    for request in recorded::open(path).expect("a file") {
        let Ok(batch) = request else {
            unreadable += 1;
            continue;
        };
        assert_eq!(batch.signal, Signal::Logs);
        found.extend(numbers(&ExportLogsServiceRequest::decode(batch.request).expect("a request")));
    }
    found.sort_unstable();
    (found, unreadable)
}

#[tokio::test]
async fn each_request_is_a_line_that_replay_reads() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("accepts.jsonl");
    let exporter = Exporter::spawn(config(&path)).expect("a file");
    for number in 0..100 {
        exporter.push(batch([number], 10_000));
    }
    let ledger = finish(exporter).await;
    assert_eq!((ledger.acknowledged, ledger.retries), (100, 0));
    assert_eq!(read(&path), ((0..100).collect(), 0));
    assert_eq!(fs::read_to_string(&path).expect("text").lines().count(), 100);
    assert_eq!(fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn a_file_that_is_moved_away_is_followed_by_a_new_one() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (path, moved) = (folder.path().join("accepts.jsonl"), folder.path().join("accepts.jsonl.1"));
    let exporter = Exporter::spawn(config(&path)).expect("a file");
    exporter.push(batch([1], 0));
    until(&exporter, "written", |ledger| ledger.acknowledged == 1).await;
    fs::rename(&path, &moved).expect("moved");
    exporter.push(batch([2], 0));
    finish(exporter).await;
    assert_eq!((read(&moved), read(&path)), ((vec![1], 0), (vec![2], 0)));
}

#[tokio::test]
async fn an_unfinished_line_of_another_writer_damages_no_other_line() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("accepts.jsonl");
    fs::write(&path, "{\"resourceLogs\":[{\"sco").expect("a file");
    let exporter = Exporter::spawn(config(&path)).expect("a file");
    exporter.push(batch([1, 2], 0));
    finish(exporter).await;
    assert_eq!(read(&path), (vec![1, 2], 1));
}

/// No record is lost or written twice.
#[tokio::test]
async fn a_request_that_cannot_be_written_waits() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("accepts.jsonl");
    let exporter = Exporter::spawn(config(&path)).expect("a file");
    exporter.push(batch([1], 0));
    until(&exporter, "written", |ledger| ledger.acknowledged == 1).await;
    // A folder at the same path makes the write fail.
    fs::rename(&path, folder.path().join("aside")).expect("moved");
    fs::create_dir(&path).expect("a folder");
    exporter.push(batch([2], 0));
    until(&exporter, "waiting", |ledger| ledger.retries >= 2).await;
    fs::remove_dir(&path).expect("empty");
    let ledger = finish(exporter).await;
    assert_eq!((ledger.acknowledged, ledger.dropped_total()), (2, 0));
    assert_eq!(read(&path), (vec![2], 0));
}

#[tokio::test]
async fn a_file_that_cannot_be_made_is_an_error_with_its_remedy() {
    let error =
        Exporter::spawn(config(Path::new("/proc/nowhere/accepts.jsonl"))).expect_err("no such folder");
    let message = error.to_string();
    assert!(message.contains("/proc/nowhere/accepts.jsonl"), "{message}");
    assert!(message.contains("create its folder"), "{message}");
}

/// Another process holds the lock of the file, which blocks the writer like a slow disk. Only one write
/// hangs, however many attempts there are, and the shutdown does not wait for it.
#[tokio::test]
async fn a_write_that_hangs_blocks_one_thread_and_no_shutdown() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("accepts.jsonl");
    let short = || ExporterConfig { timeout: Duration::from_millis(30), ..config(&path) };
    let exporter = Exporter::spawn(short()).expect("a file");
    let holder = File::open(&path).expect("a file");
    holder.lock().expect("free");
    for number in 0..20 {
        exporter.push(batch([number], 0));
    }
    until(&exporter, "tried again", |ledger| ledger.retries >= 20).await;
    let hanging = fs::read_dir("/proc/self/task").expect("threads").filter(is_in_flock).count();
    // The bound is above one because other tests of this process lock their files for a moment.
    assert!((1..4).contains(&hanging), "{hanging} threads wait for the lock");
    holder.unlock().expect("held");
    until(&exporter, "written", |ledger| ledger.acknowledged == 20).await;
    let (mut found, unreadable) = read(&path);
    // A write whose attempt timed out may still have succeeded, so records may be there twice.
    found.dedup();
    assert_eq!((found, unreadable), ((0..20).collect(), 0));

    holder.lock().expect("free");
    exporter.push(batch([20], 0));
    let began = Instant::now();
    let ledger = exporter.shutdown(began + Duration::from_millis(300)).await;
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!((ledger.acknowledged, ledger.dropped_total()), (20, 1), "{ledger:?}");
}

fn is_in_flock(thread: &io::Result<fs::DirEntry>) -> bool {
    let call = thread.as_ref().ok().and_then(|thread| fs::read_to_string(thread.path().join("syscall")).ok());
    let number = if cfg!(target_arch = "x86_64") { "73 " } else { "32 " };
    call.is_some_and(|call| call.starts_with(number))
}
