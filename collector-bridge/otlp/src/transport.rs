//! One attempt: sends the bytes of a request to a target, and classifies the answer.

mod answer;
mod channel;
mod connect;
mod file;
mod grpc;
mod http;
#[cfg(test)]
mod scripted;
mod target;

use std::time::Duration;

pub(crate) use answer::{Accepted, Refused};
pub use connect::{Tls, TlsError};
#[cfg(test)]
pub(crate) use scripted::ScriptedClient;
pub use target::{Target, TransportError, TransportSettings};

use crate::{batch::Batch, signal::Signal};

/// A client of one target. Clones share its connections.
#[derive(Debug, Clone)]
pub(crate) enum TransportClient {
    Grpc(Box<grpc::GrpcClient>),
    Http(Box<http::HttpClient>),
    File(file::FileClient),
    #[cfg(test)]
    Scripted(ScriptedClient),
}

impl TransportClient {
    /// Checks the target and the settings, and opens a file target. Name resolution and connections are left
    /// to [`TransportClient::send`], so that they are retried with the request.
    pub(crate) fn new(target: &Target, settings: &TransportSettings) -> Result<Self, TransportError> {
        Ok(match target {
            Target::Grpc(endpoint) => Self::Grpc(Box::new(grpc::GrpcClient::new(endpoint, settings)?)),
            Target::Http(url) => Self::Http(Box::new(http::HttpClient::new(url, settings)?)),
            Target::File(path) => Self::File(file::FileClient::new(path)?),
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

    /// Drops the gRPC connection, so that the next request makes a new one. Called after a timeout: TCP takes
    /// many minutes to notice a path that swallows packets. HTTP/1.1 drops the connection of an abandoned
    /// request by itself.
    pub(crate) fn reconnect(&mut self) {
        if let Self::Grpc(client) = self {
            client.reconnect();
        }
    }
}

/// Sends a request without items, to check that the target accepts this signal. A file target is only opened.
///
/// # Errors
/// The cause of the refusal, as text for the operator.
pub async fn check_target(
    target: &Target,
    settings: &TransportSettings,
    signal: Signal,
    timeout: Duration,
) -> Result<(), String> {
    let mut transport = TransportClient::new(target, settings).map_err(|error| error.to_string())?;
    if matches!(transport, TransportClient::File(_)) {
        // Opening the file was the check. A request without items would add a line to it.
        return Ok(());
    }
    let empty = Batch { signal, request: bytes::Bytes::new(), records: 0 };
    match tokio::time::timeout(timeout, transport.send(&empty)).await {
        Ok(answer) => answer.map(drop).map_err(|refused| refused.reason),
        Err(_) => Err(format!("no answer within {timeout:?}")),
    }
}
