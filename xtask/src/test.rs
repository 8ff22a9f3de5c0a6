//! `cargo xtask test`: runs every test of the workspace, and sums the results up.

use anyhow::{Result, bail};
use xtask_support::{Workspace, command, root};

use crate::setup;

/// The crate whose tests load eBPF programs.
const SCENARIOS: &str = "acceptd-tests";

/// Runs the tests. Without root, those of [`SCENARIOS`] are not run, and the summary says so.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    setup::run(workspace)?;
    let root = root::is_root();
    let mut tests = command::cargo(workspace, &["test", "--workspace", "--no-fail-fast"]);
    // The scenarios start the program `acceptd`, which cargo builds for the tests of its package. A separate
    // `cargo build` would compile most dependencies twice, since tests need more features of them.
    if !root {
        tests.args(["--exclude", SCENARIOS]);
    }
    let mut total = Counts::default();
    let succeeded = command::watch(tests, |line| total.add(line))?;
    println!("\ntests: {} passed, {} failed, {} ignored", total.passed, total.failed, total.ignored);
    if !root {
        println!("not run: {SCENARIOS}, which loads eBPF programs: run `cargo xtask test` as root for them");
    }
    if !succeeded {
        bail!("tests failed, or did not build: see above");
    }
    Ok(())
}

/// The sums of libtest's `test result:` lines.
#[derive(Default, Debug, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Counts {
    /// Adds a line of output, if it is a result: `test result: ok. 3 passed; 0 failed; 1 ignored; ...`.
    fn add(&mut self, line: &str) {
        let Some((_, counts)) = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        for part in counts.split("; ") {
            let Some((number, what)) = part.split_once(' ') else { continue };
            let Ok(number) = number.parse::<u64>() else { continue };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Counts;

    #[test]
    fn sums_result_lines_only() {
        let mut counts = Counts::default();
        counts.add(
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
        );
        counts.add("test result: FAILED. 4 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out");
        counts.add("test sums_result_lines_only ... ok");
        assert_eq!(counts, Counts { passed: 7, failed: 2, ignored: 1 });
    }
}
