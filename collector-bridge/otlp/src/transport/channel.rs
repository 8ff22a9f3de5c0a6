//! A request's bytes to the socket with no copy but the one into the socket's write buffer.
//!
//! tonic copies each message into a buffer of its own and writes each HTTP/2 frame, 16 KiB with most servers, in a system
//! call of its own. Here the message goes around tonic's codec, as the body that hyper slices its frames from, and
//! the frames are gathered before they are written. What an answer means stays tonic's.

use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use hyper_util::rt::TokioIo;
use tokio::io::BufWriter;
use tonic::{
    Status,
    body::Body,
    codegen::Service,
    transport::{Channel, Endpoint, Error, channel::ResponseFuture},
};
use tower::util::ServiceExt as _;

use super::connect::{Connector, Stream};

/// Bytes that are gathered for one write.
const WRITE_BYTES: usize = 256 << 10;

/// The message of a request, length and all: an extension of the HTTP request, whose body it becomes.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    prefix: [u8; 5],
    bytes: Bytes,
}

impl Message {
    /// A length-prefixed message, <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>.
    pub(crate) fn new(bytes: Bytes, is_compressed: bool) -> Result<Self, Status> {
        let length = u32::try_from(bytes.len())
            .map_err(|_| Status::invalid_argument("a gRPC message has at most 4 GiB"))?;
        let [a, b, c, d] = length.to_be_bytes();
        Ok(Self { prefix: [u8::from(is_compressed), a, b, c, d], bytes })
    }

    fn into_body(self) -> Body {
        let frames = [Bytes::copy_from_slice(&self.prefix), self.bytes];
        Body::new(StreamBody::new(tokio_stream::iter(
            frames.map(|bytes| Ok::<_, Status>(Frame::data(bytes))),
        )))
    }
}

/// A channel that sends [`Message`]s.
#[derive(Debug, Clone)]
pub(crate) struct MessageChannel(Channel);

impl MessageChannel {
    /// Connects with the first request.
    pub(crate) fn lazy(endpoint: &Endpoint, connector: &Connector) -> Self {
        let connector = connector.clone().map_response(|stream: Stream| {
            TokioIo::new(BufWriter::with_capacity(WRITE_BYTES, TokioIo::new(stream)))
        });
        Self(endpoint.connect_with_connector_lazy(connector))
    }
}

impl Service<Request<Body>> for MessageChannel {
    type Response = Response<Body>;
    type Error = Error;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> ResponseFuture {
        if let Some(message) = request.extensions_mut().remove::<Message>() {
            *request.body_mut() = message.into_body();
        }
        self.0.call(request)
    }
}
