//! Histograms of durations, exported as OTLP exponential buckets and as classic Prometheus buckets.
//!
//! The OpenTelemetry SDK's histograms do not fit: a series cannot be removed when its listener closes, and
//! counts from the kernel cannot be added.

use acceptd_common::histogram::{BUCKETS, OFFSET, SCALE, bucket};

const STEPS: usize = 1 << SCALE;
const NANOS_PER_SECOND: f64 = 1e9;

/// Counts of durations in the buckets of [`acceptd_common::histogram`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DurationHistogram {
    count: u64,
    total_ns: u64,
    buckets: Box<[u64; BUCKETS]>,
}

impl Default for DurationHistogram {
    fn default() -> Self {
        Self { count: 0, total_ns: 0, buckets: Box::new([0; BUCKETS]) }
    }
}

/// Buckets of an OTLP exponential histogram, from the first to the last bucket that is not empty.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ExponentialBuckets<'a> {
    /// Index of the first bucket.
    pub(crate) offset: i32,
    /// Count of each bucket.
    pub(crate) counts: &'a [u64],
}

impl DurationHistogram {
    /// Adds one duration, in nanoseconds.
    pub(crate) fn record(&mut self, nanos: u64) {
        self.count += 1;
        self.total_ns = self.total_ns.saturating_add(nanos);
        self.buckets[bucket(nanos)] += 1;
    }

    /// Adds counts from elsewhere, bucket by bucket, and the sum of their durations in nanoseconds.
    pub(crate) fn add(&mut self, total_ns: u64, buckets: impl IntoIterator<Item = u64>) {
        self.total_ns = self.total_ns.saturating_add(total_ns);
        for (own, count) in self.buckets.iter_mut().zip(buckets) {
            *own += count;
            self.count += count;
        }
    }

    /// The durations that were added after the state `before` of the same histogram.
    #[must_use]
    pub(crate) fn delta_since(&self, before: &Self) -> Self {
        let mut delta = self.clone();
        delta.count = self.count.saturating_sub(before.count);
        delta.total_ns = self.total_ns.saturating_sub(before.total_ns);
        for (own, before) in delta.buckets.iter_mut().zip(before.buckets.iter()) {
            *own = own.saturating_sub(*before);
        }
        delta
    }

    /// Number of durations.
    #[must_use]
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Sum of the durations in seconds.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        reason = "above 2^53 ns the rounding error is far smaller than a bucket"
    )]
    pub(crate) fn sum(&self) -> f64 {
        self.total_ns as f64 / NANOS_PER_SECOND
    }

    /// The buckets of an OTLP exponential histogram with scale [`SCALE`].
    #[must_use]
    pub(crate) fn otlp_buckets(&self) -> ExponentialBuckets<'_> {
        let is_some = |count: &u64| *count > 0;
        let first = self.buckets.iter().position(is_some).unwrap_or(0);
        let end = self.buckets.iter().rposition(is_some).map_or(first, |last| last + 1);
        let offset = OFFSET + i32::try_from(first).unwrap_or(i32::MAX);
        ExponentialBuckets { offset, counts: &self.buckets[first..end] }
    }

    /// The buckets of a classic Prometheus histogram: upper bounds in seconds, from 2^-13 (122 µs) to 2^6 (64
    /// s), each with the count of durations between it and the bound before (not cumulative). The last
    /// bucket, with bound `f64::MAX`, has the rest.
    pub(crate) fn prometheus_buckets(&self) -> impl Iterator<Item = (f64, u64)> {
        const BOUNDS: std::ops::RangeInclusive<i32> = -13..=6;
        let end_of = |exponent: i32| usize::try_from(exponent * (1 << SCALE) - OFFSET).unwrap_or(0);
        let bounds = BOUNDS.map(move |exponent| (exponent, f64::from(exponent).exp2()));
        let mut start = 0;
        bounds.map(move |(exponent, bound)| (end_of(exponent), bound)).chain([(BUCKETS, f64::MAX)]).map(
            move |(end, bound)| {
                let count = self.buckets[start..end].iter().sum();
                start = end;
                (bound, count)
            },
        )
    }
}

const _: () = assert!(BUCKETS.is_multiple_of(STEPS));

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, Mutex, PoisonError},
        time::Duration,
    };

    use opentelemetry::metrics::MeterProvider as _;
    use opentelemetry_sdk::{
        error::OTelSdkResult,
        metrics::{
            Aggregation, Instrument, SdkMeterProvider, Stream, Temporality,
            data::{AggregatedMetrics, MetricData, ResourceMetrics, ScopeMetrics},
            exporter::PushMetricExporter,
        },
    };
    use proptest::prelude::*;

    use super::*;

    /// Buckets that are not empty: OTLP index and count.
    type Indexed = Vec<(i32, u64)>;

    fn indexed(offset: i32, counts: impl IntoIterator<Item = u64>) -> Indexed {
        (offset..).zip(counts).filter(|(_, count)| *count > 0).collect()
    }

    /// An exporter that keeps the buckets of the only histogram.
    #[derive(Clone, Default)]
    struct Keeper(Arc<Mutex<Indexed>>);

    impl PushMetricExporter for Keeper {
        #[expect(clippy::unused_async_trait_impl, reason = "the SDK's trait is async")]
        async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
            let metric = metrics.scope_metrics().flat_map(ScopeMetrics::metrics).next().expect("one");
            let AggregatedMetrics::F64(MetricData::ExponentialHistogram(data)) = metric.data() else {
                panic!("{metric:?}")
            };
            let point = data.data_points().next().expect("one");
            assert_eq!(u32::try_from(point.scale()), Ok(SCALE), "{point:?}");
            let buckets = point.positive_bucket();
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) =
                indexed(buckets.offset(), buckets.counts());
            Ok(())
        }

        fn force_flush(&self) -> OTelSdkResult {
            Ok(())
        }

        fn shutdown_with_timeout(&self, _timeout: Duration) -> OTelSdkResult {
            Ok(())
        }

        fn temporality(&self) -> Temporality {
            Temporality::Cumulative
        }
    }

    /// The buckets of the SDK's histogram at the same scale.
    fn sdk_buckets(seconds: &[f64]) -> Indexed {
        let view = |_: &Instrument| {
            let max_scale = i8::try_from(SCALE).expect("small");
            let aggregation =
                Aggregation::Base2ExponentialHistogram { max_size: 160, max_scale, record_min_max: false };
            Stream::builder().with_aggregation(aggregation).build().ok()
        };
        let keeper = Keeper::default();
        let provider =
            SdkMeterProvider::builder().with_periodic_exporter(keeper.clone()).with_view(view).build();
        let histogram = provider.meter("test").f64_histogram("test").build();
        for seconds in seconds {
            histogram.record(*seconds, &[]);
        }
        provider.shutdown().expect("it exports");
        keeper.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    #[expect(clippy::cast_precision_loss, reason = "below 2^53")]
    fn seconds(nanos: u64) -> f64 {
        nanos as f64 / NANOS_PER_SECOND
    }

    fn histogram(nanos: &[u64]) -> DurationHistogram {
        let mut histogram = DurationHistogram::default();
        for nanos in nanos {
            histogram.record(*nanos);
        }
        histogram
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Durations close to a bucket's bound are left out, because rounding may put them into different
        /// buckets.
        #[test]
        fn buckets_are_those_of_the_sdk(nanos in proptest::collection::vec(2_000_u64..10_000_000_000_000, 1..40)) {
            let away_from_bounds = |nanos: &u64| {
                let place = seconds(*nanos).log2() * f64::from(1 << SCALE);
                (place - place.round()).abs() > 1e-3
            };
            let nanos: Vec<u64> = nanos.into_iter().filter(away_from_bounds).collect();
            prop_assume!(!nanos.is_empty());
            let theirs = sdk_buckets(&nanos.iter().map(|nanos| seconds(*nanos)).collect::<Vec<_>>());
            let histogram = histogram(&nanos);
            let ExponentialBuckets { offset, counts } = histogram.otlp_buckets();
            prop_assert_eq!(indexed(offset, counts.iter().copied()), theirs);
        }

        #[test]
        fn any_duration_has_a_bucket(nanos: u64) {
            let histogram = histogram(&[nanos]);
            prop_assert_eq!(histogram.otlp_buckets().counts, &[1]);
            prop_assert_eq!(histogram.prometheus_buckets().map(|(_, count)| count).sum::<u64>(), 1);
            let (bound, _) = histogram.prometheus_buckets().find(|(_, count)| *count > 0).expect("one");
            prop_assert!(seconds(nanos) <= bound * 1.0001, "{} {}", nanos, bound);
            let below = bound / 2.0;
            prop_assert!(!(1.3e-4..f64::MAX).contains(&bound) || seconds(nanos) >= below * 0.9999, "{} {}", nanos, bound);
        }
    }

    #[test]
    fn the_delta_of_two_states_is_a_histogram() {
        let before = histogram(&[1_000_000]);
        let mut after = before.clone();
        after.record(300_000_000);
        let delta = after.delta_since(&before);
        assert_eq!(delta, histogram(&[300_000_000]));
        let mut sum = before.clone();
        sum.add(300_000_000, delta.buckets.iter().copied());
        assert_eq!(sum, after);
        assert_eq!((after.count(), after.sum()), (2, 0.301));
    }
}
