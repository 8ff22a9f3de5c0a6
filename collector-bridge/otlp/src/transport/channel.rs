//! A gRPC channel that copies the bytes of a request only once, into the write buffer of the socket.
//!
//! tonic copies each message into a buffer of its own, and writes each HTTP/2 frame (16 KiB with most
//! servers) with a system call of its own. [`MessageChannel`] bypasses tonic's codec: the message becomes the
//! HTTP body from which hyper slices its frames, and the frames are gathered in a buffer before they are
//! written. Answers still go through tonic.

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

/// Size of the write buffer: frames of up to this many bytes are written with one system call.
const WRITE_BYTES: usize = 256 << 10;

/// A gRPC message with its length prefix. It travels as an extension of the HTTP request until
/// [`MessageChannel`] makes it the body.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    prefix: [u8; 5],
    bytes: Bytes,
}

impl Message {
    /// A length-prefixed message, see <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>.
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

/// A tonic channel that sends the [`Message`] extension of a request as its body.
#[derive(Debug, Clone)]
pub(crate) struct MessageChannel(Channel);

impl MessageChannel {
    /// A channel that connects with its first request.
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
