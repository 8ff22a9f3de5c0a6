//! Sends the same records through `opentelemetry_sdk` and `opentelemetry-otlp`, as an application would. All
//! share one Resource, since the SDK supports only one, which is an advantage for the SDK.

use std::time::{Duration, SystemTime};

use acceptd_common::InetAccept;
use opentelemetry::{
    Key,
    logs::{AnyValue, LogRecord as _, LoggerProvider as _, Severity},
};
use opentelemetry_otlp::{LogExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    logs::{BatchConfigBuilder, BatchLogProcessor, SdkLoggerProvider},
};

use crate::sample;

pub(crate) fn send(endpoint: &str, records: u64) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let _guard = runtime.enter();
    let exporter = LogExporter::builder()
        .with_tonic()
        .with_endpoint(format!("http://{endpoint}"))
        .with_timeout(Duration::from_secs(10))
        .build()
        .expect("an exporter");
    // A queue that drops nothing, and requests as large as acceptd's, below the Collector's limit of 4 MiB.
    let queue = usize::try_from(records).expect("a count") + 1;
    let batches = BatchConfigBuilder::default().with_max_queue_size(queue).with_max_export_batch_size(3500);
    let processor = BatchLogProcessor::builder(exporter).with_batch_config(batches.build()).build();
    let resource = Resource::builder().with_service_name("unknown_service:nginx").build();
    let provider = SdkLoggerProvider::builder().with_resource(resource).with_log_processor(processor).build();
    let logger = provider.logger("acceptd");
    let mut samples: Vec<_> = (0..sample::PROCESSES).map(sample::for_process).collect();
    for sequence in 0..records {
        let sample = &mut samples[usize::try_from(sequence).unwrap_or(0) % sample::PROCESSES as usize];
        sample.header.sequence = sequence;
        sample.socket.cookie = 1_000_000 + sequence;
        emit(&logger, sample);
    }
    provider.shutdown_with_timeout(Duration::from_mins(2)).expect("everything is sent");
}

/// Emits one record with the attributes of acceptd's full profile.
fn emit(logger: &impl opentelemetry::logs::Logger, sample: &InetAccept) {
    let address = |bytes: &[u8; 16]| format!("{}.{}.{}.{}", bytes[0], bytes[1], bytes[2], bytes[3]);
    let (local, peer) = (address(&sample.socket.local_addr), address(&sample.socket.peer_addr));
    let (local_port, peer_port) =
        (u16::from_be(sample.socket.local_port), u16::from_be(sample.socket.peer_port));
    let name = String::from_utf8_lossy(&sample.task.exe[..5]).into_owned();
    let tenths = sample.call.queue_ns / 100_000;
    let body = format!(
        "{name}[{}] accepted tcp {peer}:{peer_port} -> {local}:{local_port} after {}.{} ms in queue",
        sample.task.tgid,
        tenths / 10,
        tenths % 10
    );
    let mut record = logger.create_log_record();
    record.set_event_name("acceptd.socket.accept");
    record.set_timestamp(SystemTime::now());
    record.set_observed_timestamp(SystemTime::now());
    record.set_severity_number(Severity::Info);
    record.set_body(body.into());
    let text = |value: String| AnyValue::from(value);
    let int = |value: u64| AnyValue::Int(value.cast_signed());
    let uid = format!("{:016X}-{:04X}-{:012X}", 0xABC_u64, sample.header.cpu, sample.header.sequence);
    let attributes: [(&'static str, AnyValue); 22] = [
        ("network.transport", AnyValue::from("tcp")),
        ("network.type", AnyValue::from("ipv4")),
        ("network.local.address", text(local)),
        ("network.local.port", int(local_port.into())),
        ("network.peer.address", text(peer)),
        ("network.peer.port", int(peer_port.into())),
        ("acceptd.listener.address", text(address(&sample.listener.addr))),
        ("acceptd.listener.port", int(u16::from_be(sample.listener.port).into())),
        ("log.record.uid", text(uid)),
        ("acceptd.socket.cookie", text(sample.socket.cookie.to_string())),
        ("acceptd.listener.cookie", text(sample.listener.cookie.to_string())),
        ("acceptd.socket.inode", int(sample.socket.inode)),
        ("acceptd.listener.inode", int(sample.listener.inode)),
        ("acceptd.socket.fd", int(12)),
        ("acceptd.listener.fd", int(6)),
        ("acceptd.listener.backlog_length", int(sample.listener.backlog_length.into())),
        ("acceptd.listener.backlog_limit", int(sample.listener.backlog_limit.into())),
        ("acceptd.accept.queue_time_ns", int(sample.call.queue_ns)),
        ("acceptd.accept.syscall", AnyValue::from("accept4")),
        ("acceptd.netns.inode", int(sample.socket.netns.into())),
        ("acceptd.thread.id", int(sample.task.tid.into())),
        ("acceptd.thread.name", text(name)),
    ];
    for (key, value) in attributes {
        record.add_attribute(Key::from_static_str(key), value);
    }
    record.add_attribute("acceptd.capture.tier", int(2));
    logger.emit(record);
}
