//! `cargo xtask pictures`: the README's, of what the demo's workload does: a terminal session, the page of `VictoriaLogs`, and charts of
//! the dashboards' expressions.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::{ask, charts, questions::Questions, stack::Stack, start_workload, workload::Workload};
use crate::{apt, build, command, host, http::encoded, process::until_after, workspace::Workspace};

const FOLDER: &str = "docs/pictures";
/// What there is to be seen in a chart.
const LASTS: Duration = Duration::from_mins(4);

/// Draws a terminal's output as it comes. It still looks for itself by the module that newer versions of setuptools are without.
const TERMTOSVG: [&str; 2] = ["termtosvg==1.1.0", "setuptools==79.0.1"];
const TERMINAL: &str = "112x30";
const WINDOW: &str = "--window-size=1400,900";
const QUERY: &str = "event_name:=\"acceptd.socket.accept\" acceptd.accept.queue_time_ns:>250000000";

/// Makes all of them anew.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    host::require_root("pictures")?;
    apt::require("chromium", "--version", "chromium fonts-dejavu-core")?;
    apt::require("gnuplot", "--version", "gnuplot-nox")?;
    let questions = Questions::read(workspace)?;
    let programs = build::suites(workspace, build::RELEASE)?;
    let folder = tempfile::tempdir().context("no temporary folder")?;
    let mut stack = Stack::full(workspace, &programs, folder.path())?;
    let (mut workload, _) = start_workload(&mut stack, &programs, folder.path())?;
    println!("the workload runs for {} s", LASTS.as_secs());
    let mut pauses = LASTS.as_secs();
    until_after(Duration::from_secs(1), "what charts show", 2 * LASTS, || {
        workload.require_alive()?;
        stack.agent.require_alive()?;
        pauses -= 1;
        Ok((pauses == 0).then_some(()))
    })?;
    let pictures = workspace.path(FOLDER);
    remove_all(&pictures)?;
    charts::draw(stack.behind.backends["prometheus"].port, &questions.expressions, LASTS, &pictures)?;
    page(stack.behind.backends["victorialogs"].port, folder.path(), &pictures.join("victorialogs.png"))?;
    terminal(workspace, &programs, &workload, stack.admin, &pictures)?;
    let (ledger, behind) = stack.stop_agent()?;
    ledger.check()?;
    behind.stop()
}

/// Those of before: what is there at the end is new.
fn remove_all(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "svg" || end == "png") {
            fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
        }
    }
    Ok(())
}

/// The page of `VictoriaLogs`, as a browser shows it.
fn page(port: u16, folder: &Path, picture: &Path) -> Result<()> {
    ensure!(!ask::ask("victorialogs", port, QUERY)?.is_empty(), "there is nothing to be seen of {QUERY}");
    let query = encoded(QUERY);
    let mut browser = Command::new("chromium");
    browser.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-proxy-server",
        "--hide-scrollbars",
        WINDOW,
    ]);
    // Time for its scripts, which it does not wait for otherwise.
    browser.arg("--virtual-time-budget=10000");
    browser.arg(format!("--user-data-dir={}", folder.join("browser").display()));
    browser.arg(format!("--screenshot={}", picture.display()));
    browser.arg(format!(
        "http://127.0.0.1:{port}/select/vmui/?#/?query={query}&g0.range_input=5m&g0.relative_time=last_5_minutes&limit=20"
    ));
    command::capture(browser)?;
    ensure!(picture.exists(), "chromium has not written {}", picture.display());
    println!("drew {}", picture.display());
    Ok(())
}

/// docs/pictures/session.sh, as a terminal shows it.
fn terminal(
    workspace: &Workspace,
    programs: &Path,
    workload: &Workload,
    admin: u16,
    pictures: &Path,
) -> Result<()> {
    let library = library(workspace)?;
    let picture = pictures.join("terminal.svg");
    let mut path = OsString::from(programs);
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let mut recorder = Command::new(library.join("bin/termtosvg"));
    recorder.arg(&picture).args(["-g", TERMINAL, "-t", "window_frame", "-c"]);
    recorder.arg(format!("sh {}", pictures.join("session.sh").display()));
    recorder.env("PYTHONPATH", &library).env("PATH", path);
    recorder.env("ACCEPTD_ADMIN_LISTEN", format!("127.0.0.1:{admin}"));
    recorder.env("PORTS", format!("{},{}", workload.slow.port, workload.exhausted.port));
    // At the end of its input it would end.
    let mut recording = recorder.stdin(Stdio::piped()).spawn().context("termtosvg did not start")?;
    let input = recording.stdin.take();
    let status = recording.wait()?;
    drop(input);
    let drawn = fs::read_to_string(&picture).with_context(|| format!("reading {}", picture.display()))?;
    // The last that the session shows.
    ensure!(
        status.success() && drawn.contains("resident"),
        "termtosvg: {status}; the session did not come to its end"
    );
    println!("drew {}", picture.display());
    Ok(())
}

/// Where termtosvg is, in a folder of its own.
fn library(workspace: &Workspace) -> Result<PathBuf> {
    let folder = workspace.target().join("tools/termtosvg");
    if !folder.join("bin/termtosvg").exists() {
        apt::require("pip3", "--version", "python3-pip")?;
        let mut pip = Command::new("pip3");
        pip.args(["install", "--quiet", "--root-user-action=ignore", "--target"])
            .arg(&folder)
            .args(TERMTOSVG);
        command::run(pip)?;
    }
    Ok(folder)
}
