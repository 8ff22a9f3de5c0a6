//! One attempt: a request's bytes over gRPC, as they are.

use std::time::Duration;

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceResponse;
use prost::Message as _;
use thiserror::Error;
use tonic::{
    Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    metadata::{Ascii, MetadataKey, MetadataMap, MetadataValue},
    transport::Endpoint,
};

use crate::{
    VERSION,
    causes::causes,
    channel::{Message, MessageChannel},
};

/// Larger answers are not read: an answer is a few bytes.
const MAX_ANSWER_BYTES: usize = 4 << 20;

const LOGS_PATH: http::uri::PathAndQuery =
    http::uri::PathAndQuery::from_static("/opentelemetry.proto.collector.logs.v1.LogsService/Export");

/// An endpoint or header that cannot be used.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Not an address.
    #[error("`{endpoint}` is not an endpoint: {cause}; use host:port or http://host:port")]
    Endpoint {
        /// What was given.
        endpoint: String,
        /// Why it cannot be used.
        cause: String,
    },
    /// TLS is not built in yet.
    #[error(
        "`{0}` asks for TLS, which this version does not have yet; use http:// to a Collector on this host"
    )]
    Tls(String),
    /// Not a header. The value is a secret and not shown.
    #[error("the header `{0}` cannot be sent: its name or value has characters that HTTP does not allow")]
    Header(String),
}

/// A lazily connecting channel with its headers. Cloning shares the connection.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    endpoint: Endpoint,
    grpc: Grpc<MessageChannel>,
    metadata: MetadataMap,
}

impl Client {
    /// Nothing is resolved or connected here: that is done, and retried, by [`Client::export`].
    pub(crate) fn new(
        endpoint: &str,
        headers: &[(String, String)],
        timeout: Duration,
    ) -> Result<Self, ClientError> {
        let endpoint = parse(endpoint)?.connect_timeout(timeout);
        let grpc = connect(&endpoint);
        let mut metadata = MetadataMap::new();
        for (name, value) in headers {
            let bad = || ClientError::Header(name.clone());
            let key: MetadataKey<Ascii> = name.parse().map_err(|_| bad())?;
            let mut value: MetadataValue<Ascii> = value.parse().map_err(|_| bad())?;
            value.set_sensitive(true);
            metadata.insert(key, value);
        }
        Ok(Self { endpoint, grpc, metadata })
    }

    /// Gives up the connection: the next request makes a new one. For a connection that swallows requests, which
    /// TCP itself notices only after many minutes.
    pub(crate) fn reconnect(&mut self) {
        self.grpc = connect(&self.endpoint);
    }

    /// Sends one `ExportLogsServiceRequest`.
    pub(crate) async fn export(&mut self, request: Bytes) -> Result<ExportLogsServiceResponse, Status> {
        self.grpc.ready().await.map_err(|error| Status::unavailable(causes(&error)))?;
        let mut extensions = http::Extensions::new();
        extensions.insert(Message::new(request)?);
        let request = Request::from_parts(self.metadata.clone(), extensions, ());
        Ok(self.grpc.unary(request, LOGS_PATH, AnswerCodec).await?.into_inner())
    }
}

/// Sends a request without records, which a Collector acknowledges: whether this endpoint takes logs.
///
/// # Errors
/// Why not, in words.
pub async fn probe(endpoint: &str, headers: &[(String, String)], timeout: Duration) -> Result<(), String> {
    let mut client = Client::new(endpoint, headers, timeout).map_err(|error| error.to_string())?;
    match tokio::time::timeout(timeout, client.export(Bytes::new())).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(status)) => {
            let cause = std::error::Error::source(&status).map(causes).unwrap_or_default();
            let words = [status.code().description(), status.message(), &cause];
            Err(words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(": "))
        }
        Err(_) => Err(format!("no answer within {timeout:?}")),
    }
}

fn connect(endpoint: &Endpoint) -> Grpc<MessageChannel> {
    Grpc::new(MessageChannel::lazy(endpoint)).max_decoding_message_size(MAX_ANSWER_BYTES)
}

fn parse(endpoint: &str) -> Result<Endpoint, ClientError> {
    let bad = |cause: String| ClientError::Endpoint { endpoint: endpoint.to_owned(), cause };
    let with_scheme =
        if endpoint.contains("://") { endpoint.to_owned() } else { format!("http://{endpoint}") };
    if with_scheme.starts_with("https://") {
        return Err(ClientError::Tls(endpoint.to_owned()));
    }
    let parsed = Endpoint::from_shared(with_scheme).map_err(|error| bad(causes(&error)))?;
    if parsed.uri().scheme_str() != Some("http") {
        return Err(bad("only http is known".to_owned()));
    }
    parsed
        .user_agent(format!("acceptd/{VERSION} OTel-OTLP-Exporter-Rust"))
        .map_err(|error| bad(causes(&error)))
}

/// Nothing out, since the channel has the message; the answer through prost.
#[derive(Debug, Default)]
struct AnswerCodec;

impl Codec for AnswerCodec {
    type Encode = ();
    type Decode = ExportLogsServiceResponse;
    type Encoder = NoEncoder;
    type Decoder = AnswerDecoder;

    fn encoder(&mut self) -> NoEncoder {
        NoEncoder
    }

    fn decoder(&mut self) -> AnswerDecoder {
        AnswerDecoder
    }
}

#[derive(Debug)]
struct NoEncoder;

impl Encoder for NoEncoder {
    type Item = ();
    type Error = Status;

    fn encode(&mut self, (): (), _: &mut EncodeBuf<'_>) -> Result<(), Status> {
        Ok(())
    }
}

#[derive(Debug)]
struct AnswerDecoder;

impl Decoder for AnswerDecoder {
    type Item = ExportLogsServiceResponse;
    type Error = Status;

    fn decode(&mut self, answer: &mut DecodeBuf<'_>) -> Result<Option<ExportLogsServiceResponse>, Status> {
        let decoded = ExportLogsServiceResponse::decode(answer);
        decoded
            .map(Some)
            .map_err(|error| Status::internal(format!("the answer is not an OTLP response: {error}")))
    }
}
