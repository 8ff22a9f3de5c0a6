//! The expected answer to each question of docs/queries.md, derived from the processes, ports and logs of the
//! workload's servers.

use anyhow::{Context, Result};
use jiff::Timestamp;

use super::{
    answer::{self, Row},
    expectation::{
        Expectation::{self, Contains, Is, OneOf, Within},
        find,
    },
    lossy_agent::{self, LossyAgent},
    stack::SlowConnection,
    workload::{PORTS, Workload},
};

/// How long the slow server lets its clients wait, and the tolerance, in nanoseconds.
const SLOW_NS: f64 = 300e6;
const TOLERANCE_NS: f64 = 20e6;

/// The address of all clients.
pub(super) const LOOPBACK: &str = "127.0.0.1";

/// The default of `listener.stalled_after`, in nanoseconds.
const STALLED_NS: f64 = 5e9;

/// The expectations that one row of the answer to a question must meet, for one or several backends.
pub(super) struct ExpectedAnswer {
    question: &'static str,
    backends: &'static [&'static str],
    expectations: Vec<Expectation>,
}

const PROMETHEUS: &[&str] = &["prometheus"];
const JAEGER: &[&str] = &["jaeger"];
const LOKI: &[&str] = &["loki"];
const ELASTICSEARCH: &[&str] = &["elasticsearch"];
const VICTORIALOGS: &[&str] = &["victorialogs"];
const LOGS: &[&str] = &["loki", "elasticsearch", "victorialogs"];
const STORES: &[&str] = &["elasticsearch", "victorialogs"];

/// The facts of the run from which expectations are derived.
pub(super) struct RunFacts<'a> {
    pub(super) workload: &'a Workload,
    connection: &'a SlowConnection,
    lossy_agent: &'a LossyAgent,
    /// Ports of all clients that the slow server has accepted. Backends return records of the newest ones.
    peers: Vec<String>,
}

impl<'a> RunFacts<'a> {
    pub(super) fn new(
        workload: &'a Workload,
        connection: &'a SlowConnection,
        lossy_agent: &'a LossyAgent,
    ) -> Result<Self> {
        let peers = workload.slow.peers()?.iter().map(|peer| peer.port().to_string()).collect();
        Ok(Self { workload, connection, lossy_agent, peers })
    }

    /// The expectations of all questions.
    pub(super) fn expected(&self) -> Vec<ExpectedAnswer> {
        [self.debugging(), self.latency(), self.on_call(), self.security(), self.everywhere(), self.losses()]
            .into_iter()
            .flatten()
            .collect()
    }

    fn trace(&self) -> Expectation {
        Is("trace_id", self.connection.trace_id.clone())
    }

    fn tuple(&self) -> Expectation {
        let (peer, local) = (self.connection.peer_port, self.workload.slow.port);
        Contains(format!("127.0.0.1:{peer} -> 127.0.0.1:{local}"))
    }

    fn peer_port(&self) -> Expectation {
        Is("network_peer_port", self.connection.peer_port.to_string())
    }

    pub(super) fn peer_ports(&self) -> Expectation {
        OneOf("network_peer_port", self.peers.clone())
    }

    /// The column is a time of this run, in seconds since 1970 as Prometheus returns times.
    fn time(&self, key: &'static str) -> Expectation {
        let seconds = |time: Timestamp| time.as_duration().as_secs_f64();
        Within(key, seconds(self.workload.started), seconds(Timestamp::now()))
    }

    fn debugging(&self) -> Vec<ExpectedAnswer> {
        let slow = &self.workload.slow;
        // The query returns the newest records. Their sentence names the server process, its port and any
        // client.
        let sentence = || {
            vec![
                Contains(format!("workload[{}] accepted tcp {LOOPBACK}:", slow.pid)),
                Contains(format!(" -> {LOOPBACK}:{} after 3", slow.port)),
            ]
        };
        vec![
            expect("now", LOKI, [sentence(), vec![self.peer_ports()]].concat()),
            expect("now", STORES, sentence()),
        ]
    }

    fn latency(&self) -> Vec<ExpectedAnswer> {
        vec![
            expect("slow-accepts", PROMETHEUS, vec![Within("value", 0.99, 1.0)]),
            expect(
                "slow-accepts",
                JAEGER,
                vec![service("slow"), pid(self.workload.slow.pid), slow_wait("duration_ns")],
            ),
            expect(
                "slow-accepts-v3",
                JAEGER,
                vec![service("slow"), pid(self.workload.slow.pid), slow_wait("duration_ns")],
            ),
            expect(
                "slow-accepts",
                LOKI,
                vec![
                    pid(self.workload.slow.pid),
                    self.peer_port(),
                    self.trace(),
                    slow_wait("acceptd_accept_queue_time_ns"),
                ],
            ),
            expect(
                "slow-accepts",
                STORES,
                vec![self.tuple(), self.trace(), slow_wait("acceptd_accept_queue_time_ns")],
            ),
            expect("queue-time", PROMETHEUS, vec![service("slow"), Within("value", 0.25, 0.5)]),
            expect("queue-time", LOKI, vec![service("slow"), longest_slow_wait("value")]),
            expect(
                "queue-time",
                ELASTICSEARCH,
                vec![Is("key", "slow".to_owned()), longest_slow_wait("queue_time_ns_99_0")],
            ),
            expect("queue-time", VICTORIALOGS, vec![service("slow"), longest_slow_wait("p99")]),
            // The kernel queues one connection more than the backlog of 1.
            expect(
                "backlog",
                PROMETHEUS,
                vec![service("crowded"), port(self.workload.crowded.port), Within("value", 1.0, 2.0)],
            ),
            expect(
                "backlog",
                LOKI,
                vec![service("crowded"), port(self.workload.crowded.port), at_least_one("value")],
            ),
            expect(
                "backlog",
                ELASTICSEARCH,
                vec![port(self.workload.crowded.port), Is("limit", "1".to_owned()), at_least_one("longest")],
            ),
            expect(
                "backlog",
                VICTORIALOGS,
                vec![service("crowded"), port(self.workload.crowded.port), at_least_one("use")],
            ),
            expect(
                "overflow",
                PROMETHEUS,
                vec![service("crowded"), port(self.workload.crowded.port), at_least_one("value")],
            ),
            expect(
                "overflow",
                LOKI,
                vec![
                    service("crowded"),
                    pid(self.workload.crowded.pid),
                    port(self.workload.crowded.port),
                    at_least_one("value"),
                ],
            ),
            expect(
                "overflow",
                STORES,
                vec![service("crowded"), port(self.workload.crowded.port), at_least_one("dropped")],
            ),
            expect(
                "connection",
                JAEGER,
                vec![self.trace(), self.peer_port(), pid(self.workload.slow.pid), service("slow")],
            ),
            expect("connection", LOKI, vec![self.trace(), self.tuple(), pid(self.workload.slow.pid)]),
            expect("connection", STORES, vec![self.tuple()]),
            // The spans of the connection.
            expect(
                "connection",
                ELASTICSEARCH,
                vec![Is("name", "accept queue".to_owned()), slow_wait("duration")],
            ),
        ]
    }

    fn on_call(&self) -> Vec<ExpectedAnswer> {
        vec![
            expect(
                "failures",
                PROMETHEUS,
                vec![
                    service("exhausted"),
                    port(self.workload.exhausted.port),
                    Is("error_type", "EMFILE".to_owned()),
                    at_least_one("value"),
                ],
            ),
            expect(
                "failures",
                LOGS,
                vec![
                    service("exhausted"),
                    pid(self.workload.exhausted.pid),
                    port(self.workload.exhausted.port),
                    Is("error_type", "EMFILE".to_owned()),
                ],
            ),
            expect(
                "stalled",
                PROMETHEUS,
                vec![service("exhausted"), port(self.workload.exhausted.port), at_least_one("value")],
            ),
            expect(
                "stalled-since",
                PROMETHEUS,
                vec![service("exhausted"), port(self.workload.exhausted.port), self.time("value")],
            ),
            expect(
                "stalled",
                LOGS,
                vec![
                    service("exhausted"),
                    port(self.workload.exhausted.port),
                    Is("acceptd_listener_stall_state", "began".to_owned()),
                    at_least_one("acceptd_listener_backlog_length"),
                    Within("acceptd_listener_oldest_wait_ns", STALLED_NS, f64::INFINITY),
                ],
            ),
            expect(
                "abandoned",
                PROMETHEUS,
                vec![service("exhausted"), port(self.workload.exhausted.port), at_least_one("value")],
            ),
            expect(
                "abandoned",
                LOGS,
                vec![
                    service("exhausted"),
                    port(self.workload.exhausted.port),
                    Is("network_peer_address", LOOPBACK.to_owned()),
                ],
            ),
        ]
    }

    fn security(&self) -> Vec<ExpectedAnswer> {
        vec![
            expect(
                "who-connected",
                JAEGER,
                vec![self.peer_ports(), pid(self.workload.slow.pid), port(self.workload.slow.port)],
            ),
            expect(
                "who-connected",
                LOKI,
                vec![
                    self.peer_ports(),
                    pid(self.workload.slow.pid),
                    Is("process_executable_name", "workload".to_owned()),
                    owner(),
                ],
            ),
            expect("who-connected", STORES, vec![self.peer_ports(), pid(self.workload.slow.pid), owner()]),
            expect(
                "peer",
                JAEGER,
                vec![
                    self.peer_ports(),
                    pid(self.workload.slow.pid),
                    Is("network_peer_address", LOOPBACK.to_owned()),
                ],
            ),
            expect(
                "peer",
                LOGS,
                vec![service("slow"), pid(self.workload.slow.pid), port(self.workload.slow.port)],
            ),
            expect(
                "scanner",
                LOKI,
                vec![Is("network_peer_address", LOOPBACK.to_owned()), Within("value", f64::from(PORTS), 1e3)],
            ),
            expect(
                "scanner",
                ELASTICSEARCH,
                vec![Is("key", LOOPBACK.to_owned()), Within("ports", f64::from(PORTS), 1e3)],
            ),
            expect(
                "scanner",
                VICTORIALOGS,
                vec![
                    Is("network_peer_address", LOOPBACK.to_owned()),
                    Within("listeners", f64::from(PORTS), 1e3),
                ],
            ),
            expect(
                "top-peers",
                LOKI,
                vec![Is("network_peer_address", LOOPBACK.to_owned()), at_least_one("value")],
            ),
            expect(
                "top-peers",
                ELASTICSEARCH,
                vec![Is("key", LOOPBACK.to_owned()), at_least_one("doc_count")],
            ),
            expect(
                "top-peers",
                VICTORIALOGS,
                vec![Is("network_peer_address", LOOPBACK.to_owned()), at_least_one("hits")],
            ),
            expect(
                "unix",
                LOGS,
                vec![
                    service("unix"),
                    pid(self.workload.unix.pid),
                    Is("acceptd_peer_pid", self.workload.clients.to_string()),
                ],
            ),
        ]
    }

    fn everywhere(&self) -> Vec<ExpectedAnswer> {
        vec![
            expect(
                "interfaces",
                LOKI,
                vec![
                    service("fast"),
                    Is("acceptd_accept_syscall", "accept4".to_owned()),
                    at_least_one("value"),
                ],
            ),
            expect("interfaces", STORES, vec![service("fast"), Contains("accept4".to_owned())]),
            expect("volume", LOKI, vec![service("fast"), at_least_one("value")]),
            expect(
                "volume",
                ELASTICSEARCH,
                vec![Is("key", self.workload.fast.name.to_owned()), at_least_one("doc_count")],
            ),
            expect("volume", VICTORIALOGS, vec![service("fast"), at_least_one("records")]),
            expect("cost-cpu", PROMETHEUS, vec![Within("value", 1e-9, 1e-2)]),
            expect("cost-memory", PROMETHEUS, vec![Within("value", 1e6, 1e9)]),
        ]
    }

    fn losses(&self) -> Vec<ExpectedAnswer> {
        let ring = self.lossy_agent.lost_in_ring;
        let is = |key| Within(key, f64::from(ring), f64::from(ring));
        let reason = |key| Is(key, "ring".to_owned());
        vec![
            expect(
                "lost",
                PROMETHEUS,
                vec![Is("acceptd_capture_outcome", "lost_ring".to_owned()), is("value")],
            ),
            expect("lost", LOKI, vec![reason("acceptd_loss_reason"), is("acceptd_loss_count")]),
            expect("lost", ELASTICSEARCH, vec![reason("reason"), is("lost")]),
            expect("lost", VICTORIALOGS, vec![reason("acceptd_loss_reason"), is("lost")]),
            expect(
                "not-delivered",
                PROMETHEUS,
                vec![
                    Is("otel_component_name", format!("otlp_grpc_log_exporter/{}", lossy_agent::UNREACHABLE)),
                    Is("error_type", "retry_expired".to_owned()),
                    at_least_one("value"),
                ],
            ),
        ]
    }
}

fn expect(
    question: &'static str,
    backends: &'static [&'static str],
    expectations: Vec<Expectation>,
) -> ExpectedAnswer {
    ExpectedAnswer { question, backends, expectations }
}

pub(super) fn service(name: &str) -> Expectation {
    Is("service_name", name.to_owned())
}

pub(super) fn port(port: u16) -> Expectation {
    Is("network_local_port", port.to_string())
}

pub(super) fn pid(pid: u32) -> Expectation {
    Is("process_pid", pid.to_string())
}

/// The owner of all processes of the suite is root, because the suite needs root.
fn owner() -> Expectation {
    Is("process_owner", "root".to_owned())
}

/// The column is at least 1.
pub(super) fn at_least_one(key: &'static str) -> Expectation {
    Within(key, 1.0, f64::INFINITY)
}

/// The column is the time that the slow server lets its clients wait, in nanoseconds.
fn slow_wait(key: &'static str) -> Expectation {
    Within(key, SLOW_NS - TOLERANCE_NS, SLOW_NS + TOLERANCE_NS)
}

/// The column is the longest or a high percentile of these waits, in nanoseconds. A client that comes while
/// the server still serves another also waits for that one.
pub(super) fn longest_slow_wait(key: &'static str) -> Expectation {
    Within(key, SLOW_NS - TOLERANCE_NS, SLOW_NS + 10.0 * TOLERANCE_NS)
}

/// A row with more columns than this is shortened in docs/queries.md.
const MAX_COLUMNS: usize = 12;

/// Checks that the rows meet each expected answer to a question. Returns the columns of the row that meets
/// the first one, as NAME=VALUE with the backend's own names. A long row is shortened to the columns that
/// have expectations.
pub(super) fn check(
    all: &[ExpectedAnswer],
    backend: &str,
    question: &str,
    rows: &[Row],
) -> Result<Vec<String>> {
    let mut expected = all.iter().filter(|expected| expected.answers(backend, question));
    let ExpectedAnswer { expectations, .. } = expected
        .next()
        .context("this question has no expected answer: add it to tests/suites/src/backends/expected.rs")?;
    let answer = find(expectations, rows)?;
    for other in expected {
        find(&other.expectations, rows)?;
    }
    let is_shown = |name: &str, value: &str| {
        answer.original().len() <= MAX_COLUMNS
            || name == answer::LINE
            || expectations.iter().any(|expectation| expectation.concerns(&answer::common_name(name), value))
    };
    let shown = answer.original().iter().filter(|(name, value)| is_shown(name, value));
    Ok(shown.map(|(name, value)| format!("{name}={value}")).collect())
}

impl ExpectedAnswer {
    fn answers(&self, backend: &str, question: &str) -> bool {
        self.question == question && self.backends.contains(&backend)
    }

    /// The ids BACKEND/QUESTION that the queries must have in docs/queries.md.
    pub(super) fn ids(&self) -> impl Iterator<Item = String> {
        self.backends.iter().map(|backend| format!("{backend}/{}", self.question))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_reported_with_the_backends_names() {
        let all = [ExpectedAnswer { question: "q", backends: LOKI, expectations: vec![port(80)] }];
        let mut row = Row::from_columns(&[("acceptd_listener_port", "80")]);
        let checked = |row: &Row| check(&all, "loki", "q", std::slice::from_ref(row));
        assert_eq!(checked(&row).expect("the answer"), ["acceptd_listener_port=80"]);
        for number in 0..MAX_COLUMNS {
            row.insert(&format!("more{number}"), &number.into());
        }
        assert_eq!(checked(&row).expect("a long one"), ["acceptd_listener_port=80"]);
        assert!(check(&all, "loki", "another", &[row]).is_err(), "a question without a known answer");
    }
}
