//! The HTTP server of `admin.listen`: `/livez` and `/readyz` for probes, `/status` for operators, `/metrics`
//! for Prometheus.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time,
};

use crate::health::{
    metrics::prometheus,
    snapshot::HealthSource,
    status::{Status, liveness_failure, readiness_failures},
};

/// Most connections that are served at a time; more wait in the listener's accept queue.
const CONNECTIONS: usize = 16;

/// Longest time that a client may take to send its request and read the answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause after a failed accept. A lack of descriptors lasts for a while, and a loop without a pause would use
/// a whole CPU.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The content type of what the encoder of Prometheus writes.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Binds the socket for [`serve`].
///
/// # Errors
/// The address cannot be bound, with the remedy.
pub(crate) async fn bind(address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address).await.map_err(|error| {
        format!(
            "no status is served, because admin.listen = {address} cannot be bound: {error}; set admin.listen to another address, or to none"
        )
    })
}

/// Serves the state of the agent for as long as the agent runs.
pub(crate) async fn serve(listener: TcpListener, source: Arc<HealthSource>) {
    let router = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/status", get(status))
        .route("/metrics", get(metrics))
        .with_state(source);
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // Fails only if the semaphore is closed, which never happens.
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((connection, _)) => {
                let router = router.clone();
                tokio::spawn(async move {
                    let _permit = permit;
                    // An error or a timeout means that the client is gone or too slow: there is no one to
                    // report it to.
                    _ = time::timeout(REQUEST_TIMEOUT, answer(connection, router)).await;
                });
            }
            Err(error) => {
                tracing::debug!("admin.listen: accept failed: {error}");
                time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Answers the one request of a connection.
async fn answer(connection: TcpStream, router: Router) -> io::Result<()> {
    http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .serve_connection(TokioIo::new(connection), TowerToHyperService::new(router))
        .await
        .map_err(io::Error::other)
}

async fn livez(State(source): State<Arc<HealthSource>>) -> impl IntoResponse {
    probe_answer(liveness_failure(&source.snapshot()).as_slice())
}

async fn readyz(State(source): State<Arc<HealthSource>>) -> impl IntoResponse {
    probe_answer(&readiness_failures(&source.snapshot()))
}

fn probe_answer(failures: &[String]) -> (StatusCode, String) {
    if failures.is_empty() {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, failures.join("\n") + "\n")
    }
}

async fn status(State(source): State<Arc<HealthSource>>) -> impl IntoResponse {
    Json(Status::from_snapshot(&source.snapshot()))
}

async fn metrics(State(source): State<Arc<HealthSource>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, OPEN_METRICS)], prometheus::text(source.snapshot()))
}
