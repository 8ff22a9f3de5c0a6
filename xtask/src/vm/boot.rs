//! One kernel: its orders, its boot, and a second boot for scenarios that failed.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result};
use xtask_support::guests::{Exception, Guest, GuestTier};

use super::{
    cached_run::CachedRun,
    claims, image, judge,
    kernel::Unpacked,
    machine,
    matrix::{Arch, Because, Kernel, Matrix, NotApplicable},
    options::Options,
    orders,
    place::Place,
};

/// How many lines of a log are shown if its machine did not come to its end.
const SHOWN_LINES: usize = 30;

/// Boots a kernel, or reuses the log of an equal run with `--full`. Returns what is to be judged.
pub(super) fn run(
    place: &Place<'_>,
    matrix: &Matrix,
    kernel: &Kernel,
    unpacked: &Unpacked,
    options: &Options,
) -> Result<Guest> {
    let tiers = tiers(matrix, kernel, unpacked, options);
    let orders = match &kernel.refused {
        Some(_) => orders::refusal(),
        None => orders::scenarios(
            &tiers.iter().map(orders::TierOrder::from_tier).collect::<Vec<_>>(),
            orders::JOBS,
        ),
    };
    let id = kernel.id();
    let cmdline =
        options.cmdline.as_ref().or(kernel.cmdline.as_ref()).map_or(machine::CMDLINE, String::as_str);
    let started = Instant::now();
    // A refusal takes seconds, so it is not worth caching.
    let is_cached = options.full && kernel.refused.is_none();
    let cached =
        if is_cached { Some(CachedRun::identify(place, kernel, unpacked, &orders, cmdline)?) } else { None };
    let log = if let Some(log) = cached.as_ref().and_then(|cached| cached.log(place, &id)) {
        println!("{id}: as before: the same programs, kernel and orders were run");
        log
    } else {
        let log = run_guest(place, kernel, &id, unpacked, &orders, cmdline)?;
        // Stored before the other kernels are done, so that an interrupted matrix can go on.
        if let Some(cached) = cached
            && judge::outcome(place, &log)?.is_whole
        {
            cached.store(place, &id, &log)?;
        }
        log
    };
    let outcome = judge::outcome(place, &log)?;
    let mut second_log = None;
    if is_cached && outcome.is_whole && !outcome.failed.is_empty() {
        println!("{id}: once more, alone: {:?}", outcome.failed);
        let orders = orders::scenarios(&orders::only(&outcome.failed), 1);
        second_log = Some(run_guest(place, kernel, &format!("{id}-alone"), unpacked, &orders, cmdline)?);
    }
    println!("{id}: {} {}, {} s", unpacked.release, unpacked.flavour, started.elapsed().as_secs());
    if !outcome.is_done {
        show_end(&log)?;
    }
    Ok(Guest {
        id,
        release: unpacked.release.clone(),
        package_version: unpacked.package_version.clone(),
        flavour: unpacked.flavour.to_owned(),
        refused: kernel.refused.clone(),
        special_cmdline: kernel
            .machine
            .as_ref()
            .map(|_| kernel.cmdline.clone().unwrap_or_else(|| machine::CMDLINE.to_owned())),
        tiers,
        log,
        second_log,
    })
}

/// The tiers to run, with the scenarios that do not apply to this kernel.
fn tiers(matrix: &Matrix, kernel: &Kernel, unpacked: &Unpacked, options: &Options) -> Vec<GuestTier> {
    let exception = |entry: &NotApplicable| Exception {
        scenario: entry.scenario.clone(),
        reason: entry.because.to_string(),
        is_of_other_architecture: matches!(entry.because, Because::Arch(_)),
        refuted: claims::refute(&entry.because, kernel, &unpacked.facts),
    };
    let tier = |number: u8| GuestTier {
        number,
        only: name_parts(matrix, kernel, number, options).to_vec(),
        is_whole: kernel.whole.contains(&number),
        exceptions: matrix
            .not_applicable
            .iter()
            .filter(|entry| entry.covers(kernel, number))
            .map(exception)
            .collect(),
    };
    options.tiers().into_iter().map(tier).collect()
}

/// Parts of the names of the scenarios to run. If empty, all scenarios run.
fn name_parts<'a>(matrix: &'a Matrix, kernel: &'a Kernel, tier: u8, options: &'a Options) -> &'a [String] {
    if kernel.machine.is_some() {
        return &kernel.only;
    }
    let is_short =
        options.only.is_empty() && (options.quick || (options.full && !kernel.whole.contains(&tier)));
    match (is_short, tier) {
        (true, 1) => &matrix.quick.tier_1,
        (true, _) => &matrix.quick.tier_2,
        (false, _) => &options.only,
    }
}

/// Boots a guest that executes `orders`, and returns its log. `id` names its files.
pub(super) fn run_guest(
    place: &Place<'_>,
    kernel: &Kernel,
    id: &str,
    unpacked: &Unpacked,
    orders: &str,
    cmdline: &str,
) -> Result<PathBuf> {
    let contents = image::Contents {
        busybox: &place.busybox(kernel.arch)?,
        programs: place.programs(kernel.arch)?,
        kernel: unpacked,
        orders,
    };
    let initrd = image::pack(place.workspace, &place.folder.join("guests").join(id), &contents)?;
    let log = place.logs().join(format!("{id}.log"));
    boot_machine(kernel.arch, unpacked, &initrd, cmdline, &log);
    Ok(log)
}

/// An error is only shown: the log, as far as it goes, is judged in any case.
fn boot_machine(arch: Arch, unpacked: &Unpacked, initrd: &Path, cmdline: &str, log: &Path) {
    if let Err(error) = machine::boot(arch, &unpacked.image, initrd, cmdline, log) {
        eprintln!("{error:#}");
    }
}

/// The text of a log; bytes that are not UTF-8 are replaced.
pub(super) fn read_log(log: &Path) -> Result<String> {
    let bytes = std::fs::read(log).with_context(|| format!("reading {}", log.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn show_end(log: &Path) -> Result<()> {
    println!("the end of its log:");
    let text = read_log(log)?;
    let lines: Vec<&str> = text.lines().collect();
    for line in &lines[lines.len().saturating_sub(SHOWN_LINES)..] {
        println!("| {line}");
    }
    Ok(())
}
