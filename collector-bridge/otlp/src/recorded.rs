//! Requests as files have them: OTLP JSON lines, as `acceptd receive` and the Collector's file exporter write them, or a segment
//! of a spool.

use std::{
    fs::File,
    io::{
        BufRead as _, BufReader, Read as _, {self},
    },
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

use crate::{Batch, Received, Signal};

/// Longer lines are not read: no receiver would take them.
const LONGEST_LINE: u64 = 256 << 20;

/// The requests of a file, one by one; of each that cannot be read, where it is and why.
pub type Requests = Box<dyn Iterator<Item = Result<Batch, String>>>;

/// Opens a file of either form.
///
/// # Errors
/// The file system's.
pub fn open(path: &Path) -> io::Result<Requests> {
    match acceptd_spool::frames_of(path) {
        Ok(frames) => Ok(Box::new(frames.map(|frame| of_frame(frame.map_err(|error| error.to_string())?)))),
        // Not a segment.
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => {
            Ok(Box::new(of_lines(BufReader::new(File::open(path)?))))
        }
        Err(error) => Err(error),
    }
}

fn of_frame(frame: Frame) -> Result<Batch, String> {
    let Frame { kind, records, body } = frame;
    let signal = Signal::from_number(kind)
        .ok_or_else(|| format!("a request of kind {kind}, which only a newer acceptd knows"))?;
    Ok(Batch { signal, request: body, records })
}

fn of_lines(mut file: BufReader<File>) -> impl Iterator<Item = Result<Batch, String>> {
    let mut number = 0_u64;
    let mut line = Vec::new();
    std::iter::from_fn(move || {
        loop {
            number += 1;
            line.clear();
            match file.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line) {
                Ok(0) => return None,
                Ok(_) if line.trim_ascii().is_empty() => {}
                Ok(_) => return Some(of_line(&line).map_err(|cause| format!("line {number}: {cause}"))),
                Err(error) => return Some(Err(format!("line {number}: {error}"))),
            }
        }
    })
}

/// Reads one line of OTLP JSON.
///
/// # Errors
/// What is wrong with it.
pub fn of_line(line: &[u8]) -> Result<Batch, String> {
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
