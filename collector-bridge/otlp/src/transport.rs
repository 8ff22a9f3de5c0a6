//! One attempt: a request's bytes on their way, and what the answer means.

mod channel;
mod connect;
mod file;
mod grpc;
mod http;

use std::{fmt, path::PathBuf, time::Duration};

pub use connect::{Tls, TlsError};
use thiserror::Error;

use crate::{batch::Batch, causes::causes, compression::Compression, retry::Verdict, signal::Signal};

/// Larger answers are not read: an answer is a few bytes.
const MAX_ANSWER_BYTES: usize = 4 << 20;

/// Where requests go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A server of OTLP/gRPC: `http://host:port` or `https://host:port`.
    Grpc(String),
    /// A server of OTLP/HTTP with protobuf: the URL for one signal, path and all.
    Http(String),
    /// A file of OTLP JSON lines.
    File(PathBuf),
}

impl Target {
    /// `otel.component.type` of an exporter of logs to it.
    #[must_use]
    pub const fn component_type(&self) -> &'static str {
        match self {
            Self::Grpc(_) => "otlp_grpc_log_exporter",
            Self::Http(_) => "otlp_http_log_exporter",
            Self::File(_) => "otlp_file_log_exporter",
        }
    }
}

/// As in "the Collector at localhost:4317 does not take records".
impl fmt::Display for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Grpc(endpoint) | Self::Http(endpoint) => write!(out, "the Collector at {endpoint}"),
            Self::File(path) => write!(out, "the file {}", path.display()),
        }
    }
}

/// How requests travel.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Sent with every request.
    pub headers: Vec<(String, String)>,
    /// For `https`.
    pub tls: Tls,
    /// Of what is sent.
    pub compression: Compression,
    /// To connect.
    pub timeout: Duration,
}

/// A target or setting that cannot be used at all.
#[derive(Debug, Error)]
pub enum TransportError {
    /// Not an address.
    #[error("`{endpoint}` is not an endpoint: {cause}; use host:port, http://host:port or https://host:port")]
    Endpoint {
        /// What was given.
        endpoint: String,
        /// Why it cannot be used.
        cause: String,
    },
    /// Not a header. The value is a secret and not shown.
    #[error("the header `{0}` cannot be sent: its name or value has characters that HTTP does not allow")]
    Header(String),
    /// Certificates or keys.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The file cannot be written.
    #[error(
        "{path} cannot be opened for writing: {cause}; create its folder, or make it writable for acceptd"
    )]
    File {
        /// Its path.
        path: String,
        /// Why.
        cause: std::io::Error,
    },
}

/// A request that was taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Accepted {
    /// Of its items, not taken for good (`partial_success`).
    pub(crate) rejected: u64,
    /// What the server says of that; alone it is a warning.
    pub(crate) message: String,
}

/// A request that was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    /// What to do with it.
    pub(crate) verdict: Verdict,
    /// Why, in words.
    pub(crate) reason: String,
}

impl Refused {
    /// It would be refused again.
    fn for_good(reason: impl Into<String>) -> Self {
        Self { verdict: Verdict::Drop, reason: reason.into() }
    }

    /// The way there failed, not the server.
    fn by_the_way(error: &dyn std::error::Error) -> Self {
        Self { verdict: Verdict::Retry, reason: causes(error) }
    }
}

/// A way to one target. Cloning shares its connections.
#[derive(Debug, Clone)]
pub(crate) enum Transport {
    Grpc(Box<grpc::Client>),
    Http(Box<http::Client>),
    File(file::Client),
    #[cfg(test)]
    Scripted(scripted::Client),
}

impl Transport {
    /// Nothing is resolved or connected here: that is done, and retried, with each request.
    pub(crate) fn new(target: &Target, settings: &Settings) -> Result<Self, TransportError> {
        Ok(match target {
            Target::Grpc(endpoint) => Self::Grpc(Box::new(grpc::Client::new(endpoint, settings)?)),
            Target::Http(url) => Self::Http(Box::new(http::Client::new(url, settings)?)),
            Target::File(path) => Self::File(file::Client::new(path)?),
        })
    }

    pub(crate) async fn send(&mut self, batch: &Batch) -> Result<Accepted, Refused> {
        match self {
            Self::Grpc(client) => client.send(batch.signal, &batch.request).await,
            Self::Http(client) => client.send(&batch.request).await,
            Self::File(client) => client.send(batch).await,
            #[cfg(test)]
            Self::Scripted(client) => client.send(),
        }
    }

    /// Gives up the connection: the next request makes a new one. For a connection that swallows requests, which TCP itself
    /// notices only after many minutes.
    pub(crate) fn reconnect(&mut self) {
        if let Self::Grpc(client) = self {
            client.reconnect();
        }
    }
}

/// Sends a request without items, which a Collector acknowledges: whether it takes this signal.
///
/// # Errors
/// Why not, in words.
pub async fn probe(
    target: &Target,
    settings: &Settings,
    signal: Signal,
    timeout: Duration,
) -> Result<(), String> {
    let mut transport = Transport::new(target, settings).map_err(|error| error.to_string())?;
    if matches!(transport, Transport::File(_)) {
        // It was opened, and a request without items is a line there.
        return Ok(());
    }
    let empty = Batch { signal, request: bytes::Bytes::new(), records: 0 };
    match tokio::time::timeout(timeout, transport.send(&empty)).await {
        Ok(answer) => answer.map(drop).map_err(|refused| refused.reason),
        Err(_) => Err(format!("no answer within {timeout:?}")),
    }
}

/// Answers without a network, for tests of time: it is a matter of the clock alone then.
#[cfg(test)]
pub(crate) mod scripted {
    use std::{
        collections::VecDeque,
        sync::{Arc, Mutex, PoisonError},
    };

    use tokio::time::Instant;

    use super::{Accepted, Refused};

    /// The answers one after the other, then success; and when each was asked for.
    #[derive(Debug, Clone, Default)]
    pub(crate) struct Client(Arc<Mutex<(VecDeque<Refused>, Vec<Instant>)>>);

    impl Client {
        pub(crate) fn refusing(answers: impl IntoIterator<Item = Refused>) -> Self {
            Self(Arc::new(Mutex::new((answers.into_iter().collect(), Vec::new()))))
        }

        pub(crate) fn asked_at(&self) -> Vec<Instant> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
        }

        pub(super) fn send(&self) -> Result<Accepted, Refused> {
            let (answers, asked) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
            asked.push(Instant::now());
            answers.pop_front().map_or_else(|| Ok(Accepted::default()), Err)
        }
    }
}
