//! A process context as an SDK publishes it (OTEP 4719), and contexts that no SDK would publish.
#![allow(unsafe_code, reason = "a mapping that others read has no safe wrapper")]

use std::{os::fd::OwnedFd, ptr, thread, time::Duration};

use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, KeyValue, any_value::Value},
    resource::v1::Resource,
};
use prost::Message as _;
use rustix::{
    fs::{MemfdFlags, ftruncate, memfd_create},
    ioctl::{
        opcode, {self},
    },
    mm::{MapFlags, ProtFlags, UserfaultfdFlags, mmap, userfaultfd},
};

const SIZE: usize = 64 << 10;
const HEADER: usize = 32;

/// How a context is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// Not at all.
    Not,
    /// Its payload is no message.
    Garbage,
    /// Its payload is said to be as long as a length can be.
    Huge,
    /// Its payload is where nothing is.
    Elsewhere,
    /// Nobody ever gives the memory that it is in (userfaultfd(2)).
    Unanswered,
}

impl Wrong {
    /// By its name on a command line.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "valid" => Self::Not,
            "garbage" => Self::Garbage,
            "huge" => Self::Huge,
            "elsewhere" => Self::Elsewhere,
            "unanswered" => Self::Unanswered,
            _ => return None,
        })
    }
}

/// `ProcessContext.resource`, which is all of it: field 1, with its length.
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

/// Publishes attributes for as long as this process lives.
///
/// # Panics
/// When the kernel makes no mapping, or they do not fit.
pub fn publish(attributes: &[(&str, &str)], wrong: Wrong) {
    let start = mapping();
    if wrong == Wrong::Unanswered {
        return unanswered(start.addr() as u64);
    }
    write(start, attributes, wrong);
}

/// Publishes one context after the other in the same place, most of them wrong, without end: in turn the service has each of these
/// names. Nobody who reads is waited for.
///
/// # Panics
/// When [`publish`] does.
pub fn torment(names: &[&str], pause: Duration) {
    let start = mapping();
    for name in names.iter().cycle() {
        for wrong in [Wrong::Not, Wrong::Garbage, Wrong::Huge, Wrong::Elsewhere] {
            write(start, &[("service.name", name), ("process.pid", "1")], wrong);
            thread::sleep(pause);
        }
    }
}

/// Memory that others look for.
fn mapping() -> *mut u8 {
    let file: OwnedFd = memfd_create("OTEL_CTX", MemfdFlags::CLOEXEC).expect("a file in memory");
    ftruncate(&file, SIZE as u64).expect("its size");
    // SAFETY: a new mapping, at an address that the kernel chooses; it is never unmapped.
    let start = unsafe {
        mmap(ptr::null_mut(), SIZE, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, &file, 0)
    };
    start.expect("a mapping").cast()
}

/// A whole context, at the begin of a mapping.
fn write(start: *mut u8, attributes: &[(&str, &str)], wrong: Wrong) {
    let message = payload(attributes);
    let address = start.addr() as u64 + HEADER as u64;
    let (length, at) = match wrong {
        Wrong::Huge => (u32::MAX, address),
        Wrong::Elsewhere => (64, 8),
        _ => (u32::try_from(message.len()).expect("small"), address),
    };
    let message = if wrong == Wrong::Garbage { vec![0xff; message.len()] } else { message };
    assert!(HEADER + message.len() <= SIZE, "it does not fit");
    let mut header = b"OTEL_CTX".to_vec();
    header.extend(2_u32.to_ne_bytes());
    header.extend(length.to_ne_bytes());
    header.extend(1_u64.to_ne_bytes());
    header.extend(at.to_ne_bytes());
    // SAFETY: both fit into the mapping, which nobody else of this process writes to or reads.
    unsafe {
        ptr::copy_nonoverlapping(message.as_ptr(), start.add(HEADER), message.len());
        ptr::copy_nonoverlapping(header.as_ptr(), start, header.len());
    }
}

/// Whoever touches the mapping waits for a page that nobody will give.
fn unanswered(start: u64) {
    // include/uapi/linux/userfaultfd.h
    const MAGIC: u8 = 0xaa;
    const API: u64 = 0xaa;
    const MISSING: u64 = 1;
    /// `struct uffdio_api`: api, features, ioctls.
    type Api = [u64; 3];
    /// `struct uffdio_register`: start, length, mode, ioctls.
    type Register = [u64; 4];

    // SAFETY: it only has to do with the mapping that is registered below, and that is nobody's memory.
    let faults = unsafe { userfaultfd(UserfaultfdFlags::CLOEXEC) }.expect("root may");
    let (mut api, mut register) = ([API, 0, 0], [start, SIZE as u64, MISSING, 0]);
    // SAFETY: both are the structures that the kernel reads and writes for these numbers.
    unsafe {
        ioctl::ioctl(
            &faults,
            ioctl::Updater::<{ opcode::read_write::<Api>(MAGIC, 0x3f) }, Api>::new(&mut api),
        )
        .expect("the kernel's interface");
        ioctl::ioctl(
            &faults,
            ioctl::Updater::<{ opcode::read_write::<Register>(MAGIC, 0) }, Register>::new(&mut register),
        )
        .expect("a mapping of ours");
    }
    // As long as the process lives.
    std::mem::forget(faults);
}
