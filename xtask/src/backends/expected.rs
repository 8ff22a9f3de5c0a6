//! What the right answer to each question of docs/queries.md has: a row with what the workload's servers say of themselves.

use anyhow::{Context, Result};
use jiff::Timestamp;

use super::{
    answer::{
        Row, {self},
    },
    fact::{
        Fact::{
            Is, OneOf, Says, Within, {self},
        },
        find,
    },
    loss::{
        Loss, {self},
    },
    workload::{PORTS, Workload},
};

/// How long the slow server lets its clients wait, and how much more is still right.
const SLOW_NS: f64 = 300e6;
const TOLERANCE_NS: f64 = 20e6;

/// Where everybody connects from.
pub(super) const LOOPBACK: &str = "127.0.0.1";

/// By the default of `listener.stalled_after`.
const STALLED_NS: f64 = 5e9;

/// The facts, of which one row has all.
pub(super) struct Expected {
    question: &'static str,
    backends: &'static [&'static str],
    facts: Vec<Fact>,
}

const PROMETHEUS: &[&str] = &["prometheus"];
const JAEGER: &[&str] = &["jaeger"];
const LOKI: &[&str] = &["loki"];
const ELASTICSEARCH: &[&str] = &["elasticsearch"];
const VICTORIALOGS: &[&str] = &["victorialogs"];
const LOGS: &[&str] = &["loki", "elasticsearch", "victorialogs"];
const STORES: &[&str] = &["elasticsearch", "victorialogs"];

/// One connection to the slow server: what is looked for.
pub(super) struct Connection {
    pub(super) trace_id: String,
    pub(super) peer_port: u16,
}

/// What is known of the run.
pub(super) struct Truth<'a> {
    pub(super) workload: &'a Workload,
    connection: &'a Connection,
    loss: &'a Loss,
    /// Ports of those whom the slow server has accepted: the newest are shown.
    peers: Vec<String>,
}

impl<'a> Truth<'a> {
    pub(super) fn of(workload: &'a Workload, connection: &'a Connection, loss: &'a Loss) -> Result<Self> {
        let peers = workload.slow.peers()?.iter().map(|peer| peer.port().to_string()).collect();
        Ok(Self { workload, connection, loss, peers })
    }

    /// Every question that has an answer.
    pub(super) fn expected(&self) -> Vec<Expected> {
        [self.debugging(), self.latency(), self.on_call(), self.security(), self.everywhere(), self.losses()]
            .into_iter()
            .flatten()
            .collect()
    }

    fn trace(&self) -> Fact {
        Is("trace_id", self.connection.trace_id.clone())
    }

    fn tuple(&self) -> Fact {
        let (peer, local) = (self.connection.peer_port, self.workload.slow.port);
        Says(format!("127.0.0.1:{peer} -> 127.0.0.1:{local}"))
    }

    fn peer_port(&self) -> Fact {
        Is("network_peer_port", self.connection.peer_port.to_string())
    }

    pub(super) fn peer_ports(&self) -> Fact {
        OneOf("network_peer_port", self.peers.clone())
    }

    /// Of this run, as Prometheus has times.
    fn time(&self, key: &'static str) -> Fact {
        let seconds = |time: Timestamp| time.as_duration().as_secs_f64();
        Within(key, seconds(self.workload.began), seconds(Timestamp::now()))
    }

    fn debugging(&self) -> Vec<Expected> {
        let slow = &self.workload.slow;
        // All of the newest: whose the sentence is and where, with any of its clients.
        let sentence = || {
            vec![
                Says(format!("workload[{}] accepted tcp {LOOPBACK}:", slow.pid)),
                Says(format!(" -> {LOOPBACK}:{} after 3", slow.port)),
            ]
        };
        vec![
            expect("now", LOKI, [sentence(), vec![self.peer_ports()]].concat()),
            expect("now", STORES, sentence()),
        ]
    }

    fn latency(&self) -> Vec<Expected> {
        vec![
            expect("slow-accepts", PROMETHEUS, vec![Within("value", 0.99, 1.0)]),
            expect(
                "slow-accepts",
                JAEGER,
                vec![service("slow"), pid(self.workload.slow.pid), waited("duration_ns")],
            ),
            expect(
                "slow-accepts-v3",
                JAEGER,
                vec![service("slow"), pid(self.workload.slow.pid), waited("duration_ns")],
            ),
            expect(
                "slow-accepts",
                LOKI,
                vec![
                    pid(self.workload.slow.pid),
                    self.peer_port(),
                    self.trace(),
                    waited("acceptd_accept_queue_time_ns"),
                ],
            ),
            expect(
                "slow-accepts",
                STORES,
                vec![self.tuple(), self.trace(), waited("acceptd_accept_queue_time_ns")],
            ),
            expect("queue-time", PROMETHEUS, vec![service("slow"), Within("value", 0.25, 0.5)]),
            expect("queue-time", LOKI, vec![service("slow"), waited_most("value")]),
            expect(
                "queue-time",
                ELASTICSEARCH,
                vec![Is("key", "slow".to_owned()), waited_most("queue_time_ns_99_0")],
            ),
            expect("queue-time", VICTORIALOGS, vec![service("slow"), waited_most("p99")]),
            // The kernel takes one more than the backlog of 1.
            expect(
                "backlog",
                PROMETHEUS,
                vec![service("crowded"), port(self.workload.crowded.port), Within("value", 1.0, 2.0)],
            ),
            expect(
                "backlog",
                LOKI,
                vec![service("crowded"), port(self.workload.crowded.port), some("value")],
            ),
            expect(
                "backlog",
                ELASTICSEARCH,
                vec![port(self.workload.crowded.port), Is("limit", "1".to_owned()), some("longest")],
            ),
            expect(
                "backlog",
                VICTORIALOGS,
                vec![service("crowded"), port(self.workload.crowded.port), some("use")],
            ),
            expect(
                "overflow",
                PROMETHEUS,
                vec![service("crowded"), port(self.workload.crowded.port), some("value")],
            ),
            expect(
                "overflow",
                LOKI,
                vec![
                    service("crowded"),
                    pid(self.workload.crowded.pid),
                    port(self.workload.crowded.port),
                    some("value"),
                ],
            ),
            expect(
                "overflow",
                STORES,
                vec![service("crowded"), port(self.workload.crowded.port), some("dropped")],
            ),
            expect(
                "connection",
                JAEGER,
                vec![self.trace(), self.peer_port(), pid(self.workload.slow.pid), service("slow")],
            ),
            expect("connection", LOKI, vec![self.trace(), self.tuple(), pid(self.workload.slow.pid)]),
            expect("connection", STORES, vec![self.tuple()]),
            // Its spans, besides.
            expect(
                "connection",
                ELASTICSEARCH,
                vec![Is("name", "accept queue".to_owned()), waited("duration")],
            ),
        ]
    }

    fn on_call(&self) -> Vec<Expected> {
        vec![
            expect(
                "failures",
                PROMETHEUS,
                vec![
                    service("exhausted"),
                    port(self.workload.exhausted.port),
                    Is("error_type", "EMFILE".to_owned()),
                    some("value"),
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
                vec![service("exhausted"), port(self.workload.exhausted.port), some("value")],
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
                    some("acceptd_listener_backlog_length"),
                    Within("acceptd_listener_oldest_wait_ns", STALLED_NS, f64::INFINITY),
                ],
            ),
            expect(
                "abandoned",
                PROMETHEUS,
                vec![service("exhausted"), port(self.workload.exhausted.port), some("value")],
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

    fn security(&self) -> Vec<Expected> {
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
            expect("top-peers", LOKI, vec![Is("network_peer_address", LOOPBACK.to_owned()), some("value")]),
            expect("top-peers", ELASTICSEARCH, vec![Is("key", LOOPBACK.to_owned()), some("doc_count")]),
            expect(
                "top-peers",
                VICTORIALOGS,
                vec![Is("network_peer_address", LOOPBACK.to_owned()), some("hits")],
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

    fn everywhere(&self) -> Vec<Expected> {
        vec![
            expect(
                "interfaces",
                LOKI,
                vec![service("fast"), Is("acceptd_accept_syscall", "accept4".to_owned()), some("value")],
            ),
            expect("interfaces", STORES, vec![service("fast"), Says("accept4".to_owned())]),
            expect("volume", LOKI, vec![service("fast"), some("value")]),
            expect(
                "volume",
                ELASTICSEARCH,
                vec![Is("key", self.workload.fast.name.to_owned()), some("doc_count")],
            ),
            expect("volume", VICTORIALOGS, vec![service("fast"), some("records")]),
            expect("cost-cpu", PROMETHEUS, vec![Within("value", 1e-9, 1e-2)]),
            expect("cost-memory", PROMETHEUS, vec![Within("value", 1e6, 1e9)]),
        ]
    }

    fn losses(&self) -> Vec<Expected> {
        let ring = self.loss.ring;
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
                    Is("otel_component_name", format!("otlp_grpc_log_exporter/{}", loss::AWAY)),
                    Is("error_type", "retry_expired".to_owned()),
                    some("value"),
                ],
            ),
        ]
    }
}

fn expect(question: &'static str, backends: &'static [&'static str], facts: Vec<Fact>) -> Expected {
    Expected { question, backends, facts }
}

pub(super) fn service(name: &str) -> Fact {
    Is("service_name", name.to_owned())
}

pub(super) fn port(port: u16) -> Fact {
    Is("network_local_port", port.to_string())
}

pub(super) fn pid(pid: u32) -> Fact {
    Is("process_pid", pid.to_string())
}

/// Of all processes here: the suite wants root.
fn owner() -> Fact {
    Is("process_owner", "root".to_owned())
}

pub(super) fn some(key: &'static str) -> Fact {
    Within(key, 1.0, f64::INFINITY)
}

/// As long as the slow server lets its clients wait.
fn waited(key: &'static str) -> Fact {
    Within(key, SLOW_NS - TOLERANCE_NS, SLOW_NS + TOLERANCE_NS)
}

/// The longest of them: who comes while it still answers another waits for that, too.
pub(super) fn waited_most(key: &'static str) -> Fact {
    Within(key, SLOW_NS - TOLERANCE_NS, SLOW_NS + 10.0 * TOLERANCE_NS)
}

/// More columns than a reader looks at.
const MANY: usize = 12;

/// There is a row for each that is expected. Returns the first, which is the answer, by the backend's own names: the whole of it, or of a long one what it was known by.
pub(super) fn check(all: &[Expected], backend: &str, question: &str, rows: &[Row]) -> Result<Vec<String>> {
    let mut expected = all.iter().filter(|one| one.is(backend, question));
    let Expected { facts, .. } =
        expected.next().context("nothing is known of the right answer: add it to expected.rs")?;
    let answer = find(facts, rows)?;
    for one in expected {
        find(&one.facts, rows)?;
    }
    let is_told = |name: &str, value: &str| {
        answer.told().len() <= MANY
            || name == answer::LINE
            || facts.iter().any(|fact| fact.is_of(&answer::known_as(name), value))
    };
    let told = answer.told().iter().filter(|(name, value)| is_told(name, value));
    Ok(told.map(|(name, value)| format!("{name}={value}")).collect())
}

impl Expected {
    fn is(&self, backend: &str, question: &str) -> bool {
        self.question == question && self.backends.contains(&backend)
    }

    /// Those that somebody has to be asked, as in docs/queries.md.
    pub(super) fn ids(&self) -> impl Iterator<Item = String> {
        self.backends.iter().map(|backend| format!("{backend}/{}", self.question))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_told_by_the_backends_names() {
        let all = [Expected { question: "q", backends: LOKI, facts: vec![port(80)] }];
        let mut row = Row::of(&[("acceptd_listener_port", "80")]);
        let checked = |row: &Row| check(&all, "loki", "q", std::slice::from_ref(row));
        assert_eq!(checked(&row).expect("the answer"), ["acceptd_listener_port=80"]);
        for number in 0..MANY {
            row.insert(&format!("more{number}"), &number.into());
        }
        assert_eq!(checked(&row).expect("a long one"), ["acceptd_listener_port=80"]);
        assert!(check(&all, "loki", "another", &[row]).is_err(), "a question without a known answer");
    }
}
