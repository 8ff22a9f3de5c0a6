//! What a guest is told to do: a few lines of shell for its init.

use std::{collections::BTreeMap, fmt::Write as _};

/// A guest's CPU is some twenty times slower than the host's.
const PATIENCE: u32 = 10;

/// Scenarios at a time: they wait as often as they compute.
pub(super) const JOBS: u32 = 3;

/// Lines of the panics and of the agents of scenarios that failed; without a failure there are none.
const LAST_WORDS: u32 = 300;

/// What a guest runs of one tier.
pub(super) struct Tier<'a> {
    pub(super) number: u8,
    /// Parts of names; without any, every scenario.
    pub(super) only: &'a [String],
    /// Whole names.
    pub(super) skip: Vec<&'a str>,
}

/// These scenarios and no others.
pub(super) fn of(names: &BTreeMap<u8, Vec<String>>) -> Vec<Tier<'_>> {
    names.iter().map(|(number, only)| Tier { number: *number, only, skip: Vec::new() }).collect()
}

/// Runs scenarios with each tier, so many at a time; those of `skip` are left out.
pub(super) fn scenarios(tiers: &[Tier<'_>], jobs: u32) -> String {
    let mut script = format!("export ACCEPTD_TEST_PATIENCE={PATIENCE}\n");
    for Tier { number: tier, only, skip } in tiers {
        let mut words = format!("--tier {tier} --jobs {jobs}");
        for (flag, names) in [("--only", only.iter().map(String::as_str).collect()), ("--skip", skip.clone())]
        {
            for name in names {
                _ = write!(words, " {flag} {}", quote(name));
            }
        }
        _ = writeln!(
            script,
            "begun=$(date +%s)\nACCEPTD_TEST_TIER={tier} scenarios {words} 2> /tmp/stderr\n\
             tail -n {LAST_WORDS} /tmp/stderr | sed 's/^/stderr: /'\n\
             echo \"guest: tier {tier} took $(($(date +%s) - begun))\""
        );
    }
    script
}

/// Lets a kernel refuse acceptd.
pub(super) fn refusal() -> String {
    let of = |command: &str, arguments: &str| {
        format!(
            "timeout 600 acceptd {command} {arguments} > /tmp/said 2>&1\ncode=$?\n\
             sed 's/^/refused: {command} /' /tmp/said\necho \"guest: {command} ended with $code\"\n"
        )
    };
    let settings = "--config /dev/null --set state.directory=/tmp";
    of("check", settings) + &of("run", &format!("{settings} --endpoint 127.0.0.1:4317"))
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
    use super::{Tier, refusal, scenarios};

    #[test]
    fn each_tier_with_what_it_skips() {
        let only = ["x'y".to_owned()];
        let tier = |number, skip| Tier { number, only: &only, skip };
        let script = scenarios(&[tier(1, vec!["a::b"]), tier(2, vec![])], 3);
        assert!(
            script
                .contains("ACCEPTD_TEST_TIER=1 scenarios --tier 1 --jobs 3 --only 'x'\\''y' --skip 'a::b' ")
        );
        assert!(script.contains("ACCEPTD_TEST_TIER=2 scenarios --tier 2 --jobs 3 --only 'x'\\''y' 2>"));
    }

    #[test]
    fn a_refusal_says_how_both_ended() {
        let script = refusal();
        assert!(script.contains("guest: check ended with") && script.contains("guest: run ended with"));
    }
}
