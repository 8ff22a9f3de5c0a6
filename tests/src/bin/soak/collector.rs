//! Runs a real Collector without queue, batching and retries, so that it acknowledges only what the sink
//! acknowledged.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use acceptd_tests::wait;
use rustix::process::{Pid, Signal, kill_process};

/// A Collector whose addresses stay the same over restarts.
pub(crate) struct Collector {
    binary: PathBuf,
    config: String,
    pub(crate) grpc: SocketAddr,
    pub(crate) http: SocketAddr,
    child: Option<Child>,
}

impl Collector {
    pub(crate) fn start(binary: &Path, sink: SocketAddr) -> Self {
        let (grpc, http) = (free_address(), free_address());
        let config = format!(
            "
receivers: {{otlp: {{protocols: {{grpc: {{endpoint: '{grpc}'}}, http: {{endpoint: '{http}'}}}}}}}}
exporters:
  otlp_grpc:
    endpoint: '{sink}'
    tls: {{insecure: true}}
    sending_queue: {{enabled: false}}
    retry_on_failure: {{enabled: false}}
service:
  telemetry: {{metrics: {{level: none}}, logs: {{level: error}}}}
  pipelines: {{logs: {{receivers: [otlp], exporters: [otlp_grpc]}}}}
"
        );
        let mut collector = Self { binary: binary.to_owned(), config, grpc, http, child: None };
        collector.up();
        collector
    }

    /// Starts the process, and waits until it listens.
    pub(crate) fn up(&mut self) {
        let child = Command::new(&self.binary)
            .arg("--config=env:SOAK_CONFIG")
            .env("SOAK_CONFIG", &self.config)
            .stdout(Stdio::null())
            .spawn()
            .expect("the Collector starts");
        self.child = Some(child);
        for address in [self.grpc, self.http] {
            wait::until("the Collector listens", || TcpStream::connect(address).ok());
        }
    }

    /// Sends the signal, and waits until the process has exited.
    pub(crate) fn down(&mut self, signal: Signal) {
        if let Some(mut child) = self.child.take() {
            kill_process(Pid::from_child(&child), signal).expect("acceptd starts");
            child.wait().expect("the process exits");
        }
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            _ = child.kill();
            _ = child.wait();
        }
    }
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port")
}
