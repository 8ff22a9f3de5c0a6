//! docs/kernels.md: which scenarios were run on which kernel. The same logs give the same text.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use xtask_support::guests::{Guest, GuestTier};

use super::log::GuestLog;

/// A guest with its log.
pub(super) type Column<'a> = (&'a Guest, &'a GuestLog);

const HEAD: &str = "# Kernels\n\nWritten by `cargo xtask vm --full`, which boots each kernel and runs the scenarios of tests/: all \
scenarios of a tier where tests/kernels.toml says so, else those of `--quick`, since an emulated CPU is slow. A table has the \
scenarios that ran on the same kernels.\n\n\
| | kernel | flavour | Debian package | tiers |\n|---|---|---|---|---|\n";

/// The text of the document.
pub(super) fn render(columns: &[Column<'_>]) -> String {
    let mut text = String::from(HEAD);
    for (guest, _) in columns {
        let Guest { id, release, flavour, package_version, .. } = guest;
        let tiers = match &guest.refused {
            Some(_) => "none: `acceptd check` says why".to_owned(),
            None => guest.tiers.iter().map(|tier| tier.number.to_string()).collect::<Vec<_>>().join(", "),
        };
        _ = writeln!(text, "| {id} | {release} | {flavour} | {package_version} | {tiers} |");
    }
    let mut notes = Notes::default();
    let plain: Vec<&Column<'_>> = columns
        .iter()
        .filter(|(guest, _)| guest.refused.is_none() && guest.special_cmdline.is_none())
        .collect();
    let numbers: BTreeSet<u8> =
        plain.iter().flat_map(|(guest, _)| &guest.tiers).map(|tier| tier.number).collect();
    for number in numbers {
        render_tier(&mut text, number, &plain, &mut notes);
    }
    for (guest, log) in columns {
        if let Some(cmdline) = &guest.special_cmdline {
            render_special(&mut text, guest, log, cmdline);
        }
    }
    render_passed_alone(&mut text, columns);
    text + &notes.to_string()
}

/// The tables of one tier: a row for each scenario, a column for each kernel. Scenarios that ran on the same
/// kernels share a table, so that no cell stands for a scenario that was not run.
fn render_tier(text: &mut String, number: u8, columns: &[&Column<'_>], notes: &mut Notes) {
    _ = writeln!(text, "\n## Tier {number}");
    let names: BTreeSet<&String> =
        columns.iter().filter_map(|(_, log)| log.planned.get(&number)).flatten().collect();
    // By the kernels on which they ran; the tables with the most kernels first.
    let mut tables: BTreeMap<(Reverse<usize>, Vec<&str>), Vec<String>> = BTreeMap::new();
    for name in names {
        let cells: Vec<(&str, String)> = columns
            .iter()
            .filter_map(|(guest, log)| {
                let tier = guest.tiers.iter().find(|tier| tier.number == number)?;
                Some((guest.id.as_str(), cell(tier, log, name, notes)?))
            })
            .collect();
        let ids: Vec<&str> = cells.iter().map(|(id, _)| *id).collect();
        let words: Vec<&str> = cells.iter().map(|(_, word)| word.as_str()).collect();
        let rows = tables.entry((Reverse(ids.len()), ids)).or_default();
        rows.push(format!("| {name} | {} |", words.join(" | ")));
    }
    for ((_, ids), rows) in tables.iter().filter(|((_, ids), _)| !ids.is_empty()) {
        _ = write!(text, "\n| scenario | {} |\n|---|", ids.join(" | "));
        *text += &"---|".repeat(ids.len());
        _ = writeln!(text, "\n{}", rows.join("\n"));
    }
}

/// The outcome of a scenario on one kernel; `None` if it was not to run there.
fn cell(tier: &GuestTier, log: &GuestLog, name: &str, notes: &mut Notes) -> Option<String> {
    let exception = tier.exceptions.iter().find(|exception| exception.scenario == *name);
    match (exception, log.results.get(&(tier.number, name.to_owned()))) {
        (Some(exception), _) => Some(format!("n/a ({})", notes.number(&exception.reason))),
        (None, Some(result)) if result.failure.is_none() => Some("pass".to_owned()),
        (None, None) if !tier.is_whole => None,
        (None, _) => Some("FAILED".to_owned()),
    }
}

/// A kernel that was booted with other parameters has a table of its own.
fn render_special(text: &mut String, guest: &Guest, log: &GuestLog, cmdline: &str) {
    _ = writeln!(
        text,
        "\n## {}\n\nBooted with `{cmdline}`.\n\n| scenario | tier | |\n|---|---|---|",
        guest.id
    );
    for ((tier, name), result) in &log.results {
        let word = if result.failure.is_none() { "pass" } else { "FAILED" };
        _ = writeln!(text, "| {name} | {tier} | {word} |");
    }
}

fn render_passed_alone(text: &mut String, columns: &[Column<'_>]) {
    let lines = columns.iter().flat_map(|(guest, log)| {
        log.passed_alone.iter().map(|scenario| format!("- {}, tier {scenario}\n", guest.id))
    });
    let lines: String = lines.collect();
    if !lines.is_empty() {
        *text += "\n## Passed alone only\n\nThese scenarios failed when three ran at a time, and passed in a boot of their own.\n\n";
        *text += &lines;
    }
}

/// The reasons for `n/a`, numbered in the order of their first use.
#[derive(Default)]
struct Notes(BTreeMap<usize, String>);

impl Notes {
    fn number(&mut self, reason: &str) -> usize {
        let known = self.0.iter().find(|(_, note)| *note == reason).map(|(number, _)| *number);
        known.unwrap_or_else(|| {
            let number = self.0.len() + 1;
            self.0.insert(number, reason.to_owned());
            number
        })
    }
}

impl std::fmt::Display for Notes {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.0.is_empty() {
            writeln!(out, "\n## Not applicable\n")?;
        }
        self.0.iter().try_for_each(|(number, reason)| writeln!(out, "{number}. {reason}"))
    }
}

#[cfg(test)]
mod tests {
    use xtask_support::guests::{Exception, Guest, GuestTier};

    use super::{Column, GuestLog, render};

    fn guest(id: &str, tier: GuestTier, special_cmdline: Option<&str>) -> Guest {
        Guest {
            id: id.to_owned(),
            release: "6.1.0-50".to_owned(),
            package_version: "6.1.176-1".to_owned(),
            flavour: "cloud".to_owned(),
            refused: None,
            special_cmdline: special_cmdline.map(str::to_owned),
            tiers: vec![tier],
            log: "a.log".into(),
            second_log: None,
        }
    }

    #[test]
    fn a_row_for_each_scenario_and_a_column_for_each_kernel() {
        let tier = |is_whole, exceptions: &[Exception]| GuestTier {
            number: 2,
            only: Vec::new(),
            is_whole,
            exceptions: exceptions.to_vec(),
        };
        let exception = Exception {
            scenario: "i386".to_owned(),
            reason: "exists on x86_64 only".to_owned(),
            is_of_other_architecture: true,
            refuted: None,
        };
        let guests = [
            guest("x86_64-6.1", tier(true, &[]), None),
            guest("arm64-6.1", tier(false, &[exception]), None),
            guest("x86_64-6.1-lockdown", tier(true, &[]), Some("lockdown=confidentiality")),
        ];
        let mut logs = [
            "planned 2 a\nplanned 2 c\nplanned 2 i386\nscenario 2 a ok 1\nscenario 2 c ok 1\n\
             scenario 2 i386 ok 1\n",
            "planned 2 a\nscenario 2 a FAILED 1 x\n",
            "planned 2 b\nscenario 2 b ok 1\n",
        ]
        .map(GuestLog::parse);
        logs[0].passed_alone.push("2 a: slow".to_owned());
        let columns: Vec<Column<'_>> = guests.iter().zip(&logs).collect();
        let text = render(&columns);
        assert!(text.contains("| x86_64-6.1 | 6.1.0-50 | cloud | 6.1.176-1 | 2 |\n"), "{text}");
        assert!(
            text.contains(
                "## Tier 2\n\n| scenario | x86_64-6.1 | arm64-6.1 |\n|---|---|---|\n| a | pass | FAILED |\n\
                 | i386 | pass | n/a (1) |\n\n| scenario | x86_64-6.1 |\n|---|---|\n| c | pass |\n"
            ),
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
