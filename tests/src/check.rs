//! Runs `acceptd check` and reads its JSON report.

use std::process::Command;

use serde_json::Value as Json;

use crate::agent::{binary, tier_setting};

/// Completes the arguments of `command` (see [`command`] and [`command_after`]), runs it, and returns its
/// exit code and report.
///
/// # Panics
/// If it prints no JSON.
#[must_use]
pub fn run(mut command: Command) -> (Option<i32>, Json) {
    let output =
        command.args(["--output", "json", "--config", "/dev/null"]).output().expect("acceptd starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let report = serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("{error}: {text}\n{}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code(), report)
}

/// The items of a report that are not ok, each as `[id, verdict, because, remedy]`.
///
/// # Panics
/// If the report has no items.
#[must_use]
pub fn not_ok(report: &Json) -> Vec<[&str; 4]> {
    let items = report["items"].as_array().expect("items");
    items
        .iter()
        .filter(|item| item["verdict"] != "ok")
        .map(|item| ["id", "verdict", "because", "remedy"].map(|key| item[key].as_str().unwrap_or_default()))
        .collect()
}

/// `acceptd check` for the tier under test, without the host's environment.
#[must_use]
pub fn command() -> Command {
    let mut command = Command::new(binary("acceptd"));
    command.env_clear().args(["check", "--set", "state.directory=/tmp", "--set", &tier_setting()]);
    command
}

/// `acceptd check` in new namespaces (`wrapper` holds the arguments of unshare(1)), after the shell commands
/// `prepare`, which must end with `&&` unless empty.
#[must_use]
pub fn command_after(prepare: &str, wrapper: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    let script = format!(
        "{prepare} exec {} check --set state.directory=/tmp --set {} \"$@\"",
        binary("acceptd").display(),
        tier_setting()
    );
    command.args(wrapper).args(["sh", "-c", &script, "sh"]);
    // Clear the environment: acceptd would read the harness's own ACCEPTD_ variables. The shell needs PATH.
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
}
