//! The eBPF programs while they are attached, and the iterators that survey what already exists in the
//! kernel.

use std::{fs::File, os::fd::AsFd as _, sync::Arc, time::Duration};

use acceptd_common::SurveyRow;
use aya::{
    Ebpf,
    maps::{Array, HashMap, MapError},
    programs::Iter,
};

use super::{
    attach::{Link, iterator},
    error::MissingFeature,
    hooks::{Hook, Tier},
    modules::ModuleHooks,
    pins,
    program_stats::ProgramStats,
    skipped::SkippedRuns,
    survey::{self, KeptListeners, Survey, SurveyError},
    unix_paths::UnixPaths,
};

/// An iterator: an eBPF program that the kernel runs once for each object of one kind.
#[derive(Debug, Clone, Copy)]
pub(super) struct SurveyProgram {
    /// The program's name in the object file.
    pub(super) program: &'static str,
    /// The kind of object, by the kernel's name for the iterator target.
    pub(super) target: &'static str,
    /// The feature that is missing when the kernel refuses the iterator.
    pub(super) feature: &'static str,
}

pub(super) const SURVEY_LISTENERS: SurveyProgram = SurveyProgram {
    program: "survey_listeners",
    target: "task_file",
    feature: "listeners from before the start, and the state of listeners between accepts",
};

pub(super) const SURVEY_QUEUED: SurveyProgram = SurveyProgram {
    program: "remember_queued",
    target: "tcp",
    feature: "the proof of connections that were queued before the start",
};

pub(super) const SWEEP_IN_FLIGHT: SurveyProgram = SurveyProgram {
    program: "sweep_in_flight",
    target: "task",
    feature: "accepts whose exit the kernel skipped, until their thread accepts again or ends",
};

pub(super) const SWEEP_ALL_IN_FLIGHT: SurveyProgram =
    SurveyProgram { program: "sweep_all_in_flight", ..SWEEP_IN_FLIGHT };

/// Longest time for which a program may still run on another CPU after it was detached.
const RUN_GRACE: Duration = Duration::from_millis(20);

/// The attached programs.
pub struct AttachedPrograms {
    pub(super) tier: Tier,
    pub(super) object: Ebpf,
    pub(super) links: Vec<(Hook, Link)>,
    /// The paths of UNIX listeners by the last survey.
    pub(super) unix_paths: Arc<UnixPaths>,
    /// The programs at functions of modules.
    pub(super) modules: ModuleHooks,
    /// Features of modules that the kernel refused since the last call of [`Self::take_missing`].
    pub(super) missing: Vec<MissingFeature>,
    /// Names of the iterators that the kernel accepted.
    pub(super) iterators: Vec<&'static str>,
    /// When the programs were loaded, nanoseconds on `CLOCK_BOOTTIME`. Marks the entries of this run in the
    /// pinned maps.
    pub(super) capture_epoch: u64,
    /// Lock on the pin directory: keeps other agents from using the pinned maps.
    pub(super) _pins: Option<File>,
}

impl AttachedPrograms {
    /// Attaches the programs at functions of modules that were loaded since the last call. Returns those that
    /// the kernel refused.
    pub(super) fn attach_to_modules(&mut self) -> Vec<MissingFeature> {
        self.modules.attach(&mut self.object, &mut self.links)
    }

    /// The state of every open listener, those in `kept` first; `None` if the kernel refused the iterator at
    /// load time.
    ///
    /// # Errors
    /// When the kernel refuses the pass.
    pub fn survey(&mut self, kept: &KeptListeners) -> Result<Option<Survey>, SurveyError> {
        let missing = self.attach_to_modules();
        self.missing.extend(missing);
        self.clear_last_row()?;
        let Some(iterator) = self.iterator(SURVEY_LISTENERS) else { return Ok(None) };
        let (survey, paths) = survey::listeners(iterator, kept)?;
        self.unix_paths = Arc::new(paths);
        Ok(Some(survey))
    }

    /// Clears the last row of the earlier survey: the program omits a row that repeats the last one.
    fn clear_last_row(&mut self) -> Result<(), MapError> {
        let Some(map) = self.object.map_mut("SURVEY_ROW") else { return Ok(()) };
        let mut map: Array<_, [u8; size_of::<SurveyRow>()]> = Array::try_from(map)?;
        map.set(0, &[0_u8; size_of::<SurveyRow>()], 0)
    }

    /// The features that the kernel refused in surveys since the last call: their module was loaded later
    /// than the programs.
    pub fn take_missing(&mut self) -> Vec<MissingFeature> {
        std::mem::take(&mut self.missing)
    }

    /// The paths of UNIX listeners by the last survey.
    #[must_use]
    pub fn unix_paths(&self) -> Arc<UnixPaths> {
        Arc::clone(&self.unix_paths)
    }

    /// Reports the in-flight accepts whose exit the kernel skipped (tier 1): the iterator sends the stored
    /// sample of each, or counts the accept if there is no sample.
    ///
    /// # Errors
    /// When the kernel refuses the pass.
    pub fn report_missed_exits(&mut self) -> Result<(), SurveyError> {
        self.iterator(SWEEP_IN_FLIGHT).map_or(Ok(()), survey::run)
    }

    /// Evicts the traced connections that ended while no agent ran. Call after the survey of queued
    /// connections, which marks the connections that still exist.
    ///
    /// # Errors
    /// When the kernel refuses to list or remove entries.
    pub(super) fn sweep_ended_connections(&mut self) -> Result<(), MapError> {
        let Some(map) = self.object.map_mut("TRACED_BY_COOKIE") else { return Ok(()) };
        let evicted = pins::evict_earlier_epochs(&mut HashMap::try_from(map)?, self.capture_epoch)?;
        tracing::debug!("evicted {evicted} traced connections that ended while no agent ran");
        Ok(())
    }

    /// An iterator, if the kernel accepted it.
    pub(super) fn iterator(&mut self, SurveyProgram { program, .. }: SurveyProgram) -> Option<&mut Iter> {
        self.iterators.contains(&program).then(|| iterator(&mut self.object, program)).flatten()
    }

    /// The names of the attached programs and of the loaded iterators.
    pub fn programs(&self) -> impl Iterator<Item = &'static str> {
        self.links.iter().map(|(hook, _)| hook.program).chain(self.iterators.iter().copied())
    }

    /// The kernel's statistics of each attached program.
    #[must_use]
    pub fn stats(&self) -> Vec<(&'static str, ProgramStats)> {
        self.links.iter().map(|(hook, _)| (hook.program, self.stats_of(hook))).collect()
    }

    /// The attached programs that the agent's own probe accepts run through, and how often each ran; `None`
    /// without run statistics.
    #[must_use]
    pub fn probe_path_runs(&self) -> Vec<(&'static str, Option<u64>)> {
        let on_path = self.links.iter().filter(|(hook, _)| hook.on_probe_path);
        on_path.map(|(hook, _)| (hook.program, self.stats_of(hook).runs)).collect()
    }

    fn stats_of(&self, hook: &Hook) -> ProgramStats {
        let fd = self.object.program(hook.program).and_then(|program| program.fd().ok());
        fd.map_or_else(ProgramStats::default, |fd| ProgramStats::from_fd(fd.as_fd()))
    }

    /// How often the kernel skipped the attached programs; `None` on kernels that do not count it.
    #[must_use]
    pub fn skipped_runs(&self) -> Option<SkippedRuns> {
        let misses = |(hook, _): &(Hook, Link)| Some((*hook, self.stats_of(hook).recursion_misses?));
        self.links.iter().map(misses).collect::<Option<Vec<_>>>().map(|misses| self.skipped(&misses))
    }

    fn skipped(&self, misses: &[(Hook, u64)]) -> SkippedRuns {
        SkippedRuns::new(misses.iter().map(|(hook, count)| (hook.original(), *count)), self.tier)
    }

    /// Detaches every program, the last attached first: a program that is still attached has every program
    /// that was attached before it. An exit program, for example, outlasts its entry program, so it sees the
    /// exit of each call whose entry was stored. Returns the final value of
    /// [`AttachedPrograms::skipped_runs`].
    ///
    /// # Errors
    /// When the kernel refuses the last pass over in-flight accepts.
    pub fn detach(mut self) -> Result<Option<SkippedRuns>, SurveyError> {
        let mut misses = Some(Vec::new());
        for (hook, link) in std::mem::take(&mut self.links).into_iter().rev() {
            drop(link);
            misses = misses.zip(self.stats_of(&hook).recursion_misses).map(|(mut misses, count)| {
                misses.push((hook, count));
                misses
            });
        }
        let skipped = misses.map(|misses| self.skipped(&misses));
        if let Some(iterator) = self.iterator(SWEEP_ALL_IN_FLIGHT) {
            // A detached program may still run on another CPU: let it finish first.
            std::thread::sleep(RUN_GRACE);
            survey::run(iterator)?;
        }
        Ok(skipped)
    }
}

impl std::fmt::Debug for AttachedPrograms {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_list().entries(self.links.iter().map(|(hook, _)| hook.program)).finish()
    }
}
