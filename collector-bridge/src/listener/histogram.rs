//! Times in buckets: what is counted here and by the programs in the kernel, as OTLP and as Prometheus have it.
//!
//! The SDK has histograms, too, but none that a listener which closed can leave, and none that counts in the kernel.

use acceptd_common::histogram::{BUCKETS, OFFSET, SCALE, bucket};

const STEPS: usize = 1 << SCALE;
const NANOS_PER_SECOND: f64 = 1e9;

/// How many took how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram {
    count: u64,
    total_ns: u64,
    buckets: Box<[u64; BUCKETS]>,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { count: 0, total_ns: 0, buckets: Box::new([0; BUCKETS]) }
    }
}

/// The buckets of OTLP from the first to the last one that is not empty.
#[derive(Debug, PartialEq, Eq)]
pub struct Exponential<'a> {
    /// Index of the first.
    pub offset: i32,
    /// Their counts.
    pub counts: &'a [u64],
}

impl Histogram {
    /// Adds one time.
    pub fn record(&mut self, nanos: u64) {
        self.count += 1;
        self.total_ns = self.total_ns.saturating_add(nanos);
        self.buckets[bucket(nanos)] += 1;
    }

    /// Adds what was counted elsewhere, bucket by bucket.
    pub fn add(&mut self, total_ns: u64, buckets: impl IntoIterator<Item = u64>) {
        self.total_ns = self.total_ns.saturating_add(total_ns);
        for (own, count) in self.buckets.iter_mut().zip(buckets) {
            *own += count;
            self.count += count;
        }
    }

    /// What was added since it was `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let mut since = self.clone();
        since.count = self.count.saturating_sub(before.count);
        since.total_ns = self.total_ns.saturating_sub(before.total_ns);
        for (own, before) in since.buckets.iter_mut().zip(before.buckets.iter()) {
            *own = own.saturating_sub(*before);
        }
        since
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Seconds, together.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        reason = "what is lost of 2^53 ns is less than what the buckets lose"
    )]
    pub fn sum(&self) -> f64 {
        self.total_ns as f64 / NANOS_PER_SECOND
    }

    /// As OTLP has them, at [`SCALE`].
    #[must_use]
    pub fn exponential(&self) -> Exponential<'_> {
        let is_some = |count: &u64| *count > 0;
        let first = self.buckets.iter().position(is_some).unwrap_or(0);
        let end = self.buckets.iter().rposition(is_some).map_or(first, |last| last + 1);
        let offset = OFFSET + i32::try_from(first).unwrap_or(i32::MAX);
        Exponential { offset, counts: &self.buckets[first..end] }
    }

    /// As Prometheus has them: upper bounds in seconds, from 2^-13 (122 µs) to 2^6 (64 s), each with the count of what lies
    /// between it and the one before; beyond is infinity.
    pub fn classic(&self) -> impl Iterator<Item = (f64, u64)> {
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

    /// What is not empty, by the index that OTLP has for it.
    type Indexed = Vec<(i32, u64)>;

    fn indexed(offset: i32, counts: impl IntoIterator<Item = u64>) -> Indexed {
        (offset..).zip(counts).filter(|(_, count)| *count > 0).collect()
    }

    /// Keeps the buckets of the only histogram.
    #[derive(Clone, Default)]
    struct Keeper(Arc<Mutex<Indexed>>);

    impl PushMetricExporter for Keeper {
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

    /// Buckets of the SDK at the same scale.
    fn of_the_sdk(seconds: &[f64]) -> Indexed {
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

    fn of(nanos: &[u64]) -> Histogram {
        let mut histogram = Histogram::default();
        for nanos in nanos {
            histogram.record(*nanos);
        }
        histogram
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Near a bound one of them may be on the other side: those are not compared.
        #[test]
        fn buckets_are_those_of_the_sdk(nanos in proptest::collection::vec(2_000_u64..10_000_000_000_000, 1..40)) {
            let away_from_bounds = |nanos: &u64| {
                let place = seconds(*nanos).log2() * f64::from(1 << SCALE);
                (place - place.round()).abs() > 1e-3
            };
            let nanos: Vec<u64> = nanos.into_iter().filter(away_from_bounds).collect();
            prop_assume!(!nanos.is_empty());
            let theirs = of_the_sdk(&nanos.iter().map(|nanos| seconds(*nanos)).collect::<Vec<_>>());
            let histogram = of(&nanos);
            let Exponential { offset, counts } = histogram.exponential();
            prop_assert_eq!(indexed(offset, counts.iter().copied()), theirs);
        }

        #[test]
        fn any_time_has_a_bucket(nanos: u64) {
            let histogram = of(&[nanos]);
            prop_assert_eq!(histogram.exponential().counts, &[1]);
            prop_assert_eq!(histogram.classic().map(|(_, count)| count).sum::<u64>(), 1);
            let (bound, _) = histogram.classic().find(|(_, count)| *count > 0).expect("one");
            prop_assert!(seconds(nanos) <= bound * 1.0001, "{} {}", nanos, bound);
            let below = bound / 2.0;
            prop_assert!(!(1.3e-4..f64::MAX).contains(&bound) || seconds(nanos) >= below * 0.9999, "{} {}", nanos, bound);
        }
    }

    #[test]
    fn what_was_added_since_is_a_histogram_again() {
        let before = of(&[1_000_000]);
        let mut after = before.clone();
        after.record(300_000_000);
        let since = after.since(&before);
        assert_eq!(since, of(&[300_000_000]));
        let mut sum = before.clone();
        sum.add(300_000_000, since.buckets.iter().copied());
        assert_eq!(sum, after);
        assert_eq!((after.count(), after.sum()), (2, 0.301));
    }
}
