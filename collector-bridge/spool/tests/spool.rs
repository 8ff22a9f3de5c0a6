//! The spool against a model: every appended frame is read, or its records are counted as lost, also after a
//! crash and with damaged files.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a helper that fails should fail its test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use acceptd_spool::{
    Frame, Losses, Order, Recovery, Spool, SpoolConfig, SpoolError, SyncPolicy, Ticket, read_segment,
};
use proptest::prelude::*;

const DAY_MS: u64 = 24 * 3600 * 1000;

fn config(folder: &Path) -> SpoolConfig {
    SpoolConfig {
        folder: folder.to_owned(),
        max_bytes: 1 << 30,
        max_age: Duration::from_millis(DAY_MS),
        sync: SyncPolicy::Never,
        order: Order::OldestFirst,
    }
}

/// A configuration with segments of about 2 KiB.
fn small(folder: &Path) -> SpoolConfig {
    SpoolConfig { max_bytes: 16 << 10, ..config(folder) }
}

/// Frame `number`. Its body has the number, and its count of records depends on the number.
fn frame(number: u32, length: usize) -> Frame {
    let mut body = number.to_le_bytes().to_vec();
    body.resize(length.max(4), u8::try_from(number % 251).unwrap());
    Frame { kind: 1, records: 1 + number % 5, body: body.into() }
}

fn number(frame: &Frame) -> u32 {
    u32::from_le_bytes(frame.body[..4].try_into().unwrap())
}

fn open(config: SpoolConfig) -> (Spool, Recovery) {
    Spool::open(config).unwrap()
}

/// Reads and releases all frames.
fn drain(spool: &mut Spool) -> Vec<Frame> {
    let mut found = Vec::new();
    while let Some((ticket, frame)) = spool.next(0).unwrap() {
        spool.release(ticket);
        found.push(frame);
    }
    found
}

fn records(frames: &[Frame]) -> u64 {
    frames.iter().map(|frame| u64::from(frame.records)).sum()
}

fn sum(losses: Losses) -> u64 {
    losses.full + losses.expired + losses.corrupt
}

fn save(spool: &mut Spool) {
    if let Some(job) = spool.sync_job().unwrap() {
        job.run().unwrap();
    }
}

fn segments(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|end| end == "segment")).collect();
    found.sort();
    found
}

#[derive(Debug, Clone)]
enum Step {
    Append(usize),
    Next,
    /// Releases one of the frames that were read, by its index.
    Release(usize),
    Save,
    Crash,
    Close,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (4_usize..900).prop_map(Step::Append),
        5 => Just(Step::Next),
        5 => any::<usize>().prop_map(Step::Release),
        2 => Just(Step::Save),
        1 => Just(Step::Crash),
        1 => Just(Step::Close),
    ]
}

fn any_order() -> impl Strategy<Value = Order> {
    prop_oneof![Just(Order::OldestFirst), Just(Order::Interleaved)]
}

proptest! {
    /// Without damage and with room: each frame is read as it was written, once per run, none is missing in
    /// the end, and with `OldestFirst` in the order of writing.
    #[test]
    fn every_appended_frame_is_read(steps in prop::collection::vec(step(), 1..120), order in any_order()) {
        let folder = tempfile::tempdir().unwrap();
        let config = SpoolConfig { order, max_bytes: 128 << 10, ..config(folder.path()) };
        let (mut spool, _) = open(config.clone());
        let mut written: BTreeMap<u32, Frame> = BTreeMap::new();
        let mut released = BTreeSet::new();
        let mut out: Vec<(Ticket, u32)> = Vec::new();
        let mut of_this_run = BTreeSet::new();
        let mut last = None;
        for step in steps {
            match step {
                Step::Append(length) => {
                    let number = u32::try_from(written.len()).unwrap();
                    let frame = frame(number, length);
                    spool.append(&frame, 0).unwrap();
                    written.insert(number, frame);
                }
                Step::Next => if let Some((ticket, frame)) = spool.next(0).unwrap() {
                    let number = number(&frame);
                    prop_assert_eq!(&frame, &written[&number]);
                    prop_assert!(of_this_run.insert(number), "{} twice", number);
                    if order == Order::OldestFirst {
                        prop_assert!(last < Some(number));
                        last = Some(number);
                    }
                    out.push((ticket, number));
                },
                Step::Release(place) => if !out.is_empty() {
                    let (ticket, number) = out.swap_remove(place % out.len());
                    spool.release(ticket);
                    released.insert(number);
                },
                Step::Save => save(&mut spool),
                Step::Crash | Step::Close => {
                    if matches!(step, Step::Close) {
                        spool.close().unwrap();
                    } else {
                        drop(spool);
                    }
                    let recovery;
                    (spool, recovery) = open(config.clone());
                    prop_assert_eq!(recovery.records, spool.waiting());
                    prop_assert_eq!(&recovery.warnings, &Vec::<String>::new());
                    out.clear();
                    of_this_run.clear();
                    last = None;
                }
            }
            let missing: u64 = written
                .iter()
                .filter(|(number, _)| !released.contains(number) && !of_this_run.contains(number))
                .map(|(_, frame)| u64::from(frame.records))
                .sum();
            prop_assert!(spool.waiting() >= missing, "{} < {}", spool.waiting(), missing);
        }
        let rest = drain(&mut spool);
        released.extend(out.iter().map(|(_, number)| number).chain(&rest.iter().map(number).collect::<Vec<_>>()));
        prop_assert_eq!(released.len(), written.len());
        prop_assert_eq!((spool.waiting(), sum(spool.take_losses())), (0, 0));
    }

    /// Whichever bytes of the segments are changed: only undamaged frames are read, and the records of the
    /// others are counted.
    #[test]
    fn damaged_frames_are_counted(
        lengths in prop::collection::vec(4_usize..900, 1..40),
        flips in prop::collection::vec((any::<usize>(), any::<usize>(), 1_u8..), 1..12),
        is_closed: bool,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let config = SpoolConfig { max_bytes: 128 << 10, ..config(folder.path()) };
        let (mut spool, _) = open(config.clone());
        let frames: Vec<_> = (0..).zip(lengths).map(|(number, length)| frame(number, length)).collect();
        for frame in &frames {
            spool.append(frame, 0).unwrap();
        }
        if is_closed { spool.close().unwrap() } else { save(&mut spool); drop(spool) }
        for (segment, place, bits) in flips {
            let paths = segments(folder.path());
            let path = &paths[segment % paths.len()];
            let mut bytes = fs::read(path).unwrap();
            // Not the first eight bytes, which identify the file as a segment: another test covers them.
            let place = 8 + place % (bytes.len() - 8);
            bytes[place] ^= bits;
            fs::write(path, bytes).unwrap();
        }
        let (mut spool, recovery) = open(config);
        prop_assert_eq!(recovery.records, records(&frames));
        let found = drain(&mut spool);
        for frame in &found {
            prop_assert!(frames.contains(frame));
        }
        let losses = spool.take_losses();
        prop_assert_eq!(losses.full + losses.expired, 0);
        prop_assert_eq!(records(&found) + losses.corrupt, records(&frames));
        prop_assert_eq!(spool.waiting(), 0);
    }

    /// A segment whose end was cut off.
    #[test]
    fn torn_frames_are_counted(cut in 8_u64..2000) {
        let folder = tempfile::tempdir().unwrap();
        let (mut spool, _) = open(config(folder.path()));
        let frames: Vec<_> = (0..10).map(|number| frame(number, 160)).collect();
        for frame in &frames {
            spool.append(frame, 0).unwrap();
        }
        save(&mut spool);
        drop(spool);
        let [path] = &segments(folder.path())[..] else { panic!("one segment") };
        let file = fs::File::options().write(true).open(path).unwrap();
        let cut = cut.min(file.metadata().unwrap().len());
        file.set_len(cut).unwrap();
        let (mut spool, recovery) = open(config(folder.path()));
        let whole = usize::try_from((cut - 8) / 200).unwrap();
        prop_assert_eq!(recovery.torn_bytes, (cut - 8) % 200);
        prop_assert_eq!(&drain(&mut spool), &frames[..whole]);
        prop_assert_eq!(spool.take_losses().corrupt, records(&frames[whole..]));
    }
}

#[test]
fn a_start_reads_the_manifest_the_segment_headers_and_the_unsealed_segment() {
    let folder = tempfile::tempdir().unwrap();
    let config = SpoolConfig { max_bytes: 1 << 20, ..config(folder.path()) };
    let (mut spool, _) = open(config.clone());
    for number in 0..700 {
        spool.append(&frame(number, 1000), 0).unwrap();
    }
    save(&mut spool);
    drop(spool);
    let segments = segments(folder.path());
    assert!(segments.len() > 4, "{segments:?}");
    let open_segment = fs::metadata(segments.last().unwrap()).unwrap().len();
    let manifest = fs::metadata(folder.path().join("manifest.json")).unwrap().len();
    let (spool, recovery) = open(config.clone());
    let heads = 8 * (segments.len() as u64 - 1);
    assert_eq!(recovery.bytes_read, manifest + heads + open_segment);
    spool.close().unwrap();
    let (_, recovery) = open(config);
    let manifest = fs::metadata(folder.path().join("manifest.json")).unwrap().len();
    assert!(
        recovery.bytes_read <= manifest + 64 + 8 * segments.len() as u64,
        "{recovery:?}: all are sealed now"
    );
}

#[test]
fn a_full_spool_drops_the_oldest_frames_and_counts_them() {
    let folder = tempfile::tempdir().unwrap();
    let (mut spool, _) = open(small(folder.path()));
    let frames: Vec<_> = (0..100).map(|number| frame(number, 460)).collect();
    let mut out = None;
    for frame in &frames {
        spool.append(frame, 0).unwrap();
        // A frame of the oldest segment is in flight when that segment is dropped.
        out = out.or_else(|| spool.next(0).unwrap());
        let on_disk: u64 = segments(folder.path()).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
        assert!(on_disk <= 16 << 10, "{on_disk}");
    }
    let (ticket, first) = out.unwrap();
    spool.release(ticket);
    let found = drain(&mut spool);
    let losses = spool.take_losses();
    assert_eq!(found, frames[frames.len() - found.len()..], "the newest");
    assert!(found.len() > 20 && losses.full > 0);
    assert_eq!(records(&found) + losses.full + u64::from(first.records), records(&frames));
    assert_eq!((losses.expired, losses.corrupt, spool.waiting()), (0, 0, 0));
}

#[test]
fn expired_frames_are_dropped_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let (mut spool, _) = open(config(folder.path()));
    spool.append(&frame(0, 10), 1000).unwrap();
    spool.append(&frame(1, 10), 3000).unwrap();
    let (_, found) = spool.next(DAY_MS + 2000).unwrap().unwrap();
    assert_eq!(number(&found), 1);
    assert_eq!(spool.take_losses(), Losses { expired: 1, ..Losses::default() });
}

#[test]
fn interleaved_new_frames_do_not_wait_for_old_ones() {
    let folder = tempfile::tempdir().unwrap();
    let config = SpoolConfig { order: Order::Interleaved, ..config(folder.path()) };
    let (mut spool, _) = open(config.clone());
    for number in 0..6 {
        spool.append(&frame(number, 10), 0).unwrap();
    }
    spool.close().unwrap();
    let (mut spool, _) = open(config);
    spool.append(&frame(6, 10), 0).unwrap();
    spool.append(&frame(7, 10), 0).unwrap();
    let order: Vec<_> = drain(&mut spool).iter().map(number).collect();
    assert_eq!(order, [6, 0, 7, 1, 2, 3, 4, 5]);
}

#[test]
fn files_of_a_newer_version_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (mut spool, _) = open(config(folder.path()));
    spool.append(&frame(0, 10), 0).unwrap();
    spool.close().unwrap();
    let newer = folder.path().join("00000000000000ff.segment");
    fs::write(&newer, b"ACPTSPL\x02what only a newer one knows").unwrap();
    let (mut spool, recovery) = open(config(folder.path()));
    let [warning] = &recovery.warnings[..] else { panic!("{recovery:?}") };
    assert!(warning.contains("ff.segment is skipped and kept") && warning.contains("version 2"), "{warning}");
    spool.append(&frame(1, 10), 0).unwrap();
    assert_eq!(drain(&mut spool), [frame(0, 10), frame(1, 10)]);
    assert_eq!(fs::read(newer).unwrap(), b"ACPTSPL\x02what only a newer one knows");
}

#[test]
fn a_damaged_manifest_loses_no_frame() {
    let folder = tempfile::tempdir().unwrap();
    let (mut spool, _) = open(small(folder.path()));
    let frames: Vec<_> = (0..12).map(|number| frame(number, 400)).collect();
    for frame in &frames {
        spool.append(frame, 0).unwrap();
    }
    spool.close().unwrap();
    fs::write(folder.path().join("manifest.json"), "{").unwrap();
    let (mut spool, recovery) = open(small(folder.path()));
    assert!(recovery.warnings[0].contains("manifest"), "{recovery:?}");
    assert_eq!(drain(&mut spool), frames);
}

#[test]
fn files_are_private_and_the_folder_is_locked() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("of/acceptd");
    let (mut spool, _) = open(config(&folder));
    spool.append(&frame(0, 10), 0).unwrap();
    save(&mut spool);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    for entry in fs::read_dir(&folder).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()), 0o600);
    }
    assert!(matches!(Spool::open(config(&folder)), Err(SpoolError::Locked(at)) if at == folder));
    drop(spool);
    open(config(&folder));
}

#[test]
fn a_spool_continues_after_its_files_were_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let (mut spool, _) = open(small(folder.path()));
    let frames: Vec<_> = (0..30).map(|number| frame(number, 400)).collect();
    for frame in &frames {
        spool.append(frame, 0).unwrap();
    }
    for path in segments(folder.path()) {
        fs::remove_file(path).unwrap();
    }
    let found = drain(&mut spool);
    assert!(found.iter().all(|frame| frames.contains(frame)));
    let losses = spool.take_losses();
    assert_eq!(records(&found) + losses.corrupt, records(&frames), "{losses:?}");
    spool.append(&frame(99, 10), 0).unwrap();
    assert_eq!(drain(&mut spool), [frame(99, 10)]);
}

#[test]
fn a_single_segment_is_read_without_its_spool() {
    let folder = tempfile::tempdir().unwrap();
    let (mut spool, _) = open(config(folder.path()));
    spool.append(&frame(0, 10), 0).unwrap();
    spool.append(&frame(1, 10), 0).unwrap();
    spool.close().unwrap();
    let frames: Vec<_> = read_segment(&segments(folder.path())[0]).unwrap().map(Result::unwrap).collect();
    assert_eq!(frames, [frame(0, 10), frame(1, 10)]);
    assert!(read_segment(&folder.path().join("manifest.json")).is_err());
}
