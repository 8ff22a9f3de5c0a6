//! The load: servers and their clients in a child process. The servers log every accept, which is the
//! reference that the checks compare with.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use rustix::net::sockopt::socket_cookie;
use tempfile::TempDir;

const SERVERS: u8 = 2;

/// One accept, as the server that made it logged it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Accepted {
    /// `SO_COOKIE` of the new socket.
    pub(crate) cookie: u64,
    /// When accept returned.
    pub(crate) at: SystemTime,
}

/// A running load.
pub(crate) struct Load {
    child: Child,
    log: PathBuf,
    _folder: TempDir,
}

impl Load {
    /// Starts servers and clients, which together make `rate` connections a second.
    pub(crate) fn start(rate: u32) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let log = folder.path().join("accepts");
        let child = Command::new(std::env::current_exe().expect("a path"))
            .args(["load", &rate.to_string()])
            .arg(&log)
            .stdin(Stdio::piped())
            .spawn()
            .expect("the load starts");
        Self { child, log, _folder: folder }
    }

    /// The accepts that the servers have logged so far.
    pub(crate) fn log(&self) -> Vec<Accepted> {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        // The last line may be incomplete.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let parse = |line: &str| {
            let (cookie, nanos) = line.split_once(' ').expect("two words");
            let at = SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos.parse().expect("a time"));
            Accepted { cookie: cookie.parse().expect("a cookie"), at }
        };
        whole.lines().map(parse).collect()
    }

    /// Stops the load, and returns the complete log.
    pub(crate) fn stop(mut self) -> Vec<Accepted> {
        drop(self.child.stdin.take());
        let status = self.child.wait().expect("the load ends");
        assert!(status.success(), "the load failed: {status}");
        self.log()
    }
}

/// The child process: runs until the end of its standard input.
pub(crate) fn run(rate: u32, log: &Path) -> ExitCode {
    let stop = AtomicBool::new(false);
    let log = Mutex::new(File::create(log).expect("a log"));
    thread::scope(|scope| {
        for _ in 0..SERVERS {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
            let port = listener.local_addr().expect("an address").port();
            let (stop, log) = (&stop, &log);
            scope.spawn(move || serve(&listener, log, stop));
            scope.spawn(move || connect(port, rate / u32::from(SERVERS), stop));
        }
        _ = std::io::stdin().read(&mut [0]);
        stop.store(true, Ordering::Relaxed);
    });
    ExitCode::SUCCESS
}

fn serve(listener: &TcpListener, log: &Mutex<File>, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let (mut connection, _) = listener.accept().expect("a connection");
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
        let line = format!("{} {}\n", socket_cookie(&connection).expect("SO_COOKIE"), since.as_nanos());
        log.lock().expect("an unpoisoned lock").write_all(line.as_bytes()).expect("written");
        // Let the client close first, so that TIME_WAIT is on its side.
        _ = connection.read(&mut [0]);
    }
}

fn connect(port: u16, rate: u32, stop: &AtomicBool) {
    let started = Instant::now();
    let mut made = 0;
    loop {
        // One more connection after the stop wakes a blocked server.
        let last = stop.load(Ordering::Relaxed);
        match TcpStream::connect(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)) {
            Ok(connection) => drop(connection),
            Err(_) if last => return,
            // All local ports are in TIME_WAIT; retry until some are free again.
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
        if last {
            return;
        }
        made += 1;
        let due = Duration::from_secs(1) * made / rate;
        thread::sleep(due.saturating_sub(started.elapsed()));
    }
}
