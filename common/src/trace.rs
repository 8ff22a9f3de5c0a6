//! The randomness of a connection: the programs decide by it whether the connection has a trace, and the
//! agent makes the trace's id from it.

/// Bits of the randomness, as OpenTelemetry's probability sampling defines it
/// (<https://opentelemetry.io/docs/specs/otel/trace/tracestate-probability-sampling/>).
pub const BITS: u32 = 56;

/// A threshold above all randomness: no connection has a trace.
pub const NEVER: u64 = 1 << BITS;

/// The random part of the trace id of the connection with this cookie, uniform below [`NEVER`]. `key` is of
/// this host and boot, and secret: without it, a client cannot choose connections that get a trace.
///
/// Each round spreads every bit over both halves of the word by multiplications and shifts. There are two
/// rounds, with the second half of the key added between them.
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
