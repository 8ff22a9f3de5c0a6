//! The attributes in the environments of processes, as they were read first.
//!
//! A server that shows a title (nginx, redis, sshd) writes it over its arguments and its environment. All
//! processes that were forked from one program start have the same environment, so what one of them published
//! before holds for all. The eBPF programs read the service's name in the call of listen, because a server
//! may write its title right after it.

use acceptd_common::{Task, limits::EXE_LEN};
use foldhash::fast::RandomState;
use quick_cache::{
    UnitWeighter,
    unsync::{Cache, DefaultLifecycle},
};

use super::published::PublishedAttributes;

/// Number of remembered program starts. Only those whose environment has attributes are remembered.
const STARTS: usize = 1024;

/// The start of a program: one call of exec, and all processes that were forked since. All of it is known to
/// the kernel, so that it is known of processes that have ended, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ProgramStart {
    exe: [u8; EXE_LEN],
    exe_inode: u64,
    /// The address of the arguments. The kernel chooses it at random, and fork keeps it.
    pub(super) arg_start: u64,
    /// The exec id, which fork keeps as well.
    exec_id: u32,
}

impl ProgramStart {
    /// The start of the program that `task` runs; `None` for a kernel thread and for a task that exits.
    pub(super) fn from_task(task: &Task) -> Option<Self> {
        let Task { exe, exe_inode, arg_start, exec_id, .. } = *task;
        (exe_inode != 0 && arg_start != 0).then_some(Self { exe, exe_inode, arg_start, exec_id })
    }
}

/// The attributes by program start.
pub(super) struct Environments(Cache<ProgramStart, Environment, UnitWeighter, RandomState>);

struct Environment {
    attributes: PublishedAttributes,
    /// Whether these are all attributes of the environment. The eBPF programs read only the service's name.
    is_whole: bool,
}

impl Environments {
    pub(super) fn new() -> Self {
        Self(Cache::with(
            STARTS,
            STARTS as u64,
            UnitWeighter,
            RandomState::default(),
            DefaultLifecycle::default(),
        ))
    }

    /// The attributes that were read first; empty if none were.
    pub(super) fn first_read(&self, start: &ProgramStart) -> PublishedAttributes {
        self.0.get(start).map(|known| known.attributes.clone()).unwrap_or_default()
    }

    /// Remembers the attributes, unless others were read before.
    pub(super) fn remember(&mut self, start: ProgramStart, read: &PublishedAttributes) {
        self.add(start, read, true);
    }

    /// Remembers some of the attributes, unless others were read before.
    pub(super) fn remember_some(&mut self, start: ProgramStart, read: &PublishedAttributes) {
        self.add(start, read, false);
    }

    /// An attribute that was read first wins; the rest of an environment completes it.
    fn add(&mut self, start: ProgramStart, read: &PublishedAttributes, is_whole: bool) {
        if read.is_empty() {
            return;
        }
        let mut attributes = read.clone();
        match self.0.get(&start) {
            Some(known) if known.is_whole || !is_whole => return,
            Some(known) => attributes.extend(known.attributes.clone()),
            None => {}
        }
        self.0.insert(start, Environment { attributes, is_whole });
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros as _;

    use super::*;

    fn start(arg_start: u64) -> ProgramStart {
        let mut task = Task::new_zeroed();
        (task.exe_inode, task.arg_start) = (7, arg_start);
        ProgramStart::from_task(&task).expect("it has an executable")
    }

    fn named(name: &str) -> PublishedAttributes {
        PublishedAttributes::from([("service.name".to_owned(), name.to_owned())])
    }

    #[test]
    fn the_first_read_counts_and_is_that_of_one_start() {
        let mut environments = Environments::new();
        environments.remember(start(1), &PublishedAttributes::new());
        environments.remember(start(1), &named("shop"));
        environments.remember(start(1), &named("late"));
        environments.remember_some(start(1), &named("later"));
        assert_eq!(environments.first_read(&start(1)), named("shop"));
        assert_eq!(environments.first_read(&start(2)), PublishedAttributes::new());
    }

    #[test]
    fn a_name_is_completed_by_the_rest_of_the_environment() {
        let mut environments = Environments::new();
        environments.remember_some(start(1), &named("shop"));
        environments.remember_some(start(1), &named("late"));
        let mut whole = named("late");
        whole.insert("service.version".to_owned(), "7".to_owned());
        environments.remember(start(1), &whole);
        let mut expected = named("shop");
        expected.insert("service.version".to_owned(), "7".to_owned());
        assert_eq!(environments.first_read(&start(1)), expected);
    }

    #[test]
    fn a_task_without_a_program_has_no_start() {
        assert_eq!(ProgramStart::from_task(&Task::new_zeroed()), None);
    }
}
