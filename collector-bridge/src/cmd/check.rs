//! `acceptd check`: what works on this host, what does not, why, and what to do.

use std::{
    io::{
        Write as _, {self},
    },
    path::Path,
    process::ExitCode,
};

use super::unusable;
use crate::{
    bpf::offsets,
    cmd::cli::CheckArgs,
    preflight::{Report, gather},
};

/// Looks at everything; the exit code is 0 (ok), 1 (failed) or 2 (degraded).
pub fn run(arguments: &CheckArgs) -> ExitCode {
    let loaded = match arguments.source.load() {
        Ok(loaded) => loaded,
        Err(error) => return unusable(error.problems()),
    };
    let report = Report::new(gather::everything(&loaded, Path::new(offsets::VMLINUX)));
    let mut out = io::stdout();
    // Nobody is left to tell when the standard output is gone.
    _ = if arguments.output == "json" {
        writeln!(out, "{}", serde_json::to_string_pretty(&report).unwrap_or_default())
    } else {
        write!(out, "{report}")
    };
    ExitCode::from(report.exit_code())
}
