//! An OTLP/gRPC receiver inside the test process: keeps every record, span and metric that an agent exports,
//! and checks each request against the registry.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::TcpListener,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Instant,
};

use acceptd_otlp::{Received, names::EVENTS, receiver};
use opentelemetry_proto::tonic::collector::{
    logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
};

use crate::{
    record::{Record, Span},
    registry, wait,
};

/// The event name of an accept.
pub const ACCEPT: &str = "acceptd.socket.accept";

/// Everything that one receiver got. Clones share their content.
#[derive(Debug, Default, Clone)]
pub struct Inbox {
    records: Arc<Mutex<Vec<Record>>>,
    spans: Arc<Mutex<Vec<Span>>>,
    metrics: Arc<Mutex<Vec<ExportMetricsServiceRequest>>>,
    /// Deviations from otel-config/registry.
    violations: Arc<Mutex<BTreeSet<String>>>,
}

impl Inbox {
    /// Starts a receiver on `listener`, which runs until the test process exits.
    ///
    /// # Panics
    /// If the receiver cannot start.
    #[must_use]
    pub fn receive_on(listener: TcpListener) -> Self {
        let inbox = Self::default();
        let sink = inbox.clone();
        thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let mut requests = 0;
            let requests = Mutex::new(move || {
                requests += 1;
                requests
            });
            let take = move |received: Received| {
                let violations = match &received {
                    Received::Logs(message) => registry::violations_in_logs(message),
                    Received::Traces(message) => registry::violations_in_traces(message),
                    Received::Metrics(message) => registry::violations_in_metrics(message),
                };
                sink.violations.lock().unwrap_or_else(PoisonError::into_inner).extend(violations);
                // An empty request is the agent's probe of the endpoint.
                if let Received::Logs(message) = &received
                    && received.records() > 0
                {
                    note_events(message);
                    let number = requests.lock().unwrap_or_else(PoisonError::into_inner)();
                    let mut records = sink.records.lock().unwrap_or_else(PoisonError::into_inner);
                    records.extend(Record::from_request(number, message));
                }
                if let Received::Traces(message) = &received {
                    sink.spans
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .extend(Span::from_request(message));
                }
                if let Received::Metrics(message) = received {
                    sink.metrics.lock().unwrap_or_else(PoisonError::into_inner).push(message);
                }
                Ok(())
            };
            runtime
                .block_on(receiver::serve(listener, take, std::future::pending()))
                .expect("the receiver runs");
        });
        inbox
    }

    /// Every record that has arrived so far, in order of arrival.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Deviations from otel-config/registry in what has arrived so far.
    #[must_use]
    pub fn violations(&self) -> BTreeSet<String> {
        self.violations.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Every span that has arrived so far, in order of arrival.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until the trace with this id has `count` spans, and returns them by span name.
    ///
    /// # Panics
    /// If the deadline passes first.
    #[must_use]
    pub fn wait_for_trace(&self, id: &[u8], count: usize) -> BTreeMap<String, Span> {
        wait::until_ok(|| {
            let found = self.spans().into_iter().filter(|span| span.span.trace_id == id);
            let found: Vec<_> = found.map(|span| (span.span.name.clone(), span)).collect();
            let names: Vec<_> = found.iter().map(|(name, _)| name.clone()).collect();
            if names.len() >= count {
                Ok(found.into_iter().collect())
            } else {
                Err(format!("only the spans {names:?}"))
            }
        })
    }

    /// Every metrics request that has arrived so far.
    #[must_use]
    pub fn metrics(&self) -> Vec<ExportMetricsServiceRequest> {
        self.metrics.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The most recent metrics request. Cheaper to poll than [`Inbox::metrics`], which copies all of them.
    #[must_use]
    pub fn last_metrics(&self) -> Option<ExportMetricsServiceRequest> {
        self.metrics.lock().unwrap_or_else(PoisonError::into_inner).last().cloned()
    }

    /// The number of records that have arrived so far.
    #[must_use]
    pub fn count(&self) -> usize {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Waits for `count` accept records with this local port, and returns them in the order in which the
    /// accepts happened.
    ///
    /// # Panics
    /// If the deadline passes first.
    #[must_use]
    pub fn wait_for_accepts(&self, port: u16, count: usize) -> Vec<Record> {
        self.wait_for_events(ACCEPT, count, |record| record.is_on_port(port))
    }

    /// Waits for `count` records of the event `name` that satisfy `matches`, and returns them in the order in
    /// which the events happened.
    ///
    /// # Panics
    /// If the deadline passes first, or if some have arrived and no more arrive for half of it.
    #[must_use]
    pub fn wait_for_events(
        &self,
        name: &str,
        count: usize,
        matches: impl Fn(&Record) -> bool,
    ) -> Vec<Record> {
        let (mut arrived, mut since) = (0, Instant::now());
        wait::until_ok(|| {
            let found = self.events(name, &matches);
            if found.len() > arrived {
                (arrived, since) = (found.len(), Instant::now());
            }
            // Once some have arrived, a long silence means that the others are missing.
            let is_progressing = arrived == 0 || since.elapsed() < wait::deadline() / 2;
            assert!(is_progressing, "no more than {arrived} of {count} records of {name}");
            if arrived >= count { Ok(found) } else { Err(format!("{arrived} of {count} records of {name}")) }
        })
    }

    /// The records of the event `name` that satisfy `matches`, once there are `count` or no more have arrived
    /// for a tenth of the deadline. For scenarios in which the kernel may skip program runs.
    ///
    /// # Panics
    /// If records keep arriving until the deadline without reaching `count`.
    #[must_use]
    pub fn settled_events(&self, name: &str, count: usize, matches: impl Fn(&Record) -> bool) -> Vec<Record> {
        let (mut arrived, mut since) = (0, Instant::now());
        wait::until("the records to settle", || {
            let found = self.events(name, &matches);
            if found.len() > arrived {
                (arrived, since) = (found.len(), Instant::now());
            }
            (found.len() >= count || since.elapsed() > wait::deadline() / 10).then_some(found)
        })
    }

    /// The records of the event `name` that have arrived by now and satisfy `matches`, in the order in which
    /// the events happened. The order of arrival differs: the agent has two requests in flight
    /// (`export.concurrency`).
    #[must_use]
    pub fn events(&self, name: &str, matches: impl Fn(&Record) -> bool) -> Vec<Record> {
        let is_wanted = |record: &Record| record.log.event_name == name && matches(record);
        let mut found: Vec<_> = self.records().into_iter().filter(is_wanted).collect();
        found.sort_by_key(|record| record.log.time_unix_nano);
        found
    }
}

/// The names of the events that any inbox of this process has received.
static SEEN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

fn note_events(message: &ExportLogsServiceRequest) {
    let records = message.resource_logs.iter().flat_map(|resource| &resource.scope_logs);
    let names = records.flat_map(|scope| &scope.log_records).map(|record| record.event_name.clone());
    SEEN.lock().unwrap_or_else(PoisonError::into_inner).extend(names);
}

/// The events of the registry that no inbox of this process has received.
#[must_use]
pub fn unseen_events() -> Vec<&'static str> {
    let seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    EVENTS.iter().map(|event| event.name).filter(|name| !seen.contains(*name)).collect()
}
