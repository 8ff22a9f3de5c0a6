//! `log.record.uid`: every copy of a record has the same id, and no other record has it.

use std::fmt;

/// The three parts of a record's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordUid {
    /// Hash of the host, the boot and the load of the programs.
    pub epoch: u64,
    /// The CPU that captured the event; `0xffff` for records that user space made.
    pub cpu: u16,
    /// Sequence number of the event on that CPU. The text has its low 48 bits.
    pub sequence: u64,
}

impl fmt::Display for RecordUid {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:016X}-{:04X}-{:012X}", self.epoch, self.cpu, self.sequence & 0xffff_ffff_ffff)
    }
}

/// The same text as [`RecordUid`]'s `Display`, without the formatting machinery.
pub(super) fn uid_text(uid: RecordUid) -> [u8; 34] {
    let mut text = [b'-'; 34];
    hex(&mut text[..16], uid.epoch);
    hex(&mut text[17..21], u64::from(uid.cpu));
    hex(&mut text[22..], uid.sequence);
    text
}

/// Fills `out` with the lowest hexadecimal digits of `value`.
fn hex(out: &mut [u8], value: u64) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut rest = value;
    for digit in out.iter_mut().rev() {
        *digit = DIGITS[usize::from(rest.to_le_bytes()[0] & 15)];
        rest >>= 4;
    }
}
