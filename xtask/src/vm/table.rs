//! docs/kernels.md: what was run where. The same run gives the same text.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use super::{
    kernel::Unpacked,
    machine::CMDLINE,
    matrix::{Because, Kernel, NotApplicable},
    serial::Said,
};

/// One kernel of a run.
pub(super) struct Column<'a> {
    pub(super) kernel: &'a Kernel,
    pub(super) unpacked: &'a Unpacked,
    pub(super) said: &'a Said,
}

/// The document.
pub(super) fn render(columns: &[Column<'_>], exceptions: &[NotApplicable], tiers: &[u8]) -> String {
    let mut text = String::from(
        "# Kernels\n\nWritten by `cargo xtask vm --full`, which boots each of them and runs the scenarios of tests/: all of a tier \
         where tests/kernels.toml says so, and elsewhere those of `--quick`, as an emulated CPU takes its time.\n\n\
         | | kernel | flavour | Debian package | tiers |\n|---|---|---|---|---|\n",
    );
    for column in columns {
        let Unpacked { release, flavour, package_version, .. } = column.unpacked;
        let ran = match &column.kernel.refused {
            Some(_) => "none: `acceptd check` says why".to_owned(),
            None => tiers.iter().map(u8::to_string).collect::<Vec<_>>().join(", "),
        };
        _ = writeln!(text, "| {} | {release} | {flavour} | {package_version} | {ran} |", column.kernel.id());
    }
    let mut notes = Notes::default();
    let ran: Vec<&Column<'_>> = columns
        .iter()
        .filter(|column| column.kernel.refused.is_none() && column.kernel.machine.is_none())
        .collect();
    for tier in tiers {
        let ids: Vec<String> = ran.iter().map(|column| column.kernel.id()).collect();
        _ = write!(text, "\n## Tier {tier}\n\n| scenario | {} |\n|---|", ids.join(" | "));
        text += &"---|".repeat(ran.len());
        text.push('\n');
        let names: BTreeSet<&String> =
            ran.iter().filter_map(|column| column.said.planned.get(tier)).flatten().collect();
        for name in names {
            _ = write!(text, "| {name} |");
            for column in &ran {
                let exception = exceptions
                    .iter()
                    .find(|entry| entry.scenario == *name && entry.covers(column.kernel, *tier));
                let cell = match (exception, column.said.ended.get(&(*tier, name.clone()))) {
                    (Some(exception), _) => format!("n/a ({})", notes.number(&exception.because)),
                    (None, Some(ended)) if ended.failure.is_none() => "pass".to_owned(),
                    (None, None) if !column.kernel.whole.contains(tier) => "not run".to_owned(),
                    (None, _) => "FAILED".to_owned(),
                };
                _ = write!(text, " {cell} |");
            }
            text.push('\n');
        }
    }
    for column in columns.iter().filter(|column| column.kernel.machine.is_some()) {
        let cmdline = column.kernel.cmdline.as_deref().unwrap_or(CMDLINE);
        _ = writeln!(
            text,
            "\n## {}\n\nBooted with `{cmdline}`.\n\n| scenario | tier | |\n|---|---|---|",
            column.kernel.id()
        );
        for ((tier, name), ended) in &column.said.ended {
            let word = if ended.failure.is_none() { "pass" } else { "FAILED" };
            _ = writeln!(text, "| {name} | {tier} | {word} |");
        }
    }
    let alone = columns.iter().flat_map(|column| {
        column.said.alone.iter().map(|one| format!("- {}, tier {one}\n", column.kernel.id()))
    });
    let alone: String = alone.collect();
    if !alone.is_empty() {
        text += "\n## Passed alone only\n\nThree at a time they failed, and then in a boot of their own they did not.\n\n";
        text += &alone;
    }
    text + &notes.to_string()
}

/// The reasons that were needed, in the order of their first use.
#[derive(Default)]
struct Notes(BTreeMap<usize, String>);

impl Notes {
    fn number(&mut self, because: &Because) -> usize {
        let words = match because {
            Because::Config(option) => format!("the kernel is built without {option}"),
            Because::Module(module) => format!("the package has no module {module}"),
            Because::OlderThan(version) => format!("the kernel has it since {version}"),
            Because::Arch(arch) => format!("exists on {} only", arch.name()),
        };
        let known = self.0.iter().find(|(_, note)| **note == words).map(|(number, _)| *number);
        known.unwrap_or_else(|| {
            let number = self.0.len() + 1;
            self.0.insert(number, words);
            number
        })
    }
}

impl std::fmt::Display for Notes {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.0.is_empty() {
            writeln!(out, "\n## Not applicable\n")?;
        }
        self.0.iter().try_for_each(|(number, words)| writeln!(out, "{number}. {words}"))
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{Column, render};
    use crate::vm::{
        kernel::{Facts, Unpacked},
        matrix::{Arch, Because, Kernel, NotApplicable},
        serial::read,
    };

    #[test]
    fn a_row_for_each_scenario_and_a_column_for_each_kernel() {
        let kernel = |arch, machine: Option<&str>| Kernel {
            arch,
            series: "6.1".to_owned(),
            at_least: None,
            quick: false,
            whole: if arch == Arch::X86_64 { vec![2] } else { Vec::new() },
            refused: None,
            machine: machine.map(str::to_owned),
            cmdline: machine.map(|_| "lockdown=confidentiality".to_owned()),
            only: Vec::new(),
        };
        let unpacked = Unpacked {
            release: "6.1.0-50".to_owned(),
            package_version: "6.1.176-1".to_owned(),
            flavour: "cloud",
            image: PathBuf::new(),
            facts: Facts::default(),
            modules: Vec::new(),
        };
        let kernels =
            [kernel(Arch::X86_64, None), kernel(Arch::Arm64, None), kernel(Arch::X86_64, Some("lockdown"))];
        let mut said = [
            read(
                "planned 2 a\nplanned 2 c\nplanned 2 i386\nscenario 2 a ok 1\nscenario 2 c ok 1\nscenario 2 i386 ok 1\n",
            ),
            read("planned 2 a\nscenario 2 a FAILED 1 x\n"),
            read("planned 2 b\nscenario 2 b ok 1\n"),
        ];
        said[0].alone.push("2 a: slow".to_owned());
        let columns: Vec<Column<'_>> = kernels
            .iter()
            .zip(&said)
            .map(|(kernel, said)| Column { kernel, unpacked: &unpacked, said })
            .collect();
        let exception = NotApplicable {
            scenario: "i386".to_owned(),
            tiers: vec![2],
            kernels: Vec::new(),
            archs: vec![Arch::Arm64],
            because: Because::Arch(Arch::X86_64),
        };
        let text = render(&columns, &[exception], &[2]);
        assert!(text.contains("| x86_64-6.1 | 6.1.0-50 | cloud | 6.1.176-1 | 2 |\n"), "{text}");
        assert!(text.contains("| scenario | x86_64-6.1 | arm64-6.1 |\n|---|---|---|\n"), "{text}");
        assert!(
            text.contains("| a | pass | FAILED |\n| c | pass | not run |\n| i386 | pass | n/a (1) |\n"),
            "{text}"
        );
        assert!(
            text.contains("## x86_64-6.1-lockdown\n\nBooted with `lockdown=confidentiality`.\n")
                && text.contains("| b | 2 | pass |\n"),
            "{text}"
        );
        assert!(text.contains("\n- x86_64-6.1, tier 2 a: slow\n"), "{text}");
        assert!(text.ends_with("1. exists on x86_64 only\n"), "{text}");
    }
}
