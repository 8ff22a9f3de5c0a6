//! `cargo xtask vm`: the scenarios on other kernels and on arm64, in virtual machines.

mod archive;
mod image;
mod kept;
mod kernel;
mod machine;
mod matrix;
mod mirror;
mod modules;
mod orders;
mod programs;
mod serial;
mod table;
mod verdict;
mod version;

use std::{
    collections::BTreeMap,
    num::NonZero,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    thread,
    time::Instant,
};

use anyhow::{Context, Result, bail};
use archive::{Archive, unpack};
use clap::Args;
use kept::Kept;
use kernel::Unpacked;
use matrix::{Arch, Kernel, Matrix, NotApplicable};
use serial::Said;
use table::Column;

use crate::{apt, workspace::Workspace};

/// The tiers of the agent.
const TIERS: [u8; 2] = [1, 2];

/// Tries of scenarios that may fail in one tier of a kernel that left out runs of programs.
const AGAIN: usize = 3;

/// Scenarios of one kernel that may fail beside others, with --full, and are run once more on their own.
const ALONE: usize = 3;

/// Lines of a log that are shown when its machine failed.
const SHOWN: usize = 30;

/// Which kernels and scenarios: without --quick and --full, what the filters leave of the whole list.
#[derive(Args)]
pub(crate) struct Options {
    /// Only kernels of this series: 6.1, or newest
    #[arg(long, value_name = "SERIES")]
    kernel: Vec<String>,
    /// Only this architecture
    #[arg(long, value_enum)]
    arch: Vec<Arch>,
    /// Only this tier of the agent
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=2))]
    tier: Vec<u8>,
    /// Only scenarios with this in their name
    #[arg(long, value_name = "PART")]
    only: Vec<String>,
    /// Other parameters for the kernel than tests/kernels.toml has, or Debian's choice of security modules
    #[arg(long, value_name = "PARAMETERS")]
    cmdline: Option<String>,
    /// What CI runs: on some kernels the scenarios that tests/kernels.toml names
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// Everything that tests/kernels.toml says, which takes about two hours; writes docs/kernels.md. What came to its end before with the same programs is not run again, but for what failed, alone
    #[arg(long, conflicts_with_all = ["kernel", "arch", "tier", "only", "cmdline"])]
    full: bool,
}

/// Where things of the run are.
struct Place<'a> {
    workspace: &'a Workspace,
    /// target/vm
    folder: PathBuf,
    archive: Archive,
    /// By architecture the folder of its programs.
    programs: BTreeMap<&'static str, PathBuf>,
}

/// One kernel that was booted.
struct Booted {
    kernel: Kernel,
    unpacked: Unpacked,
    said: Said,
}

/// What CI runs.
pub(crate) fn quick(workspace: &Workspace) -> Result<()> {
    let (kernel, arch, tier, only) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    run(workspace, &Options { kernel, arch, tier, only, cmdline: None, quick: true, full: false })
}

/// Boots the chosen kernels, and ends with the line `N passed, N failed`.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let matrix = matrix::read(workspace)?;
    let mut kernels = matrix::select(&matrix.kernels, options.quick, &options.kernel, &options.arch)?;
    // The slow ones first, so that no CPU has nothing to do at the end.
    kernels.sort_by_key(|kernel| kernel.arch == Arch::X86_64);
    let tiers = if options.tier.is_empty() { TIERS.to_vec() } else { options.tier.clone() };
    let place = prepare(workspace, &kernels)?;
    let fetched: Vec<_> =
        kernels.iter().map(|kernel| kernel::fetch(&place.archive, kernel, &place.folder)).collect();
    let runs = at_once(kernels.iter().zip(fetched), |(kernel, unpacked)| {
        let run =
            unpacked.and_then(|unpacked| boot(&place, &matrix, kernel.clone(), unpacked, &tiers, options));
        let mut count = Count::default();
        match &run {
            Ok(done) => judge(&place, &matrix, done, &tiers, options, &mut count),
            Err(error) => {
                count.line(&format!("{}: {error:#}", kernel.id()), &["it was not run".to_owned()], 0);
            }
        }
        println!("{}", count.lines.join("\n"));
        (run.ok(), count)
    });
    let mut count = Count::default();
    let mut booted = Vec::new();
    for (done, of_one) in runs {
        count.passed += of_one.passed;
        count.failed += of_one.failed;
        booted.extend(done);
    }
    println!("{} passed, {} failed", count.passed, count.failed);
    if count.failed > 0 {
        bail!("not every kernel is as tests/kernels.toml says; the logs are in {}", logs(&place).display());
    }
    if options.full {
        let columns: Vec<Column<'_>> = booted
            .iter()
            .map(|done| Column { kernel: &done.kernel, unpacked: &done.unpacked, said: &done.said })
            .collect();
        std::fs::write(
            workspace.path("docs/kernels.md"),
            table::render(&columns, &matrix.not_applicable, &tiers),
        )
        .context("writing docs/kernels.md")?;
        println!("wrote docs/kernels.md");
    }
    Ok(())
}

/// Does all, as many at a time as there are CPUs (a machine takes one), and returns what came of them in their order.
fn at_once<T: Send, R: Send>(all: impl Iterator<Item = T>, job: impl Fn(T) -> R + Sync) -> Vec<R> {
    let jobs: Vec<T> = all.collect();
    let workers = thread::available_parallelism().map_or(1, NonZero::get);
    let done = Mutex::new(jobs.iter().map(|_| None).collect::<Vec<Option<R>>>());
    let waiting = Mutex::new(jobs.into_iter().enumerate());
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some((place, work)) = next() {
                    let result = job(work);
                    done.lock().unwrap_or_else(PoisonError::into_inner)[place] = Some(result);
                }
            });
        }
    });
    done.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().flatten().collect()
}

/// The end of a run, gathered.
#[derive(Default)]
struct Count {
    passed: usize,
    failed: usize,
    /// What is said of it: machines that run at the same time do not mix their words.
    lines: Vec<String>,
}

impl Count {
    fn line(&mut self, line: &str, differences: &[String], passed: usize) {
        self.passed += passed;
        self.failed += differences.len();
        self.lines.push(line.to_owned());
        self.lines.extend(differences.iter().map(|difference| format!("    {difference}")));
    }
}

/// Lines that say what each program of tier 1 costs on the newest kernel: its times are those of an emulated CPU.
pub(crate) fn costs(workspace: &Workspace) -> Result<Vec<String>> {
    let kernels =
        matrix::select(&matrix::read(workspace)?.kernels, true, &["newest".to_owned()], &[Arch::X86_64])?;
    let place = prepare(workspace, &kernels)?;
    let kernel = kernels.first().context("tests/kernels.toml has no newest kernel")?;
    let unpacked = kernel::fetch(&place.archive, kernel, &place.folder)?;
    let log = run_guest(&place, kernel, "costs", &unpacked, &orders::costs(), machine::CMDLINE)?;
    let lines: Vec<String> =
        log.lines().map(str::trim_end).filter(|line| line.starts_with("cost: ")).map(str::to_owned).collect();
    if !log.contains("guest: cost ended with 0") || lines.is_empty() {
        bail!("the guest measured nothing: {}", logs(&place).join("costs.log").display());
    }
    let mut all = vec![format!(
        "cost of tier 1 on {}, in a virtual machine: an emulated CPU takes its own time",
        unpacked.release
    )];
    all.extend(lines);
    Ok(all)
}

fn prepare<'a>(workspace: &'a Workspace, kernels: &[Kernel]) -> Result<Place<'a>> {
    apt::require("cpio", "--version", "cpio")?;
    apt::require("xz", "--version", "xz-utils")?;
    apt::require("zstd", "--version", "zstd")?;
    let mut programs = BTreeMap::new();
    for arch in [Arch::X86_64, Arch::Arm64] {
        if kernels.iter().any(|kernel| kernel.arch == arch) {
            match arch {
                Arch::X86_64 => apt::require("qemu-system-x86_64", "--version", "qemu-system-x86")?,
                Arch::Arm64 => apt::require("qemu-system-aarch64", "--version", "qemu-system-arm")?,
            }
            programs.insert(arch.name(), programs::build(workspace, arch)?);
        }
    }
    let folder = workspace.path("target/vm");
    std::fs::create_dir_all(folder.join("logs")).context("making target/vm/logs")?;
    let archive = Archive::open(&folder)?;
    let place = Place { workspace, folder, archive, programs };
    // Before several machines want it at once.
    for kernel in kernels {
        busybox(&place, kernel.arch)?;
    }
    Ok(place)
}

/// Every file under `folder`, always in the same order.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).with_context(|| format!("listing {}", folder.display()))?;
        for entry in entries {
            let path = entry.with_context(|| format!("listing {}", folder.display()))?.path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    Ok(files)
}

fn logs(place: &Place<'_>) -> PathBuf {
    place.folder.join("logs")
}

/// Parts of the names of the scenarios that run; none: all of them.
fn parts<'a>(matrix: &'a Matrix, kernel: &'a Kernel, tier: u8, options: &'a Options) -> &'a [String] {
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

fn exceptions<'a>(matrix: &'a Matrix, kernel: &Kernel, tier: u8) -> Vec<&'a NotApplicable> {
    matrix.not_applicable.iter().filter(|exception| exception.covers(kernel, tier)).collect()
}

fn boot(
    place: &Place<'_>,
    matrix: &Matrix,
    kernel: Kernel,
    unpacked: Unpacked,
    tiers: &[u8],
    options: &Options,
) -> Result<Booted> {
    let orders = if kernel.refused.is_some() {
        orders::refusal()
    } else {
        let skipped = |tier| {
            exceptions(matrix, &kernel, tier).iter().map(|exception| exception.scenario.as_str()).collect()
        };
        let tier = |number: &u8| orders::Tier {
            number: *number,
            only: parts(matrix, &kernel, *number, options),
            skip: skipped(*number),
        };
        orders::scenarios(&tiers.iter().map(tier).collect::<Vec<_>>(), orders::JOBS)
    };
    let id = kernel.id();
    let cmdline =
        options.cmdline.as_ref().or(kernel.cmdline.as_ref()).map_or(machine::CMDLINE, String::as_str);
    let started = Instant::now();
    // A refusal takes seconds.
    let is_kept = options.full && kernel.refused.is_none();
    let kept = if is_kept { Some(Kept::of(place, &kernel, &unpacked, &orders, cmdline)?) } else { None };
    let text = if let Some(log) = kept.as_ref().and_then(|kept| kept.log(place, &id)) {
        println!("{id}: as before: the same programs, kernel and orders were run");
        log
    } else {
        let text = run_guest(place, &kernel, &id, &unpacked, &orders, cmdline)?;
        // At once: a matrix that is ended goes on with the others.
        if let Some(kept) = kept.filter(|_| serial::read(&text).is_whole(ALONE, AGAIN)) {
            kept.keep(place, &id, &text)?;
        }
        text
    };
    let mut said = serial::read(&text);
    let failed = said.failed();
    if is_kept && said.is_whole(ALONE, AGAIN) && !failed.is_empty() {
        println!("{id}: once more, alone: {failed:?}");
        let orders = orders::scenarios(&orders::of(&failed), 1);
        let second = run_guest(place, &kernel, &format!("{id}-alone"), &unpacked, &orders, cmdline)?;
        said.correct(serial::read(&second));
    }
    println!("{id}: {} {}, {} s", unpacked.release, unpacked.flavour, started.elapsed().as_secs());
    if !said.is_done {
        println!("the end of its log:");
        let lines: Vec<&str> = text.lines().collect();
        for line in &lines[lines.len().saturating_sub(SHOWN)..] {
            println!("| {line}");
        }
    }
    Ok(Booted { kernel, unpacked, said })
}

/// Boots a guest that does `orders`, and returns what it said; `id` names its files.
fn run_guest(
    place: &Place<'_>,
    kernel: &Kernel,
    id: &str,
    unpacked: &Unpacked,
    orders: &str,
    cmdline: &str,
) -> Result<String> {
    let parts = image::Parts {
        busybox: &busybox(place, kernel.arch)?,
        programs: place.programs.get(kernel.arch.name()).context("its programs were not built")?,
        kernel: unpacked,
        orders,
    };
    let initrd = image::make(place.workspace, &place.folder.join("guests").join(id), &parts)?;
    let log = logs(place).join(format!("{id}.log"));
    if let Err(error) = machine::boot(kernel.arch, &unpacked.image, &initrd, cmdline, &log) {
        // What it said is judged all the same.
        eprintln!("{error:#}");
    }
    let bytes = std::fs::read(&log).with_context(|| format!("reading {}", log.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Busybox for the guest from the archive: the host's own may not be static.
fn busybox(place: &Place<'_>, arch: Arch) -> Result<PathBuf> {
    let folder = place.folder.join("busybox").join(arch.name());
    let find = || {
        let paths = ["bin/busybox", "usr/bin/busybox"].map(|path| folder.join(path));
        paths.into_iter().find(|path| path.exists())
    };
    if let Some(found) = find() {
        return Ok(found);
    }
    for package in place.archive.download(&["busybox-static".to_owned()], arch.debian())? {
        unpack(&package, &folder)?;
    }
    find().context("the package busybox-static has no busybox")
}

/// Adds the lines of one kernel.
fn judge(
    place: &Place<'_>,
    matrix: &Matrix,
    done: &Booted,
    tiers: &[u8],
    options: &Options,
    count: &mut Count,
) {
    let Booted { kernel, unpacked, said, .. } = done;
    let id = kernel.id();
    let about = format!("{id} ({} {})", unpacked.release, unpacked.package_version);
    if let Some(words) = &kernel.refused {
        let differences = verdict::refusal(said, words);
        count.line(&format!("{about}: refused"), &differences, usize::from(differences.is_empty()));
    } else {
        for tier in tiers {
            let exceptions = exceptions(matrix, kernel, *tier);
            let mut verdict =
                verdict::compare(*tier, said, &exceptions, parts(matrix, kernel, *tier, options));
            verdict.differences.extend(exceptions.iter().filter_map(|exception| {
                let why = verdict::refute(&exception.because, kernel, &unpacked.facts)?;
                Some(format!("{}: said not to apply, but {why}", exception.scenario))
            }));
            let seconds = said.seconds.get(tier).map_or("?".to_owned(), u64::to_string);
            let line = format!(
                "{about} tier {tier}: {} passed, {} failed, {} n/a, {seconds} s",
                verdict.passed,
                verdict.differences.len(),
                verdict.not_applicable
            );
            count.line(&line, &verdict.differences, verdict.passed);
            let prefix = format!("{tier} ");
            let again: Vec<_> = said.again.iter().filter_map(|again| again.strip_prefix(&prefix)).collect();
            count.lines.extend(again.iter().map(|one| format!("    tried again: {one}")));
            let alone = said.alone.iter().filter(|one| one.starts_with(&prefix));
            count.lines.extend(alone.map(|one| format!("    passed alone: {one}")));
            if again.len() > AGAIN {
                let difference =
                    format!("{} tries failed where runs were left out: that is no chance", again.len());
                count.line(&about, &[difference], 0);
            }
        }
    }
    let mut faults = said.faults.clone();
    if !said.is_done {
        faults.push(format!(
            "the machine did not come to its end: {}",
            logs(place).join(format!("{id}.log")).display()
        ));
    }
    if !faults.is_empty() {
        count.line(&format!("{about}: the machine itself"), &faults, 0);
    }
}
