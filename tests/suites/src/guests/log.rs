//! Parses the serial log of a guest: the outcome of each scenario, refusals, and faults of the kernel.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use anyhow::{Context, Result};
use xtask_support::guests::Guest;

/// How many scenarios of one kernel may fail in the first boot. They are run again in a second boot, one at a
/// time.
const MAX_SECOND_RUNS: usize = 3;

/// How many scenarios of one tier may be tried again because the kernel skipped runs of eBPF programs.
pub(super) const MAX_RETRIES: usize = 3;

/// Words in messages of the kernel that make a run a failure.
const FAULTS: [&str; 5] = ["Kernel panic", "Oops", "BUG:", "WARNING:", "detected stall"];

/// The result of one scenario.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ScenarioResult {
    pub(super) took: Duration,
    /// The message, if the scenario failed.
    pub(super) failure: Option<String>,
}

/// The output of `acceptd` on a kernel that it refuses, and its exit code.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) text: String,
    pub(super) code: Option<i32>,
}

/// A parsed log.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct GuestLog {
    /// The scenarios that the guest was to run or to skip, by tier.
    pub(super) planned: BTreeMap<u8, Vec<String>>,
    /// Results by tier and scenario.
    pub(super) results: BTreeMap<(u8, String), ScenarioResult>,
    /// Scenarios that were tried again, and why: `TIER NAME: WHY`.
    pub(super) retries: Vec<String>,
    /// Scenarios that failed beside others and passed in the second boot, and how they failed: `TIER NAME:
    /// WHY`.
    pub(super) passed_alone: Vec<String>,
    /// By the subcommand of `acceptd`.
    pub(super) refusals: BTreeMap<String, Refusal>,
    /// Seconds that each tier took.
    pub(super) seconds: BTreeMap<u8, u64>,
    /// Panics and warnings of the kernel, and modules that were not loaded.
    pub(super) faults: Vec<String>,
    /// Whether the guest came to its end.
    pub(super) is_done: bool,
}

impl GuestLog {
    /// Reads the log of one boot.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        Ok(Self::parse(&String::from_utf8_lossy(&bytes)))
    }

    /// Reads a guest's log, corrected by that of its second boot.
    pub(super) fn read_for(guest: &Guest) -> Result<Self> {
        let mut log = Self::read(&guest.log)?;
        if let Some(second) = &guest.second_log {
            log.correct(Self::read(second)?);
        }
        Ok(log)
    }

    /// Parses the text of a log. Lines that are not known are skipped.
    pub(super) fn parse(text: &str) -> Self {
        let mut log = Self::default();
        for line in text.lines().map(str::trim_end) {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            match word {
                "planned" => log.parse_planned(rest),
                "scenario" => log.parse_result(rest),
                "again" => log.retries.push(rest.to_owned()),
                "guest:" if rest.starts_with("module ") => log.faults.push(rest.to_owned()),
                "guest:" if rest.starts_with("done ") => log.is_done = true,
                "guest:" => log.parse_note(rest),
                "refused:" => {
                    let (command, text) = rest.split_once(' ').unwrap_or((rest, ""));
                    let refusal = log.refusals.entry(command.to_owned()).or_default();
                    refusal.text += text;
                    refusal.text.push('\n');
                }
                // A message of the kernel: from `dmesg` at the end, or on the console while the kernel dies.
                _ if (word == "dmesg:" || word.starts_with('['))
                    && FAULTS.iter().any(|fault| rest.contains(fault)) =>
                {
                    log.faults.push(rest.to_owned());
                }
                _ => {}
            }
        }
        log
    }

    /// The names of the failed scenarios, by tier.
    pub(super) fn failed(&self) -> BTreeMap<u8, Vec<String>> {
        let mut failed = BTreeMap::<u8, Vec<String>>::new();
        for ((tier, name), _) in self.results.iter().filter(|(_, result)| result.failure.is_some()) {
            failed.entry(*tier).or_default().push(name.clone());
        }
        failed
    }

    /// Whether the guest came to its end, and shows no more than chance explains: at most [`MAX_SECOND_RUNS`]
    /// failed scenarios, and at most [`MAX_RETRIES`] retries in each tier.
    pub(super) fn is_whole(&self) -> bool {
        self.is_whole_within(MAX_SECOND_RUNS, MAX_RETRIES)
    }

    fn is_whole_within(&self, max_failed: usize, max_retries: usize) -> bool {
        let retries =
            |tier: &u8| self.retries.iter().filter(|retry| retry.starts_with(&format!("{tier} "))).count();
        self.is_done
            && self.faults.is_empty()
            && self.failed().values().map(Vec::len).sum::<usize>() <= max_failed
            && self.planned.keys().all(|tier| retries(tier) <= max_retries)
    }

    /// Replaces the results of scenarios that failed here and passed in the second boot.
    fn correct(&mut self, second: Self) {
        for ((tier, name), result) in second.results {
            let Some(first) = self.results.get_mut(&(tier, name.clone())) else { continue };
            if let (Some(why), None) = (&first.failure, &result.failure) {
                self.passed_alone.push(format!("{tier} {name}: {why}"));
                *first = result;
            }
        }
        self.retries.extend(second.retries);
        self.faults.extend(second.faults);
        if !second.is_done {
            self.faults.push("the second boot did not come to its end".to_owned());
        }
    }

    /// `TIER NAME`
    fn parse_planned(&mut self, rest: &str) {
        if let Some((tier, name)) = rest.split_once(' ')
            && let Ok(tier) = tier.parse()
        {
            self.planned.entry(tier).or_default().push(name.to_owned());
        }
    }

    /// `TIER NAME ok|FAILED MILLISECONDS [MESSAGE]`
    fn parse_result(&mut self, rest: &str) {
        let mut words = rest.splitn(5, ' ');
        let (Some(tier), Some(name), Some(how), Some(took)) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return;
        };
        let (Ok(tier), Ok(took)) = (tier.parse(), took.parse()) else { return };
        let failure = (how != "ok").then(|| words.next().unwrap_or("(no message)").to_owned());
        let result = ScenarioResult { took: Duration::from_millis(took), failure };
        self.results.insert((tier, name.to_owned()), result);
    }

    /// `tier TIER took SECONDS` and `COMMAND ended with CODE`
    fn parse_note(&mut self, rest: &str) {
        match rest.split(' ').collect::<Vec<_>>()[..] {
            ["tier", tier, "took", seconds] => {
                if let (Ok(tier), Ok(seconds)) = (tier.parse(), seconds.parse()) {
                    self.seconds.insert(tier, seconds);
                }
            }
            [command, "ended", "with", code] => {
                self.refusals.entry(command.to_owned()).or_default().code = code.parse().ok();
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{GuestLog, Refusal};

    #[test]
    fn known_lines_are_parsed_and_others_are_skipped() {
        let log = GuestLog::parse(
            "SeaBIOS (version 1)\r\nguest: kernel 6.1 x86_64, 2 CPUs\r\nguest: module nfsd.ko is not loaded\r\n\
             planned 2 a::b\r\nplanned 2 a::c\r\nagain 2 a::b: left out\r\nscenario 2 a::b ok 12\r\n\
             scenario 2 a::c FAILED 7 a.rs:1: the WARNING: of a record\r\nscenarios 2: 1 passed, 1 failed\r\n\
             guest: tier 2 took 40\r\ndmesg: [ 1.0] WARNING: CPU: 0 PID: 1\r\nguest: done after 50 s\r\n",
        );
        assert_eq!(log.planned[&2], ["a::b", "a::c"]);
        assert_eq!(log.results[&(2, "a::b".to_owned())].failure, None);
        assert_eq!(
            log.results[&(2, "a::c".to_owned())].failure.as_deref(),
            Some("a.rs:1: the WARNING: of a record")
        );
        assert_eq!(log.retries, ["2 a::b: left out"]);
        assert_eq!(log.faults, ["module nfsd.ko is not loaded", "[ 1.0] WARNING: CPU: 0 PID: 1"]);
        assert_eq!(log.seconds[&2], 40);
        assert!(log.is_done);
    }

    #[test]
    fn a_second_run_corrects_what_failed_and_says_so() {
        let mut log = GuestLog::parse(
            "scenario 1 a ok 1\nscenario 2 a FAILED 1 slow\nscenario 2 b FAILED 1 bad\nguest: done",
        );
        assert_eq!(log.failed(), [(2, vec!["a".to_owned(), "b".to_owned()])].into());
        log.correct(GuestLog::parse(
            "scenario 2 a ok 1\nscenario 2 b FAILED 1 bad again\nscenario 2 c ok 1\nguest: done after 1 s",
        ));
        assert_eq!(log.passed_alone, ["2 a: slow"]);
        assert_eq!(log.failed(), [(2, vec!["b".to_owned()])].into());
        assert_eq!(log.results.len(), 3, "nothing is added");
        assert!(!log.is_done && log.faults.is_empty());
        log.correct(GuestLog::parse("scenario 2 b ok 1\n"));
        assert_eq!(log.faults, ["the second boot did not come to its end"]);
    }

    #[test]
    fn an_unfinished_log_or_one_with_excess_failures_is_not_whole() {
        let whole = |log: &str| GuestLog::parse(log).is_whole_within(1, 1);
        let good = "planned 2 a\nplanned 2 b\nagain 2 a: x\nscenario 2 a ok 1\nscenario 2 b FAILED 1 x\n\
                    guest: done after 1 s\n";
        assert!(whole(good));
        assert!(!whole(good.strip_suffix("guest: done after 1 s\n").expect("its end")));
        for more in ["scenario 2 a FAILED 1 x\n", "again 2 b: x\n", "guest: module x is not loaded\n"] {
            assert!(!whole(&format!("{good}{more}")), "{more}");
        }
    }

    #[test]
    fn a_refusal_has_a_text_and_a_code() {
        let log = GuestLog::parse(
            "refused: check failed Linux 5.10\nrefused: check update\nguest: check ended with 1\n",
        );
        let refusal = Refusal { text: "failed Linux 5.10\nupdate\n".to_owned(), code: Some(1) };
        assert_eq!(log.refusals["check"], refusal);
    }

    #[test]
    fn a_panic_in_the_middle_is_a_fault() {
        let log = GuestLog::parse("scenario 2 a::b ok 12\n[   75.6] Kernel panic - not syncing: x\n");
        assert_eq!(log.faults.len(), 1);
        assert!(!log.is_done);
    }
}
