//! Reads recorded requests for `acceptd replay`: from a file of OTLP JSON lines, as `acceptd receive` and the
//! Collector's file exporter write them, or from a segment of a spool.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _},
    path::Path,
};

use acceptd_spool::Frame;
use bytes::Bytes;
use opentelemetry_proto::tonic::collector::{
    logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
    trace::v1::ExportTraceServiceRequest,
};
use prost::Message;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use crate::{batch::Batch, receiver::Received, signal::Signal};

/// Upper bound of a line in bytes. A longer line is cut there and is not valid JSON then; no receiver would
/// accept it.
const MAX_LINE_BYTES: u64 = 256 << 20;

/// The requests of a file. For each one that cannot be read, a message with its place and the cause.
pub type Requests = Box<dyn Iterator<Item = Result<Batch, String>>>;

/// Opens a file of either format; the first bytes decide which.
///
/// # Errors
/// The file cannot be read.
pub fn open(path: &Path) -> io::Result<Requests> {
    match acceptd_spool::read_segment(path) {
        Ok(frames) => {
            Ok(Box::new(frames.map(|frame| batch_from_frame(frame.map_err(|error| error.to_string())?))))
        }
        // Not a segment of a spool: read it as JSON lines.
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => {
            Ok(Box::new(batches_from_lines(BufReader::new(File::open(path)?))))
        }
        Err(error) => Err(error),
    }
}

fn batch_from_frame(frame: Frame) -> Result<Batch, String> {
    let Frame { kind, records, body } = frame;
    let signal = Signal::from_number(kind)
        .ok_or_else(|| format!("a request of kind {kind}, which only a newer version of acceptd can read"))?;
    Ok(Batch { signal, request: body, records })
}

fn batches_from_lines(mut file: BufReader<File>) -> impl Iterator<Item = Result<Batch, String>> {
    let mut number = 0_u64;
    let mut line = Vec::new();
    std::iter::from_fn(move || {
        loop {
            number += 1;
            line.clear();
            match file.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line) {
                Ok(0) => return None,
                Ok(_) if line.trim_ascii().is_empty() => {}
                Ok(_) => return Some(parse_line(&line).map_err(|cause| format!("line {number}: {cause}"))),
                Err(error) => return Some(Err(format!("line {number}: {error}"))),
            }
        }
    })
}

/// Parses one line of OTLP JSON.
///
/// # Errors
/// The line is not JSON, or not an OTLP request. The message has the cause.
pub fn parse_line(line: &[u8]) -> Result<Batch, String> {
    let json: Json = serde_json::from_slice(line).map_err(|error| format!("not JSON: {error}"))?;
    if json.get("resourceLogs").is_some() {
        message::<ExportLogsServiceRequest>(json, Signal::Logs, Received::Logs)
    } else if json.get("resourceSpans").is_some() {
        message::<ExportTraceServiceRequest>(json, Signal::Traces, Received::Traces)
    } else if json.get("resourceMetrics").is_some() {
        message::<ExportMetricsServiceRequest>(json, Signal::Metrics, Received::Metrics)
    } else {
        Err("not OTLP: it has neither resourceLogs nor resourceSpans nor resourceMetrics".to_owned())
    }
}

fn message<T: Message + DeserializeOwned>(
    json: Json,
    signal: Signal,
    received: impl FnOnce(T) -> Received,
) -> Result<Batch, String> {
    let message: T = serde_json::from_value(json).map_err(|error| format!("not OTLP: {error}"))?;
    let request: Bytes = message.encode_to_vec().into();
    let records = u32::try_from(received(message).records()).map_err(|_| "more than 4 billion records")?;
    Ok(Batch { signal, request, records })
}
