//! Collects what an agent writes to stderr.

use std::{
    io::{BufRead as _, BufReader},
    process::ChildStderr,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

/// Everything that a child process has written to stderr so far. A thread reads the pipe continuously, so
/// that the child never blocks on it. Clones share their content.
#[derive(Debug, Default, Clone)]
pub(crate) struct StderrLog(Arc<Mutex<String>>);

impl StderrLog {
    pub(crate) fn follow(stderr: ChildStderr) -> Self {
        let log = Self::default();
        let writer = log.clone();
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut log = writer.0.lock().unwrap_or_else(PoisonError::into_inner);
                log.push_str(&line);
                log.push('\n');
            }
        });
        log
    }

    pub(crate) fn text(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
