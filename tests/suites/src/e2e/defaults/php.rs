//! PHP-FPM with a backlog of 2 behind nginx: a full UNIX queue, which nginx logs for each connection that was
//! refused. nginx runs as a daemon: the process that called `listen()` has ended.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use super::{
    facts::{Facts, ListenerFacts, Reach, Report, Service},
    server::{self, HTTP, service},
};
use crate::{
    e2e::{
        clients::{self, Answer},
        deadlines::{ARRIVAL, READY},
        sandbox::Sandbox,
    },
    process::{Running, until},
};

const PHP_FPM: &str = "PHP-FPM, backlog 2";
const NGINX: &str = "nginx, daemon";
const SOCKET: &str = "/run/php/php-fpm.sock";
const PORT: u16 = 80;
/// Many more at a time than the queue and the five processes of Debian's configuration hold.
const CLIENTS: usize = 30;

/// Both servers run.
pub(super) struct Php {
    manager: Running,
    executable: String,
    folder: PathBuf,
}

/// Starts both servers, and waits until both listen.
pub(super) fn start(sandbox: &Sandbox, folder: &Path) -> Result<Php> {
    let folder = folder.join("php");
    fs::create_dir(&folder)?;
    let executable = php_fpm()?;
    let version = executable.trim_start_matches("php-fpm");
    fs::write(folder.join("index.php"), "<?php usleep(20000); echo 'ok';").context("writing index.php")?;
    let config = folder.join("php-fpm.conf");
    let text = format!(
        "[global]
error_log = /var/log/php-fpm.log
include = /etc/php/{version}/fpm/pool.d/www.conf
[www]
listen = {SOCKET}
listen.backlog = 2
"
    );
    fs::write(&config, text).context("writing php-fpm.conf")?;
    let mut shell = sandbox.command("sh");
    shell.args(["-c", "mkdir -p /run/php && exec \"$0\" --nodaemonize --fpm-config \"$1\"", &executable]);
    shell.arg(config);
    let (mut php_fpm, ..) = server::start(PHP_FPM, shell, &folder)?;
    until("PHP-FPM to listen", READY, || {
        php_fpm.require_alive()?;
        Ok(sandbox.listens(SOCKET)?.then_some(()))
    })?;

    fs::write(folder.join("nginx.conf"), nginx_config(&folder)).context("writing nginx.conf")?;
    let mut nginx = sandbox.command("nginx");
    nginx.env("OTEL_SERVICE_NAME", service(NGINX)).arg("-c").arg(folder.join("nginx.conf"));
    // The command ends when the daemon listens.
    if !nginx.status().context("nginx did not start")?.success() {
        bail!("nginx did not start");
    }
    Ok(Php { manager: php_fpm, executable, folder })
}

/// The only PHP-FPM that is installed: its name has its version.
fn php_fpm() -> Result<String> {
    let programs = fs::read_dir("/usr/sbin").context("reading /usr/sbin")?;
    let mut names = programs.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.find(|name| name.starts_with("php-fpm")).context("PHP-FPM is not installed")
}

fn nginx_config(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "user www-data;
pid /run/nginx.pid;
error_log {folder}/error.log;
events {{ }}
http {{
  log_format accepted '$remote_port $status';
  access_log {folder}/access.log accepted;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen {PORT};
    location / {{
      include /etc/nginx/fastcgi_params;
      fastcgi_param SCRIPT_FILENAME {folder}/index.php;
      fastcgi_pass unix:{SOCKET};
    }}
  }}
}}
"
    )
}

impl Php {
    /// Sends these requests, and returns what nginx logged of its own and of PHP-FPM's connections.
    pub(super) fn serve(&mut self, sandbox: &Sandbox, requests: usize) -> Result<Facts> {
        let before = sandbox.processes()?;
        sandbox.enter(|| clients::connect(PORT, HTTP, Answer::Whole, CLIENTS, requests))?;
        let log = until("nginx's log", ARRIVAL, || {
            let text = self.read("access.log")?;
            Ok((text.lines().count() >= requests).then_some(text))
        })?;
        self.manager.require_alive()?;
        let lines: Vec<(&str, &str)> = log.lines().filter_map(|line| line.split_once(' ')).collect();
        let ports = lines.iter().map(|(port, _)| port.parse()).collect::<Result<_, _>>().context("a port")?;
        let answered = lines.iter().filter(|(_, status)| *status == "200").count();
        let refused = self.read("error.log")?;
        let refused = refused.lines().filter(|line| line.contains("(11: Resource temporarily unavailable)"));
        let (nginx, php_fpm) = (vec!["nginx".to_owned()], vec![self.executable.clone()]);
        let listeners = vec![
            ListenerFacts {
                name: NGINX,
                reach: Reach::Port(PORT),
                report: Report::Ports(ports),
                refused: 0,
                executables: nginx.clone(),
                owners: nginx,
                service: Service::Named(service(NGINX)),
            },
            ListenerFacts {
                name: PHP_FPM,
                reach: Reach::Socket(SOCKET),
                report: Report::Count(answered),
                refused: refused.count() as u64,
                executables: php_fpm.clone(),
                owners: php_fpm,
                // It writes its title over its environment before it begins to listen.
                service: Service::Unnamed,
            },
        ];
        let processes = before.union(&sandbox.processes()?).copied().collect();
        let counters = sandbox.counters()?;
        Ok(Facts { netns: sandbox.netns, counters, listeners, processes: Some(processes), probes: 0 })
    }

    fn read(&self, name: &str) -> Result<String> {
        fs::read_to_string(self.folder.join(name)).with_context(|| format!("reading {name}"))
    }
}
