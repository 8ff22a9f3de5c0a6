//! Where everything arrives in the end: an OTLP/gRPC receiver in this process, which remembers what it acknowledged, and can be
//! told to acknowledge nothing.

use std::{
    collections::{HashMap, HashSet},
    io,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use acceptd_otlp::{Received, names, receiver};
use acceptd_tests::agent::ACCEPT;
use opentelemetry_proto::tonic::{
    collector::logs::v1::ExportLogsServiceRequest, common::v1::any_value::Value, logs::v1::LogRecord,
};

use crate::load::Accepted;

/// What arrived.
#[derive(Default)]
struct Arrived {
    /// The cookie of the accepted socket by `log.record.uid`; none of other events.
    by_uid: HashMap<String, Option<u64>>,
    /// Of the accepts.
    cookies: HashSet<u64>,
    /// Deliveries of a uid that had arrived already.
    again: u64,
    records: u64,
}

/// The receiver.
#[derive(Clone)]
pub(crate) struct Sink {
    pub(crate) address: SocketAddr,
    taker: Taker,
}

/// Who takes what arrives.
#[derive(Clone, Default)]
struct Taker {
    arrived: Arc<Mutex<Arrived>>,
    is_down: Arc<AtomicBool>,
    refused: Arc<AtomicU64>,
}

/// Receives for as long as this process lives, and hands all to `take`; where it listens.
pub(crate) fn serve(take: impl Fn(&Received) -> io::Result<()> + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let served = receiver::serve(listener, move |received| take(&received), std::future::pending());
        runtime.block_on(served).expect("the receiver runs");
    });
    address
}

impl Sink {
    pub(crate) fn start() -> Self {
        let taker = Taker::default();
        let taken = taker.clone();
        Self { address: serve(move |received| taken.take(received)), taker }
    }

    /// From now on nothing is acknowledged, or again everything.
    pub(crate) fn set_down(&self, is_down: bool) {
        self.taker.is_down.store(is_down, Ordering::SeqCst);
    }

    /// Requests that were refused.
    pub(crate) fn refused(&self) -> u64 {
        self.taker.refused.load(Ordering::SeqCst)
    }

    /// Records that arrived, each as often as it did.
    pub(crate) fn records(&self) -> u64 {
        self.taker.arrived.lock().expect("no panic").records
    }

    /// Deliveries of a record that had arrived already.
    pub(crate) fn again(&self) -> u64 {
        self.taker.arrived.lock().expect("no panic").again
    }

    /// Different records that arrived.
    pub(crate) fn different(&self) -> u64 {
        self.taker.arrived.lock().expect("no panic").by_uid.len() as u64
    }

    /// How many of these accepts did not arrive.
    pub(crate) fn missing<'a>(&self, expected: impl IntoIterator<Item = &'a Accepted>) -> Vec<Accepted> {
        let arrived = self.taker.arrived.lock().expect("no panic");
        expected.into_iter().filter(|accept| !arrived.cookies.contains(&accept.cookie)).copied().collect()
    }
}

impl Taker {
    fn take(&self, received: &Received) -> io::Result<()> {
        let Received::Logs(request) = received else { return Ok(()) };
        // Under the lock: a request is not acknowledged that arrived after `set_down`.
        let mut arrived = self.arrived.lock().expect("no panic");
        if self.is_down.load(Ordering::SeqCst) {
            self.refused.fetch_add(1, Ordering::SeqCst);
            return Err(io::Error::other("told to"));
        }
        for log in records(request) {
            arrived.note(log);
        }
        Ok(())
    }
}

impl Arrived {
    fn note(&mut self, log: &LogRecord) {
        let attribute = |key: &str| {
            let found = log.attributes.iter().find(|attribute| attribute.key == key)?;
            match found.value.as_ref()?.value.as_ref()? {
                Value::StringValue(text) => Some(text.clone()),
                other => panic!("{key} is {other:?}"),
            }
        };
        let uid = attribute(names::LOG_RECORD_UID).expect("every record has a uid");
        let cookie = (log.event_name == ACCEPT)
            .then(|| attribute(names::ACCEPTD_SOCKET_COOKIE))
            .flatten()
            .map(|cookie| cookie.parse().expect("a number"));
        self.records += 1;
        self.cookies.extend(cookie);
        match self.by_uid.insert(uid.clone(), cookie) {
            None => {}
            Some(earlier) => {
                assert_eq!(earlier, cookie, "{uid} stands for two accepts");
                self.again += 1;
            }
        }
    }
}

fn records(request: &ExportLogsServiceRequest) -> impl Iterator<Item = &LogRecord> {
    let scopes = request.resource_logs.iter().flat_map(|resource| &resource.scope_logs);
    scopes.flat_map(|scope| &scope.log_records)
}
