//! The parts of a survey that the kernel may refuse, and which of them fail again and again.

use std::fmt;

/// Failures in a row that make a task a reason for the state `degraded`: a single one may be an accident.
const REPEATED: u32 = 2;

/// A part of a survey, or of the stop, that the kernel may refuse. The agent goes on without its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SurveyTask {
    Listeners,
    FailureCounts,
    ConnectionCounts,
    RefusedCounts,
    Peers,
    MissedExits,
    Cgroups,
    /// The last sweep of in-flight accepts, after the programs are detached.
    LastMissedExits,
}

impl SurveyTask {
    /// A sentence that says that the task failed, why, and what follows from it.
    fn in_words(self, error: &dyn fmt::Display) -> String {
        let (what, consequence) = match self {
            Self::Listeners => ("survey the listeners", "stalls and overflows may be missed"),
            Self::FailureCounts => (
                "read the counts of failed accepts, or remove old ones",
                "events and metrics may lack failed accepts",
            ),
            Self::ConnectionCounts => (
                "read the counts of connections, or remove old ones",
                "acceptd.connection.* metrics may lack connections",
            ),
            Self::RefusedCounts => (
                "read the counts of refused connects, or remove old ones",
                "overflows of UNIX sockets may be missed",
            ),
            Self::Peers => (
                "sweep the client processes of connections within the host",
                "once their map is full, records do not name the client",
            ),
            Self::MissedExits => (
                "sweep the in-flight accepts",
                "an accept whose exit the kernel skipped is not reported until its thread accepts again or ends",
            ),
            Self::Cgroups => (
                "change the cgroups of the filter in the kernel",
                "accepts of cgroups that come and go may not be compared with the filter",
            ),
            Self::LastMissedExits => (
                "sweep the in-flight accepts at the stop",
                "accepts whose exit the kernel skipped may be missing",
            ),
        };
        format!("cannot {what}: {error}; {consequence}")
    }
}

/// The tasks that have failed.
#[derive(Debug, Default)]
pub(super) struct FailedTasks(Vec<Failed>);

#[derive(Debug)]
struct Failed {
    task: SurveyTask,
    in_a_row: u32,
    reason: String,
}

impl FailedTasks {
    /// Notes how a task ended, and logs the first failure of each task. Returns the result of a task that
    /// succeeded.
    pub(super) fn note<T, E: fmt::Display>(&mut self, task: SurveyTask, result: Result<T, E>) -> Option<T> {
        let known = self.0.iter_mut().find(|failed| failed.task == task);
        match (result, known) {
            (Ok(value), known) => {
                if let Some(failed) = known {
                    failed.in_a_row = 0;
                }
                Some(value)
            }
            (Err(error), Some(failed)) => {
                failed.in_a_row += 1;
                failed.reason = task.in_words(&error);
                None
            }
            (Err(error), None) => {
                let reason = task.in_words(&error);
                tracing::warn!("{reason}");
                self.0.push(Failed { task, in_a_row: 1, reason });
                None
            }
        }
    }

    /// A sentence for each task that fails again and again.
    pub(super) fn reasons(&self) -> Vec<String> {
        let repeated = self.0.iter().filter(|failed| failed.in_a_row >= REPEATED);
        repeated.map(|failed| failed.reason.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_that_fails_twice_in_a_row_is_a_reason_until_it_succeeds() {
        let mut failed = FailedTasks::default();
        let refused = || Err::<(), _>("refused");
        assert_eq!(failed.note(SurveyTask::Listeners, refused()), None);
        assert_eq!(failed.note(SurveyTask::Peers, refused()), None);
        assert_eq!(failed.reasons(), [""; 0]);
        assert_eq!(failed.note(SurveyTask::Listeners, refused()), None);
        let reason = "cannot survey the listeners: refused; stalls and overflows may be missed";
        assert_eq!(failed.reasons(), [reason]);
        assert_eq!(failed.note(SurveyTask::Listeners, Ok::<_, &str>(7)), Some(7));
        assert_eq!(failed.note(SurveyTask::Listeners, refused()), None);
        assert_eq!(failed.reasons(), [""; 0]);
    }
}
