//! The programs while they are attached, and the iterators that are run now and then.

use std::{fs::File, os::fd::AsFd as _, time::Duration};

use acceptd_common::ListenerState;
use aya::{
    Ebpf,
    maps::{HashMap, MapError},
    programs::Iter,
};

use super::{
    attach::{Link, iterator},
    figures::Figures,
    hooks::Hook,
    pins,
    survey::{
        SurveyError, {self},
    },
};

/// A program that runs over everything of a kind that the kernel has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Iterator {
    pub(super) program: &'static str,
    /// The kind.
    pub(super) target: &'static str,
    /// What is gone without it.
    pub(super) feature: &'static str,
}

pub(super) const LISTENERS: Iterator = Iterator {
    program: "survey_listeners",
    target: "task_file",
    feature: "listeners from before the start, and the state of listeners between accepts",
};

pub(super) const QUEUED: Iterator = Iterator {
    program: "remember_queued",
    target: "tcp",
    feature: "the proof of connections that were queued before the start",
};

pub(super) const UNENDED: Iterator = Iterator {
    program: "find_unended",
    target: "task",
    feature: "the last accept of a living thread that waited in it while somebody else attached a program to the same function",
};

pub(super) const ALL_UNENDED: Iterator = Iterator { program: "find_all_unended", ..UNENDED };

/// No program runs for so long.
const FINISHING: Duration = Duration::from_millis(20);

/// The attached programs.
pub struct Hooks {
    pub(super) object: Ebpf,
    pub(super) links: Vec<(&'static Hook, Link)>,
    /// The iterators that are loaded.
    pub(super) iterators: Vec<&'static str>,
    /// When they were loaded, nanoseconds on `CLOCK_BOOTTIME`.
    pub(super) generation: u64,
    /// Keeps other agents from the pinned maps.
    pub(super) _pins: Option<File>,
}

impl Hooks {
    /// The state of every open listener; nothing on a kernel that refused the iterator.
    ///
    /// # Errors
    /// When the kernel refuses the pass.
    pub fn survey(&mut self) -> Result<Option<Vec<ListenerState>>, SurveyError> {
        self.loaded(LISTENERS).map(survey::listeners).transpose()
    }

    /// Looks for accepts whose end was not seen, and has what is known of them sent (tier 1).
    ///
    /// # Errors
    /// When the kernel refuses the pass.
    pub fn find_unended(&mut self) -> Result<(), SurveyError> {
        self.loaded(UNENDED).map_or(Ok(()), survey::pass)
    }

    /// Forgets connections that ended while no agent ran; those that did not were found to be there.
    pub(super) fn sweep(&mut self) -> Result<(), MapError> {
        let Some(map) = self.object.map_mut("OPEN_BY_COOKIE") else { return Ok(()) };
        let gone = pins::sweep(&mut HashMap::try_from(map)?, self.generation)?;
        tracing::debug!("{gone} connections with a trace ended while no agent ran");
        Ok(())
    }

    /// An iterator, if the kernel took it.
    pub(super) fn loaded(&mut self, Iterator { program, .. }: Iterator) -> Option<&mut Iter> {
        self.iterators.contains(&program).then(|| iterator(&mut self.object, program)).flatten()
    }

    /// The names of the programs that are attached, or loaded for passes.
    pub fn programs(&self) -> impl std::iter::Iterator<Item = &'static str> {
        self.links.iter().map(|(hook, _)| hook.program).chain(self.iterators.iter().copied())
    }

    /// What the kernel knows of each attached program.
    #[must_use]
    pub fn figures(&self) -> Vec<(&'static str, Figures)> {
        self.links.iter().map(|(hook, _)| (hook.program, self.figures_of(hook))).collect()
    }

    /// The attached programs that an accept of ours leads to, and how often each ran.
    #[must_use]
    pub fn singers(&self) -> Vec<(&'static str, Option<u64>)> {
        let singers = self.links.iter().filter(|(hook, _)| hook.sings);
        singers.map(|(hook, _)| (hook.program, self.figures_of(hook).runs)).collect()
    }

    fn figures_of(&self, hook: &Hook) -> Figures {
        let fd = self.object.program(hook.program).and_then(|program| program.fd().ok());
        fd.map_or_else(Figures::default, |fd| Figures::of(fd.as_fd()))
    }

    /// How often the kernel did not run an attached program ([`Figures::recursion_misses`]); `None` when it does not tell.
    #[must_use]
    pub fn missed(&self) -> Option<u64> {
        self.links.iter().map(|(hook, _)| self.figures_of(hook).recursion_misses).sum()
    }

    /// Detaches every program, the last first: what an earlier one needs of a later one it has until its own end. Says what
    /// [`Hooks::missed`] was then.
    ///
    /// # Errors
    /// When the kernel refuses the last pass over accepts that were not seen to end.
    pub fn detach(mut self) -> Result<Option<u64>, SurveyError> {
        let mut missed = Some(0);
        for (hook, link) in std::mem::take(&mut self.links).into_iter().rev() {
            drop(link);
            let of_this_hook = self.figures_of(hook).recursion_misses;
            missed = missed.zip(of_this_hook).map(|(sum, misses): (u64, u64)| sum + misses);
        }
        if let Some(iterator) = self.loaded(ALL_UNENDED) {
            // A program that runs at this moment still finishes.
            std::thread::sleep(FINISHING);
            survey::pass(iterator)?;
        }
        Ok(missed)
    }
}

impl std::fmt::Debug for Hooks {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_list().entries(self.links.iter().map(|(hook, _)| hook.program)).finish()
    }
}
