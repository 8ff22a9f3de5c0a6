//! What a guest said on its serial line.

use std::{collections::BTreeMap, time::Duration};

/// How a scenario ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) took: Duration,
    /// The message, when it failed.
    pub(super) failure: Option<String>,
}

/// The whole line, read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    /// The scenarios that the guest knows and that the run is about, by tier.
    pub(super) planned: BTreeMap<u8, Vec<String>>,
    pub(super) ended: BTreeMap<(u8, String), Ended>,
    /// Scenarios that were tried again, and why: `TIER NAME: WHY`.
    pub(super) again: Vec<String>,
    /// Scenarios that failed beside others and passed alone, and how they failed: `TIER NAME: WHY`.
    pub(super) alone: Vec<String>,
    /// What `acceptd` said and how it ended, of a kernel that it refuses: by its command.
    pub(super) refusals: BTreeMap<String, (String, Option<i32>)>,
    /// Seconds that each tier took.
    pub(super) seconds: BTreeMap<u8, u64>,
    /// Panics and warnings of the kernel, and modules that were not loaded.
    pub(super) faults: Vec<String>,
    pub(super) is_done: bool,
}

/// Words of the kernel that make a run a failure.
const FAULTS: [&str; 5] = ["Kernel panic", "Oops", "BUG:", "WARNING:", "detected stall"];

/// Reads a log.
pub(super) fn read(log: &str) -> Said {
    let mut said = Said::default();
    for line in log.lines().map(str::trim_end) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "planned" => said.plan(rest),
            "scenario" => said.end(rest),
            "again" => said.again.push(rest.to_owned()),
            "guest:" if rest.starts_with("module ") => said.faults.push(rest.to_owned()),
            "guest:" if rest.starts_with("done ") => said.is_done = true,
            "guest:" => said.note(rest),
            "refused:" => {
                let (command, text) = rest.split_once(' ').unwrap_or((rest, ""));
                let entry = said.refusals.entry(command.to_owned()).or_default();
                entry.0 += text;
                entry.0.push('\n');
            }
            // A message of the kernel: at the end, or as it dies.
            _ if (word == "dmesg:" || word.starts_with('['))
                && FAULTS.iter().any(|fault| rest.contains(fault)) =>
            {
                said.faults.push(rest.to_owned());
            }
            _ => {}
        }
    }
    said
}

impl Said {
    /// Scenarios that failed, by tier.
    pub(super) fn failed(&self) -> BTreeMap<u8, Vec<String>> {
        let mut failed = BTreeMap::<u8, Vec<String>>::new();
        for ((tier, name), _) in self.ended.iter().filter(|(_, ended)| ended.failure.is_some()) {
            failed.entry(*tier).or_default().push(name.clone());
        }
        failed
    }

    /// Whether it came to its end, and shows no more than chance: a few scenarios that failed, and a few tries in each tier.
    pub(super) fn is_whole(&self, failed: usize, again: usize) -> bool {
        let tries = |tier: &u8| self.again.iter().filter(|one| one.starts_with(&format!("{tier} "))).count();
        self.is_done
            && self.faults.is_empty()
            && self.failed().values().map(Vec::len).sum::<usize>() <= failed
            && self.planned.keys().all(|tier| tries(tier) <= again)
    }

    /// Takes what a second run says of those that failed.
    pub(super) fn correct(&mut self, second: Self) {
        for ((tier, name), ended) in second.ended {
            let Some(first) = self.ended.get_mut(&(tier, name.clone())) else { continue };
            if let (Some(why), None) = (&first.failure, &ended.failure) {
                self.alone.push(format!("{tier} {name}: {why}"));
                *first = ended;
            }
        }
        self.again.extend(second.again);
        self.faults.extend(second.faults);
        if !second.is_done {
            self.faults.push("the second boot did not come to its end".to_owned());
        }
    }

    /// `TIER NAME`
    fn plan(&mut self, rest: &str) {
        if let Some((tier, name)) = rest.split_once(' ')
            && let Ok(tier) = tier.parse()
        {
            self.planned.entry(tier).or_default().push(name.to_owned());
        }
    }

    /// `TIER NAME ok|FAILED MILLISECONDS [MESSAGE]`
    fn end(&mut self, rest: &str) {
        let mut words = rest.splitn(5, ' ');
        let (Some(tier), Some(name), Some(how), Some(took)) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return;
        };
        let (Ok(tier), Ok(took)) = (tier.parse(), took.parse()) else { return };
        let failure = (how != "ok").then(|| words.next().unwrap_or("(no message)").to_owned());
        self.ended.insert((tier, name.to_owned()), Ended { took: Duration::from_millis(took), failure });
    }

    /// `tier TIER took SECONDS` and `COMMAND ended with CODE`
    fn note(&mut self, rest: &str) {
        match rest.split(' ').collect::<Vec<_>>()[..] {
            ["tier", tier, "took", seconds] => {
                if let (Ok(tier), Ok(seconds)) = (tier.parse(), seconds.parse()) {
                    self.seconds.insert(tier, seconds);
                }
            }
            [command, "ended", "with", code] => {
                self.refusals.entry(command.to_owned()).or_default().1 = code.parse().ok();
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn reads_what_it_knows_and_no_more() {
        let said = read(
            "SeaBIOS (version 1)\r\nguest: kernel 6.1 x86_64, 2 CPUs\r\nguest: module nfsd.ko is not loaded\r\n\
             planned 2 a::b\r\nplanned 2 a::c\r\nagain 2 a::b: left out\r\nscenario 2 a::b ok 12\r\n\
             scenario 2 a::c FAILED 7 a.rs:1: the WARNING: of a record\r\nscenarios 2: 1 passed, 1 failed\r\n\
             guest: tier 2 took 40\r\ndmesg: [ 1.0] WARNING: CPU: 0 PID: 1\r\nguest: done after 50 s\r\n",
        );
        assert_eq!(said.planned[&2], ["a::b", "a::c"]);
        assert_eq!(said.ended[&(2, "a::b".to_owned())].failure, None);
        assert_eq!(
            said.ended[&(2, "a::c".to_owned())].failure.as_deref(),
            Some("a.rs:1: the WARNING: of a record")
        );
        assert_eq!(said.again, ["2 a::b: left out"]);
        assert_eq!(said.faults, ["module nfsd.ko is not loaded", "[ 1.0] WARNING: CPU: 0 PID: 1"]);
        assert_eq!(said.seconds[&2], 40);
        assert!(said.is_done);
    }

    #[test]
    fn a_second_run_corrects_what_failed_and_says_so() {
        let mut said =
            read("scenario 1 a ok 1\nscenario 2 a FAILED 1 slow\nscenario 2 b FAILED 1 bad\nguest: done");
        assert_eq!(said.failed(), [(2, vec!["a".to_owned(), "b".to_owned()])].into());
        said.correct(read(
            "scenario 2 a ok 1\nscenario 2 b FAILED 1 bad again\nscenario 2 c ok 1\nguest: done after 1 s",
        ));
        assert_eq!(said.alone, ["2 a: slow"]);
        assert_eq!(said.failed(), [(2, vec!["b".to_owned()])].into());
        assert_eq!(said.ended.len(), 3, "nothing is added");
        assert!(!said.is_done && said.faults.is_empty());
        said.correct(read("scenario 2 b ok 1\n"));
        assert_eq!(said.faults, ["the second boot did not come to its end"]);
    }

    #[test]
    fn what_is_more_than_chance_is_not_whole() {
        let whole = |log: &str| read(log).is_whole(1, 1);
        let good = "planned 2 a\nplanned 2 b\nagain 2 a: x\nscenario 2 a ok 1\nscenario 2 b FAILED 1 x\nguest: done after 1 s\n";
        assert!(whole(good));
        assert!(!whole(good.strip_suffix("guest: done after 1 s\n").expect("its end")));
        for more in ["scenario 2 a FAILED 1 x\n", "again 2 b: x\n", "guest: module x is not loaded\n"] {
            assert!(!whole(&format!("{good}{more}")), "{more}");
        }
    }

    #[test]
    fn reads_a_refusal() {
        let said =
            read("refused: check failed Linux 5.10\nrefused: check update\nguest: check ended with 1\n");
        assert_eq!(said.refusals["check"], ("failed Linux 5.10\nupdate\n".to_owned(), Some(1)));
    }

    #[test]
    fn a_panic_in_the_middle_is_a_fault() {
        let said = read("scenario 2 a::b ok 12\n[   75.6] Kernel panic - not syncing: x\n");
        assert_eq!(said.faults.len(), 1);
        assert!(!said.is_done);
    }
}
