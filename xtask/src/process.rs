//! Child processes that never outlive us, and waiting with a deadline.

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

/// A program that runs beside us. Dropped, it is killed; [`Running::stop`] ends it in good order.
pub(crate) struct Running {
    name: &'static str,
    child: Child,
    stderr: PathBuf,
    ended: bool,
}

impl Running {
    /// Starts a program with both outputs going to files.
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
        Ok(Self { name, child, stderr: stderr.to_path_buf(), ended: false })
    }

    /// Its process id, which `exec` in a shell keeps.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything that the program wrote to its stderr so far.
    pub(crate) fn log(&self) -> Result<String> {
        let bytes =
            std::fs::read(&self.stderr).with_context(|| format!("reading {}", self.stderr.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Whether it has ended, in whatever way.
    pub(crate) fn has_ended(&mut self) -> Result<bool> {
        self.ended |= self.child.try_wait()?.is_some();
        Ok(self.ended)
    }

    /// Fails, with what the program said, once it has ended by itself.
    pub(crate) fn require_alive(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            self.ended = true;
            bail!("{} ended by itself: {status}\n{}", self.name, self.log()?.trim_end());
        }
        Ok(())
    }

    /// Ends it as the kernel does when memory runs out.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.require_alive()?;
        self.child.kill().with_context(|| format!("killing {}", self.name))?;
        self.child.wait()?;
        self.ended = true;
        Ok(())
    }

    /// Keeps it from running until [`Running::resume`].
    pub(crate) fn pause(&mut self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    pub(crate) fn resume(&mut self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        self.require_alive()?;
        let pid =
            i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("no such process id")?;
        kill_process(pid, signal).with_context(|| format!("signalling {}", self.name))
    }

    /// Sends SIGTERM and waits for the end; returns the log. Another exit code than 0 is an error, and so is an end
    /// past the deadline, after which the program is killed.
    pub(crate) fn stop(self, deadline: Duration) -> Result<String> {
        self.stop_with(deadline, 0)
    }

    /// [`Running::stop`] for a program that has another exit code after SIGTERM.
    pub(crate) fn stop_with(mut self, deadline: Duration, code: i32) -> Result<String> {
        self.signal(Signal::TERM)?;
        let name = self.name;
        let status = until(&format!("{name} to stop"), deadline, || Ok(self.child.try_wait()?))?;
        self.ended = true;
        let log = self.log()?;
        if status.code() != Some(code) {
            bail!("{name} ended with {status}\n{}", log.trim_end());
        }
        Ok(log)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            // Nothing is left to be done about a failure of any: the process is gone then.
            if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
                && getpgid(Some(pid)) == Ok(pid)
            {
                // It was given a group of its own, for the processes that it starts in turn.
                let _gone = kill_process_group(pid, Signal::KILL);
            }
            let _gone = self.child.kill();
            let _reaped = self.child.wait();
        }
    }
}

/// The first line that a child writes to its piped standard output.
pub(crate) fn first_line(child: &mut Child) -> Result<String> {
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("no standard output")?).read_line(&mut line)?;
    Ok(line.trim().to_owned())
}

/// Asks again and again until there is an answer; fails past the deadline.
pub(crate) fn until<T>(what: &str, deadline: Duration, ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    until_after(POLL, what, deadline, ask)
}

/// [`until`] with a longer pause, where asking is work for somebody.
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
