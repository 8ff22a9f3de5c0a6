//! `cargo xtask vm`: the scenarios on other kernels and on arm64, in virtual machines. This file selects the
//! kernels, runs the machines in parallel, and writes docs/kernels.md.

mod archive;
mod boot;
mod cached_run;
mod claims;
mod image;
mod judge;
mod kernel;
mod machine;
mod matrix;
mod mirror;
mod modules;
mod options;
mod orders;
mod place;
mod programs;
mod version;

use std::{
    num::NonZero,
    sync::{Mutex, PoisonError},
    thread,
};

use anyhow::{Context, Result, bail};
use matrix::Arch;
pub(crate) use options::Options;
use place::Place;
use xtask_support::{
    Workspace,
    guests::{Guest, GuestVerdict},
};

/// Runs what CI runs.
pub(crate) fn quick(workspace: &Workspace) -> Result<()> {
    run(workspace, &Options::quick())
}

/// Boots the selected kernels. The last line is `N passed, N failed`.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let matrix = matrix::read(workspace)?;
    let mut kernels = matrix::select(&matrix.kernels, options.quick, &options.kernel, &options.arch)?;
    // arm64 first, since it takes longest to emulate: otherwise a CPU would be idle at the end.
    kernels.sort_by_key(|kernel| kernel.arch == Arch::X86_64);
    let place = Place::prepare(workspace, &kernels)?;
    let fetched: Vec<_> =
        kernels.iter().map(|kernel| kernel::fetch(&place.archive, kernel, &place.folder)).collect();
    let runs = in_parallel(kernels.iter().zip(fetched), |(kernel, unpacked)| {
        let run = unpacked.and_then(|unpacked| {
            let guest = boot::run(&place, &matrix, kernel, &unpacked, options)?;
            let verdict = judge::verdict(&place, &guest)?;
            Ok((guest, verdict))
        });
        let (guest, verdict) = match run {
            Ok((guest, verdict)) => (Some(guest), verdict),
            Err(error) => {
                let mut verdict = GuestVerdict::default();
                verdict.add(&format!("{}: {error:#}", kernel.id()), &["it was not run".to_owned()], 0);
                (None, verdict)
            }
        };
        // All lines of a guest at once: other machines run at the same time.
        println!("{}", verdict.lines.join("\n"));
        (guest, verdict)
    });
    let passed: usize = runs.iter().map(|(_, verdict)| verdict.passed).sum();
    let failed: usize = runs.iter().map(|(_, verdict)| verdict.failed).sum();
    println!("{passed} passed, {failed} failed");
    if failed > 0 {
        bail!("not every kernel is as tests/kernels.toml says; the logs are in {}", place.logs().display());
    }
    if options.full {
        let guests: Vec<Guest> = runs.into_iter().filter_map(|(guest, _)| guest).collect();
        let table = judge::table(&place, &guests)?;
        std::fs::write(workspace.path("docs/kernels.md"), table).context("writing docs/kernels.md")?;
        println!("wrote docs/kernels.md");
    }
    Ok(())
}

/// Runs a job for each item, as many at a time as there are CPUs (a machine uses one), and returns the
/// results in the order of the items.
fn in_parallel<T: Send, R: Send>(items: impl Iterator<Item = T>, job: impl Fn(T) -> R + Sync) -> Vec<R> {
    let items: Vec<T> = items.collect();
    let workers = thread::available_parallelism().map_or(1, NonZero::get);
    let results = Mutex::new(items.iter().map(|_| None).collect::<Vec<Option<R>>>());
    let waiting = Mutex::new(items.into_iter().enumerate());
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some((place, item)) = next() {
                    let result = job(item);
                    results.lock().unwrap_or_else(PoisonError::into_inner)[place] = Some(result);
                }
            });
        }
    });
    results.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().flatten().collect()
}

/// Measures what each program of tier 1 costs on the newest kernel, and returns the lines to report. The
/// times are those of an emulated CPU.
pub(crate) fn costs(workspace: &Workspace) -> Result<Vec<String>> {
    let kernels =
        matrix::select(&matrix::read(workspace)?.kernels, true, &["newest".to_owned()], &[Arch::X86_64])?;
    let place = Place::prepare(workspace, &kernels)?;
    let kernel = kernels.first().context("tests/kernels.toml has no newest kernel")?;
    let unpacked = kernel::fetch(&place.archive, kernel, &place.folder)?;
    let log = boot::run_guest(&place, kernel, "costs", &unpacked, &orders::costs(), machine::CMDLINE)?;
    let text = boot::read_log(&log)?;
    let lines: Vec<String> = text
        .lines()
        .map(str::trim_end)
        .filter(|line| line.starts_with("cost: "))
        .map(str::to_owned)
        .collect();
    if !text.contains("guest: cost ended with 0") || lines.is_empty() {
        bail!("the guest measured nothing: {}", log.display());
    }
    let mut all = vec![format!(
        "cost of tier 1 on {}, in a virtual machine: an emulated CPU takes its own time",
        unpacked.release
    )];
    all.extend(lines);
    Ok(all)
}
