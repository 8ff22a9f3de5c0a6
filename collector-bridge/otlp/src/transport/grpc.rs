//! OTLP/gRPC: a request's bytes as they are.

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceResponse;
use prost::Message as _;
use tonic::{
    Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    metadata::{Ascii, MetadataKey, MetadataMap, MetadataValue},
    transport::Endpoint,
};

use super::{
    Accepted, MAX_ANSWER_BYTES, Refused, Settings, TransportError,
    channel::{Message, MessageChannel},
    connect::{Connector, Version, connector},
};
use crate::{USER_AGENT_NAME, causes::causes, compression::Compression, retry, signal::Signal};

/// Between two questions whether the server is still there, while a request is under way.
const PING_EVERY: std::time::Duration = std::time::Duration::from_secs(30);

/// A lazily connecting channel with its headers. Cloning shares the connection.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    endpoint: Endpoint,
    connector: Connector,
    grpc: Grpc<MessageChannel>,
    metadata: MetadataMap,
    compression: Compression,
}

impl Client {
    pub(super) fn new(endpoint: &str, settings: &Settings) -> Result<Self, TransportError> {
        let endpoint = parse(endpoint)?.http2_keep_alive_interval(PING_EVERY);
        let connector = connector(endpoint.uri(), &settings.tls, Version::Two, settings.timeout)?;
        let grpc = connect(&endpoint, &connector);
        let mut metadata = MetadataMap::new();
        for (name, value) in &settings.headers {
            let bad = || TransportError::Header(name.clone());
            let key: MetadataKey<Ascii> = name.parse().map_err(|_| bad())?;
            let mut value: MetadataValue<Ascii> = value.parse().map_err(|_| bad())?;
            value.set_sensitive(true);
            metadata.insert(key, value);
        }
        if let Some(name) = settings.compression.name() {
            metadata.insert("grpc-encoding", MetadataValue::from_static(name));
        }
        Ok(Self { endpoint, connector, grpc, metadata, compression: settings.compression })
    }

    pub(super) fn reconnect(&mut self) {
        self.grpc = connect(&self.endpoint, &self.connector);
    }

    pub(super) async fn send(&mut self, signal: Signal, request: &Bytes) -> Result<Accepted, Refused> {
        match self.export(signal, request).await {
            Ok(answer) => Ok(accepted(answer)),
            Err(status) => {
                Err(Refused { verdict: retry::judge(&status, request.len()), reason: reason(&status) })
            }
        }
    }

    async fn export(&mut self, signal: Signal, request: &Bytes) -> Result<ExportLogsServiceResponse, Status> {
        self.grpc.ready().await.map_err(|error| Status::unavailable(causes(&error)))?;
        let bytes = self.compression.apply(request).map_err(|error| {
            Status::invalid_argument(format!("the request cannot be compressed: {error}"))
        })?;
        let mut extensions = http::Extensions::new();
        extensions.insert(Message::new(bytes, self.compression != Compression::None)?);
        let request = Request::from_parts(self.metadata.clone(), extensions, ());
        Ok(self.grpc.unary(request, signal.method(), AnswerCodec).await?.into_inner())
    }
}

/// The answers of all three signals have one form.
pub(super) fn accepted(answer: ExportLogsServiceResponse) -> Accepted {
    let partial = answer.partial_success.unwrap_or_default();
    Accepted {
        rejected: u64::try_from(partial.rejected_log_records).unwrap_or(0),
        message: partial.error_message,
    }
}

/// The status in words, with what it was caused by.
fn reason(status: &Status) -> String {
    let source = std::error::Error::source(status).map(causes).unwrap_or_default();
    let code = format!("{:?}", status.code());
    let words = [code.as_str(), status.message(), &source];
    words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(": ")
}

fn connect(endpoint: &Endpoint, connector: &Connector) -> Grpc<MessageChannel> {
    Grpc::new(MessageChannel::lazy(endpoint, connector)).max_decoding_message_size(MAX_ANSWER_BYTES)
}

fn parse(endpoint: &str) -> Result<Endpoint, TransportError> {
    let bad = |cause: String| TransportError::Endpoint { endpoint: endpoint.to_owned(), cause };
    let with_scheme =
        if endpoint.contains("://") { endpoint.to_owned() } else { format!("http://{endpoint}") };
    let parsed = Endpoint::from_shared(with_scheme).map_err(|error| bad(causes(&error)))?;
    if !matches!(parsed.uri().scheme_str(), Some("http" | "https")) {
        return Err(bad("only http and https are known".to_owned()));
    }
    parsed.user_agent(USER_AGENT_NAME).map_err(|error| bad(causes(&error)))
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
