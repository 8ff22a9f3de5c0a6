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
        core::ptr::write_bytes(sample, 0, 1);
        (sample.cast::<Header>(), &mut *sample)
    };
    fill(out);
    // SAFETY: as above; `out` is not used any more.
    let header = unsafe { &mut *header };
    header.abi = ABI_VERSION;
    header.kind = S::KIND as u16;
    header.length = size_of::<S>() as u32;
    // SAFETY: the helper has no arguments.
    header.cpu = unsafe { bpf_get_smp_processor_id() };
    header.sequence = sequence;
    header.boot_ns = now;
    entry.submit(0);
    count::add(Counter::Submitted);
}
