//! The three signals of OTLP, and their names and numbers on the wire and in the spool.

use std::fmt;

use http::uri::PathAndQuery;

/// The signal of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Signal {
    /// `ExportLogsServiceRequest`
    Logs,
    /// `ExportTraceServiceRequest`
    Traces,
    /// `ExportMetricsServiceRequest`
    Metrics,
}

impl fmt::Display for Signal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Logs => "logs",
            Self::Traces => "traces",
            Self::Metrics => "metrics",
        })
    }
}

impl Signal {
    /// The path of the signal's gRPC method.
    pub(crate) const fn method(self) -> PathAndQuery {
        PathAndQuery::from_static(match self {
            Self::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
            Self::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
            Self::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
        })
    }

    /// The path that OTLP/HTTP appends to a base endpoint.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Self::Logs => "/v1/logs",
            Self::Traces => "/v1/traces",
            Self::Metrics => "/v1/metrics",
        }
    }

    /// The noun for the items of a request, for messages.
    #[must_use]
    pub(crate) const fn items(self) -> &'static str {
        match self {
            Self::Logs => "records",
            Self::Traces => "spans",
            Self::Metrics => "metrics",
        }
    }

    /// The kind of the signal's frames in a spool. It is part of the file format: never change it.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Logs => 1,
            Self::Traces => 2,
            Self::Metrics => 3,
        }
    }

    /// The signal of a frame's kind; `None` for a kind that only a newer version of acceptd knows.
    pub(crate) const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Logs),
            2 => Some(Self::Traces),
            3 => Some(Self::Metrics),
            _ => None,
        }
    }
}
