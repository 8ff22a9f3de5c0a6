//! The exporter against servers that end connections with GOAWAY, as servers do when they stop or bound the
//! age of connections.
#![forbid(unsafe_code)]
#![expect(clippy::expect_used, reason = "a helper that fails should fail its test")]

mod shared;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use acceptd_otlp::{Exporter, Target};
use bytes::Bytes;
use h2::{Reason, RecvStream, server::SendResponse};
use http::{HeaderMap, HeaderValue, Request, Response};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use prost::Message as _;
use shared::{batch, config, finish, numbers};
use tokio::net::{TcpListener, TcpStream};

/// How the server ends connections.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Shutdown {
    /// After the first request. Requests in flight are answered.
    Graceful,
    /// While the second request is in flight. It is not answered.
    Abrupt(Reason),
}

/// A server that ends every connection in the same way, and keeps the numbers of the records that it
/// acknowledged.
#[derive(Clone, Default)]
struct Server {
    acknowledged: Arc<Mutex<Vec<u64>>>,
    connections: Arc<Mutex<usize>>,
}

impl Server {
    async fn start(&self, shutdown: Shutdown) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let server = self.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                *server.connections.lock().expect("no panic") += 1;
                tokio::spawn(server.clone().serve(stream, shutdown));
            }
        });
        address
    }

    async fn serve(self, stream: TcpStream, shutdown: Shutdown) {
        let mut connection = h2::server::handshake(stream).await.expect("HTTP/2");
        let mut requests = 0;
        while let Some(Ok((request, respond))) = connection.accept().await {
            requests += 1;
            match shutdown {
                Shutdown::Abrupt(reason) if requests == 2 => {
                    connection.abrupt_shutdown(reason);
                    drop((request, respond));
                }
                _ => _ = tokio::spawn(self.clone().answer(request, respond)),
            }
            if shutdown == Shutdown::Graceful && requests == 1 {
                connection.graceful_shutdown();
            }
        }
    }

    async fn answer(self, mut request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        let mut body = Vec::new();
        while let Some(data) = request.body_mut().data().await {
            let data = data.expect("a body");
            _ = request.body_mut().flow_control().release_capacity(data.len());
            body.extend_from_slice(&data);
        }
        // The message follows its compression flag and its length.
        let message = ExportLogsServiceRequest::decode(&body[5..]).expect("a request");
        self.acknowledged.lock().expect("no panic").extend(numbers(&message));
        let mut head = Response::new(());
        head.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
        let mut answer = respond.send_response(head, false).expect("a stream");
        answer.send_data(Bytes::from_static(&[0; 5]), false).expect("an empty message");
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        answer.send_trailers(trailers).expect("the end");
    }
}

async fn everything_arrives_once(shutdown: Shutdown) {
    const REQUESTS: u64 = 40;
    let server = Server::default();
    let address = server.start(shutdown).await;
    let exporter = Exporter::spawn(config(Target::Grpc(address.to_string()))).expect("an endpoint");
    for number in 0..REQUESTS {
        exporter.push(batch([number], 100));
    }
    let ledger = finish(exporter).await;
    assert_eq!((ledger.acknowledged, ledger.dropped_total()), (REQUESTS, 0), "{shutdown:?}: {ledger:?}");
    let mut acknowledged = server.acknowledged.lock().expect("no panic").clone();
    acknowledged.sort_unstable();
    assert_eq!(acknowledged, (0..REQUESTS).collect::<Vec<_>>(), "{shutdown:?}: each once");
    assert!(*server.connections.lock().expect("no panic") > 1, "{shutdown:?}: there were new connections");
}

#[tokio::test]
async fn a_graceful_shutdown_loses_nothing() {
    everything_arrives_once(Shutdown::Graceful).await;
}

#[tokio::test]
async fn a_request_that_an_abrupt_shutdown_left_unanswered_is_sent_again() {
    for reason in [Reason::NO_ERROR, Reason::ENHANCE_YOUR_CALM, Reason::INTERNAL_ERROR] {
        everything_arrives_once(Shutdown::Abrupt(reason)).await;
    }
}
