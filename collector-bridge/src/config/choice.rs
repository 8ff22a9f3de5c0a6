//! Keys with a fixed set of values.

use acceptd_otlp::{Compression, Order, SpanKind, SyncPolicy};

use super::{kind::Kind, raw::Raw};

/// A set of values with names, in the order in which they are listed.
pub(super) trait Named: Copy + PartialEq + 'static {
    /// Every value with its name.
    const ALL: &'static [(&'static str, Self)];
}

/// One of a [`Named`] set.
pub(super) struct Choice;

impl<T: Named> Kind<T> for Choice {
    fn expects(&self) -> String {
        format!("one of {}", list(names::<T>()))
    }

    fn read(&self, raw: &Raw) -> Result<T, String> {
        let text = raw.text().ok_or_else(|| Kind::<T>::mismatch(self, raw))?;
        find(text).ok_or_else(|| Kind::<T>::unfit(self, text))
    }

    fn write(&self, value: &T) -> toml::Value {
        name_of(*value).into()
    }
}

fn find<T: Named>(text: &str) -> Option<T> {
    T::ALL.iter().find(|(name, _)| *name == text).map(|(_, value)| *value)
}

fn names<T: Named>() -> impl Iterator<Item = &'static str> {
    T::ALL.iter().map(|(name, _)| *name)
}

fn name_of<T: Named>(wanted: T) -> &'static str {
    // Every value stands in its own list; a test holds each of them to it.
    T::ALL.iter().find(|(_, value)| *value == wanted).map_or("", |(name, _)| name)
}

fn list(names: impl Iterator<Item = &'static str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

/// How printed records look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputFormat {
    /// One aligned line a record, for eyes.
    Columns,
    /// One flat JSON object a line, attribute names as keys.
    Json,
    /// OTLP's JSON encoding, one request a line.
    OtlpJson,
}

impl OutputFormat {
    /// The format called `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        find(name)
    }

    /// The names, in the order in which they are listed.
    pub fn names() -> impl Iterator<Item = &'static str> {
        names::<Self>()
    }
}

impl Named for OutputFormat {
    const ALL: &'static [(&'static str, Self)] =
        &[("columns", Self::Columns), ("json", Self::Json), ("otlp-json", Self::OtlpJson)];
}

/// The name that switches printing off.
pub(super) const NO_OUTPUT: &str = "none";

/// An [`OutputFormat`], or [`NO_OUTPUT`].
pub(super) struct OptionalOutput;

impl Kind<Option<OutputFormat>> for OptionalOutput {
    fn expects(&self) -> String {
        format!("one of {NO_OUTPUT}, {}", list(OutputFormat::names()))
    }

    fn read(&self, raw: &Raw) -> Result<Option<OutputFormat>, String> {
        match raw.text().ok_or_else(|| self.mismatch(raw))? {
            NO_OUTPUT => Ok(None),
            name => OutputFormat::from_name(name).map(Some).ok_or_else(|| self.unfit(name)),
        }
    }

    fn write(&self, value: &Option<OutputFormat>) -> toml::Value {
        value.map_or(NO_OUTPUT, name_of).into()
    }
}

/// Which attributes a record of an accept carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Without what repeats on every record or serves debugging only.
    Standard,
    /// Everything that is known.
    Full,
}

impl Profile {
    /// The names, in the order in which they are listed.
    pub fn names() -> impl Iterator<Item = &'static str> {
        names::<Self>()
    }
}

impl Named for Profile {
    const ALL: &'static [(&'static str, Self)] = &[("standard", Self::Standard), ("full", Self::Full)];
}

/// How much the agent says about itself on standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// What failed.
    Error,
    /// And what is likely to fail or was ignored.
    Warn,
    /// And the milestones of a run.
    Info,
    /// And each decision.
    Debug,
    /// And each step.
    Trace,
}

impl LogLevel {
    /// The level as a directive for `tracing_subscriber`'s `EnvFilter`.
    pub fn filter(self) -> &'static str {
        name_of(self)
    }
}

impl Named for LogLevel {
    const ALL: &'static [(&'static str, Self)] = &[
        ("off", Self::Off),
        ("error", Self::Error),
        ("warn", Self::Warn),
        ("info", Self::Info),
        ("debug", Self::Debug),
        ("trace", Self::Trace),
    ];
}

/// How accepts are captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CaptureTier {
    /// In the first tier that the kernel allows.
    Auto,
    /// With fentry and fexit, or not at all.
    One,
    /// With tracepoints.
    Two,
}

impl Named for CaptureTier {
    const ALL: &'static [(&'static str, Self)] = &[("auto", Self::Auto), ("1", Self::One), ("2", Self::Two)];
}

/// How requests travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// OTLP over gRPC (HTTP/2).
    Grpc,
    /// OTLP over HTTP with protobuf.
    Http,
}

impl Named for Protocol {
    const ALL: &'static [(&'static str, Self)] = &[("grpc", Self::Grpc), ("http/protobuf", Self::Http)];
}

impl Protocol {
    /// The names, in the order in which they are listed.
    pub fn names() -> impl Iterator<Item = &'static str> {
        names::<Self>()
    }
}

/// Whether counts grow from the start of the agent, or from one export to the next
/// (<https://opentelemetry.io/docs/specs/otel/metrics/sdk_exporters/otlp/>).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Temporality {
    /// From the start.
    Cumulative,
    /// From the last export.
    Delta,
    /// From the last export where that needs no memory: as cumulative for what is only observed, as all of the agent's is.
    LowMemory,
}

impl Named for Temporality {
    const ALL: &'static [(&'static str, Self)] =
        &[("cumulative", Self::Cumulative), ("delta", Self::Delta), ("lowmemory", Self::LowMemory)];
}

/// Which connections have a trace, by the name that OpenTelemetry gives the sampler. Each is the root of its trace: those that ask
/// a parent first are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sampler {
    /// All of them.
    AlwaysOn,
    /// None, but those that waited long.
    AlwaysOff,
    /// A part of them.
    Ratio,
}

impl Named for Sampler {
    const ALL: &'static [(&'static str, Self)] =
        &[("always_on", Self::AlwaysOn), ("always_off", Self::AlwaysOff), ("traceidratio", Self::Ratio)];
}

impl Named for SpanKind {
    const ALL: &'static [(&'static str, Self)] = &[("internal", Self::Internal), ("server", Self::Server)];
}

/// How much of a peer's address is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerAddress {
    /// All of it.
    Full,
    /// The network that it is in: 24 bits of IPv4, 48 of IPv6.
    Prefix,
    /// Neither address nor port.
    Off,
}

impl Named for PeerAddress {
    const ALL: &'static [(&'static str, Self)] =
        &[("full", Self::Full), ("prefix", Self::Prefix), ("off", Self::Off)];
}

impl Named for Compression {
    const ALL: &'static [(&'static str, Self)] =
        &[("none", Self::None), ("gzip", Self::Gzip), ("zstd", Self::Zstd)];
}

impl Named for SyncPolicy {
    const ALL: &'static [(&'static str, Self)] =
        &[("always", Self::Always), ("interval", Self::Interval), ("never", Self::Never)];
}

impl Named for Order {
    const ALL: &'static [(&'static str, Self)] =
        &[("oldest_first", Self::OldestFirst), ("interleaved", Self::Interleaved)];
}

/// A [`Protocol`]; those that OpenTelemetry knows and this build does not are told from nonsense.
pub(super) struct ProtocolChoice;

impl Kind<Protocol> for ProtocolChoice {
    fn expects(&self) -> String {
        Kind::<Protocol>::expects(&Choice)
    }

    fn read(&self, raw: &Raw) -> Result<Protocol, String> {
        match raw.text() {
            Some("http/json") => Err(
                "\"http/json\" is not built: it costs several times as much; use \"http/protobuf\", which every receiver of it takes"
                    .to_owned(),
            ),
            _ => Choice.read(raw),
        }
    }

    fn write(&self, value: &Protocol) -> toml::Value {
        Choice.write(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_name_reads_back<T: Named + std::fmt::Debug>() {
        for (name, value) in T::ALL {
            assert_eq!(Choice.read(&Raw::Text((*name).to_owned())), Ok(*value));
            assert_eq!(Choice.write(value).as_str(), Some(*name));
        }
    }

    #[test]
    fn names_and_values_agree() {
        every_name_reads_back::<OutputFormat>();
        every_name_reads_back::<Profile>();
        every_name_reads_back::<LogLevel>();
        every_name_reads_back::<CaptureTier>();
        every_name_reads_back::<Compression>();
        every_name_reads_back::<Protocol>();
        every_name_reads_back::<SyncPolicy>();
        every_name_reads_back::<Order>();
        every_name_reads_back::<Temporality>();
        every_name_reads_back::<Sampler>();
        every_name_reads_back::<SpanKind>();
        for level in [LogLevel::Off, LogLevel::Warn, LogLevel::Trace] {
            assert_ne!(level.filter(), "");
        }
    }
}
