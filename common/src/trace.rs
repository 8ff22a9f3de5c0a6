//! Which connections have a trace. The programs decide, the agent makes the trace's id: both by the same number.

/// Randomness has so many bits, as OpenTelemetry's sampling by probability wants it
/// (<https://opentelemetry.io/docs/specs/otel/trace/tracestate-probability-sampling/>).
pub const BITS: u32 = 56;

/// The threshold that no randomness reaches: nothing is sampled.
pub const NEVER: u64 = 1 << BITS;

/// The random part of the trace of the connection with this cookie, uniform below [`NEVER`]. `key` is the host's and the boot's:
/// without it nobody can choose connections that are sampled.
///
/// A multiplication and two shifts spread each bit over the lower and the upper half; two rounds, with the second half of the
/// key between them.
#[must_use]
pub const fn randomness(key: [u64; 2], cookie: u64) -> u64 {
    mix(mix(cookie ^ key[0]).wrapping_add(key[1])) >> (u64::BITS - BITS)
}

/// The finalizer of `SplitMix64`, with Stafford's thirteenth set of constants.
const fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
