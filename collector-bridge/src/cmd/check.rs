//! `acceptd check`: prints what works on this host and what does not, with cause and remedy.

use std::{
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
};

use super::usage_error;
use crate::{
    bpf::offsets,
    cmd::cli::CheckArgs,
    preflight::{Report, gather},
};

/// Runs every check. The exit code is 0 (ok), 1 (failed), 2 (degraded) or 64 (unusable configuration).
pub fn run(arguments: &CheckArgs) -> ExitCode {
    let loaded = match arguments.source.load() {
        Ok(loaded) => loaded,
        Err(error) => return usage_error(error.problems()),
    };
    let report = Report::new(gather::everything(&loaded, Path::new(offsets::VMLINUX)));
    let mut out = io::stdout();
    // If standard output is closed, the exit code still has the result.
    _ = if arguments.output == "json" {
        writeln!(out, "{}", serde_json::to_string_pretty(&report).unwrap_or_default())
    } else {
        write!(out, "{report}")
    };
    ExitCode::from(report.exit_code())
}
