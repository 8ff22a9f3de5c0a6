//! The final OTLP/gRPC receiver, in this process: remembers what it acknowledged, and can be switched to
//! refuse everything.

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
use acceptd_tests::inbox::ACCEPT;
use opentelemetry_proto::tonic::{
    collector::logs::v1::ExportLogsServiceRequest, common::v1::any_value::Value, logs::v1::LogRecord,
};

use crate::load::Accepted;

/// Everything that the sink has acknowledged.
#[derive(Default)]
struct Arrived {
    /// `log.record.uid` of each record, with the cookie of the accepted socket; `None` for events other than
    /// accepts.
    by_uid: HashMap<String, Option<u64>>,
    /// The cookies of all accepts.
    cookies: HashSet<u64>,
    /// Repeated deliveries of a uid.
    again: u64,
    records: u64,
}

/// The receiver. Clones share their state.
#[derive(Clone)]
pub(crate) struct Sink {
    pub(crate) address: SocketAddr,
    state: State,
}

/// The state that the receiver's handler shares with the checker.
#[derive(Clone, Default)]
struct State {
    arrived: Arc<Mutex<Arrived>>,
    is_down: Arc<AtomicBool>,
    refused: Arc<AtomicU64>,
}

/// Starts a receiver that passes every request to `take` until this process exits. Returns its address.
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
        let state = State::default();
        let shared = state.clone();
        Self { address: serve(move |received| shared.take(received)), state }
    }

    /// Switches between refusing every request (`true`) and acknowledging it.
    pub(crate) fn set_down(&self, is_down: bool) {
        self.state.is_down.store(is_down, Ordering::SeqCst);
    }

    /// The number of refused requests.
    pub(crate) fn refused(&self) -> u64 {
        self.state.refused.load(Ordering::SeqCst)
    }

    /// The number of records that arrived, including repeated ones.
    pub(crate) fn records(&self) -> u64 {
        self.state.arrived.lock().expect("an unpoisoned lock").records
    }

    /// The number of repeated deliveries.
    pub(crate) fn again(&self) -> u64 {
        self.state.arrived.lock().expect("an unpoisoned lock").again
    }

    /// The number of distinct records that arrived.
    pub(crate) fn distinct(&self) -> u64 {
        self.state.arrived.lock().expect("an unpoisoned lock").by_uid.len() as u64
    }

    /// Those of the expected accepts that did not arrive.
    pub(crate) fn missing<'a>(&self, expected: impl IntoIterator<Item = &'a Accepted>) -> Vec<Accepted> {
        let arrived = self.state.arrived.lock().expect("an unpoisoned lock");
        expected.into_iter().filter(|accept| !arrived.cookies.contains(&accept.cookie)).copied().collect()
    }
}

impl State {
    fn take(&self, received: &Received) -> io::Result<()> {
        let Received::Logs(request) = received else { return Ok(()) };
        // Check under the lock, so that no request is acknowledged after `set_down` has returned.
        let mut arrived = self.arrived.lock().expect("an unpoisoned lock");
        if self.is_down.load(Ordering::SeqCst) {
            self.refused.fetch_add(1, Ordering::SeqCst);
            return Err(io::Error::other("switched to refuse"));
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
                assert_eq!(earlier, cookie, "two accepts have the uid {uid}");
                self.again += 1;
            }
        }
    }
}

fn records(request: &ExportLogsServiceRequest) -> impl Iterator<Item = &LogRecord> {
    let scopes = request.resource_logs.iter().flat_map(|resource| &resource.scope_logs);
    scopes.flat_map(|scope| &scope.log_records)
}
