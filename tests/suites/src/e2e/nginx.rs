//! nginx with several workers, with all its files in a temporary folder. Records are compared with its log.

use std::{
    path::{Path, PathBuf},
    process::Command,
    str::FromStr,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};

use crate::{
    host,
    process::{Running, until},
};

/// The user of the workers, as Debian configures it.
pub(crate) const USER: &str = "www-data";

const READY: Duration = Duration::from_secs(10);
const LOGGED: Duration = Duration::from_secs(20);

/// A running nginx.
pub(crate) struct Nginx {
    process: Running,
    port: u16,
    log: PathBuf,
}

/// One line of the log: the worker and the connection that it accepted. Addresses are as nginx writes them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Accepted {
    pub(crate) pid: u32,
    pub(crate) local_address: String,
    pub(crate) local_port: u16,
    pub(crate) peer_address: String,
    pub(crate) peer_port: u16,
}

impl Nginx {
    /// Starts nginx on a free port of 127.0.0.1 and `::1`, and waits until its workers listen.
    pub(crate) fn start(folder: &Path, workers: usize) -> Result<Self> {
        let port = host::free_port()?;
        let prefix = folder.join("nginx");
        std::fs::create_dir(&prefix).context("creating nginx's folder")?;
        let config = prefix.join("nginx.conf");
        std::fs::write(&config, configuration(port, host::has_ipv6(), workers))
            .context("writing nginx.conf")?;
        let mut nginx = Command::new("nginx");
        nginx.arg("-p").arg(&prefix).arg("-e").arg(prefix.join("error.log")).arg("-c").arg(&config);
        let mut process = Running::start("nginx", nginx, &prefix.join("out"), &prefix.join("err"))?;
        let pid_file = prefix.join("nginx.pid");
        // nginx writes the file after it has bound the sockets. Until a worker runs, connections wait in the
        // queue.
        until("nginx to listen", READY, || {
            process.require_alive()?;
            Ok(pid_file.exists().then_some(()))
        })?;
        Ok(Self { process, port, log: prefix.join("access.log") })
    }

    /// The port on both 127.0.0.1 and `::1`.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Waits until this many requests are logged, and returns them. nginx logs a request after it has
    /// answered.
    pub(crate) fn wait_for_log(&self, requests: usize) -> Result<Vec<Accepted>> {
        let lines = until("nginx's log", LOGGED, || {
            let text = std::fs::read_to_string(&self.log).context("reading nginx's log")?;
            Ok((text.lines().count() >= requests && text.ends_with('\n')).then_some(text))
        })?;
        lines.lines().map(str::parse).collect()
    }

    /// Stops the master and its workers.
    pub(crate) fn stop(self, deadline: Duration) -> Result<()> {
        self.process.stop(deadline).map(|_log| ())
    }
}

impl FromStr for Accepted {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> Result<Self> {
        let fields: Vec<&str> = line.split(' ').collect();
        let [pid, local_address, local_port, peer_address, peer_port] = fields[..] else {
            return Err(anyhow!("a line of nginx's log has other fields than the configured five: {line}"));
        };
        Ok(Self {
            pid: pid.parse().with_context(|| line.to_owned())?,
            local_address: local_address.to_owned(),
            local_port: local_port.parse().with_context(|| line.to_owned())?,
            peer_address: peer_address.to_owned(),
            peer_port: peer_port.parse().with_context(|| line.to_owned())?,
        })
    }
}

fn configuration(port: u16, ipv6: bool, workers: usize) -> String {
    let listen_ipv6 = if ipv6 { format!("listen [::1]:{port};") } else { String::new() };
    format!(
        "daemon off;
worker_processes {workers};
user {USER};
pid nginx.pid;
error_log error.log warn;
events {{ worker_connections 1024; }}
http {{
  log_format accepted '$pid $server_addr $server_port $remote_addr $remote_port';
  access_log access.log accepted;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  keepalive_timeout 0;
  server {{
    listen 127.0.0.1:{port};
    {listen_ipv6}
    return 200 ok;
  }}
}}
"
    )
}

#[cfg(test)]
mod tests {
    use super::Accepted;

    #[test]
    fn a_line_has_five_fields() {
        let line: Accepted = "812 ::1 8080 ::1 51514".parse().unwrap();
        assert_eq!((line.pid, line.local_port, line.peer_port), (812, 8080, 51514));
        assert_eq!((line.local_address.as_str(), line.peer_address.as_str()), ("::1", "::1"));
        "812 ::1 8080 ::1".parse::<Accepted>().unwrap_err();
        "812 ::1 8080 ::1 x".parse::<Accepted>().unwrap_err();
    }
}
