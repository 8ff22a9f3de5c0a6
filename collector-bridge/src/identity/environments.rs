//! The attributes in the environments of processes, as they were read first.
//!
//! A server that shows a title (nginx, redis, sshd) writes it over its arguments and its environment. All
//! processes that were forked from one program start have the same environment, so what one of them published
//! before holds for all.

use foldhash::fast::RandomState;
use quick_cache::{
    UnitWeighter,
    unsync::{Cache, DefaultLifecycle},
};

use super::published::PublishedAttributes;

/// Number of remembered program starts. Only those whose environment has attributes are remembered.
const STARTS: usize = 1024;

/// The start of a program: one call of exec, and all processes that were forked since.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct ProgramStart {
    pub(super) executable: Vec<u8>,
    /// The address of the arguments. The kernel chooses it at random, and fork keeps it.
    pub(super) arg_start: u64,
    /// The exec id, which fork keeps as well.
    pub(super) exec_id: u32,
}

/// The attributes by program start.
pub(super) struct Environments(Cache<ProgramStart, PublishedAttributes, UnitWeighter, RandomState>);

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
        self.0.get(start).cloned().unwrap_or_default()
    }

    /// Remembers the attributes, unless others were read before.
    pub(super) fn remember(&mut self, start: ProgramStart, read: &PublishedAttributes) {
        if !read.is_empty() && self.0.get(&start).is_none() {
            self.0.insert(start, read.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_read_counts_and_is_that_of_one_start() {
        let start = ProgramStart { executable: b"/bin/server".to_vec(), arg_start: 7, exec_id: 1 };
        let other = ProgramStart { arg_start: 8, ..start.clone() };
        let named = |name: &str| PublishedAttributes::from([("service.name".to_owned(), name.to_owned())]);
        let mut environments = Environments::new();
        environments.remember(start.clone(), &PublishedAttributes::new());
        environments.remember(start.clone(), &named("shop"));
        environments.remember(start.clone(), &named("late"));
        assert_eq!(environments.first_read(&start), named("shop"));
        assert_eq!(environments.first_read(&other), PublishedAttributes::new());
    }
}
