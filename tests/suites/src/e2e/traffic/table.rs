//! The two tables, as they are printed and committed.

use std::fmt::Write as _;

use crate::e2e::{defaults::Row, foreign::SuiteRow};

/// The table of servers.
pub(super) fn of_servers(rows: &[Row]) -> String {
    let mut table = "Each server in a network namespace of its own, as Debian or npm installs it. Its own word: by the \
         server's own log. Refused: the kernel's ListenOverflows or, for a UNIX socket, its client's log. \
         Half-open: handshakes of a port scan beside the connections.\n\n\
         | server | its own word | records | refused | told as overflow | abandoned | stalls | half-open | verdict |\n\
         |---|---|---|---|---|---|---|---|---|"
        .to_owned();
    for row in rows {
        let Row { name, report, records, refused, overflows, abandoned, stalls, probes, faults } = row;
        let verdict = verdict(faults);
        // Writing to a string cannot fail.
        _ = write!(
            table,
            "\n| {name} | {report} | {records} | {refused} | {overflows} | {abandoned} | {stalls} | {probes} | {verdict} |"
        );
    }
    table
}

/// The table of test suites.
pub(super) fn of_suites(rows: &[SuiteRow]) -> String {
    let mut table = "Each suite in a network namespace of its own, compared with its run without the agent.\n\n\
         | suite | passed | PassiveOpens | accepts | abandoned | ListenOverflows | told as overflow | verdict |\n\
         |---|---|---|---|---|---|---|---|"
        .to_owned();
    for row in rows {
        let SuiteRow { name, passed, passive_opens, accepts, abandoned, listen_overflows, overflows, faults } =
            row;
        let verdict = verdict(faults);
        _ = write!(
            table,
            "\n| {name} | {passed} | {passive_opens} | {accepts} | {abandoned} | {listen_overflows} | {overflows} | {verdict} |"
        );
    }
    table
}

fn verdict(faults: &[String]) -> String {
    if faults.is_empty() { "equal".to_owned() } else { faults.join("; ").replace('|', "/") }
}
