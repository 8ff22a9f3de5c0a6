//! Helpers that the tests of the exporter share: batches, a scripted Collector, and waiting for a ledger.
#![expect(clippy::expect_used, reason = "a helper that fails should fail its test")]
#![allow(dead_code, reason = "each test uses a part of these helpers")]

use std::{
    collections::VecDeque,
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use acceptd_otlp::{
    Batch, DropReason, Exporter, ExporterConfig, LedgerSnapshot, Signal, Target, TransportSettings,
};
use opentelemetry_proto::tonic::{
    collector::logs::v1::{
        ExportLogsServiceRequest, ExportLogsServiceResponse,
        logs_service_server::{LogsService, LogsServiceServer},
    },
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs},
};
use prost::Message as _;
use tokio::{task::JoinHandle, time::sleep};
use tonic::{Request, Response, Status, codec::CompressionEncoding};

pub(crate) fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("a free port")
}

pub(crate) fn numbers(request: &ExportLogsServiceRequest) -> Vec<u64> {
    let scopes = request.resource_logs.iter().flat_map(|resource| &resource.scope_logs);
    scopes.flat_map(|scope| &scope.log_records).map(|record| record.time_unix_nano).collect()
}

/// A batch with one record for each number. The number is the record's time; `padding` bytes are added to
/// each record.
pub(crate) fn batch(numbers: impl IntoIterator<Item = u64>, padding: usize) -> Batch {
    let record = |number| LogRecord {
        time_unix_nano: number,
        severity_text: "x".repeat(padding),
        ..LogRecord::default()
    };
    let log_records: Vec<_> = numbers.into_iter().map(record).collect();
    let records = u32::try_from(log_records.len()).expect("few");
    let scope_logs = vec![ScopeLogs { log_records, ..ScopeLogs::default() }];
    let request = ExportLogsServiceRequest {
        resource_logs: vec![ResourceLogs { scope_logs, ..ResourceLogs::default() }],
    };
    Batch { signal: Signal::Logs, request: request.encode_to_vec().into(), records }
}

pub(crate) fn config(target: Target) -> ExporterConfig {
    ExporterConfig {
        target,
        settings: TransportSettings { timeout: Duration::from_secs(5), ..TransportSettings::default() },
        timeout: Duration::from_secs(5),
        retry_window: Duration::from_secs(20),
        backoff_initial: Duration::from_millis(10),
        backoff_max: Duration::from_millis(50),
        queue_max_bytes: 1 << 24,
        concurrency: 1,
        spool: None,
        sync_interval: Duration::from_millis(20),
    }
}

/// Waits until `reached` is true of the ledger, and fails after ten seconds. Checks that every snapshot is
/// balanced.
pub(crate) async fn until(
    exporter: &Exporter,
    what: &str,
    reached: impl Fn(&LedgerSnapshot) -> bool,
) -> LedgerSnapshot {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let ledger = exporter.ledger();
        ledger.balanced().expect("balanced at every moment");
        if reached(&ledger) {
            return ledger;
        }
        assert!(Instant::now() < deadline, "never {what}: {ledger:?}");
        sleep(Duration::from_millis(2)).await;
    }
}

/// Shuts the exporter down with a deadline of ten seconds, and checks the final ledger.
pub(crate) async fn finish(exporter: Exporter) -> LedgerSnapshot {
    let ledger = exporter.shutdown(Instant::now() + Duration::from_secs(10)).await;
    ledger.balanced().expect("balanced");
    assert_eq!((ledger.queued, ledger.in_flight), (0, 0));
    ledger
}

pub(crate) fn dropped(ledger: &LedgerSnapshot, reason: DropReason) -> u64 {
    assert_eq!(
        ledger.dropped_total(),
        ledger.dropped.get(&reason).copied().unwrap_or(0),
        "records were dropped for another reason: {ledger:?}"
    );
    ledger.dropped_total()
}

pub(crate) type Answer = Result<ExportLogsServiceResponse, Status>;

/// A Collector that gives the scripted answers in their order, then accepts everything. It keeps the numbers
/// of the records that it accepted, and the time and size of each request.
#[derive(Clone, Default)]
pub(crate) struct Collector {
    script: Arc<Mutex<VecDeque<Answer>>>,
    accepted: Arc<Mutex<Vec<u64>>>,
    requests: Arc<Mutex<Vec<(Instant, usize)>>>,
}

#[tonic::async_trait]
impl LogsService for Collector {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        let numbers = numbers(request.get_ref());
        self.requests.lock().expect("no panic").push((Instant::now(), numbers.len()));
        let scripted = self.script.lock().expect("no panic").pop_front();
        let answer = scripted.unwrap_or_else(|| Ok(ExportLogsServiceResponse::default()))?;
        self.accepted.lock().expect("no panic").extend(numbers);
        Ok(Response::new(answer))
    }
}

impl Collector {
    pub(crate) fn answering(script: impl IntoIterator<Item = Answer>) -> Self {
        Self { script: Arc::new(Mutex::new(script.into_iter().collect())), ..Self::default() }
    }

    pub(crate) fn on(&self, listener: TcpListener) -> JoinHandle<()> {
        let service = LogsServiceServer::new(self.clone())
            .accept_compressed(CompressionEncoding::Gzip)
            .accept_compressed(CompressionEncoding::Zstd)
            .max_encoding_message_size(usize::MAX);
        serve(listener, service)
    }

    pub(crate) fn start(&self) -> SocketAddr {
        let listener = listener();
        let address = listener.local_addr().expect("bound");
        self.on(listener);
        address
    }

    pub(crate) fn accepted(&self) -> Vec<u64> {
        let mut accepted = self.accepted.lock().expect("no panic").clone();
        accepted.sort_unstable();
        accepted
    }

    pub(crate) fn requests(&self) -> Vec<(Instant, usize)> {
        self.requests.lock().expect("no panic").clone()
    }
}

/// Serves OTLP/gRPC on `listener`.
pub(crate) fn serve(listener: TcpListener, service: LogsServiceServer<Collector>) -> JoinHandle<()> {
    listener.set_nonblocking(true).expect("a socket");
    let incoming = tokio::net::TcpListener::from_std(listener).expect("in a runtime");
    tokio::spawn(async move {
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(incoming);
        tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(incoming)
            .await
            .expect("serves");
    })
}
