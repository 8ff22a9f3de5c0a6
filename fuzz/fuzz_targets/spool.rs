//! A spool with damaged files opens, ends its reading, and appends and returns a new frame, without a panic.
//! Under the fuzzer every checksum is valid, so that the code behind the checks is reached.
#![no_main]

use std::{fs, time::Duration};

use acceptd_spool::{Frame, Order, Spool, SpoolConfig, SyncPolicy};
use libfuzzer_sys::fuzz_target;

/// The bytes of a segment, of the next segment and of the manifest, and whether the segments begin with the
/// magic number.
type Files<'a> = (&'a [u8], &'a [u8], &'a [u8], bool);

fuzz_target!(|files: Files<'_>| {
    let (first, second, manifest, begins_well) = files;
    let folder = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
    // Without the magic number most inputs would be refused at their first eight bytes.
    let magic: &[u8] = if begins_well { b"ACPTSPL\x01" } else { b"" };
    let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).expect("writable");
    write("0000000000000001.segment", &[magic, first].concat());
    write("0000000000000002.segment", &[magic, second].concat());
    write("manifest.json", manifest);
    let config = SpoolConfig {
        folder: folder.path().to_owned(),
        max_bytes: 1 << 20,
        max_age: Duration::from_secs(1),
        sync: SyncPolicy::Never,
        order: Order::Interleaved,
    };
    let (mut spool, _) = Spool::open(config.clone()).expect("a folder that can be written to");
    let new = Frame { kind: 1, records: 3, body: b"new".as_slice().into() };
    spool.append(&new, 0).expect("there is room");
    let mut is_there = false;
    while let Some((ticket, frame)) = spool.next(0).expect("readable") {
        is_there |= frame == new;
        spool.release(ticket);
    }
    assert!(is_there, "the new frame is missing");
    spool.close().expect("writable");
    let (_, recovery) = Spool::open(config).expect("a folder that can be written to");
    assert_eq!(recovery.records, 0);
});
