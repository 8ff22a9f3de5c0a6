//! Child processes that do not outlive this program, and waiting with a deadline.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, getpgid, kill_process, kill_process_group};

const POLL: Duration = Duration::from_millis(20);

/// A running child process. Dropping the value kills it; [`Running::stop`] lets it exit by itself.
pub(crate) struct Running {
    name: &'static str,
    child: Child,
    stderr: PathBuf,
    has_exited: bool,
}

impl Running {
    /// Starts a program that writes stdout and stderr to files.
    pub(crate) fn start(
        name: &'static str,
        mut command: Command,
        stdout: &Path,
        stderr: &Path,
    ) -> Result<Self> {
        let file = |path: &Path| File::create(path).with_context(|| format!("creating {}", path.display()));
        let child = command
            .stdin(Stdio::null())
            .stdout(file(stdout)?)
            .stderr(file(stderr)?)
            .spawn()
            .with_context(|| format!("{name} did not start"))?;
        Ok(Self { name, child, stderr: stderr.to_path_buf(), has_exited: false })
    }

    /// The process id. A shell that executes another program keeps it.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything that the program wrote to stderr so far.
    pub(crate) fn log(&self) -> Result<String> {
        let bytes =
            std::fs::read(&self.stderr).with_context(|| format!("reading {}", self.stderr.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Whether the program has exited or was killed.
    pub(crate) fn has_exited(&mut self) -> Result<bool> {
        self.has_exited |= self.child.try_wait()?.is_some();
        Ok(self.has_exited)
    }

    /// Fails, with its stderr, if the program has exited.
    pub(crate) fn require_alive(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            self.has_exited = true;
            bail!("{} exited unexpectedly: {status}\n{}", self.name, self.log()?.trim_end());
        }
        Ok(())
    }

    /// Kills the program with SIGKILL, as the kernel does when memory runs out.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.require_alive()?;
        self.child.kill().with_context(|| format!("killing {}", self.name))?;
        self.child.wait()?;
        self.has_exited = true;
        Ok(())
    }

    /// Suspends the program until [`Running::resume`].
    pub(crate) fn pause(&mut self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Continues a suspended program.
    pub(crate) fn resume(&mut self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        self.require_alive()?;
        let pid =
            i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("no such process id")?;
        kill_process(pid, signal).with_context(|| format!("signalling {}", self.name))
    }

    /// Sends SIGTERM, waits until the program exits, and returns its stderr. Another exit code than 0 is an
    /// error. So is the deadline, after which the program is killed.
    pub(crate) fn stop(self, deadline: Duration) -> Result<String> {
        self.stop_with(deadline, 0)
    }

    /// [`Running::stop`] for a program that exits with another code after SIGTERM.
    pub(crate) fn stop_with(mut self, deadline: Duration, code: i32) -> Result<String> {
        self.signal(Signal::TERM)?;
        let name = self.name;
        let status = until(&format!("{name} to stop"), deadline, || Ok(self.child.try_wait()?))?;
        self.has_exited = true;
        let log = self.log()?;
        if status.code() != Some(code) {
            bail!("{name} exited with {status}\n{}", log.trim_end());
        }
        Ok(log)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.has_exited {
            // Errors are ignored: they mean that the process is gone.
            if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
                && getpgid(Some(pid)) == Ok(pid)
            {
                // The program leads a process group, so its own children are killed, too.
                let _gone = kill_process_group(pid, Signal::KILL);
            }
            let _gone = self.child.kill();
            let _reaped = self.child.wait();
        }
    }
}

/// Reads the first line that a child writes to its piped stdout.
pub(crate) fn first_line(child: &mut Child) -> Result<String> {
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("no standard output")?).read_line(&mut line)?;
    Ok(line.trim().to_owned())
}

/// Calls `ask` until it returns `Some`. Fails after the deadline, and with the first error of `ask`.
///
/// Unlike the waiting of acceptd-tests, this returns errors: a panic aborts a release build without stopping
/// the servers that the suite has started.
pub(crate) fn until<T>(what: &str, deadline: Duration, ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    until_after(POLL, what, deadline, ask)
}

/// [`until`] with a longer pause, if each question costs the asked program something.
pub(crate) fn until_after<T>(
    pause: Duration,
    what: &str,
    deadline: Duration,
    mut ask: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if started.elapsed() > deadline {
            bail!("waited {} s for {what}", deadline.as_secs());
        }
        sleep(pause);
    }
}
