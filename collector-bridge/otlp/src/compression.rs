//! The compression of request bodies.

use std::io::{self, Write as _};

use bytes::Bytes;
use flate2::{Compression as Level, write::GzEncoder};

/// The compression of a request body.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Compression {
    /// No compression: the cheapest on the loopback interface.
    #[default]
    None,
    /// gzip: every OTLP server supports it. It costs several times as much CPU as zstd.
    Gzip,
    /// zstd: the OpenTelemetry Collector supports it.
    Zstd,
}

/// zstd's own default level: about the compression ratio of gzip at a fifth of its cost.
const ZSTD_LEVEL: i32 = 3;

impl Compression {
    /// The value of the headers `content-encoding` and `grpc-encoding`.
    pub(crate) const fn name(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Gzip => Some("gzip"),
            Self::Zstd => Some("zstd"),
        }
    }

    /// Compresses the bytes of a request. Without compression this only clones the reference.
    pub(crate) fn apply(self, bytes: &Bytes) -> io::Result<Bytes> {
        match self {
            Self::None => Ok(bytes.clone()),
            Self::Gzip => {
                let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 4), Level::default());
                encoder.write_all(bytes)?;
                encoder.finish().map(Bytes::from)
            }
            Self::Zstd => zstd::bulk::compress(bytes, ZSTD_LEVEL).map(Bytes::from),
        }
    }
}
