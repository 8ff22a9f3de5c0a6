//! Running other programs: shown before they start, and named in the error when they fail.

use std::{
    io::{
        BufRead, BufReader, {self},
    },
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;

/// A `cargo` command in the checkout.
pub(crate) fn cargo(workspace: &Workspace, arguments: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.args(arguments).current_dir(workspace.root());
    command
}

/// Runs a program to its end, its output going where ours goes.
pub(crate) fn run(mut command: Command) -> Result<()> {
    let shown = show(&command);
    eprintln!("+ {shown}");
    let status = command.status().with_context(|| format!("`{shown}` did not start"))?;
    if !status.success() {
        bail!("`{shown}` failed: {status}");
    }
    Ok(())
}

/// Runs a program to its end and returns what it wrote to stdout, without the last newline.
pub(crate) fn capture(mut command: Command) -> Result<String> {
    let shown = show(&command);
    let output = command.output().with_context(|| format!("`{shown}` did not start"))?;
    if !output.status.success() {
        bail!("`{shown}` failed: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}

/// Runs a program to its end, shows each line of its stdout and hands it to `see`; returns whether it succeeded.
pub(crate) fn watch(mut command: Command, mut see: impl FnMut(&str)) -> Result<bool> {
    let shown = show(&command);
    eprintln!("+ {shown}");
    let mut child =
        command.stdout(Stdio::piped()).spawn().with_context(|| format!("`{shown}` did not start"))?;
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let line = line.unwrap_or_else(|error: io::Error| format!("(unreadable line: {error})"));
            println!("{line}");
            see(&line);
        }
    }
    Ok(child.wait().with_context(|| format!("waiting for `{shown}`"))?.success())
}

/// Like [`watch`], and returns all that it printed, too.
pub(crate) fn figures(command: Command) -> Result<(bool, String)> {
    let mut figures = String::new();
    let good = watch(command, |line| {
        figures.push_str(line);
        figures.push('\n');
    })?;
    Ok((good, figures))
}

/// Whether a program of this name answers to `--version` (or whatever shows that it is there).
pub(crate) fn exists(name: &str, argument: &str) -> bool {
    Command::new(name).arg(argument).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
