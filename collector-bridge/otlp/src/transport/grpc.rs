//! The OTLP/gRPC client. It sends the encoded bytes of a request without decoding them.

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
    answer::{Accepted, MAX_ANSWER_BYTES, Refused},
    channel::{Message, MessageChannel},
    connect::{Connector, Version, connector},
    target::{TransportError, TransportSettings},
};
use crate::{
    compression::Compression, distro::USER_AGENT_VALUE, error_chain::error_chain, retry, signal::Signal,
};

/// Interval of HTTP/2 pings while a request is in flight.
const PING_INTERVAL: std::time::Duration = std::time::Duration::from_secs(30);

/// A channel that connects with its first request, and the headers of every request. Clones share the
/// connection.
#[derive(Debug, Clone)]
pub(crate) struct GrpcClient {
    endpoint: Endpoint,
    connector: Connector,
    grpc: Grpc<MessageChannel>,
    metadata: MetadataMap,
    compression: Compression,
}

impl GrpcClient {
    pub(super) fn new(endpoint: &str, settings: &TransportSettings) -> Result<Self, TransportError> {
        let endpoint = parse_endpoint(endpoint)?.http2_keep_alive_interval(PING_INTERVAL);
        let connector = connector(endpoint.uri(), &settings.tls, Version::Two, settings.timeout)?;
        let grpc = connect(&endpoint, &connector);
        let mut metadata = MetadataMap::new();
        for (name, value) in &settings.headers {
            let invalid = || TransportError::Header(name.clone());
            let key: MetadataKey<Ascii> = name.parse().map_err(|_| invalid())?;
            let mut value: MetadataValue<Ascii> = value.parse().map_err(|_| invalid())?;
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
            Err(status) => Err(Refused {
                disposition: retry::classify_grpc(&status, request.len()),
                reason: reason(&status),
            }),
        }
    }

    async fn export(&mut self, signal: Signal, request: &Bytes) -> Result<ExportLogsServiceResponse, Status> {
        self.grpc.ready().await.map_err(|error| Status::unavailable(error_chain(&error)))?;
        let bytes = self.compression.apply(request).map_err(|error| {
            Status::invalid_argument(format!("the request cannot be compressed: {error}"))
        })?;
        let mut extensions = http::Extensions::new();
        extensions.insert(Message::new(bytes, self.compression != Compression::None)?);
        let request = Request::from_parts(self.metadata.clone(), extensions, ());
        Ok(self.grpc.unary(request, signal.method(), AnswerCodec).await?.into_inner())
    }
}

/// Reads the answer of any signal: all three have the same protobuf form.
pub(super) fn accepted(answer: ExportLogsServiceResponse) -> Accepted {
    let partial = answer.partial_success.unwrap_or_default();
    Accepted {
        rejected: u64::try_from(partial.rejected_log_records).unwrap_or(0),
        message: partial.error_message,
    }
}

/// The status code, its message and its causes, as text for the operator.
fn reason(status: &Status) -> String {
    let source = std::error::Error::source(status).map(error_chain).unwrap_or_default();
    let code = format!("{:?}", status.code());
    let words = [code.as_str(), status.message(), &source];
    words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(": ")
}

fn connect(endpoint: &Endpoint, connector: &Connector) -> Grpc<MessageChannel> {
    Grpc::new(MessageChannel::lazy(endpoint, connector)).max_decoding_message_size(MAX_ANSWER_BYTES)
}

fn parse_endpoint(endpoint: &str) -> Result<Endpoint, TransportError> {
    let invalid = |cause: String| TransportError::Endpoint { endpoint: endpoint.to_owned(), cause };
    let with_scheme =
        if endpoint.contains("://") { endpoint.to_owned() } else { format!("http://{endpoint}") };
    let parsed = Endpoint::from_shared(with_scheme).map_err(|error| invalid(error_chain(&error)))?;
    if !matches!(parsed.uri().scheme_str(), Some("http" | "https")) {
        return Err(invalid("only http and https are supported".to_owned()));
    }
    parsed.user_agent(USER_AGENT_VALUE).map_err(|error| invalid(error_chain(&error)))
}

/// Encodes nothing, because [`MessageChannel`] sends the message; decodes the answer with prost.
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
