//! The exporter over OTLP/gRPC, against a Collector that fails in every way that the specification names.
#![forbid(unsafe_code)]

mod shared;

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use acceptd_otlp::{DropReason, Exporter, ExporterConfig, Target};
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsPartialSuccess, ExportLogsServiceResponse, logs_service_server::LogsServiceServer,
};
use shared::{Collector, batch, dropped, finish, listener, serve, until};
use tokio::{io::AsyncReadExt as _, time::timeout};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

fn config(endpoint: impl std::fmt::Display) -> ExporterConfig {
    shared::config(Target::Grpc(endpoint.to_string()))
}

#[tokio::test]
async fn every_retryable_code_is_retried_until_it_is_accepted() {
    let codes = [
        Code::Cancelled,
        Code::DeadlineExceeded,
        Code::Aborted,
        Code::OutOfRange,
        Code::Unavailable,
        Code::DataLoss,
    ];
    let collector = Collector::answering(codes.map(|code| Err(Status::new(code, "later"))));
    let exporter = Exporter::spawn(config(collector.start())).expect("an endpoint");
    exporter.push(batch(1..=3, 0));
    let ledger = finish(exporter).await;
    assert_eq!((ledger.acknowledged, ledger.dropped_total(), ledger.retries), (3, 0, 6));
    assert_eq!(collector.accepted(), [1, 2, 3]);
}

#[tokio::test]
async fn every_other_code_drops_the_request_at_once() {
    let codes = [2, 3, 5, 6, 7, 9, 12, 13, 16].map(Code::from_i32);
    let collector = Collector::answering(codes.map(|code| Err(Status::new(code, "never"))));
    let exporter = Exporter::spawn(config(collector.start())).expect("an endpoint");
    for number in 0..=9 {
        exporter.push(batch([number], 0));
    }
    let ledger = finish(exporter).await;
    assert_eq!((dropped(&ledger, DropReason::NonRetryable), ledger.acknowledged, ledger.retries), (9, 1, 0));
    assert_eq!(collector.accepted(), [9]);
}

#[tokio::test]
async fn the_pause_that_the_server_asks_for_is_respected() {
    let pause = Duration::from_millis(300);
    let details = ErrorDetails::with_retry_info(Some(pause));
    let collector = Collector::answering([Err(Status::with_error_details(
        Code::ResourceExhausted,
        "slow down",
        details,
    ))]);
    let exporter = Exporter::spawn(config(collector.start())).expect("an endpoint");
    exporter.push(batch([1], 0));
    let ledger = finish(exporter).await;
    assert_eq!((ledger.acknowledged, ledger.retries), (1, 1));
    let [first, second] = collector.requests()[..] else { panic!("two requests") };
    assert!(second.0 - first.0 >= pause, "{:?}", second.0 - first.0);
}

/// A pause of 9223372036854775807 seconds overflows an `Instant`.
#[tokio::test]
async fn a_pause_beyond_the_end_of_time_is_a_drop_and_no_panic() {
    let details = ErrorDetails::with_retry_info(Some(Duration::from_secs(u64::MAX >> 1)));
    let refusal = Status::with_error_details(Code::Unavailable, "never", details);
    let collector = Collector::answering([Err(refusal)]);
    let exporter = Exporter::spawn(config(collector.start())).expect("an endpoint");
    exporter.push(batch([1], 0));
    exporter.push(batch([2], 0));
    let ledger = finish(exporter).await;
    assert_eq!((dropped(&ledger, DropReason::RetryExpired), ledger.acknowledged), (1, 1));
}

#[tokio::test]
async fn a_partial_success_is_counted_and_not_retried() {
    let partial = |rejected_log_records, error_message: &str| {
        let partial =
            ExportLogsPartialSuccess { rejected_log_records, error_message: error_message.to_owned() };
        Ok(ExportLogsServiceResponse { partial_success: Some(partial) })
    };
    let answers =
        [partial(2, "too old"), partial(0, "be nice"), partial(99, "nonsense"), partial(-1, "nonsense")];
    let collector = Collector::answering(answers);
    let exporter = Exporter::spawn(config(collector.start())).expect("an endpoint");
    for _ in 0..4 {
        exporter.push(batch(1..=5, 0));
    }
    let ledger = finish(exporter).await;
    assert_eq!((ledger.acknowledged, ledger.rejected, ledger.retries), (3 + 5 + 5, 2 + 5, 0));
    assert_eq!(collector.requests().len(), 4);
}

#[tokio::test]
async fn a_request_that_is_too_large_is_halved_down_to_the_record_that_is() {
    let too_large = || Err(Status::resource_exhausted("grpc: received message larger than max (9 vs. 4)"));
    // Refused: all four records, the first two, the first alone. Then the second is accepted, then the other
    // two.
    let collector = Collector::answering([too_large(), too_large(), too_large()]);
    let exporter = Exporter::spawn(config(collector.start())).expect("an endpoint");
    exporter.push(batch(1..=4, 0));
    let ledger = finish(exporter).await;
    assert_eq!((dropped(&ledger, DropReason::TooLarge), ledger.acknowledged, ledger.splits), (1, 3, 2));
    assert_eq!(collector.accepted(), [2, 3, 4]);
    assert_eq!(collector.requests().iter().map(|request| request.1).collect::<Vec<_>>(), [4, 2, 1, 1, 2]);
}

/// A tonic receiver refuses a request above its size limit with `OUT_OF_RANGE`, which is otherwise retried.
#[tokio::test]
async fn a_tonic_receivers_limit_halves_a_request_too() {
    let collector = Collector::default();
    let listener = listener();
    let address = listener.local_addr().expect("bound");
    serve(listener, LogsServiceServer::new(collector.clone()).max_decoding_message_size(3000));
    let exporter =
        Exporter::spawn(ExporterConfig { retry_window: Duration::from_secs(1), ..config(address) })
            .expect("an endpoint");
    exporter.push(batch(1..=4, 1000));
    let ledger = finish(exporter).await;
    assert_eq!((ledger.acknowledged, ledger.dropped_total(), ledger.splits), (4, 0, 1), "{ledger:?}");
}

/// The Collector has accepted the request: a retry would duplicate its records.
#[tokio::test]
async fn an_answer_that_is_too_large_is_not_asked_for_again() {
    let partial = ExportLogsPartialSuccess { rejected_log_records: 0, error_message: "x".repeat(5 << 20) };
    let collector = Collector::answering([Ok(ExportLogsServiceResponse { partial_success: Some(partial) })]);
    let exporter = Exporter::spawn(config(collector.start())).expect("an endpoint");
    exporter.push(batch([1], 0));
    let ledger = finish(exporter).await;
    assert_eq!((ledger.retries, collector.requests().len()), (0, 1), "{ledger:?}");
    assert_eq!(dropped(&ledger, DropReason::NonRetryable), 1);
}

#[tokio::test]
async fn a_collector_that_comes_up_late_gets_everything() {
    let held = listener();
    let address = held.local_addr().expect("bound");
    drop(held);
    let exporter = Exporter::spawn(config(address)).expect("an endpoint");
    exporter.push(batch(1..=2, 0));
    exporter.push(batch(3..=4, 0));
    until(&exporter, "refused", |ledger| ledger.retries >= 2).await;
    let collector = Collector::default();
    collector.on(TcpListener::bind(address).expect("still free"));
    let ledger = finish(exporter).await;
    assert_eq!((ledger.acknowledged, ledger.dropped_total()), (4, 0));
    assert_eq!(collector.accepted(), [1, 2, 3, 4]);
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_retried() {
    let exporter = Exporter::spawn(config("does-not-exist.invalid:4317")).expect("not resolved yet");
    exporter.push(batch([1], 0));
    until(&exporter, "retried", |ledger| ledger.retries >= 1).await;
    let ledger = exporter.shutdown(Instant::now()).await;
    assert_eq!(dropped(&ledger, DropReason::Shutdown), 1);
}

/// A restart of the Collector resets its connections in the middle of a request.
#[tokio::test]
async fn a_connection_that_is_reset_under_a_request_is_retried() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let collector = Collector::default();
    let exporter = Exporter::spawn(config(address)).expect("an endpoint");
    exporter.push(batch([1], 100_000));
    for _ in 0..3 {
        let (mut connection, _) =
            timeout(Duration::from_secs(10), listener.accept()).await.expect("tried").expect("a socket");
        // The kernel sends RST when a socket with unread data is closed.
        let mut preface = [0; 24];
        connection.read_exact(&mut preface).await.expect("an HTTP/2 preface");
        until(&exporter, "in flight", |ledger| ledger.in_flight + ledger.dropped_total() == 1).await;
        drop(connection);
        assert_eq!(exporter.ledger().dropped_total(), 0, "{:?}", exporter.ledger());
    }
    collector.on(listener.into_std().expect("a listener"));
    let ledger = finish(exporter).await;
    assert_eq!((ledger.acknowledged, ledger.dropped_total()), (1, 0), "{ledger:?}");
}

/// The same with an HTTP/2 connection that has already answered a request.
#[tokio::test]
async fn a_server_that_dies_under_a_request_is_retried() {
    let address = {
        let held = listener();
        held.local_addr().expect("bound")
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let first = Collector::default();
    let bound = TcpListener::bind(address).expect("still free");
    let service = first.clone();
    runtime.spawn(async move { service.on(bound).await });
    let exporter = Exporter::spawn(config(address)).expect("an endpoint");
    exporter.push(batch([1], 0));
    until(&exporter, "connected", |ledger| ledger.acknowledged == 1).await;
    // The shutdown of the runtime closes every connection while the next request is sent.
    runtime.shutdown_background();
    exporter.push(batch([2], 4_000_000));
    until(&exporter, "retried", |ledger| ledger.retries + ledger.dropped_total() >= 1).await;
    let second = Collector::default();
    second.on(TcpListener::bind(address).expect("free again"));
    let ledger = finish(exporter).await;
    assert_eq!((ledger.acknowledged, ledger.dropped_total()), (2, 0), "{ledger:?}");
}

/// The path of the connection swallows packets: there is no reset and no answer. A new connection works.
#[tokio::test]
async fn a_connection_into_a_black_hole_is_replaced() {
    let collector = Collector::default();
    let behind = collector.start();
    let proxy = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = proxy.local_addr().expect("bound");
    let (swallow, mut swallowing) = tokio::sync::watch::channel(false);
    tokio::spawn(async move {
        let (mut first, _) = proxy.accept().await.expect("a connection");
        let mut on = tokio::net::TcpStream::connect(behind).await.expect("a collector");
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut first, &mut on) => {}
            _ = swallowing.wait_for(|&on| on) => {}
        }
        // From here on `first` and `on` stay open, and are never read again.
        loop {
            let (mut next, _) = proxy.accept().await.expect("a connection");
            let mut on = tokio::net::TcpStream::connect(behind).await.expect("a collector");
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut next, &mut on).await.ok() });
        }
    });
    let exporter = Exporter::spawn(ExporterConfig { timeout: Duration::from_millis(200), ..config(address) })
        .expect("an endpoint");
    exporter.push(batch([1], 0));
    until(&exporter, "connected", |ledger| ledger.acknowledged == 1).await;
    swallow.send(true).expect("the proxy lives");
    exporter.push(batch([2], 0));
    let ledger =
        until(&exporter, "acknowledged after the black hole", |ledger| ledger.acknowledged == 2).await;
    assert!(ledger.retries >= 1, "{ledger:?}");
    finish(exporter).await;
}

#[tokio::test]
async fn after_the_retry_window_a_request_is_dropped() {
    let collector = Collector::answering(std::iter::repeat_n(Err(Status::unavailable("never")), 1000));
    let window = Duration::from_millis(300);
    let exporter = Exporter::spawn(ExporterConfig { retry_window: window, ..config(collector.start()) })
        .expect("an endpoint");
    let began = Instant::now();
    exporter.push(batch(1..=7, 0));
    let ledger = finish(exporter).await;
    assert_eq!((dropped(&ledger, DropReason::RetryExpired), ledger.acknowledged), (7, 0));
    assert!(ledger.retries >= 1);
    assert!(began.elapsed() < window * 10, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_full_queue_drops_the_oldest() {
    let held = listener();
    let address = held.local_addr().expect("bound");
    drop(held);
    let one = batch([1], 1000).request.len();
    let exporter =
        Exporter::spawn(ExporterConfig { queue_max_bytes: 3 * one, ..config(address) }).expect("an endpoint");
    exporter.push(batch([1], 1000));
    until(&exporter, "in flight", |ledger| ledger.in_flight == 1).await;
    for number in 2..=7 {
        exporter.push(batch([number], 1000));
    }
    let ledger = exporter.ledger();
    assert_eq!((dropped(&ledger, DropReason::QueueFull), ledger.queued), (3, 3));
    let collector = Collector::default();
    collector.on(TcpListener::bind(address).expect("still free"));
    finish(exporter).await;
    assert_eq!(collector.accepted(), [1, 5, 6, 7]);
}

#[tokio::test]
async fn a_shutdown_ends_at_its_deadline_and_counts_undelivered_records() {
    // Accepts connections, and never answers.
    let silent = listener();
    let exporter = Exporter::spawn(config(silent.local_addr().expect("bound"))).expect("an endpoint");
    exporter.push(batch(1..=2, 0));
    until(&exporter, "in flight", |ledger| ledger.in_flight == 2).await;
    exporter.push(batch(3..=5, 0));
    let began = Instant::now();
    let ledger = exporter.shutdown(began + Duration::from_millis(300)).await;
    assert!((300..3000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    ledger.balanced().expect("balanced");
    assert_eq!((dropped(&ledger, DropReason::Shutdown), ledger.queued, ledger.in_flight), (5, 0, 0));
}

#[tokio::test]
async fn a_shutdown_drains_several_workers_after_pushes_from_a_thread() {
    let collector = Collector::default();
    let exporter =
        Exporter::spawn(ExporterConfig { concurrency: 4, ..config(collector.start()) }).expect("an endpoint");
    let pusher = exporter.clone();
    tokio::task::spawn_blocking(move || (0..200).for_each(|number| pusher.push(batch([number], 10))))
        .await
        .expect("pushed");
    let ledger = finish(exporter).await;
    assert_eq!((ledger.records, ledger.acknowledged), (200, 200));
    assert_eq!(collector.accepted(), (0..200).collect::<Vec<_>>());
}

#[tokio::test]
async fn errors_of_invalid_endpoints_have_a_remedy() {
    for (endpoint, remedy) in [("ftp://here", "host:port"), ("", "host:port"), ("a b", "host:port")] {
        let error = Exporter::spawn(config(endpoint)).expect_err(endpoint).to_string();
        assert!(error.contains(remedy), "{endpoint}: {error}");
    }
    let headers = vec![("authorization".to_owned(), "secret\n".to_owned())];
    let mut config = config("a:1");
    config.settings.headers = headers;
    let error = Exporter::spawn(config).expect_err("a line break").to_string();
    assert!(error.contains("authorization") && !error.contains("secret"), "{error}");
}

#[tokio::test]
async fn a_request_that_waits_for_its_next_attempt_is_sent_at_the_shutdown() {
    let collector = Collector::answering([Err(Status::unavailable("restarting"))]);
    let config = ExporterConfig {
        backoff_initial: Duration::from_mins(1),
        backoff_max: Duration::from_mins(1),
        retry_window: Duration::from_mins(10),
        ..config(collector.start())
    };
    let exporter = Exporter::spawn(config).expect("an endpoint");
    exporter.push(batch([1, 2], 0));
    until(&exporter, "a retry", |ledger| ledger.retries == 1).await;
    let ledger = exporter.shutdown(Instant::now() + Duration::from_secs(5)).await;
    ledger.balanced().expect("balanced");
    assert_eq!((ledger.acknowledged, collector.accepted()), (2, vec![1, 2]));
}

/// A request that waits for its next attempt is sent over the new route at once. No record is lost or sent
/// twice.
#[tokio::test]
async fn a_redirect_also_applies_to_waiting_requests() {
    let held = listener();
    let unused = held.local_addr().expect("bound");
    drop(held);
    let slow = ExporterConfig {
        backoff_initial: Duration::from_mins(5),
        backoff_max: Duration::from_mins(5),
        retry_window: Duration::from_hours(1),
        ..config(unused)
    };
    let exporter = Exporter::spawn(slow).expect("an endpoint");
    exporter.push(batch([1], 0));
    exporter.push(batch([2], 0));
    until(&exporter, "a retry", |ledger| ledger.retries == 1).await;
    config("").prepare().expect_err("no endpoint");
    let collector = Collector::default();
    exporter.redirect(config(collector.start()).prepare().expect("an endpoint"));
    exporter.push(batch([3], 0));
    until(&exporter, "delivered", |ledger| ledger.acknowledged == 3).await;
    assert_eq!(collector.accepted(), [1, 2, 3]);
    let ledger = finish(exporter).await;
    assert_eq!((ledger.dropped_total(), ledger.records), (0, 3));
}
