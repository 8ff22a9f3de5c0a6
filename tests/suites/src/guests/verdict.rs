//! Compares a guest's log with what tests/kernels.toml expects. All functions are pure.

use xtask_support::guests::{Exception, Guest, GuestTier, GuestVerdict};

use super::log::{GuestLog, MAX_RETRIES};

/// Judges a guest: its refusal of acceptd, or each tier; and the machine itself.
pub(super) fn judge_guest(guest: &Guest, log: &GuestLog) -> GuestVerdict {
    let mut verdict = GuestVerdict::default();
    let about = format!("{} ({} {})", guest.id, guest.release, guest.package_version);
    if let Some(words) = &guest.refused {
        let differences = refusal_differences(log, words);
        verdict.add(&format!("{about}: refused"), &differences, usize::from(differences.is_empty()));
    } else {
        for tier in &guest.tiers {
            add_tier(&mut verdict, &about, tier, log);
        }
    }
    let mut faults = log.faults.clone();
    if !log.is_done {
        faults.push(format!("the machine did not come to its end: {}", guest.log.display()));
    }
    if !faults.is_empty() {
        verdict.add(&format!("{about}: the machine itself"), &faults, 0);
    }
    verdict
}

fn add_tier(verdict: &mut GuestVerdict, about: &str, tier: &GuestTier, log: &GuestLog) {
    let mut compared = compare(tier, log);
    compared.differences.extend(tier.exceptions.iter().filter_map(|exception| {
        let why = exception.refuted.as_ref()?;
        Some(format!("{}: said not to apply, but {why}", exception.scenario))
    }));
    let number = tier.number;
    let seconds = log.seconds.get(&number).map_or("?".to_owned(), u64::to_string);
    let line = format!(
        "{about} tier {number}: {} passed, {} failed, {} n/a, {seconds} s",
        compared.passed,
        compared.differences.len(),
        compared.not_applicable
    );
    verdict.add(&line, &compared.differences, compared.passed);
    let prefix = format!("{number} ");
    let retries: Vec<_> = log.retries.iter().filter_map(|retry| retry.strip_prefix(&prefix)).collect();
    verdict.lines.extend(retries.iter().map(|retry| format!("    tried again: {retry}")));
    let alone = log.passed_alone.iter().filter(|scenario| scenario.starts_with(&prefix));
    verdict.lines.extend(alone.map(|scenario| format!("    passed alone: {scenario}")));
    if retries.len() > MAX_RETRIES {
        let difference = format!(
            "{} tries failed where the kernel skipped runs of programs: more than chance explains",
            retries.len()
        );
        verdict.add(about, &[difference], 0);
    }
}

/// How the results of one tier compare with what was expected.
#[derive(Debug, PartialEq, Eq)]
struct Comparison {
    passed: usize,
    not_applicable: usize,
    /// One line each.
    differences: Vec<String>,
}

/// Compares the results of a tier: every planned scenario must pass, except for those that do not apply.
///
/// If all scenarios were to run, each exception must name a scenario. If only parts of names were given, each
/// part must match a scenario.
fn compare(tier: &GuestTier, log: &GuestLog) -> Comparison {
    let GuestTier { number, only, exceptions, .. } = tier;
    let planned = log.planned.get(number).map(Vec::as_slice).unwrap_or_default();
    let is_excepted = |name: &str| exceptions.iter().any(|exception| exception.scenario == name);
    let mut compared = Comparison { passed: 0, not_applicable: 0, differences: Vec::new() };
    let mut differ = |difference| compared.differences.push(difference);
    for name in planned {
        match (log.results.get(&(*number, name.clone())), is_excepted(name)) {
            (None, true) => compared.not_applicable += 1,
            (None, false) => differ(format!("{name}: did not end")),
            (Some(_), true) => differ(format!("{name}: ran although it does not apply")),
            (Some(result), false) => match &result.failure {
                None => compared.passed += 1,
                Some(message) => differ(format!("{name}: {message}")),
            },
        }
    }
    let of_tier = log.results.keys().filter(|(of, name)| of == number && !planned.contains(name));
    for (_, name) in of_tier {
        differ(format!("{name}: is not one of the scenarios"));
    }
    for exception in exceptions.iter().filter(|exception| !planned.contains(&exception.scenario)) {
        if exception.is_of_other_architecture {
            compared.not_applicable += 1;
        } else if only.is_empty() {
            differ(format!(
                "{}: tests/kernels.toml names a scenario that does not exist",
                exception.scenario
            ));
        }
    }
    // A part may match only a scenario of another architecture, which an exception names.
    let matches = |part: &str| {
        let is_excepted = |exception: &Exception| exception.scenario.contains(part);
        planned.iter().any(|name| name.contains(part)) || exceptions.iter().any(is_excepted)
    };
    for part in only.iter().filter(|part| !matches(part)) {
        differ(format!("{part}: is part of no scenario's name"));
    }
    if planned.is_empty() {
        differ("no scenario was started".to_owned());
    }
    compared
}

/// Checks that `acceptd check` exited with 1 and `acceptd run` with an error, both with these words.
fn refusal_differences(log: &GuestLog, words: &str) -> Vec<String> {
    let mut differences = Vec::new();
    for command in ["check", "run"] {
        let Some(refusal) = log.refusals.get(command) else {
            differences.push(format!("acceptd {command}: did not end"));
            continue;
        };
        let code = refusal.code;
        let refused = if command == "check" { code == Some(1) } else { code.is_some_and(|code| code != 0) };
        if !refused {
            differences.push(format!("acceptd {command}: ended with {code:?}"));
        }
        if !refusal.text.contains(words) {
            let text = refusal.text.trim_end();
            differences.push(format!("acceptd {command}: does not say {words:?}: {text}"));
        }
    }
    differences
}

#[cfg(test)]
mod tests {
    use xtask_support::guests::{Exception, Guest, GuestTier};

    use super::{GuestLog, compare, judge_guest, refusal_differences};

    fn exception(scenario: &str) -> Exception {
        Exception {
            scenario: scenario.to_owned(),
            reason: "exists on x86_64 only".to_owned(),
            is_of_other_architecture: true,
            refuted: None,
        }
    }

    fn tier(number: u8, exceptions: &[Exception], only: &[&str]) -> GuestTier {
        let only = only.iter().map(|part| (*part).to_owned()).collect();
        GuestTier { number, only, is_whole: true, exceptions: exceptions.to_vec() }
    }

    #[test]
    fn everything_that_is_known_has_to_pass() {
        let log = GuestLog::parse(
            "planned 2 a\nplanned 2 b\nplanned 2 c\nplanned 2 d\nplanned 2 e\n\
             scenario 2 a ok 1\nscenario 2 b FAILED 1 why\nscenario 2 e ok 1\nscenario 2 x ok 1\n",
        );
        let compared = compare(&tier(2, &[exception("d"), exception("e")], &[]), &log);
        assert_eq!((compared.passed, compared.not_applicable), (1, 1));
        assert_eq!(
            compared.differences,
            [
                "b: why",
                "c: did not end",
                "e: ran although it does not apply",
                "x: is not one of the scenarios"
            ]
        );
        assert_eq!(compare(&tier(1, &[], &[]), &log).differences, ["no scenario was started"]);
    }

    #[test]
    fn an_exception_is_of_a_scenario() {
        let log = GuestLog::parse("planned 2 a\nscenario 2 a ok 1\n");
        let elsewhere = exception("sockets::i386");
        let gone = Exception { is_of_other_architecture: false, ..exception("gone") };
        let compared = compare(&tier(2, &[elsewhere, gone.clone()], &[]), &log);
        assert_eq!((compared.passed, compared.not_applicable), (1, 1));
        assert_eq!(compared.differences, ["gone: tests/kernels.toml names a scenario that does not exist"]);
        let compared = compare(&tier(2, &[gone], &["a"]), &log);
        assert_eq!(compared.differences, Vec::<String>::new());
        let renamed = compare(&tier(2, &[], &["a", "was_renamed"]), &log);
        assert_eq!(renamed.differences, ["was_renamed: is part of no scenario's name"]);
    }

    #[test]
    fn a_refusal_has_a_code_and_a_word() {
        let good = "refused: check failed Linux 5.15\nguest: check ended with 1\n\
             refused: run needs Linux 5.15\nguest: run ended with 1\n";
        let differences = |log: &str, words| refusal_differences(&GuestLog::parse(log), words);
        assert_eq!(differences(good, "Linux 5.15"), Vec::<String>::new());
        assert_eq!(differences(&good.replace("check ended with 1", "check ended with 2"), "Linux").len(), 1);
        assert_eq!(differences(good, "Linux 9").len(), 2);
        assert_eq!(differences("", "").len(), 2);
    }

    #[test]
    fn a_verdict_counts_tiers_refuted_claims_and_the_machine() {
        let refuted = Exception { refuted: Some("CONFIG_A is on".to_owned()), ..exception("a") };
        let guest = Guest {
            id: "x86_64-6.1".to_owned(),
            release: "6.1.0-50".to_owned(),
            package_version: "6.1.176-1".to_owned(),
            flavour: "cloud".to_owned(),
            refused: None,
            special_cmdline: None,
            tiers: vec![tier(2, &[refuted], &[])],
            log: "logs/x86_64-6.1.log".into(),
            second_log: None,
        };
        let log = GuestLog::parse("planned 2 a\nplanned 2 b\nscenario 2 b ok 1\nguest: tier 2 took 40\n");
        let verdict = judge_guest(&guest, &log);
        assert_eq!((verdict.passed, verdict.failed), (1, 2));
        assert_eq!(
            verdict.lines,
            [
                "x86_64-6.1 (6.1.0-50 6.1.176-1) tier 2: 1 passed, 1 failed, 1 n/a, 40 s",
                "    a: said not to apply, but CONFIG_A is on",
                "x86_64-6.1 (6.1.0-50 6.1.176-1): the machine itself",
                "    the machine did not come to its end: logs/x86_64-6.1.log",
            ]
        );
    }
}
