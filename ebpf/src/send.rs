//! From an event that was decided on to a sample in the ring.

use core::mem::size_of;

use acceptd_common::{ABI_VERSION, Counter, Header, Kind};
use aya_ebpf::helpers::bpf_get_smp_processor_id;

use crate::{count, maps::EVENTS};

/// A sample: begins with a [`Header`], and all-zero bytes are a valid one.
///
/// # Safety
/// Both must be true.
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
unsafe impl Sample for acceptd_common::Closed {
    const KIND: Kind = Kind::Closed;
}
// SAFETY: likewise.
unsafe impl Sample for acceptd_common::Abandoned {
    const KIND: Kind = Kind::Abandoned;
}

/// Sends one sample that `fill` fills; it is zero but for its header. Counts what became of it.
#[inline(always)]
pub fn send<S: Sample>(now: u64, fill: impl FnOnce(&mut S)) {
    // Before the reservation, so that an event without room leaves a gap.
    let sequence = count::next_sequence();
    let Some(mut entry) = EVENTS.reserve::<S>(0) else {
        return count::add(Counter::LostRing);
    };
    let sample = entry.as_mut_ptr();
    // SAFETY: the reservation has the size and alignment of a sample, of which all-zero bytes are a valid one that
    // begins with a header.
    let (header, out) = unsafe {
        zero(sample);
        (sample.cast::<Header>(), &mut *sample)
    };
    fill(out);
    // SAFETY: as above; `out` is not used any more.
    let header = unsafe { &mut *header };
    describe::<S>(header, sequence);
    header.boot_ns = now;
    entry.submit(0);
    count::add(Counter::Submitted);
}

/// Sends a sample that was filled before, but for its header's other fields than the time. Counts what became of it.
#[inline(always)]
pub fn send_kept<S: Sample>(sample: &mut S) {
    let sequence = count::next_sequence();
    // SAFETY: every sample begins with a header.
    let header = unsafe { &mut *(&raw mut *sample).cast::<Header>() };
    describe::<S>(header, sequence);
    match EVENTS.output::<S>(&*sample, 0) {
        Ok(()) => count::add(Counter::Submitted),
        Err(_) => count::add(Counter::LostRing),
    }
}

/// Fills a value with zeros, word by word: of anything else LLVM makes a loop over bytes.
///
/// # Safety
/// There is memory for one at `value`.
#[inline(always)]
pub unsafe fn zero<T>(value: *mut T) {
    const { assert!(size_of::<T>() % 8 == 0 && align_of::<T>() == 8) };
    for word in 0..size_of::<T>() / 8 {
        // SAFETY: within the value, which is aligned to words. Volatile, so that it stays what it is.
        unsafe { core::ptr::write_volatile(value.cast::<u64>().add(word), 0) };
    }
}

#[inline(always)]
fn describe<S: Sample>(header: &mut Header, sequence: u64) {
    header.abi = ABI_VERSION;
    header.kind = S::KIND as u16;
    header.length = size_of::<S>() as u32;
    // SAFETY: the helper has no arguments.
    header.cpu = unsafe { bpf_get_smp_processor_id() };
    header.sequence = sequence;
}
