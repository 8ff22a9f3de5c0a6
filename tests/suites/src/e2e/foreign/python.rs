//! `CPython`'s tests of sockets, of Debian's libpython3-testsuite.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use xtask_support::Extent;

use super::{
    outcomes::{self, Outcomes},
    program::TestProgram,
};

/// The path of Debian's Python: another one on the PATH may lack the tests.
const PYTHON: &str = "/usr/bin/python3";

/// The test modules. `test_asyncio` takes a minute and a half.
pub(super) fn programs(extent: Extent) -> Vec<TestProgram> {
    type Arguments = fn(&mut Command, &Path);
    let all: [(&str, Arguments, bool); 3] = [
        ("CPython test_socketserver", |command, files| arguments(command, files, "test_socketserver"), true),
        ("CPython test_socket", |command, files| arguments(command, files, "test_socket"), true),
        ("CPython test_asyncio", |command, files| arguments(command, files, "test_asyncio"), extent.full),
    ];
    let wanted = all.into_iter().filter(|(.., is_wanted)| *is_wanted);
    wanted
        .map(|(name, arguments, _)| TestProgram {
            name,
            binary: PYTHON.into(),
            home: "/".into(),
            arguments,
            outcomes: read,
        })
        .collect()
}

/// VSOCK is not part of a network namespace: two runs at a time would have the same port, and the test hangs
/// on a host without a transport.
fn arguments(command: &mut Command, files: &Path, module: &str) {
    command.args(["-m", "test", "-u", "network", "--verbose", "--ignore", "*VSOCK*", "--junit-xml"]);
    command.arg(files.with_extension("xml")).arg(module);
}

fn read(files: &Path) -> Result<Outcomes> {
    let path = files.with_extension("xml");
    let outcomes = outcomes::of_junit(
        &fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?,
    );
    ensure!(!outcomes.is_empty(), "{} has no tests", path.display());
    Ok(outcomes)
}
