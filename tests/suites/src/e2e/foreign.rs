//! Other people's test suites as traffic: `CPython`'s tests of sockets and Go's own, each in a network
//! namespace of its own. They pass as without the agent, and the kernel's counters say how many connections
//! there were.

mod go;
mod outcomes;
mod program;
mod python;
mod verdict;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use outcomes::Outcomes;
use program::TestProgram;
use verdict::Seen;
pub(crate) use verdict::SuiteRow;
use xtask_support::Extent;

use super::{capture::Capture, counters::Counters, sandbox::Sandbox, told::Told};
use crate::{process::until, suite::Suite};

/// The longest suite takes a minute and a half alone, and five on a busy host.
const DEADLINE: Duration = Duration::from_mins(15);

/// One run of a test program.
struct Ran {
    /// Keeps the network namespace: its inode is not used again.
    sandbox: Sandbox,
    outcomes: Outcomes,
    counters: Counters,
}

/// Runs every suite without and with the agent, and returns a row for each.
pub(super) fn measure(suite: &Suite, folder: &Path, extent: Extent) -> Result<Vec<SuiteRow>> {
    let programs: Vec<TestProgram> =
        [python::programs(extent), go::programs(folder)?].into_iter().flatten().collect();
    let before = run_all(&programs, folder, "without").context("without the agent")?;
    let mut capture = Capture::start(suite, folder)?;
    let with = run_all(&programs, folder, "with").context("beside the agent")?;
    capture.wait("the records of all suites", |records| {
        with.iter().all(|ran| {
            let told = Told::of(ran.sandbox.netns, records);
            let found = told.accepts("tcp").len() as u64 + told.abandoned("tcp");
            found >= ran.counters.passive_opens
        })
    })?;
    capture.wait_for_surveys()?;
    let (records, ledger) = capture.stop()?;
    ledger.check()?;
    let rows = programs.iter().zip(before).zip(&with).map(|((program, before), with)| {
        let told = Told::of(with.sandbox.netns, &records);
        verdict::judge(&Seen {
            name: program.name,
            counters: with.counters,
            accepts: told.accepts("tcp").len() as u64,
            abandoned: told.abandoned("tcp"),
            overflows: told.overflows("tcp"),
            without: &before.outcomes,
            with: &with.outcomes,
        })
    });
    Ok(rows.collect())
}

/// Runs all suites at the same time: they mostly wait.
fn run_all(programs: &[TestProgram], folder: &Path, when: &str) -> Result<Vec<Ran>> {
    eprintln!("running {} suites of other projects {when} the agent", programs.len());
    let started = Instant::now();
    let mut running = Vec::new();
    for program in programs {
        let name = format!("{}-{when}", program.name.replace(['/', ' '], "-"));
        let sandbox = Sandbox::start(folder, &name)?;
        let process = program.start(&sandbox, folder, &name)?;
        running.push((program, name, sandbox, process));
    }
    let mut all = Vec::new();
    for (program, name, sandbox, mut process) in running {
        until(program.name, DEADLINE, || Ok(process.has_exited()?.then_some(())))?;
        let outcomes = (program.outcomes)(&folder.join(&name)).with_context(|| program.name)?;
        let counters = sandbox.counters()?;
        all.push(Ran { sandbox, outcomes, counters });
    }
    eprintln!("the suites took {} s", started.elapsed().as_secs());
    Ok(all)
}
