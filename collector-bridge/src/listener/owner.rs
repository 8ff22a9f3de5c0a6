//! Chooses the owner of a listener: a process that has it open, and of several one that accepts on it. No
//! I/O.

use acceptd_common::Task;

/// How long an owner stays the owner although another process accepts, so that workers that take turns do not
/// replace each other at every accept. Nanoseconds.
const STEADY_NS: u64 = 1_000_000_000;

/// A process, from its start to its end. Exec changes neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ProcessRef {
    tgid: u32,
    leader_start_ns: u64,
}

impl ProcessRef {
    fn of(task: &Task) -> Self {
        Self { tgid: task.tgid, leader_start_ns: task.leader_start_ns }
    }
}

/// A process that accepted, and when it did so last: nanoseconds on `CLOCK_BOOTTIME`.
#[derive(Debug, Clone, Copy)]
struct Acceptor {
    process: ProcessRef,
    at: u64,
}

/// The owner of one listener, as of the last accept or survey.
#[derive(Debug, Clone)]
pub(crate) struct Owner {
    task: Option<Task>,
    /// When the owner accepted last; `None` if it is not known to accept.
    accepted_at: Option<u64>,
    /// The last other process that accepted.
    other: Option<Acceptor>,
}

impl Owner {
    /// An owner that is not known to accept.
    pub(super) fn new(task: Option<Task>) -> Self {
        Self { task, accepted_at: None, other: None }
    }

    /// The process; `None` if it is unknown.
    #[must_use]
    pub(crate) fn task(&self) -> Option<&Task> {
        self.task.as_ref()
    }

    fn process(&self) -> Option<ProcessRef> {
        self.task.as_ref().map(ProcessRef::of)
    }

    /// `by` called listen.
    pub(super) fn on_listen(&mut self, by: &Task) {
        if self.accepted_at.is_none() || self.process() == Some(ProcessRef::of(by)) {
            self.task = Some(*by);
        }
    }

    /// `by` accepted at `at`, so it has the listener open. Returns whether the owner is now another process,
    /// or runs another program.
    pub(super) fn on_accept(&mut self, by: &Task, at: u64) -> bool {
        let process = ProcessRef::of(by);
        if self.process() == Some(process) {
            self.accepted_at = self.accepted_at.max(Some(at));
            let is_same_program = self.task.as_ref().is_some_and(|task| task.exec_id == by.exec_id);
            if !is_same_program {
                self.task = Some(*by);
            }
            return !is_same_program;
        }
        if self.accepted_at.is_some_and(|accepted| at.saturating_sub(accepted) < STEADY_NS) {
            self.other = Some(Acceptor { process, at });
            return false;
        }
        self.other =
            self.process().zip(self.accepted_at).map(|(process, at)| Acceptor { process, at }).or(self.other);
        (self.task, self.accepted_at) = (Some(*by), Some(at));
        true
    }

    /// `by` closed the listener: as the last one, it had it open until now.
    pub(super) fn on_close(&mut self, by: &Task) {
        if self.process() != Some(ProcessRef::of(by)) {
            *self = Self::new(Some(*by));
        }
    }

    /// The ids of the owner and of the last other process that accepted; 0 where there is none.
    pub(super) fn candidates(&self) -> [u32; 2] {
        let other = self.other.map(|other| other.process);
        [self.process(), other].map(|process| process.map_or(0, |process| process.tgid))
    }

    /// Chooses among the processes that have the listener open, by ascending process id: one that accepts,
    /// else the present owner, else the first. Some of very many holders may be missing, but none of the
    /// [`Self::candidates`]. Without a holder the owner stays: surveys do not show a listener that only an
    /// io_uring has.
    pub(super) fn choose<'a>(&mut self, holders: &(impl Iterator<Item = &'a Task> + Clone)) {
        let find = |wanted: ProcessRef| holders.clone().find(|task| ProcessRef::of(task) == wanted);
        let (owner, other) = (self.process(), self.other.map(|other| other.process));
        let present = owner.and_then(find);
        let acceptor = if self.accepted_at.is_some() { present } else { None };
        let next = acceptor.or_else(|| other.and_then(find)).or(present).or_else(|| holders.clone().next());
        let Some(next) = next else { return };
        let process = Some(ProcessRef::of(next));
        if process != owner {
            self.accepted_at =
                self.other.filter(|other| Some(other.process) == process).map(|other| other.at);
            self.other = None;
        }
        self.task = Some(*next);
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros as _;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn process(tgid: u32) -> Task {
        let mut task = Task::new_zeroed();
        task.tgid = tgid;
        task.leader_start_ns = u64::from(tgid) * SECOND;
        task
    }

    fn pid(owner: &Owner) -> Option<u32> {
        owner.task().map(|task| task.tgid)
    }

    #[track_caller]
    fn surveyed(owner: &mut Owner, holders: &[Task], expected: u32) {
        owner.choose(&holders.iter());
        assert_eq!(pid(owner), Some(expected));
    }

    #[test]
    fn a_daemon_whose_parent_is_gone_owns_its_listener() {
        let (parent, daemon) = (process(10), process(11));
        let mut owner = Owner::new(Some(parent));
        surveyed(&mut owner, &[parent, daemon], 10);
        surveyed(&mut owner, &[daemon], 11);
    }

    #[test]
    fn the_workers_of_a_prefork_server_own_its_listener() {
        let [parent, one, two] = [process(10), process(11), process(12)];
        let mut owner = Owner::new(Some(parent));
        surveyed(&mut owner, &[parent, one, two], 10);
        assert!(owner.on_accept(&two, SECOND), "it accepts, and the parent does not");
        surveyed(&mut owner, &[parent, one, two], 12);
        assert!(!owner.on_accept(&one, SECOND + 1), "workers take turns");
        surveyed(&mut owner, &[parent, one, two], 12);
        surveyed(&mut owner, &[parent, one], 11);
        assert!(!owner.on_accept(&two, SECOND + 2), "the other one accepted in this second");
        surveyed(&mut owner, &[parent], 10);
    }

    #[test]
    fn the_acceptor_replaces_an_owner_that_has_ended() {
        let mut owner = Owner::new(Some(process(10)));
        assert!(owner.on_accept(&process(11), SECOND));
        assert!(owner.on_accept(&process(12), 2 * SECOND), "the owner has not accepted for a second");
        assert_eq!(pid(&owner), Some(12));
    }

    #[test]
    fn an_activated_service_owns_the_listener_while_it_lives() {
        let (systemd, service) = (process(1), process(50));
        // Accept=no: systemd listens, and the service accepts.
        let mut owner = Owner::new(Some(systemd));
        surveyed(&mut owner, &[systemd, service], 1);
        assert!(owner.on_accept(&service, SECOND));
        surveyed(&mut owner, &[systemd, service], 50);
        surveyed(&mut owner, &[systemd], 1);
        // Accept=yes: systemd accepts.
        let mut owner = Owner::new(Some(systemd));
        assert!(!owner.on_accept(&systemd, SECOND));
        surveyed(&mut owner, &[systemd], 1);
    }

    #[test]
    fn exec_in_the_same_process_changes_the_program() {
        let mut owner = Owner::new(Some(process(10)));
        assert!(!owner.on_accept(&process(10), SECOND));
        let mut after = process(10);
        after.exec_id = 7;
        assert!(owner.on_accept(&after, SECOND + 1));
        assert_eq!(owner.task().map(|task| task.exec_id), Some(7));
        after.exec_id = 8;
        surveyed(&mut owner, &[after], 10);
        assert_eq!(owner.task().map(|task| task.exec_id), Some(8), "without an accept, too");
    }

    #[test]
    fn a_reused_pid_is_another_process() {
        let mut owner = Owner::new(Some(process(10)));
        assert!(!owner.on_accept(&process(10), SECOND));
        let mut reused = process(10);
        reused.leader_start_ns += SECOND;
        surveyed(&mut owner, &[reused], 10);
        assert_eq!(owner.accepted_at, None, "it has not accepted yet");
        assert_eq!(owner.task().map(|task| task.leader_start_ns), Some(11 * SECOND));
    }

    #[test]
    fn a_listener_that_changes_hands_a_thousand_times_a_second_changes_its_owner_once_a_second() {
        let mut owner = Owner::new(None);
        let changes = (0..10_000_u32)
            .filter(|tick| owner.on_accept(&process(10 + tick % 100), 1 + u64::from(*tick) * SECOND / 1000))
            .count();
        assert!((1..=11).contains(&changes), "{changes}");
    }

    #[test]
    fn the_last_process_that_had_it_open_owns_a_closed_listener() {
        let mut owner = Owner::new(Some(process(10)));
        owner.on_close(&process(11));
        assert_eq!(pid(&owner), Some(11));
        let mut alive = process(11);
        alive.exe_len = 5;
        let mut owner = Owner::new(Some(alive));
        owner.on_close(&process(11));
        assert_eq!(owner.task().map(|task| task.exe_len), Some(5), "what was known of it is kept");
    }

    #[test]
    fn without_a_visible_holder_the_owner_stays() {
        let mut owner = Owner::new(Some(process(10)));
        surveyed(&mut owner, &[], 10);
        let mut unknown = Owner::new(None);
        unknown.choose(&[].iter());
        assert_eq!(pid(&unknown), None);
    }

    #[test]
    fn an_acceptor_that_ends_is_replaced_also_if_there_are_many_holders() {
        let many: Vec<Task> = (1000..1300).map(process).collect();
        let mut owner = Owner::new(Some(process(10)));
        assert!(owner.on_accept(&process(900), SECOND));
        assert!(!owner.on_accept(&many[7], SECOND + 1));
        assert_eq!(owner.candidates(), [900, 1007], "a survey shows these in any case");
        surveyed(&mut owner, &many, 1007);
        assert_eq!(owner.candidates(), [1007, 0]);
        surveyed(&mut owner, &many[8..], 1008);
    }
}
