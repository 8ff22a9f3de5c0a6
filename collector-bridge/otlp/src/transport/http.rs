//! The OTLP/HTTP client with protobuf bodies, <https://opentelemetry.io/docs/specs/otlp/#otlphttp>, over
//! HTTP/1.1: a plain HTTP/1.1 body is the cheapest way to a Collector.

use std::time::SystemTime;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri,
    header::{CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER, USER_AGENT},
};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper_util::{client::legacy::Client as HyperClient, rt::TokioExecutor};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceResponse;
use prost::Message as _;

use super::{
    answer::{Accepted, MAX_ANSWER_BYTES, Refused},
    connect::{Connector, Version, connector},
    grpc::accepted,
    target::{TransportError, TransportSettings},
};
use crate::{compression::Compression, distro::USER_AGENT_VALUE, error_chain::error_chain, retry};

const PROTOBUF: HeaderValue = HeaderValue::from_static("application/x-protobuf");

/// A client of one URL. Clones share its connections.
#[derive(Debug, Clone)]
pub(crate) struct HttpClient {
    hyper: HyperClient<Connector, Full<Bytes>>,
    uri: Uri,
    headers: HeaderMap,
    compression: Compression,
}

/// `google.rpc.Status`, the body of an error answer; only the field that is used.
#[derive(Clone, PartialEq, prost::Message)]
struct Status {
    #[prost(string, tag = "2")]
    message: String,
}

impl HttpClient {
    pub(super) fn new(url: &str, settings: &TransportSettings) -> Result<Self, TransportError> {
        let invalid = |cause: String| TransportError::Endpoint { endpoint: url.to_owned(), cause };
        let uri: Uri = url.parse().map_err(|error| invalid(error_chain(&error)))?;
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, PROTOBUF);
        headers.insert(USER_AGENT, HeaderValue::from_static(USER_AGENT_VALUE));
        if let Some(name) = settings.compression.name() {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static(name));
        }
        for (name, value) in &settings.headers {
            let invalid = || TransportError::Header(name.clone());
            let key: HeaderName = name.parse().map_err(|_| invalid())?;
            let mut value: HeaderValue = value.parse().map_err(|_| invalid())?;
            value.set_sensitive(true);
            headers.insert(key, value);
        }
        let connector = connector(&uri, &settings.tls, Version::One, settings.timeout)?;
        let hyper = HyperClient::builder(TokioExecutor::new()).build(connector);
        Ok(Self { hyper, uri, headers, compression: settings.compression })
    }

    pub(super) async fn send(&self, request: &Bytes) -> Result<Accepted, Refused> {
        let body = self
            .compression
            .apply(request)
            .map_err(|error| Refused::permanent(format!("the request cannot be compressed: {error}")))?;
        let mut message = Request::new(Full::new(body));
        *message.method_mut() = Method::POST;
        *message.uri_mut() = self.uri.clone();
        *message.headers_mut() = self.headers.clone();
        let answer = self.hyper.request(message).await.map_err(|error| Refused::connection_failed(&error))?;
        let (parts, body) = answer.into_parts();
        let read = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
        let body = match read {
            Ok(read) => read.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => {
                let reason =
                    format!("HTTP {}: the answer is longer than {MAX_ANSWER_BYTES} bytes", parts.status);
                return Err(Refused::permanent(reason));
            }
            Err(error) => return Err(Refused::connection_failed(&*error)),
        };
        classify(&Response::from_parts(parts, body), request.len())
    }
}

/// Classifies an answer.
fn classify(answer: &Response<Bytes>, request_bytes: usize) -> Result<Accepted, Refused> {
    let status = answer.status();
    // The specification only has 200; Loki answers 204.
    if status.is_success() {
        // A proxy may answer with a page of its own: then no OTLP server has accepted the request.
        let is_protobuf = answer.headers().get(CONTENT_TYPE).is_none_or(|kind| kind == PROTOBUF);
        return match ExportLogsServiceResponse::decode(answer.body().clone()) {
            Ok(decoded) if is_protobuf => Ok(accepted(decoded)),
            _ => Err(Refused::permanent(format!(
                "HTTP {status} with an answer that is not OTLP; check that an OTLP/HTTP server is at this address, and no proxy in between"
            ))),
        };
    }
    let message = Status::decode(answer.body().clone()).unwrap_or_default().message;
    let reason =
        if message.is_empty() { format!("HTTP {status}") } else { format!("HTTP {status}: {message}") };
    let retry_after = answer
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| retry::parse_retry_after(value.to_str().ok()?, SystemTime::now()));
    Err(Refused {
        disposition: retry::classify_http(status.as_u16(), retry_after, request_bytes, &message),
        reason,
    })
}
