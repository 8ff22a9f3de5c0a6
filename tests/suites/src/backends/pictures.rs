//! Draws the pictures of the README while the demo's workload runs: a terminal session, the page of
//! `VictoriaLogs`, and charts of dashboard expressions.

use std::{
    ffi::OsString,
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use xtask_support::{External, command, root};

use super::{ask, charts, questions::Questions, stack::Stack, workload::Workload};
use crate::{http::encoded, process::until_after, suite::Suite};

const FOLDER: &str = "docs/pictures";
/// How long the workload runs before the charts are drawn; also the time range of the charts.
const DURATION: Duration = Duration::from_mins(4);

const TERMINAL: &str = "112x30";
const WINDOW: &str = "--window-size=1400,900";
const QUERY: &str = "event_name:=\"acceptd.socket.accept\" acceptd.accept.queue_time_ns:>250000000";

/// Removes and redraws all pictures. Needs root, gnuplot and chromium.
pub(crate) fn run(suite: &Suite) -> Result<()> {
    root::require("pictures")?;
    let questions = Questions::read(suite)?;
    let folder = tempfile::tempdir().context("no temporary folder")?;
    let mut stack = Stack::full(suite, folder.path())?;
    let (mut workload, _) = stack.start_workload(suite, folder.path())?;
    println!("the workload runs for {} s", DURATION.as_secs());
    let mut seconds_left = DURATION.as_secs();
    until_after(Duration::from_secs(1), "the workload", 2 * DURATION, || {
        workload.require_alive()?;
        stack.agent.require_alive()?;
        seconds_left -= 1;
        Ok((seconds_left == 0).then_some(()))
    })?;
    let pictures = suite.path(FOLDER);
    remove_all(&pictures)?;
    charts::draw(stack.pipeline.backends["prometheus"].port, &questions.expressions, DURATION, &pictures)?;
    take_screenshot(
        stack.pipeline.backends["victorialogs"].port,
        folder.path(),
        &pictures.join("victorialogs.png"),
    )?;
    record_session(suite, &workload, stack.admin, &pictures)?;
    let (ledger, pipeline) = stack.stop_agent()?;
    ledger.check()?;
    pipeline.stop()
}

/// Removes earlier pictures, so that a picture that exists afterwards is new.
fn remove_all(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "svg" || end == "png") {
            fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
        }
    }
    Ok(())
}

/// Takes a screenshot of the page of `VictoriaLogs`.
fn take_screenshot(port: u16, folder: &Path, picture: &Path) -> Result<()> {
    ensure!(!ask::ask("victorialogs", port, QUERY)?.is_empty(), "VictoriaLogs has no record for {QUERY}");
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
    // Without this flag the browser does not wait for the scripts of the page.
    browser.arg("--virtual-time-budget=10000");
    browser.arg(format!("--user-data-dir={}", folder.join("browser").display()));
    browser.arg(format!("--screenshot={}", picture.display()));
    browser.arg(format!(
        "http://127.0.0.1:{port}/select/vmui/?#/?query={query}&g0.range_input=5m&g0.relative_time=last_5_minutes&limit=20"
    ));
    command::capture(browser)?;
    ensure!(picture.exists(), "chromium did not write {}", picture.display());
    println!("drew {}", picture.display());
    Ok(())
}

/// Runs docs/pictures/session.sh in a terminal of termtosvg, which records it as an animation.
fn record_session(suite: &Suite, workload: &Workload, admin: u16, pictures: &Path) -> Result<()> {
    let library = suite.external(External::Termtosvg)?;
    let picture = pictures.join("terminal.svg");
    let mut path = OsString::from(suite.programs());
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let mut recorder = Command::new(library.join("bin/termtosvg"));
    recorder.arg(&picture).args(["-g", TERMINAL, "-t", "window_frame", "-c"]);
    recorder.arg(format!("sh {}", pictures.join("session.sh").display()));
    recorder.env("PYTHONPATH", library).env("PATH", path);
    recorder.env("ACCEPTD_ADMIN_LISTEN", format!("127.0.0.1:{admin}"));
    recorder.env("PORTS", format!("{},{}", workload.slow.port, workload.exhausted.port));
    // termtosvg exits when its standard input ends, so the pipe must stay open.
    let mut recording = recorder.stdin(Stdio::piped()).spawn().context("termtosvg did not start")?;
    let input = recording.stdin.take();
    let status = recording.wait()?;
    drop(input);
    let drawn = fs::read_to_string(&picture).with_context(|| format!("reading {}", picture.display()))?;
    // The last command of the session, `acceptd status`, prints this word.
    ensure!(
        status.success() && drawn.contains("resident"),
        "termtosvg: {status}; the picture does not show the end of the session"
    );
    println!("drew {}", picture.display());
    Ok(())
}
