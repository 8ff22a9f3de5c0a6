//! Publishes a process context as an OpenTelemetry SDK does (OTEP 4719), or a malformed one that no SDK would
//! publish.
#![allow(unsafe_code, reason = "a memory mapping that other processes read has no safe wrapper")]

use std::{os::fd::OwnedFd, ptr, thread, time::Duration};

use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, KeyValue, any_value::Value},
    resource::v1::Resource,
};
use prost::Message as _;
use rustix::{
    fs::{MemfdFlags, ftruncate, memfd_create},
    ioctl::{self, opcode},
    mm::{MapFlags, ProtFlags, UserfaultfdFlags, mmap, userfaultfd},
};

const SIZE: usize = 64 << 10;
const HEADER: usize = 32;

/// The kind of context to publish: a valid one, or one with a specific defect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContextKind {
    /// Conforms to OTEP 4719.
    Valid,
    /// The payload is not a protobuf message.
    Garbage,
    /// The header gives the payload length as `u32::MAX`.
    Huge,
    /// The header's payload address is not mapped.
    Elsewhere,
    /// Reading the memory blocks forever: its pages are registered with userfaultfd(2) and never supplied.
    Unanswered,
}

impl ContextKind {
    /// Parses the name that `acceptor publish` takes.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "valid" => Self::Valid,
            "garbage" => Self::Garbage,
            "huge" => Self::Huge,
            "elsewhere" => Self::Elsewhere,
            "unanswered" => Self::Unanswered,
            _ => return None,
        })
    }
}

/// An encoded `ProcessContext` with these attributes. Its only field is `resource` (number 1,
/// length-delimited).
fn payload(attributes: &[(&str, &str)]) -> Vec<u8> {
    let attribute = |(key, value): &(&str, &str)| KeyValue {
        key: (*key).to_owned(),
        value: Some(AnyValue { value: Some(Value::StringValue((*value).to_owned())) }),
        ..KeyValue::default()
    };
    let resource = Resource { attributes: attributes.iter().map(attribute).collect(), ..Resource::default() };
    let mut message = vec![1 << 3 | 2];
    message.extend(resource.encode_length_delimited_to_vec());
    message
}

/// Publishes a context with these attributes until this process exits.
///
/// # Panics
/// If the mapping cannot be created, or the attributes do not fit into it.
pub fn publish(attributes: &[(&str, &str)], kind: ContextKind) {
    let start = mapping();
    if kind == ContextKind::Unanswered {
        return unanswered(start.addr() as u64);
    }
    write(start, attributes, kind);
}

/// Overwrites one context forever, pausing in between, without any synchronisation with readers: valid and
/// malformed contexts in turn, with each of these service names.
///
/// # Panics
/// Whenever [`publish`] does.
pub fn publish_in_turn(names: &[&str], pause: Duration) {
    let start = mapping();
    for name in names.iter().cycle() {
        for kind in [ContextKind::Valid, ContextKind::Garbage, ContextKind::Huge, ContextKind::Elsewhere] {
            write(start, &[("service.name", name), ("process.pid", "1")], kind);
            thread::sleep(pause);
        }
    }
}

/// The named mapping that readers of process contexts look for: a memfd called `OTEL_CTX`.
fn mapping() -> *mut u8 {
    let file: OwnedFd = memfd_create("OTEL_CTX", MemfdFlags::CLOEXEC).expect("a file in memory");
    ftruncate(&file, SIZE as u64).expect("its size");
    // SAFETY: a new mapping at an address that the kernel chooses. It is never unmapped.
    let start = unsafe {
        mmap(ptr::null_mut(), SIZE, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, &file, 0)
    };
    start.expect("a mapping").cast()
}

/// Writes a complete context, header and payload, to the start of the mapping.
fn write(start: *mut u8, attributes: &[(&str, &str)], kind: ContextKind) {
    let message = payload(attributes);
    let address = start.addr() as u64 + HEADER as u64;
    let (length, at) = match kind {
        ContextKind::Huge => (u32::MAX, address),
        ContextKind::Elsewhere => (64, 8),
        _ => (u32::try_from(message.len()).expect("small"), address),
    };
    let message = if kind == ContextKind::Garbage { vec![0xff; message.len()] } else { message };
    assert!(HEADER + message.len() <= SIZE, "the context does not fit into the mapping");
    let mut header = b"OTEL_CTX".to_vec();
    header.extend(2_u32.to_ne_bytes());
    header.extend(length.to_ne_bytes());
    header.extend(1_u64.to_ne_bytes());
    header.extend(at.to_ne_bytes());
    // SAFETY: header and payload fit into the mapping, which nothing else in this process accesses.
    unsafe {
        ptr::copy_nonoverlapping(message.as_ptr(), start.add(HEADER), message.len());
        ptr::copy_nonoverlapping(header.as_ptr(), start, header.len());
    }
}

/// Registers the mapping with userfaultfd(2) and never supplies a page, so that every reader blocks.
fn unanswered(start: u64) {
    // include/uapi/linux/userfaultfd.h
    const MAGIC: u8 = 0xaa;
    const API: u64 = 0xaa;
    const MISSING: u64 = 1;
    /// `struct uffdio_api`: api, features, ioctls.
    type Api = [u64; 3];
    /// `struct uffdio_register`: start, length, mode, ioctls.
    type Register = [u64; 4];

    // SAFETY: the descriptor affects only the mapping registered below, which this process does not use
    // otherwise.
    let faults = unsafe { userfaultfd(UserfaultfdFlags::CLOEXEC) }.expect("root privileges");
    let (mut api, mut register) = ([API, 0, 0], [start, SIZE as u64, MISSING, 0]);
    // SAFETY: the kernel reads and writes exactly these structures for these ioctl numbers.
    unsafe {
        ioctl::ioctl(
            &faults,
            ioctl::Updater::<{ opcode::read_write::<Api>(MAGIC, 0x3f) }, Api>::new(&mut api),
        )
        .expect("UFFDIO_API");
        ioctl::ioctl(
            &faults,
            ioctl::Updater::<{ opcode::read_write::<Register>(MAGIC, 0) }, Register>::new(&mut register),
        )
        .expect("UFFDIO_REGISTER");
    }
    // Keep the descriptor open until the process exits.
    std::mem::forget(faults);
}
