//! Keys with a fixed set of values, and the types of those values.

use acceptd_otlp::{Compression, Order, SpanKind, SyncPolicy};

use super::{kind::ValueKind, raw::Raw};

/// A set of values with names, in the order in which they are listed.
pub(super) trait Named: Copy + PartialEq + 'static {
    /// Every value with its name.
    const ALL: &'static [(&'static str, Self)];
}

/// One value of a [`Named`] set.
pub(super) struct Choice;

impl<T: Named> ValueKind<T> for Choice {
    fn expects(&self) -> String {
        format!("one of {}", join(names_of::<T>()))
    }

    fn read(&self, raw: &Raw) -> Result<T, String> {
        let text = raw.text().ok_or_else(|| ValueKind::<T>::mismatch(self, raw))?;
        find(text).ok_or_else(|| ValueKind::<T>::unfit(self, text))
    }

    fn write(&self, value: &T) -> toml::Value {
        name_of(*value).into()
    }
}

pub(super) fn find<T: Named>(text: &str) -> Option<T> {
    T::ALL.iter().find(|(name, _)| *name == text).map(|(_, value)| *value)
}

pub(super) fn names_of<T: Named>() -> impl Iterator<Item = &'static str> {
    T::ALL.iter().map(|(name, _)| *name)
}

pub(super) fn name_of<T: Named>(wanted: T) -> &'static str {
    // `ALL` has every value; the test `names_and_values_agree` checks that.
    T::ALL.iter().find(|(_, value)| *value == wanted).map_or("", |(name, _)| name)
}

fn join(names: impl Iterator<Item = &'static str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

/// The format of printed records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputFormat {
    /// One line a record, in aligned columns.
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
        names_of::<Self>()
    }
}

impl Named for OutputFormat {
    const ALL: &'static [(&'static str, Self)] =
        &[("columns", Self::Columns), ("json", Self::Json), ("otlp-json", Self::OtlpJson)];
}

/// The value that disables printing.
pub(super) const NO_OUTPUT: &str = "none";

/// An [`OutputFormat`], or [`NO_OUTPUT`].
pub(super) struct OptionalOutput;

impl ValueKind<Option<OutputFormat>> for OptionalOutput {
    fn expects(&self) -> String {
        format!("one of {NO_OUTPUT}, {}", join(OutputFormat::names()))
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

/// Which attributes the record of an accept has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Omits attributes that repeat on every record or only serve debugging.
    Standard,
    /// All attributes.
    Full,
}

impl Profile {
    /// The names, in the order in which they are listed.
    pub fn names() -> impl Iterator<Item = &'static str> {
        names_of::<Self>()
    }
}

impl Named for Profile {
    const ALL: &'static [(&'static str, Self)] = &[("standard", Self::Standard), ("full", Self::Full)];
}

/// The least severe level of the agent's own messages that is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// No messages.
    Off,
    /// Failures.
    Error,
    /// Also what is likely to fail, and what was ignored.
    Warn,
    /// Also the milestones of a run.
    Info,
    /// Also each decision.
    Debug,
    /// Also each step.
    Trace,
}

impl LogLevel {
    /// The level as a directive for `tracing_subscriber`'s `EnvFilter`.
    pub(crate) fn directive(self) -> &'static str {
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

/// Which tier captures accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CaptureTier {
    /// Tier 1 if the kernel supports it, else tier 2.
    Auto,
    /// Tier 1 (fentry and fexit programs); the start fails if the kernel does not support it.
    One,
    /// Tier 2 (tracepoints).
    Two,
}

impl Named for CaptureTier {
    const ALL: &'static [(&'static str, Self)] = &[("auto", Self::Auto), ("1", Self::One), ("2", Self::Two)];
}

/// The protocol of requests.
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
        names_of::<Self>()
    }
}

/// Whether the counts of the agent's metrics start at the start of the agent, or at the last export
/// (<https://opentelemetry.io/docs/specs/otel/metrics/sdk_exporters/otlp/>).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Temporality {
    /// At the start of the agent.
    Cumulative,
    /// At the last export.
    Delta,
    /// At the last export for synchronous instruments only. All instruments of the agent are asynchronous, so
    /// this is the same as [`Cumulative`](Self::Cumulative).
    LowMemory,
}

impl Named for Temporality {
    const ALL: &'static [(&'static str, Self)] =
        &[("cumulative", Self::Cumulative), ("delta", Self::Delta), ("lowmemory", Self::LowMemory)];
}

/// Which connections have a trace, by the names of OpenTelemetry's samplers. Each connection is the root of
/// its trace, so the parent-based samplers have no variant of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sampler {
    /// All connections.
    AlwaysOn,
    /// Only connections that waited longer than `traces.keep_slower_than`.
    AlwaysOff,
    /// The fraction `traces.ratio`, and connections that waited longer than `traces.keep_slower_than`.
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
    /// The whole address and the port.
    Full,
    /// The network of the address: the first 24 bits of IPv4, 48 of IPv6.
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

/// A [`Protocol`]. For a protocol that OpenTelemetry defines but acceptd does not support, the message says
/// so.
pub(super) struct ProtocolChoice;

impl ValueKind<Protocol> for ProtocolChoice {
    fn expects(&self) -> String {
        ValueKind::<Protocol>::expects(&Choice)
    }

    fn read(&self, raw: &Raw) -> Result<Protocol, String> {
        match raw.text() {
            Some("http/json") => Err(
                "\"http/json\" is not supported, because encoding it costs several times as much; use \"http/protobuf\", which every receiver of http/json accepts"
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
            assert_ne!(level.directive(), "");
        }
    }
}
