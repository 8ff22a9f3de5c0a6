//! The figures of a run: on the terminal and, with `--full`, in docs/results/e2e.md.

use std::{fmt, process::Command, time::Duration};

use anyhow::{Context, Result};
use xtask_support::{Workspace, results};

use super::{
    jaeger::Times,
    servers::{Measured, ServerFigures},
};
use crate::collector;

/// The figures of a run without a difference.
pub(crate) struct Figures {
    pub(crate) requests: usize,
    /// Workers of nginx that accepted something.
    pub(crate) workers: usize,
    /// Processes with hostile names that accepted.
    pub(crate) hostile: usize,
    /// Records in the Collector's file: those of nginx, and of the connections that waited for the agent.
    pub(crate) records: usize,
    /// How long sending the requests took.
    pub(crate) load: Duration,
    /// The figures of the other servers.
    pub(crate) others: Option<Measured>,
    /// Only with `--full`; the names of Kubernetes were right then, too.
    pub(crate) trace: Option<Times>,
    /// Calls of accept that the programs saw, including those on an empty queue.
    pub(crate) seen: u64,
}

impl fmt::Display for Figures {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "e2e: {} requests in {:.1} s, {} workers of nginx",
            self.requests,
            self.load.as_secs_f64(),
            self.workers
        )?;
        writeln!(out, "e2e: (pid, tuple) of every record equals nginx's log: 0 missing, 0 extra")?;
        writeln!(out, "e2e: name, path, user, owner and creation time of every record equal /proc")?;
        writeln!(out, "e2e: {} executables with hostile names arrived, readable and harmless", self.hostile)?;
        writeln!(
            out,
            "e2e: 5 Multipath TCP and 5 plain connections on one Go listener: 10 cookies, SO_COOKIE as without the agent"
        )?;
        if let Some(Measured { servers, emfile, containers }) = &self.others {
            for ServerFigures { server, tcp, unix } in servers {
                writeln!(
                    out,
                    "e2e: {server}: {tcp} TCP and {unix} UNIX accepts, and its process, equal its own word"
                )?;
            }
            writeln!(out, "e2e: EMFILE {emfile} times with ulimit -n 64, as strace counts")?;
            writeln!(
                out,
                "e2e: {containers} containers: id, process and service of every record equal Docker's engine"
            )?;
        }
        if let Some(Times { handshake, queue, connection }) = &self.trace {
            writeln!(
                out,
                "e2e: in Jaeger by service, by each span's name and by the log record's ids: a connection of {connection:?} with a handshake of {handshake:?} and {queue:?} in the queue of a server that slept 300 ms"
            )?;
            writeln!(
                out,
                "e2e: otel-config/kubernetes.yaml: pod, container and service by container.id, by k8s.pod.uid, and unknown_service back outside"
            )?;
        }
        write!(
            out,
            "e2e: the ledger balances: {} accepts seen, {} records at the Collector, 0 lost",
            self.seen, self.records
        )
    }
}

/// Writes the result file.
pub(crate) fn write(workspace: &Workspace, figures: &Figures) -> Result<()> {
    let mut nginx = Command::new("nginx");
    nginx.arg("-v");
    let nginx = nginx.output().context("nginx -v")?;
    let facts = [
        ("server", String::from_utf8_lossy(&nginx.stderr).trim().to_owned()),
        ("Collector", format!("{} of tests/collector, file exporter", collector::VERSION)),
        ("on Kubernetes", format!("{} of tests/collector, k8sattributes", collector::VERSION)),
        ("Jaeger", "2.13.0 of tests/jaeger, in memory".to_owned()),
    ];
    results::write(workspace, "e2e", "End to end: nginx, acceptd, Collector", &facts, &figures.to_string())
}
