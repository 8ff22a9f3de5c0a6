//! An OTLP/gRPC receiver, for `acceptd receive` and for tests.

use std::{future::Future, io, net::TcpListener, sync::Arc};

use opentelemetry_proto::tonic::collector::{
    logs::v1::{
        ExportLogsServiceRequest, ExportLogsServiceResponse,
        logs_service_server::{LogsService, LogsServiceServer},
    },
    metrics::v1::{
        ExportMetricsServiceRequest, ExportMetricsServiceResponse,
        metrics_service_server::{MetricsService, MetricsServiceServer},
    },
    trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, codec::CompressionEncoding::Gzip, transport::Server};

/// The default bound of a request in the specification, in bytes before compression.
const MAX_REQUEST_BYTES: usize = 64 << 20;

/// A request that was received.
#[derive(Debug, Clone, PartialEq)]
pub enum Received {
    /// A request of log records.
    Logs(ExportLogsServiceRequest),
    /// A request of spans.
    Traces(ExportTraceServiceRequest),
    /// A request of metrics.
    Metrics(ExportMetricsServiceRequest),
}

impl Received {
    /// The number of log records, spans or metrics in the request.
    #[must_use]
    pub fn records(&self) -> u64 {
        let count: usize = match self {
            Self::Logs(logs) => {
                let scopes = logs.resource_logs.iter().flat_map(|resource| &resource.scope_logs);
                scopes.map(|scope| scope.log_records.len()).sum()
            }
            Self::Traces(traces) => {
                let scopes = traces.resource_spans.iter().flat_map(|resource| &resource.scope_spans);
                scopes.map(|scope| scope.spans.len()).sum()
            }
            Self::Metrics(metrics) => {
                let scopes = metrics.resource_metrics.iter().flat_map(|resource| &resource.scope_metrics);
                scopes.map(|scope| scope.metrics.len()).sum()
            }
        };
        count as u64
    }
}

/// Serves logs, traces and metrics on `listener` until `stop` completes. Each request is passed to `handler`.
/// If the handler fails, the sender gets `UNAVAILABLE` and sends the request again.
///
/// # Errors
/// The listener cannot be served.
pub async fn serve(
    listener: TcpListener,
    handler: impl Fn(Received) -> io::Result<()> + Send + Sync + 'static,
    stop: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let incoming = TcpListenerStream::new(tokio::net::TcpListener::from_std(listener)?);
    let sink = Sink(Arc::new(handler));
    Server::builder()
        .add_service(
            LogsServiceServer::new(sink.clone())
                .accept_compressed(Gzip)
                .max_decoding_message_size(MAX_REQUEST_BYTES),
        )
        .add_service(
            TraceServiceServer::new(sink.clone())
                .accept_compressed(Gzip)
                .max_decoding_message_size(MAX_REQUEST_BYTES),
        )
        .add_service(
            MetricsServiceServer::new(sink)
                .accept_compressed(Gzip)
                .max_decoding_message_size(MAX_REQUEST_BYTES),
        )
        .serve_with_incoming_shutdown(incoming, stop)
        .await
        .map_err(io::Error::other)
}

type Handler = dyn Fn(Received) -> io::Result<()> + Send + Sync;

#[derive(Clone)]
struct Sink(Arc<Handler>);

impl Sink {
    fn handle<T: Default>(&self, received: Received) -> Result<Response<T>, Status> {
        match (self.0)(received) {
            Ok(()) => Ok(Response::new(T::default())),
            Err(error) => {
                Err(Status::unavailable(format!("the receiver cannot process the request: {error}")))
            }
        }
    }
}

#[tonic::async_trait]
impl LogsService for Sink {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        self.handle(Received::Logs(request.into_inner()))
    }
}

#[tonic::async_trait]
impl TraceService for Sink {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.handle(Received::Traces(request.into_inner()))
    }
}

#[tonic::async_trait]
impl MetricsService for Sink {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.handle(Received::Metrics(request.into_inner()))
    }
}
