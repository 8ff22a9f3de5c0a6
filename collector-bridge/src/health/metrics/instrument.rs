//! The definition of a metric: its name, how its values add up, and how they are read from a snapshot.

use acceptd_otlp::names::MetricName;

use crate::health::snapshot::HealthSnapshot;

/// How the values of a metric add up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Instrument {
    /// A count that only grows, from the start of the agent.
    Counter,
    /// A time, in seconds, that only grows.
    TimeCounter,
    /// A count that grows and shrinks. Its sum over all attributes, and over agents, has a meaning.
    UpDownCounter,
    /// A time, in seconds, whose sum has no meaning.
    Gauge,
}

/// One value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Amount {
    /// A count.
    Count(u64),
    /// A time.
    Seconds(f64),
}

/// The value of an attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Label<'a> {
    /// A string.
    Text(&'a str),
    /// An integer.
    Number(i64),
    /// A boolean.
    Flag(bool),
}

/// The attributes of one value.
pub(super) type MetricAttributes<'a> = &'a [(&'static str, Label<'a>)];

/// Receives each value of a metric with its attributes.
pub(super) type Observe<'a> = &'a mut dyn FnMut(Amount, MetricAttributes<'_>);

/// One metric, as the registry of semantic conventions defines it.
#[derive(Debug)]
pub(super) struct Metric {
    /// Its name, unit and description.
    pub(super) name: MetricName,
    /// How its values add up.
    pub(super) instrument: Instrument,
    /// Reads its values from a snapshot.
    pub(super) observe: fn(&HealthSnapshot, Observe<'_>),
}

impl Metric {
    /// Calls `each` for every value in `snapshot`.
    pub(super) fn values(
        &self,
        snapshot: &HealthSnapshot,
        mut each: impl FnMut(Amount, MetricAttributes<'_>),
    ) {
        (self.observe)(snapshot, &mut each);
    }

    pub(super) const fn counter(name: MetricName, observe: fn(&HealthSnapshot, Observe<'_>)) -> Self {
        Self { name, instrument: Instrument::Counter, observe }
    }

    pub(super) const fn up_down(name: MetricName, observe: fn(&HealthSnapshot, Observe<'_>)) -> Self {
        Self { name, instrument: Instrument::UpDownCounter, observe }
    }
}
