//! Spool damage: a full disk, a read-only file system, and flipped bytes in segments.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use acceptd_tests::{agent::Agent, inbox::Inbox, wait};
use serde_json::{Value as Json, json};

use crate::{chance::below, load::Load, sink::Sink};

pub(crate) fn measure() -> Json {
    json!({ "full_disk": full_disk(), "read_only": read_only(), "flipped_bytes": flipped_bytes() })
}

/// A tmpfs, unmounted on drop.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(at: &Path, size: &str) -> Self {
        run(Command::new("mount").args(["-t", "tmpfs", "-o", size, "tmpfs"]).arg(at));
        Self(at.to_owned())
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn run(command: &mut Command) {
    let status = command.status().expect("it starts");
    assert!(status.success(), "{command:?}: {status}");
}

/// With a full disk and a full queue, everything that was accepted is delivered later or counted as dropped.
fn full_disk() -> Json {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = Tmpfs::mount(folder.path(), "size=4m");
    let directory = format!("spool.directory={}", folder.path().join("spool").display());
    let flags = ["--set", &directory, "--set", "batch.max_bytes=64KiB", "--set", "queue.max_bytes=256KiB"];
    let sink = Sink::start();
    sink.set_down(true);
    let mut agent = Agent::sending_to(sink.address, Inbox::default(), &flags);
    let load = Load::start(2000);
    agent.wait_for_message("cannot write to the spool for ");
    agent.wait_for_message("the queue for ");
    let accepted = load.stop();
    sink.set_down(false);
    wait::until("everything that was kept to arrive", || {
        let before = sink.records();
        thread::sleep(Duration::from_secs(2));
        (before > 0 && sink.records() == before).then_some(())
    });
    let ledger = agent.terminate();
    let export = &ledger["export"];
    println!("full disk: {} accepts; {export}", accepted.len());
    assert_eq!(export["acknowledged"].as_u64(), Some(sink.records()), "{ledger}");
    assert!(export["dropped"]["queue_full"].as_u64() > Some(0), "{ledger}");
    assert_eq!(export["spooled"], 0, "{ledger}");
    drop(disk);
    export.clone()
}

/// With a read-only spool directory the agent logs the reason, works from memory, and loses no record.
fn read_only() -> Json {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = Tmpfs::mount(folder.path(), "ro");
    let directory = format!("spool.directory={}", folder.path().join("spool").display());
    let sink = Sink::start();
    let mut agent = Agent::sending_to(sink.address, Inbox::default(), &["--set", &directory]);
    agent.wait_for_message("Read-only file system");
    let load = Load::start(500);
    thread::sleep(Duration::from_secs(2));
    let accepted = load.stop();
    let ledger = agent.terminate();
    let missing = sink.missing(&accepted).len();
    println!("read-only: {} accepts, {missing} missing; {}", accepted.len(), ledger["export"]);
    assert_eq!(missing, 0);
    assert_eq!(ledger["export"]["acknowledged"], ledger["export"]["records"], "{ledger}");
    drop(disk);
    json!({ "accepts": accepted.len(), "missing": missing })
}

/// With random bits flipped in the spool, intact records are delivered once, and damaged ones counted.
fn flipped_bytes() -> Json {
    let folder = tempfile::tempdir().expect("a folder");
    let directory = format!("spool.directory={}", folder.path().display());
    let flags = ["--set", &directory, "--set", "batch.max_records=50", "--set", "spool.max_bytes=16MiB"];
    let sink = Sink::start();
    sink.set_down(true);
    let agent = Agent::sending_to(sink.address, Inbox::default(), &flags);
    let load = Load::start(2000);
    thread::sleep(Duration::from_secs(5));
    let accepted = load.stop();
    let kept = agent.terminate()["export"]["spooled"].as_u64().expect("a count");
    assert!(kept > 5000, "{kept}");
    let mut flipped = 0;
    for entry in fs::read_dir(folder.path().join("default")).expect("a spool") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|end| end != "segment") {
            continue;
        }
        let mut bytes = fs::read(&path).expect("read");
        for _ in 0..5 {
            // Spare the first eight bytes, magic and version: a file with others is not treated as a segment.
            let place = 8 + below(bytes.len() as u64 - 8);
            bytes[usize::try_from(place).expect("small")] ^= 1 << below(8);
            flipped += 1;
        }
        fs::write(&path, bytes).expect("written");
    }
    sink.set_down(false);
    let ledger = Agent::sending_to(sink.address, Inbox::default(), &flags).terminate();
    let export = &ledger["export"];
    println!("flipped bytes: {flipped} in a spool of {kept} records, {} accepts; {export}", accepted.len());
    assert_eq!(export["recovered"], kept, "{ledger}");
    assert_eq!(export["acknowledged"].as_u64(), Some(sink.records()), "{ledger}");
    assert_eq!(sink.again(), 0);
    assert!(export["dropped"]["spool_corrupt"].as_u64() > Some(0), "{ledger}");
    assert!(export["acknowledged"].as_u64() > Some(kept / 2), "{ledger}");
    export.clone()
}
