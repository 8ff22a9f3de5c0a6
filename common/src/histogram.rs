//! The buckets of durations that the programs and the agent count in: an exponential histogram of a fixed
//! scale.

/// Each bucket's bound is 2^(2^-SCALE) times the one before, 19 % more
/// (opentelemetry/proto/metrics/v1/metrics.proto, `ExponentialHistogramDataPoint`).
pub const SCALE: u32 = 2;

/// Buckets of a doubling.
const STEPS: u32 = 1 << SCALE;

/// The first bucket also holds shorter durations: everything up to 2^-20 s, a microsecond.
const FIRST_DOUBLING: u32 = 20;

/// The last bucket also holds longer durations: everything beyond 2^14 s, four and a half hours.
const DOUBLINGS: u32 = 34;

/// Number of buckets.
pub const BUCKETS: usize = (DOUBLINGS * STEPS) as usize;

/// OpenTelemetry's index of the first bucket: bucket `i` here is `i + OFFSET` there.
pub const OFFSET: i32 = -(FIRST_DOUBLING * STEPS).cast_signed();

/// 2^42 / 10^9: nanoseconds times this are seconds in units of 2^-42, too small by a hundred-thousandth.
const UNIT: u64 = 4398;
const UNIT_BITS: u32 = 42;

/// 2^(1/4), 2^(2/4) and 2^(3/4) in units of 2^-16.
const QUARTERS: [u64; 3] = [77_936, 92_682, 110_218];

/// The index of the bucket for a duration in nanoseconds. Bounds are exact to a hundred-thousandth.
#[must_use]
pub const fn bucket(nanos: u64) -> usize {
    // Keeps the multiplication from overflowing. Longer durations are in the last bucket in any case.
    let longest = 1 << 48;
    let seconds = if nanos > longest { longest } else { nanos } * UNIT;
    let first = 1 << (UNIT_BITS - FIRST_DOUBLING);
    if seconds < first {
        return 0;
    }
    let doubling = seconds.ilog2();
    // From 1 to 2, in units of 2^-16.
    let within = if doubling >= 16 { seconds >> (doubling - 16) } else { seconds << (16 - doubling) };
    let step = (within >= QUARTERS[0]) as usize
        + (within >= QUARTERS[1]) as usize
        + (within >= QUARTERS[2]) as usize;
    let index = (doubling + FIRST_DOUBLING - UNIT_BITS) as usize * STEPS as usize + step;
    if index < BUCKETS { index } else { BUCKETS - 1 }
}
