//! What was expected of a kernel, and what came of it: pure, so that each way to fail has a test.

use super::{
    kernel::Facts,
    matrix::{Because, Kernel, NotApplicable},
    serial::Said,
    version::numbers,
};

/// Why a claim of tests/kernels.toml is false of this kernel; `None` when it is true.
pub(super) fn refute(because: &Because, kernel: &Kernel, facts: &Facts) -> Option<String> {
    match because {
        Because::Config(option) => facts.config.contains(option).then(|| format!("{option} is on")),
        Because::Module(module) => {
            facts.modules.contains(module).then(|| format!("the package has the module {module}"))
        }
        Because::OlderThan(version) => (numbers(&facts.release) >= numbers(version))
            .then(|| format!("{} is not older than {version}", facts.release)),
        Because::Arch(arch) => (*arch == kernel.arch).then(|| format!("this is {}", arch.name())),
    }
}

/// One tier of one kernel.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) passed: usize,
    pub(super) not_applicable: usize,
    /// One line each.
    pub(super) differences: Vec<String>,
}

/// Holds what a guest said of a tier against what was expected: everything that it knows passes, but for `exceptions`.
/// Without `parts` of names nothing was filtered, and an exception has
/// to name one of the scenarios; with them, each has to be a part of one.
pub(super) fn compare(tier: u8, said: &Said, exceptions: &[&NotApplicable], parts: &[String]) -> Verdict {
    let whole = parts.is_empty();
    let planned = said.planned.get(&tier).map(Vec::as_slice).unwrap_or_default();
    let excepted = |name: &str| exceptions.iter().any(|exception| exception.scenario == name);
    let mut verdict = Verdict { passed: 0, not_applicable: 0, differences: Vec::new() };
    for name in planned {
        match (said.ended.get(&(tier, name.clone())), excepted(name)) {
            (None, true) => verdict.not_applicable += 1,
            (None, false) => verdict.differences.push(format!("{name}: did not end")),
            (Some(_), true) => verdict.differences.push(format!("{name}: ran although it does not apply")),
            (Some(ended), false) => match &ended.failure {
                None => verdict.passed += 1,
                Some(message) => verdict.differences.push(format!("{name}: {message}")),
            },
        }
    }
    for (_, name) in said.ended.keys().filter(|(of, name)| *of == tier && !planned.contains(name)) {
        verdict.differences.push(format!("{name}: is not one of the scenarios"));
    }
    for exception in exceptions.iter().filter(|exception| !planned.contains(&exception.scenario)) {
        // One of another architecture is not even compiled.
        if matches!(exception.because, Because::Arch(_)) {
            verdict.not_applicable += 1;
        } else if whole {
            verdict
                .differences
                .push(format!("{}: tests/kernels.toml has a scenario that is none", exception.scenario));
        }
    }
    // Of another architecture is what an exception says.
    let is_known = |part: &str| {
        planned.iter().any(|name| name.contains(part))
            || exceptions.iter().any(|exception| exception.scenario.contains(part))
    };
    for part in parts.iter().filter(|part| !is_known(part)) {
        verdict.differences.push(format!("{part}: is part of no scenario's name"));
    }
    if planned.is_empty() {
        verdict.differences.push("no scenario was started".to_owned());
    }
    verdict
}

/// What is wrong with the way in which a kernel was refused.
pub(super) fn refusal(said: &Said, words: &str) -> Vec<String> {
    let mut differences = Vec::new();
    for command in ["check", "run"] {
        let Some((text, code)) = said.refusals.get(command) else {
            differences.push(format!("acceptd {command}: did not end"));
            continue;
        };
        let refused = if command == "check" { *code == Some(1) } else { code.is_some_and(|code| code != 0) };
        if !refused {
            differences.push(format!("acceptd {command}: ended with {code:?}"));
        }
        if !text.contains(words) {
            differences.push(format!("acceptd {command}: does not say {words:?}: {}", text.trim_end()));
        }
    }
    differences
}

#[cfg(test)]
mod tests {
    use super::{Facts, compare, refusal, refute};
    use crate::vm::{
        matrix::{Arch, Because, Kernel, NotApplicable},
        serial::read,
    };

    fn exception(scenario: &str) -> NotApplicable {
        NotApplicable {
            scenario: scenario.to_owned(),
            tiers: vec![2],
            kernels: Vec::new(),
            archs: Vec::new(),
            because: Because::Arch(Arch::X86_64),
        }
    }

    #[test]
    fn a_claim_is_held_against_the_package() {
        let text = "arch = \"arm64\"\nseries = \"6.1\"";
        let kernel: Kernel = toml::from_str(text).unwrap();
        let facts = Facts {
            release: "6.1.0-50-cloud-arm64".to_owned(),
            config: ["CONFIG_ON".to_owned()].into(),
            modules: ["sctp".to_owned()].into(),
        };
        let false_because = |because| refute(&because, &kernel, &facts);
        assert!(false_because(Because::Config("CONFIG_ON".to_owned())).is_some());
        assert!(false_because(Because::Config("CONFIG_OFF".to_owned())).is_none());
        assert!(false_because(Because::Module("sctp".to_owned())).is_some());
        assert!(false_because(Because::Module("nfsd".to_owned())).is_none());
        assert!(false_because(Because::OlderThan("5.19".to_owned())).is_some());
        assert!(false_because(Because::OlderThan("6.1".to_owned())).is_some());
        assert!(false_because(Because::OlderThan("6.4".to_owned())).is_none());
        assert!(false_because(Because::Arch(Arch::Arm64)).is_some());
        assert!(false_because(Because::Arch(Arch::X86_64)).is_none());
    }

    #[test]
    fn everything_that_is_known_has_to_pass() {
        let said = read(
            "planned 2 a\nplanned 2 b\nplanned 2 c\nplanned 2 d\nplanned 2 e\n\
             scenario 2 a ok 1\nscenario 2 b FAILED 1 why\nscenario 2 e ok 1\nscenario 2 x ok 1\n",
        );
        let (d, e) = (exception("d"), exception("e"));
        let verdict = compare(2, &said, &[&d, &e], &[]);
        assert_eq!((verdict.passed, verdict.not_applicable), (1, 1));
        assert_eq!(
            verdict.differences,
            [
                "b: why",
                "c: did not end",
                "e: ran although it does not apply",
                "x: is not one of the scenarios"
            ]
        );
        assert_eq!(compare(1, &said, &[], &[]).differences, ["no scenario was started"]);
    }

    #[test]
    fn an_exception_is_of_a_scenario() {
        let said = read("planned 2 a\nscenario 2 a ok 1\n");
        let elsewhere = exception("sockets::i386");
        let gone = NotApplicable { because: Because::Module("sctp".to_owned()), ..exception("gone") };
        let verdict = compare(2, &said, &[&elsewhere, &gone], &[]);
        assert_eq!((verdict.passed, verdict.not_applicable), (1, 1));
        assert_eq!(verdict.differences, ["gone: tests/kernels.toml has a scenario that is none"]);
        let parts = |parts: &[&str]| parts.iter().map(|part| (*part).to_owned()).collect::<Vec<_>>();
        assert_eq!(compare(2, &said, &[&gone], &parts(&["a"])).differences, Vec::<String>::new());
        let renamed = compare(2, &said, &[], &parts(&["a", "was_renamed"]));
        assert_eq!(renamed.differences, ["was_renamed: is part of no scenario's name"]);
    }

    #[test]
    fn a_refusal_has_a_code_and_a_word() {
        let good = "refused: check failed Linux 5.15\nguest: check ended with 1\n\
             refused: run needs Linux 5.15\nguest: run ended with 1\n";
        assert_eq!(refusal(&read(good), "Linux 5.15"), Vec::<String>::new());
        assert_eq!(
            refusal(&read(&good.replace("check ended with 1", "check ended with 2")), "Linux").len(),
            1
        );
        assert_eq!(refusal(&read(good), "Linux 9").len(), 2);
        assert_eq!(refusal(&read(""), "").len(), 2);
    }
}
