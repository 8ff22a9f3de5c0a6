//! Reads the process context that an OpenTelemetry SDK publishes in its process's memory, in a mapping named
//! `OTEL_CTX` (OTEP 4719). The process is not trusted: every size is bounded, and a context that violates the
//! format is ignored.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read as _},
    ops::Range,
    os::unix::fs::FileExt as _,
    sync::LazyLock,
};

use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;
use rustix::fs::{MemfdFlags, fstat, major, memfd_create, minor};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::proc_dir::ProcDir;

/// Most bytes read of `/proc/PID/maps`: about 20,000 mappings. The kernel's default limit is 65,530 mappings.
const MAX_MAPS_BYTES: u64 = 2 << 20;

/// Most bytes of one line of `/proc/PID/maps`.
const MAX_LINE_BYTES: usize = 8 << 10;

/// Most mappings with the context's name that are tried. A correct process has one.
const MAX_CONTEXTS: usize = 8;

/// Most bytes of a context; a longer one is ignored. The Resource that is made from the context has at most 8
/// KiB.
const MAX_PAYLOAD_BYTES: u32 = 64 << 10;

/// How often a context is read when it changes during the read.
const ATTEMPTS: usize = 3;

const SIGNATURE: [u8; 8] = *b"OTEL_CTX";
const VERSION: u32 = 2;

/// The header at the start of the mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct ContextHeader {
    signature: [u8; 8],
    version: u32,
    payload_size: u32,
    /// 0 while the SDK writes the context.
    published_at_ns: u64,
    payload: u64,
}

/// The used part of `opentelemetry.proto.processcontext.v1development.ProcessContext`.
#[derive(Clone, PartialEq, Message)]
struct ProcessContext {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
}

/// The Resource that the process publishes, if there is one. Can block for as long as the process makes the
/// kernel wait for its memory.
pub(super) fn read(dir: &ProcDir) -> Option<Resource> {
    let contexts: Vec<u64> = mappings(maps(dir)?)
        .filter(|mapping| mapping.is_context && mapping.is_memory)
        .map(|mapping| mapping.range.start)
        .take(MAX_CONTEXTS)
        .collect();
    if contexts.is_empty() {
        return None;
    }
    let memory = dir.file("mem").ok()?;
    let is_memory = |payload: &Range<u64>| {
        maps(dir).is_some_and(|maps| {
            mappings(maps).any(|mapping| mapping.is_memory && encloses(&mapping.range, payload))
        })
    };
    contexts.into_iter().find_map(|start| resource(&memory, start, is_memory))
}

fn maps(dir: &ProcDir) -> Option<impl BufRead> {
    Some(BufReader::new(dir.file("maps").ok()?.take(MAX_MAPS_BYTES)))
}

fn encloses(outer: &Range<u64>, inner: &Range<u64>) -> bool {
    outer.start <= inner.start && inner.end <= outer.end
}

/// One line of `/proc/PID/maps`.
#[derive(Debug, PartialEq)]
struct MemoryMapping {
    range: Range<u64>,
    /// Whether the mapping has the context's name, by its memfd or by prctl(2).
    is_context: bool,
    /// Whether the mapping is plain memory. A page of a mapped file may have to come from a file system that
    /// never answers.
    is_memory: bool,
}

fn mappings(mut maps: impl BufRead) -> impl Iterator<Item = MemoryMapping> {
    let mut line = Vec::new();
    std::iter::from_fn(move || {
        loop {
            line.clear();
            if maps.by_ref().take(MAX_LINE_BYTES as u64).read_until(b'\n', &mut line).ok()? == 0 {
                return None;
            }
            if let Some(mapping) = MemoryMapping::parse_line(&line) {
                return Some(mapping);
            }
        }
    })
}

impl MemoryMapping {
    /// Parses `START-END PERMISSIONS OFFSET MAJOR:MINOR INODE   NAME`.
    fn parse_line(line: &[u8]) -> Option<Self> {
        let mut fields = str::from_utf8(line).ok()?.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let (major, minor) = fields.nth(2)?.split_once(':')?;
        let inode = fields.next()?;
        let name = fields.next().unwrap_or_default();
        let hex = |text| u64::from_str_radix(text, 16).ok();
        let device = (hex(major)?, hex(minor)?);
        Some(Self {
            range: hex(start)?..hex(end)?,
            is_context: ["[anon_shmem:OTEL_CTX]", "[anon:OTEL_CTX]", "/memfd:OTEL_CTX"].contains(&name),
            is_memory: inode == "0" || Some(device) == *SHARED_MEMORY,
        })
    }
}

/// The device number of memfds and of shared anonymous memory: the kernel's internal tmpfs.
static SHARED_MEMORY: LazyLock<Option<(u64, u64)>> = LazyLock::new(|| {
    let file = memfd_create("acceptd", MemfdFlags::CLOEXEC).ok()?;
    let device = fstat(file).ok()?.st_dev;
    Some((major(device).into(), minor(device).into()))
});

/// The Resource in the context whose header is at address `start`.
fn resource(memory: &File, start: u64, is_memory: impl Fn(&Range<u64>) -> bool) -> Option<Resource> {
    let payload = (0..ATTEMPTS).find_map(|_| consistent_payload(memory, start, &is_memory))?;
    ProcessContext::decode(payload.as_slice()).ok()?.resource
}

/// The payload, if the header is valid and did not change while the payload was read.
fn consistent_payload(memory: &File, start: u64, is_memory: impl Fn(&Range<u64>) -> bool) -> Option<Vec<u8>> {
    let before = header(memory, start)?;
    let is_valid = before.signature == SIGNATURE
        && before.version == VERSION
        && before.published_at_ns != 0
        && (1..=MAX_PAYLOAD_BYTES).contains(&before.payload_size);
    let end = before.payload.checked_add(before.payload_size.into())?;
    if !is_valid || !is_memory(&(before.payload..end)) {
        return None;
    }
    let mut payload = vec![0; usize::try_from(before.payload_size).ok()?];
    memory.read_exact_at(&mut payload, before.payload).ok()?;
    (header(memory, start)? == before).then_some(payload)
}

fn header(memory: &File, start: u64) -> Option<ContextHeader> {
    let mut bytes = [0; size_of::<ContextHeader>()];
    memory.read_exact_at(&mut bytes, start).ok()?;
    ContextHeader::read_from_bytes(&bytes).ok()
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

    fn anywhere(_: &Range<u64>) -> bool {
        true
    }

    fn a_resource() -> Resource {
        let value = AnyValue { value: Some(Value::StringValue("shop".to_owned())) };
        let attributes =
            vec![KeyValue { key: "service.name".to_owned(), value: Some(value), ..KeyValue::default() }];
        Resource { attributes, ..Resource::default() }
    }

    /// A file that stands for a process's memory: the header is at offset 64, the payload after it.
    fn memory(change: impl Fn(&mut ContextHeader), payload: &[u8]) -> File {
        let mut header = ContextHeader {
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
        assert_eq!(resource(&memory(|_| {}, &payload), 64, anywhere), Some(a_resource()));
    }

    #[test]
    fn a_context_that_violates_the_format_is_ignored() {
        let payload = ProcessContext { resource: Some(a_resource()) }.encode_to_vec();
        let changes: [fn(&mut ContextHeader); 7] = [
            |header| header.signature[0] = b'o',
            |header| header.version = 1,
            |header| header.published_at_ns = 0,
            |header| header.payload_size = 0,
            |header| header.payload_size = u32::MAX,
            |header| header.payload_size += 1,
            |header| header.payload = u64::MAX,
        ];
        for (number, change) in changes.iter().enumerate() {
            assert_eq!(resource(&memory(change, &payload), 64, anywhere), None, "{number}");
        }
        assert_eq!(resource(&memory(|_| {}, b"\xff\xff\xff"), 64, anywhere), None);
        assert_eq!(resource(&memory(|_| {}, &payload), 70, anywhere), None);
        assert_eq!(resource(&memory(|_| {}, &payload), u64::MAX, anywhere), None);
    }

    /// This process publishes the context and rewrites it all the time as an SDK does, alternating between
    /// two attribute names.
    #[test]
    fn a_context_that_changes_is_read_whole_or_not_at_all() {
        const LETTERS: usize = 1000;
        const READS: usize = 20_000;
        let mut message = ProcessContext { resource: Some(a_resource()) };
        message.resource.as_mut().expect("one").attributes[0].key = "a".repeat(LETTERS);
        let payload = message.encode_to_vec();
        let start = payload.iter().position(|&byte| byte == b'a').expect("a key");
        let header: &'static [AtomicU64; 4] = Box::leak(Box::default());
        let content: &'static [AtomicU8] =
            payload.iter().map(|&byte| AtomicU8::new(byte)).collect::<Vec<_>>().leak();
        let sizes = u64::from(VERSION) | (payload.len() as u64) << 32;
        let fields = [u64::from_ne_bytes(SIGNATURE), sizes, 1, content.as_ptr().addr() as u64];
        header.iter().zip(fields).for_each(|(to, field)| to.store(field, Ordering::Relaxed));
        let is_done = &*Box::leak(Box::new(AtomicBool::new(false)));
        let writer = thread::spawn(move || {
            for time in (2..).take_while(|_| !is_done.load(Ordering::Relaxed)) {
                header[2].store(0, Ordering::SeqCst);
                let letter = if time % 2 == 0 { b'b' } else { b'a' };
                content[start..start + LETTERS].iter().for_each(|to| to.store(letter, Ordering::SeqCst));
                header[2].store(time, Ordering::SeqCst);
                thread::sleep(Duration::from_micros(20));
            }
        });
        let memory = File::open("/proc/self/mem").expect("a process may read its own memory");
        let mut whole = 0;
        for _ in 0..READS {
            let Some(read) = resource(&memory, header.as_ptr().addr() as u64, anywhere) else { continue };
            let name = &read.attributes[0].key;
            assert!(name == &"a".repeat(LETTERS) || name == &"b".repeat(LETTERS), "{name}");
            whole += 1;
        }
        is_done.store(true, Ordering::Relaxed);
        writer.join().expect("no panic");
        assert!(whole > READS / 100, "read {whole} times");
    }

    #[test]
    fn a_payload_in_a_mapped_file_is_not_read() {
        let payload = ProcessContext { resource: Some(a_resource()) }.encode_to_vec();
        let asked = std::cell::RefCell::new(None);
        let nowhere = |range: &Range<u64>| {
            *asked.borrow_mut() = Some(range.clone());
            false
        };
        assert_eq!(resource(&memory(|_| {}, &payload), 64, nowhere), None);
        assert_eq!(*asked.borrow(), Some(96..96 + payload.len() as u64));
    }

    #[test]
    fn a_context_is_recognized_by_its_name_and_memory_by_its_device() {
        let (major, minor) = SHARED_MEMORY.expect("memfds have a device");
        let device = format!("{major:02x}:{minor:02x}");
        let maps = format!(
            "55d0-55e0 r--p 00000000 fe:00 1   /usr/bin/OTEL_CTX\n\
             7f00a000-7f00b000 rw-s 00000000 {device} 9   /memfd:OTEL_CTX (deleted)\n\
             7f00c000-7f00d000 rw-p 00000000 00:00 0   [anon:OTEL_CTX]\n\
             7f00e000-7f00f000 rw-s 00000000 {device} 8   [anon_shmem:OTEL_CTX]\n\
             7f010000-7f011000 rw-p 00000000 00:00 0   [anon:OTEL_CTX2]\n\
             7f012000-7f013000 rw-s 00000000 fe:00 7   /memfd:OTEL_CTX\n\
             7f014000-7f015000 rw-p 00000000 00:00 0 \n\
             garbage\n"
        );
        let found: Vec<_> = mappings(maps.as_bytes())
            .map(|mapping| (mapping.range.start, mapping.is_context, mapping.is_memory))
            .collect();
        let expected = [
            (0x55d0, false, false),
            (0x7f00_a000, true, true),
            (0x7f00_c000, true, true),
            (0x7f00_e000, true, true),
            (0x7f01_0000, false, true),
            // A file with that name.
            (0x7f01_2000, true, false),
            (0x7f01_4000, false, true),
        ];
        assert_eq!(found, expected);
    }
}
