//! Compression of a request's bytes.

use std::io::{
    Write as _, {self},
};

use bytes::Bytes;
use flate2::{Compression as Level, write::GzEncoder};

/// How the bytes of a request travel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Compression {
    /// As they are: on the loopback the cheapest.
    #[default]
    None,
    /// What every server knows, at several times the cost of zstd.
    Gzip,
    /// What a Collector knows.
    Zstd,
}

/// zstd's own default: about the ratio of gzip for a fifth of its cost.
const ZSTD_LEVEL: i32 = 3;

impl Compression {
    /// The name in `content-encoding` and `grpc-encoding`.
    pub(crate) const fn name(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Gzip => Some("gzip"),
            Self::Zstd => Some("zstd"),
        }
    }

    /// The bytes as they travel.
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
