//! The exporter over OTLP/HTTP, against a server that fails in every way that the specification names. The
//! server writes its answers byte by byte, because a library would not allow invalid ones.
#![forbid(unsafe_code)]
#![expect(clippy::expect_used, reason = "a helper that fails should fail its test")]

mod shared;

use std::{
    io::Read as _,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use acceptd_otlp::{Compression, DropReason, Exporter, ExporterConfig, Target};
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use prost::Message as _;
use shared::{batch, dropped, finish, numbers, until};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    time::sleep,
};

/// How the server handles one request.
enum Answer {
    /// Answers with a status, header lines and a body.
    Respond(u16, &'static str, Vec<u8>),
    /// Answers with a body of this many bytes, in chunks.
    Endless(usize),
    /// Closes the connection with unread data, which makes the kernel send RST.
    Reset,
    /// Closes the connection after half of its answer.
    Half,
    /// Reads the request, and never answers.
    Silence,
}

/// One request as the server received it.
struct Seen {
    at: Instant,
    head: String,
    body: Vec<u8>,
}

#[derive(Clone, Default)]
struct Server {
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    /// Starts a server that gives these answers in their order, then accepts everything.
    async fn answering(answers: Vec<Answer>) -> (Self, SocketAddr) {
        let server = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let answers = Arc::new(Mutex::new(answers.into_iter()));
        let seen = Arc::clone(&server.seen);
        tokio::spawn(async move {
            loop {
                let (connection, _) = listener.accept().await.expect("a connection");
                let (answers, seen) = (Arc::clone(&answers), Arc::clone(&seen));
                tokio::spawn(async move { serve(connection, &answers, &seen).await });
            }
        });
        (server, address)
    }

    /// The bodies of the requests.
    fn bodies(&self) -> Vec<Vec<u8>> {
        self.seen.lock().expect("no panic").iter().map(|seen| seen.body.clone()).collect()
    }

    fn times(&self) -> Vec<Instant> {
        self.seen.lock().expect("no panic").iter().map(|seen| seen.at).collect()
    }

    fn heads(&self) -> Vec<String> {
        self.seen.lock().expect("no panic").iter().map(|seen| seen.head.clone()).collect()
    }
}

async fn serve(connection: TcpStream, answers: &Mutex<std::vec::IntoIter<Answer>>, seen: &Mutex<Vec<Seen>>) {
    let mut connection = BufReader::new(connection);
    loop {
        let mut head = String::new();
        loop {
            let before = head.len();
            if connection.read_line(&mut head).await.unwrap_or(0) == 0 {
                return;
            }
            if head[before..].trim().is_empty() {
                break;
            }
        }
        let answer = answers.lock().expect("no panic").next().unwrap_or(Answer::Respond(200, "", Vec::new()));
        if matches!(answer, Answer::Reset) {
            return;
        }
        let head = head.to_ascii_lowercase();
        let length =
            head.split("content-length:").nth(1).and_then(|rest| rest.lines().next()?.trim().parse().ok());
        let mut body = vec![0; length.expect("a length")];
        connection.read_exact(&mut body).await.expect("the body");
        seen.lock().expect("no panic").push(Seen { at: Instant::now(), head, body });
        match answer {
            Answer::Respond(status, headers, body) => {
                let kind = if headers.contains("content-type") {
                    ""
                } else {
                    "content-type: application/x-protobuf\r\n"
                };
                let head =
                    format!("HTTP/1.1 {status} X\r\n{kind}{headers}content-length: {}\r\n\r\n", body.len());
                connection.write_all(head.as_bytes()).await.expect("written");
                connection.write_all(&body).await.expect("written");
            }
            Answer::Endless(bytes) => {
                let head = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ntransfer-encoding: chunked\r\n\r\n";
                connection.write_all(head).await.expect("written");
                for _ in 0..bytes / 65_536 {
                    if connection
                        .write_all(format!("10000\r\n{}\r\n", "x".repeat(65_536)).as_bytes())
                        .await
                        .is_err()
                    {
                        return;
                    }
                }
            }
            Answer::Half => {
                connection
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
                    .await
                    .expect("written");
                return;
            }
            Answer::Silence => std::future::pending().await,
            Answer::Reset => {}
        }
    }
}

fn config(address: SocketAddr) -> ExporterConfig {
    shared::config(Target::Http(format!("http://{address}/v1/logs")))
}

fn status(number: u16) -> Answer {
    Answer::Respond(number, "", Vec::new())
}

fn partial(rejected_log_records: i64, message: &str) -> Answer {
    let partial = ExportLogsPartialSuccess { rejected_log_records, error_message: message.to_owned() };
    Answer::Respond(200, "", ExportLogsServiceResponse { partial_success: Some(partial) }.encode_to_vec())
}

#[tokio::test]
async fn four_statuses_are_retried_until_the_request_is_taken() {
    let (server, address) = Server::answering([429, 502, 503, 504].map(status).into()).await;
    let exporter = Exporter::spawn(config(address)).expect("an endpoint");
    exporter.push(batch(1..=3, 0));
    let ledger = finish(exporter).await;
    assert_eq!((ledger.acknowledged, ledger.dropped_total(), ledger.retries), (3, 0, 4));
    let bodies = server.bodies();
    let last = ExportLogsServiceRequest::decode(&bodies[4][..]).expect("a request");
    assert_eq!(numbers(&last), [1, 2, 3]);
    assert!(bodies.iter().all(|body| *body == bodies[0]), "the same each time");
}

#[tokio::test]
async fn every_other_status_drops_the_request_at_once() {
    let never = [400, 401, 403, 404, 405, 408, 413, 415, 422, 500, 501, 505, 507, 301];
    let (server, address) = Server::answering(never.map(status).into()).await;
    let exporter = Exporter::spawn(config(address)).expect("an endpoint");
    for number in 0..=14 {
        exporter.push(batch([number], 0));
    }
    let ledger = finish(exporter).await;
    assert_eq!(
        (dropped(&ledger, DropReason::NonRetryable), ledger.acknowledged, ledger.retries),
        (14, 1, 0),
        "{ledger:?}"
    );
    assert_eq!(server.times().len(), 15);
}

#[tokio::test]
async fn the_pause_of_a_retry_after_header_is_respected_in_both_forms() {
    // An HTTP date has a resolution of one second.
    let in_two_seconds = || httpdate::fmt_http_date(std::time::SystemTime::now() + Duration::from_secs(2));
    for (value, least) in [(&(|| "1".to_owned()) as &dyn Fn() -> String, 1000), (&in_two_seconds, 900)] {
        let header: &'static str = Box::leak(format!("retry-after: {}\r\n", value()).into_boxed_str());
        let (server, address) = Server::answering(vec![Answer::Respond(503, header, Vec::new())]).await;
        let exporter = Exporter::spawn(config(address)).expect("an endpoint");
        exporter.push(batch([1], 0));
        until(&exporter, "acknowledged", |ledger| ledger.acknowledged == 1).await;
        let times = server.times();
        assert!(times[1] - times[0] >= Duration::from_millis(least), "{header}: {:?}", times[1] - times[0]);
        finish(exporter).await;
    }
}

#[tokio::test]
async fn a_partial_success_is_counted_and_not_retried() {
    let answers =
        vec![partial(2, "too old"), partial(0, "be nice"), partial(99, "nonsense"), partial(-1, "nonsense")];
    let (server, address) = Server::answering(answers).await;
    let exporter = Exporter::spawn(config(address)).expect("an endpoint");
    for _ in 0..4 {
        exporter.push(batch(1..=5, 0));
    }
    let ledger = finish(exporter).await;
    assert_eq!((ledger.acknowledged, ledger.rejected, ledger.retries), (3 + 5 + 5, 2 + 5, 0));
    assert_eq!(server.times().len(), 4);
}

/// Loki answers with 204.
#[tokio::test]
async fn a_success_without_an_answer_is_one() {
    let (_, address) = Server::answering([202, 204].map(status).into()).await;
    let exporter = Exporter::spawn(config(address)).expect("an endpoint");
    exporter.push(batch([1], 0));
    exporter.push(batch([2], 0));
    let ledger = finish(exporter).await;
    assert_eq!((ledger.acknowledged, ledger.dropped_total()), (2, 0), "{ledger:?}");
}

/// The page of a proxy or of another server: no OTLP server has accepted the request.
#[tokio::test]
async fn an_answer_that_is_not_otlp_is_no_acknowledgement() {
    let page = || b"<html>Welcome to the hotel's network</html>".to_vec();
    let answers =
        vec![Answer::Respond(200, "content-type: text/html\r\n", page()), Answer::Respond(200, "", page())];
    let (_, address) = Server::answering(answers).await;
    let exporter = Exporter::spawn(config(address)).expect("an endpoint");
    exporter.push(batch([1], 0));
    exporter.push(batch([2], 0));
    exporter.push(batch([3], 0));
    let ledger = finish(exporter).await;
    assert_eq!((dropped(&ledger, DropReason::NonRetryable), ledger.acknowledged), (2, 1));
}

#[tokio::test]
async fn a_request_that_is_too_large_is_halved_down_to_the_record_that_is() {
    let too_large = || Answer::Respond(413, "", [&[0x12, 23][..], b"request body too large!"].concat());
    let (server, address) = Server::answering(vec![too_large(), too_large(), too_large()]).await;
    let exporter = Exporter::spawn(config(address)).expect("an endpoint");
    exporter.push(batch(1..=4, 0));
    let ledger = finish(exporter).await;
    assert_eq!(
        (dropped(&ledger, DropReason::TooLarge), ledger.acknowledged, ledger.splits),
        (1, 3, 2),
        "{ledger:?}"
    );
    let decoded = |body: &Vec<u8>| numbers(&ExportLogsServiceRequest::decode(&body[..]).expect("a request"));
    let all: Vec<_> = server.bodies().iter().map(decoded).collect();
    assert_eq!(all, [vec![1, 2, 3, 4], vec![1, 2], vec![1], vec![2], vec![3, 4]]);
}

/// The server has accepted the request: a retry would duplicate its records.
#[tokio::test]
async fn an_answer_that_is_too_large_is_not_read_and_not_asked_for_again() {
    let (server, address) = Server::answering(vec![Answer::Endless(5 << 20)]).await;
    let exporter = Exporter::spawn(config(address)).expect("an endpoint");
    exporter.push(batch([1], 0));
    let ledger = finish(exporter).await;
    assert_eq!((ledger.retries, server.times().len()), (0, 1), "{ledger:?}");
    assert_eq!(dropped(&ledger, DropReason::NonRetryable), 1);
}

#[tokio::test]
async fn connections_that_break_are_retried() {
    let (_, address) = Server::answering(vec![Answer::Reset, Answer::Half]).await;
    let exporter = Exporter::spawn(config(address)).expect("an endpoint");
    exporter.push(batch([1], 100_000));
    let ledger = finish(exporter).await;
    assert_eq!((ledger.acknowledged, ledger.dropped_total(), ledger.retries), (1, 0, 2), "{ledger:?}");
}

#[tokio::test]
async fn silence_ends_with_the_deadline_and_a_new_connection() {
    let (server, address) = Server::answering(vec![Answer::Silence]).await;
    let exporter = Exporter::spawn(ExporterConfig { timeout: Duration::from_millis(200), ..config(address) });
    let exporter = exporter.expect("an endpoint");
    exporter.push(batch([1], 0));
    until(&exporter, "acknowledged", |ledger| ledger.acknowledged == 1).await;
    assert_eq!(server.times().len(), 2);
    finish(exporter).await;
}

#[tokio::test]
async fn a_server_that_is_down_is_retried() {
    let held = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = held.local_addr().expect("bound");
    drop(held);
    let exporter = Exporter::spawn(config(address)).expect("an endpoint");
    exporter.push(batch([1], 0));
    until(&exporter, "retried", |ledger| ledger.retries >= 1).await;
    sleep(Duration::from_millis(10)).await;
    let ledger = exporter.shutdown(Instant::now()).await;
    assert_eq!(dropped(&ledger, DropReason::Shutdown), 1);
}

#[tokio::test]
async fn the_headers_of_a_request_describe_its_body() {
    let request = batch(1..=50, 100);
    for (compression, expected_encoding) in
        [(Compression::None, None), (Compression::Gzip, Some("gzip")), (Compression::Zstd, Some("zstd"))]
    {
        let (server, address) = Server::answering(Vec::new()).await;
        let mut config = config(address);
        config.settings.compression = compression;
        config.settings.headers = vec![("x-tenant".to_owned(), "blue".to_owned())];
        let exporter = Exporter::spawn(config).expect("an endpoint");
        exporter.push(request.clone());
        finish(exporter).await;
        let head = server.heads().remove(0);
        for line in [
            "post /v1/logs http/1.1",
            "content-type: application/x-protobuf",
            "x-tenant: blue",
            "user-agent: acceptd/",
        ] {
            assert!(head.contains(line), "{line}: {head}");
        }
        let encoding = head.lines().find_map(|line| line.strip_prefix("content-encoding: "));
        assert_eq!(encoding, expected_encoding);
        let body = server.bodies().remove(0);
        let plain = match compression {
            Compression::None => body.clone(),
            Compression::Gzip => {
                let mut plain = Vec::new();
                flate2::read::GzDecoder::new(&body[..]).read_to_end(&mut plain).expect("gzip");
                plain
            }
            Compression::Zstd => zstd::bulk::decompress(&body, 1 << 20).expect("zstd"),
        };
        assert!(plain == request.request, "the bytes of the request");
        assert!(compression == Compression::None || body.len() < plain.len() / 2, "{}", body.len());
    }
}
