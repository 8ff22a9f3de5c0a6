//! Writes samples to the ring buffer, each with its header and sequence number.

use core::mem::size_of;

use acceptd_common::{ABI_VERSION, Counter, Header, Kind};
use aya_ebpf::{helpers::bpf_get_smp_processor_id, macros::map, maps::RingBuf};

use crate::count;

/// Samples on their way to the agent, which sets the size (`capture.ring_bytes`) when it loads the programs.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(4 << 20, 0);

/// A sample.
///
/// # Safety
/// The type begins with a [`Header`], and all-zero bytes are a valid value of it.
pub unsafe trait Sample: 'static {
    const KIND: Kind;
}

// SAFETY: integers and arrays of them behind a header, `repr(C)`.
unsafe impl Sample for acceptd_common::InetAccept {
    const KIND: Kind = Kind::InetAccept;
}
// SAFETY: likewise.
unsafe impl Sample for acceptd_common::UnixAccept {
    const KIND: Kind = Kind::UnixAccept;
}
// SAFETY: likewise.
unsafe impl Sample for acceptd_common::SocketCall {
    const KIND: Kind = Kind::SocketCall;
}
// SAFETY: likewise.
unsafe impl Sample for acceptd_common::ListenerState {
    const KIND: Kind = Kind::ListenerClosed;
}
// SAFETY: likewise.
unsafe impl Sample for acceptd_common::ConnectionClosed {
    const KIND: Kind = Kind::ConnectionClosed;
}
// SAFETY: likewise.
unsafe impl Sample for acceptd_common::ConnectionAbandoned {
    const KIND: Kind = Kind::ConnectionAbandoned;
}

/// Sends a sample of the event at `now` (boot clock, ns). `fill` gets it zeroed, and its header is written
/// afterwards. Counts the sample as submitted, or as lost if the ring is full.
#[inline(always)]
pub fn send<S: Sample>(now: u64, fill: impl FnOnce(&mut S)) {
    // Before the reservation, so that a lost sample leaves a gap in the sequence.
    let sequence = count::next_sequence();
    let Some(mut entry) = EVENTS.reserve::<S>(0) else {
        return count::add(Counter::LostRing);
    };
    let sample = entry.as_mut_ptr();
    // SAFETY: the reservation has the size and alignment of a sample, of which all-zero bytes are a valid one
    // that begins with a header.
    let (header, out) = unsafe {
        zero(sample);
        (sample.cast::<Header>(), &mut *sample)
    };
    fill(out);
    // SAFETY: as above; `out` is not used any more.
    let header = unsafe { &mut *header };
    write_header::<S>(header, sequence);
    header.boot_ns = now;
    entry.submit(0);
    count::add(Counter::Submitted);
}

/// Sends a sample that was filled before. The time in its header is set already; the rest of the header is
/// written here. Counts the sample as submitted, or as lost if the ring is full.
#[inline(always)]
pub fn send_filled<S: Sample>(sample: &mut S) {
    let sequence = count::next_sequence();
    // SAFETY: every sample begins with a header.
    let header = unsafe { &mut *(&raw mut *sample).cast::<Header>() };
    write_header::<S>(header, sequence);
    match EVENTS.output::<S>(&*sample, 0) {
        Ok(()) => count::add(Counter::Submitted),
        Err(_) => count::add(Counter::LostRing),
    }
}

/// Fills a value with zeros, word by word. From anything else LLVM makes a loop over bytes.
///
/// # Safety
/// `value` points to writable memory for a `T`.
#[inline(always)]
pub unsafe fn zero<T>(value: *mut T) {
    const { assert!(size_of::<T>() % 8 == 0 && align_of::<T>() == 8) };
    for word in 0..size_of::<T>() / 8 {
        // SAFETY: within the value, which is aligned to words. Volatile, so that LLVM does not merge the
        // stores.
        unsafe { core::ptr::write_volatile(value.cast::<u64>().add(word), 0) };
    }
}

#[inline(always)]
fn write_header<S: Sample>(header: &mut Header, sequence: u64) {
    header.abi = ABI_VERSION;
    header.kind = S::KIND as u16;
    header.length = size_of::<S>() as u32;
    // SAFETY: the helper has no arguments.
    header.cpu = unsafe { bpf_get_smp_processor_id() };
    header.sequence = sequence;
}
