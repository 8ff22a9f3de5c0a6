//! Running other programs to their end. An error names the program and its arguments.

use std::{
    io::{self, BufRead, BufReader},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::Workspace;

/// A `cargo` command in the checkout.
///
/// The variables that `cargo run` has set for xtask are removed: the build script of ring depends on them, so
/// each change between `cargo xtask` and plain cargo would compile ring and its dependents again.
#[must_use]
pub fn cargo(workspace: &Workspace, arguments: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    for (name, _) in std::env::vars_os() {
        if name
            .to_str()
            .is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"))
        {
            command.env_remove(name);
        }
    }
    command.args(arguments).current_dir(workspace.root());
    command
}

/// Shows and runs a program. It inherits stdout and stderr.
///
/// # Errors
/// When the program does not start, or does not exit with 0.
pub fn run(mut command: Command) -> Result<()> {
    let shown = show(&command);
    eprintln!("+ {shown}");
    let status = command.status().with_context(|| format!("`{shown}` did not start"))?;
    if !status.success() {
        bail!("`{shown}` failed: {status}");
    }
    Ok(())
}

/// Runs a program and returns what it wrote to stdout, without trailing white space.
///
/// # Errors
/// When the program does not start, or does not exit with 0; with what it wrote to stderr.
pub fn capture(mut command: Command) -> Result<String> {
    let shown = show(&command);
    let output = command.output().with_context(|| format!("`{shown}` did not start"))?;
    if !output.status.success() {
        bail!("`{shown}` failed: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}

/// Shows and runs a program, prints each line of its stdout and passes the line to `see`. Returns whether the
/// program exited with 0.
///
/// # Errors
/// When the program does not start.
pub fn watch(mut command: Command, mut see: impl FnMut(&str)) -> Result<bool> {
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

/// [`watch`], which also returns everything that the program wrote to stdout.
///
/// # Errors
/// When the program does not start.
pub fn figures(command: Command) -> Result<(bool, String)> {
    let mut figures = String::new();
    let succeeded = watch(command, |line| {
        figures.push_str(line);
        figures.push('\n');
    })?;
    Ok((succeeded, figures))
}

/// Whether a program of this name is on the PATH: it is started with `argument`, such as `--version`, and its
/// exit code does not matter.
#[must_use]
pub fn exists(name: &str, argument: &str) -> bool {
    Command::new(name).arg(argument).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
