//! `admin.listen`: `/livez`, `/readyz`, `/status` and `/metrics`, for probes, people and Prometheus.

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
    snapshot::Vitals,
    status::{
        Status, {self},
    },
};

/// Connections at a time; more wait in the listener's queue.
const CONNECTIONS: usize = 16;

/// How long one may take for its one request, and for the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The text format of Prometheus that the encoder writes.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The listener for what [`serve`] serves.
///
/// # Errors
/// The address cannot be had, with the remedy.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address).await.map_err(|error| {
        format!(
            "no status is served, admin.listen = {address}: {error}; set admin.listen to another address, or to none"
        )
    })
}

/// Serves for as long as the agent runs.
pub async fn serve(listener: TcpListener, vitals: Arc<Vitals>) {
    let router = Router::new()
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .route("/status", get(show))
        .route("/metrics", get(metrics))
        .with_state(vitals);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((connection, _)) => {
                let router = router.clone();
                tokio::spawn(async move {
                    let _place = place;
                    // Who does not listen to the answer has gone.
                    _ = time::timeout(PATIENCE, answer(connection, router)).await;
                });
            }
            // Of one connection, or no descriptor is free: for a moment.
            Err(error) => {
                tracing::debug!("admin.listen: {error}");
                time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn answer(connection: TcpStream, router: Router) -> io::Result<()> {
    http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .serve_connection(TokioIo::new(connection), TowerToHyperService::new(router))
        .await
        .map_err(io::Error::other)
}

async fn live(State(vitals): State<Arc<Vitals>>) -> impl IntoResponse {
    probe(status::dead(&vitals.read()).as_slice())
}

async fn ready(State(vitals): State<Arc<Vitals>>) -> impl IntoResponse {
    probe(&status::failures(&vitals.read()))
}

fn probe(reasons: &[String]) -> (StatusCode, String) {
    if reasons.is_empty() {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n")
    }
}

async fn show(State(vitals): State<Arc<Vitals>>) -> impl IntoResponse {
    Json(Status::of(&vitals.read()))
}

async fn metrics(State(vitals): State<Arc<Vitals>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, OPEN_METRICS)], prometheus::text(vitals.read()))
}
