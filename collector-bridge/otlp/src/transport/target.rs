//! Where requests are sent, and the settings of the connection.

use std::{fmt, path::PathBuf, time::Duration};

use thiserror::Error;

use super::connect::{Tls, TlsError};
use crate::compression::Compression;

/// A destination of requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// An OTLP/gRPC server: `host:port`, `http://host:port` or `https://host:port`.
    Grpc(String),
    /// An OTLP/HTTP server with protobuf bodies: the whole URL for one signal, path included.
    Http(String),
    /// A file of OTLP JSON lines.
    File(PathBuf),
}

impl Target {
    /// `otel.component.type` of an exporter of logs to this target.
    #[must_use]
    pub const fn component_type(&self) -> &'static str {
        match self {
            Self::Grpc(_) => "otlp_grpc_log_exporter",
            Self::Http(_) => "otlp_http_log_exporter",
            Self::File(_) => "otlp_file_log_exporter",
        }
    }
}

/// The target as the subject of a sentence, as in "the Collector at localhost:4317 does not accept records".
impl fmt::Display for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Grpc(endpoint) | Self::Http(endpoint) => write!(out, "the Collector at {endpoint}"),
            Self::File(path) => write!(out, "the file {}", path.display()),
        }
    }
}

/// The settings of the connection to a target. A file target ignores them.
#[derive(Debug, Clone, Default)]
pub struct TransportSettings {
    /// Headers that are sent with every request: name and value.
    pub headers: Vec<(String, String)>,
    /// TLS settings for `https`.
    pub tls: Tls,
    /// Compression of the request body.
    pub compression: Compression,
    /// Deadline of a TCP connect.
    pub timeout: Duration,
}

/// A target or a setting that is invalid.
#[derive(Debug, Error)]
pub enum TransportError {
    /// The endpoint is not a valid address.
    #[error("`{endpoint}` is not an endpoint: {cause}; use host:port, http://host:port or https://host:port")]
    Endpoint {
        /// The endpoint as it was configured.
        endpoint: String,
        /// Why it is invalid.
        cause: String,
    },
    /// The header is invalid. The message does not show its value, which may be a secret.
    #[error("the header `{0}` cannot be sent: its name or value has characters that HTTP does not allow")]
    Header(String),
    /// A certificate or key is unusable.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The file cannot be opened for writing.
    #[error(
        "{path} cannot be opened for writing: {cause}; create its folder, or make it writable for acceptd"
    )]
    File {
        /// The path of the file.
        path: String,
        /// The error of open(2).
        cause: std::io::Error,
    },
}
