//! The process context that an OpenTelemetry SDK publishes in its process's memory, in a mapping named `OTEL_CTX` (OTEP 4719). The
//! process is not trusted: every size is bounded, and whatever does not hold is no context.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _},
    os::unix::fs::FileExt as _,
};

use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::folder::Folder;

/// Most bytes of `/proc/PID/maps` that are looked at: some 20,000 mappings, and 65,530 are the kernel's default limit.
const MAPS: u64 = 2 << 20;

/// Longest line there that is looked at as a whole.
const LINE: usize = 8 << 10;

/// Most mappings that are tried: there is to be one.
const MAPPINGS: usize = 8;

/// Most bytes of a context that is believed. The Resource it becomes has 8 KiB.
const PAYLOAD: u32 = 64 << 10;

/// How often a context that changes while it is read is read again.
const TRIES: usize = 3;

const SIGNATURE: [u8; 8] = *b"OTEL_CTX";
const VERSION: u32 = 2;

/// How the mapping begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    signature: [u8; 8],
    version: u32,
    payload_size: u32,
    /// 0 while it is written.
    published_at_ns: u64,
    payload: u64,
}

/// `opentelemetry.proto.processcontext.v1development.ProcessContext`, what of it is used.
#[derive(Clone, PartialEq, Message)]
struct ProcessContext {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
}

/// The Resource that the process publishes, if it publishes one.
pub(super) fn read(folder: &Folder) -> Option<Resource> {
    let mut mappings = mappings(BufReader::new(folder.file("maps").ok()?.take(MAPS))).peekable();
    mappings.peek()?;
    let memory = folder.file("mem").ok()?;
    mappings.take(MAPPINGS).find_map(|start| resource(&memory, start))
}

/// Where the mappings of that name begin.
fn mappings(mut maps: impl std::io::BufRead) -> impl Iterator<Item = u64> {
    let mut line = Vec::new();
    std::iter::from_fn(move || {
        loop {
            line.clear();
            if maps.by_ref().take(LINE as u64).read_until(b'\n', &mut line).ok()? == 0 {
                return None;
            }
            if let Some(start) = context_mapping(&line) {
                return Some(start);
            }
        }
    })
}

/// `START-END PERMISSIONS OFFSET DEVICE INODE   NAME`. The name is that of a memfd, or one that prctl(2) gave.
fn context_mapping(line: &[u8]) -> Option<u64> {
    let line = std::str::from_utf8(line).ok()?;
    let mut fields = line.split_ascii_whitespace();
    let range = fields.next()?;
    let name = fields.nth(4)?;
    let is_context = ["[anon_shmem:OTEL_CTX]", "[anon:OTEL_CTX]", "/memfd:OTEL_CTX"].contains(&name);
    is_context.then(|| u64::from_str_radix(range.split('-').next()?, 16).ok()).flatten()
}

fn resource(memory: &File, start: u64) -> Option<Resource> {
    let payload = (0..TRIES).find_map(|_| consistent(memory, start))?;
    ProcessContext::decode(payload.as_slice()).ok()?.resource
}

/// The payload, if nothing changed while it was read.
fn consistent(memory: &File, start: u64) -> Option<Vec<u8>> {
    let before = header(memory, start)?;
    let is_valid = before.signature == SIGNATURE
        && before.version == VERSION
        && before.published_at_ns != 0
        && (1..=PAYLOAD).contains(&before.payload_size);
    if !is_valid {
        return None;
    }
    let mut payload = vec![0; usize::try_from(before.payload_size).ok()?];
    memory.read_exact_at(&mut payload, before.payload).ok()?;
    (header(memory, start)? == before).then_some(payload)
}

fn header(memory: &File, start: u64) -> Option<Header> {
    let mut bytes = [0; size_of::<Header>()];
    memory.read_exact_at(&mut bytes, start).ok()?;
    Header::read_from_bytes(&bytes).ok()
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write as _,
        sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
        thread,
        time::Duration,
    };

    use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};

    use super::*;

    fn a_resource() -> Resource {
        let value = AnyValue { value: Some(Value::StringValue("shop".to_owned())) };
        let attributes =
            vec![KeyValue { key: "service.name".to_owned(), value: Some(value), ..KeyValue::default() }];
        Resource { attributes, ..Resource::default() }
    }

    /// A file in the place of a process's memory: the header at 64, the payload behind it.
    fn memory(change: impl Fn(&mut Header), payload: &[u8]) -> File {
        let mut header = Header {
            signature: SIGNATURE,
            version: VERSION,
            payload_size: u32::try_from(payload.len()).expect("small"),
            published_at_ns: 5,
            payload: 96,
        };
        change(&mut header);
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(&[0; 64]).expect("written");
        file.write_all(header.as_bytes()).expect("written");
        file.write_all(payload).expect("written");
        file
    }

    #[test]
    fn a_context_is_read() {
        let payload = ProcessContext { resource: Some(a_resource()) }.encode_to_vec();
        assert_eq!(resource(&memory(|_| {}, &payload), 64), Some(a_resource()));
    }

    #[test]
    fn what_does_not_hold_is_no_context() {
        let payload = ProcessContext { resource: Some(a_resource()) }.encode_to_vec();
        let changes: [fn(&mut Header); 7] = [
            |header| header.signature[0] = b'o',
            |header| header.version = 1,
            |header| header.published_at_ns = 0,
            |header| header.payload_size = 0,
            |header| header.payload_size = u32::MAX,
            |header| header.payload_size += 1,
            |header| header.payload = u64::MAX,
        ];
        for (number, change) in changes.iter().enumerate() {
            assert_eq!(resource(&memory(change, &payload), 64), None, "{number}");
        }
        assert_eq!(resource(&memory(|_| {}, b"\xff\xff\xff"), 64), None);
        assert_eq!(resource(&memory(|_| {}, &payload), 70), None);
        assert_eq!(resource(&memory(|_| {}, &payload), u64::MAX), None);
    }

    /// In this process, which writes it all the time as an SDK would: a name of one letter and of another in turn.
    #[test]
    fn a_context_that_changes_is_read_whole_or_not_at_all() {
        const LETTERS: usize = 1000;
        const READS: usize = 20_000;
        let mut message = ProcessContext { resource: Some(a_resource()) };
        message.resource.as_mut().expect("one").attributes[0].key = "a".repeat(LETTERS);
        let payload = message.encode_to_vec();
        let start = payload.iter().position(|&byte| byte == b'a').expect("a key");
        let header: &'static [AtomicU64; 4] = Box::leak(Box::new(Default::default()));
        let content: &'static [AtomicU8] =
            payload.iter().map(|&byte| AtomicU8::new(byte)).collect::<Vec<_>>().leak();
        let sizes = u64::from(VERSION) | (payload.len() as u64) << 32;
        let fields = [u64::from_ne_bytes(SIGNATURE), sizes, 1, content.as_ptr().addr() as u64];
        header.iter().zip(fields).for_each(|(to, field)| to.store(field, Ordering::Relaxed));
        let ended = &*Box::leak(Box::new(AtomicBool::new(false)));
        let writer = thread::spawn(move || {
            for time in (2..).take_while(|_| !ended.load(Ordering::Relaxed)) {
                header[2].store(0, Ordering::SeqCst);
                let letter = if time % 2 == 0 { b'b' } else { b'a' };
                content[start..start + LETTERS].iter().for_each(|to| to.store(letter, Ordering::SeqCst));
                header[2].store(time, Ordering::SeqCst);
                thread::sleep(Duration::from_micros(20));
            }
        });
        let memory = File::open("/proc/self/mem").expect("one's own");
        let mut whole = 0;
        for _ in 0..READS {
            let Some(read) = resource(&memory, header.as_ptr().addr() as u64) else { continue };
            let name = &read.attributes[0].key;
            assert!(name == &"a".repeat(LETTERS) || name == &"b".repeat(LETTERS), "{name}");
            whole += 1;
        }
        ended.store(true, Ordering::Relaxed);
        writer.join().expect("no panic");
        assert!(whole > READS / 100, "read {whole} times");
    }

    #[test]
    fn the_mapping_is_found_by_its_name_alone() {
        let maps = "55d0-55e0 r--p 00000000 fe:00 1   /usr/bin/OTEL_CTX\n\
                    7f00a000-7f00b000 rw-s 00000000 00:01 9   /memfd:OTEL_CTX (deleted)\n\
                    7f00c000-7f00d000 rw-p 00000000 00:00 0   [anon:OTEL_CTX]\n\
                    7f00e000-7f00f000 rw-s 00000000 00:01 8   [anon_shmem:OTEL_CTX]\n\
                    7f010000-7f011000 rw-p 00000000 00:00 0   [anon:OTEL_CTX2]\n\
                    7f012000-7f013000 rw-p 00000000 00:00 0 \n\
                    garbage\n";
        let found: Vec<u64> = mappings(maps.as_bytes()).collect();
        assert_eq!(found, [0x7f00_a000, 0x7f00_c000, 0x7f00_e000]);
    }
}
