//! The orders of a guest: a few lines of shell that its init executes.

use std::{collections::BTreeMap, fmt::Write as _};

use xtask_support::guests::GuestTier;

/// How many times longer than natively the scenarios wait: an emulated CPU is some twenty times slower than
/// the host's.
const PATIENCE: u32 = 10;

/// How many scenarios run at a time: they wait as often as they compute.
pub(super) const JOBS: u32 = 3;

/// How many lines of stderr are kept: panics, and the messages of the agents of failed scenarios. Without a
/// failure there are none.
const STDERR_LINES: u32 = 300;

/// The scenarios of one tier.
pub(super) struct TierOrder<'a> {
    number: u8,
    /// Parts of names. If empty, every scenario runs.
    only: &'a [String],
    /// Full names.
    skip: Vec<&'a str>,
}

impl<'a> TierOrder<'a> {
    /// Everything that is to run in a tier, without its exceptions.
    pub(super) fn from_tier(tier: &'a GuestTier) -> Self {
        let skip = tier.exceptions.iter().map(|exception| exception.scenario.as_str()).collect();
        Self { number: tier.number, only: &tier.only, skip }
    }
}

/// Only these scenarios, by tier.
pub(super) fn only(names: &BTreeMap<u8, Vec<String>>) -> Vec<TierOrder<'_>> {
    names.iter().map(|(number, only)| TierOrder { number: *number, only, skip: Vec::new() }).collect()
}

/// Runs scenarios in each tier, `jobs` at a time.
pub(super) fn scenarios(tiers: &[TierOrder<'_>], jobs: u32) -> String {
    let mut script = format!("export ACCEPTD_TEST_PATIENCE={PATIENCE}\n");
    for TierOrder { number: tier, only, skip } in tiers {
        let mut words = format!("--guest --tier {tier} --jobs {jobs}");
        for (flag, names) in [("--only", only.iter().map(String::as_str).collect()), ("--skip", skip.clone())]
        {
            for name in names {
                _ = write!(words, " {flag} {}", quote(name));
            }
        }
        _ = writeln!(
            script,
            "begun=$(date +%s)\nACCEPTD_TEST_TIER={tier} scenarios {words} 2> /tmp/stderr\n\
             tail -n {STDERR_LINES} /tmp/stderr | sed 's/^/stderr: /'\n\
             echo \"guest: tier {tier} took $(($(date +%s) - begun))\""
        );
    }
    script
}

/// Starts acceptd on a kernel that it must refuse.
pub(super) fn refusal() -> String {
    let script = |command: &str, arguments: &str| {
        format!(
            "timeout 600 acceptd {command} {arguments} > /tmp/said 2>&1\ncode=$?\n\
             sed 's/^/refused: {command} /' /tmp/said\necho \"guest: {command} ended with $code\"\n"
        )
    };
    let settings = "--config /dev/null --set state.directory=/tmp";
    script("check", settings) + &script("run", &format!("{settings} --endpoint 127.0.0.1:4317"))
}

/// Measures what each program of tier 1 costs.
pub(super) fn costs() -> String {
    "cost 1 > /tmp/said 2>&1; code=$?; cat /tmp/said; echo \"guest: cost ended with $code\"\n".to_owned()
}

fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::{TierOrder, refusal, scenarios};

    #[test]
    fn each_tier_with_what_it_skips() {
        let only = ["x'y".to_owned()];
        let tier = |number, skip| TierOrder { number, only: &only, skip };
        let script = scenarios(&[tier(1, vec!["a::b"]), tier(2, vec![])], 3);
        assert!(script.contains(
            "ACCEPTD_TEST_TIER=1 scenarios --guest --tier 1 --jobs 3 --only 'x'\\''y' --skip 'a::b' "
        ));
        assert!(
            script.contains("ACCEPTD_TEST_TIER=2 scenarios --guest --tier 2 --jobs 3 --only 'x'\\''y' 2>")
        );
    }

    #[test]
    fn a_refusal_says_how_both_ended() {
        let script = refusal();
        assert!(script.contains("guest: check ended with") && script.contains("guest: run ended with"));
    }
}
