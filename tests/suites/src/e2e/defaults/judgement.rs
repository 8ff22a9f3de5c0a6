//! Compares the records of the servers of a sandbox with the facts. Nothing here asks the system.

use std::collections::{BTreeMap, BTreeSet};

use acceptd_otlp::names;

use super::facts::{Facts, ListenerFacts, Reach, Report};
use crate::{
    e2e::{series::Series, told::Told},
    records::Record,
};

/// How many differences of a kind are named.
const MAX_NAMED: usize = 3;

/// One row of the table.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// Connections by the server's own word.
    pub(crate) report: usize,
    /// Records of accepts.
    pub(crate) records: usize,
    /// Connection attempts that a full queue refused: by the kernel or the client, and by acceptd.
    pub(crate) refused: u64,
    pub(crate) overflows: u64,
    /// Connections that acceptd reported as never accepted, and stalls.
    pub(crate) abandoned: u64,
    pub(crate) stalls: usize,
    /// Half-open handshakes that were sent beside the connections.
    pub(crate) probes: u16,
    /// The differences from the facts.
    pub(crate) faults: Vec<String>,
}

/// Judges all listeners of a sandbox.
pub(super) fn judge(facts: &Facts, records: &[Record], series: &[Series]) -> Vec<Row> {
    let told = Told::of(facts.netns, records);
    let mut rows: Vec<Row> =
        facts.listeners.iter().map(|listener| judge_listener(facts, listener, &told, series)).collect();
    let (accepts, abandoned) = (told.accepts("tcp").len() as u64, told.abandoned("tcp"));
    if let Some(first) = rows.first_mut()
        && accepts + abandoned != facts.counters.passive_opens
    {
        first.faults.push(format!(
            "{accepts} accepts and {abandoned} abandoned over TCP, but the kernel has PassiveOpens {}",
            facts.counters.passive_opens
        ));
    }
    rows
}

fn judge_listener(facts: &Facts, listener: &ListenerFacts, told: &Told<'_>, series: &[Series]) -> Row {
    let transport = listener.reach.transport();
    let accepts: Vec<&Record> =
        told.accepts(transport).into_iter().filter(|record| listener.reach.is_of(record)).collect();
    let mut row = Row {
        name: listener.name,
        report: listener.report.count(),
        records: accepts.len(),
        refused: match listener.reach {
            Reach::Port(_) => facts.counters.listen_overflows,
            Reach::Socket(_) => listener.refused,
        },
        overflows: told.overflows(transport),
        abandoned: told.abandoned(transport),
        stalls: told.stalls(),
        probes: facts.probes,
        faults: connections(&listener.report, &accepts),
    };
    if row.overflows != row.refused {
        row.faults.push(format!("a full queue refused {}, told as overflow {}", row.refused, row.overflows));
    }
    if row.abandoned + row.stalls as u64 > 0 {
        row.faults.push(format!(
            "each connection was accepted at once, but {} are told as abandoned, and {} stalls",
            row.abandoned, row.stalls
        ));
    }
    row.faults.extend(identities(facts.processes.as_ref(), listener, &accepts));
    let owners = owners(facts.netns, listener, series);
    row.faults.extend(owner(listener, &owners));
    row.faults.extend(two_names(&accepts, &owners));
    row
}

impl Reach {
    fn is_of(&self, record: &Record) -> bool {
        match self {
            Self::Port(port) => record.attribute(names::NETWORK_LOCAL_PORT) == port.to_string(),
            Self::Socket(path) => record.attribute(names::NETWORK_LOCAL_ADDRESS) == *path,
        }
    }
}

/// The connections of which there are too few or too many records.
fn connections(report: &Report, accepts: &[&Record]) -> Vec<String> {
    let ports = match report {
        Report::Count(count) if *count == accepts.len() => return Vec::new(),
        Report::Count(count) => {
            return vec![format!("the server says {count} connections, there are {} records", accepts.len())];
        }
        Report::Ports(ports) => ports,
    };
    let mut balance: BTreeMap<String, i64> = BTreeMap::new();
    for port in ports {
        *balance.entry(port.to_string()).or_default() += 1;
    }
    for record in accepts {
        *balance.entry(record.attribute(names::NETWORK_PEER_PORT).to_owned()).or_default() -= 1;
    }
    balance.retain(|_, count| *count != 0);
    if balance.is_empty() {
        return Vec::new();
    }
    let named: Vec<_> = balance.iter().take(MAX_NAMED).collect();
    vec![format!(
        "{} clients' ports are missing (1) or surplus (-1) in the records: {named:?}",
        balance.len()
    )]
}

/// Records with another process, executable or service than the server's.
fn identities(
    processes: Option<&BTreeSet<u32>>,
    listener: &ListenerFacts,
    accepts: &[&Record],
) -> Vec<String> {
    let mut wrong: BTreeMap<[&str; 2], usize> = BTreeMap::new();
    let mut strangers = 0;
    for record in accepts {
        let [executable, service] =
            [names::PROCESS_EXECUTABLE_NAME, names::SERVICE_NAME].map(|key| record.resource(key));
        if !listener.executables.iter().any(|name| name == executable)
            || !listener.service.may_be(service, executable)
        {
            *wrong.entry([executable, service]).or_default() += 1;
        }
        let pid = record.resource(names::PROCESS_PID).parse();
        strangers += usize::from(processes.is_some_and(|known| !pid.is_ok_and(|pid| known.contains(&pid))));
    }
    let mut faults: Vec<String> = wrong
        .iter()
        .map(|([executable, service], count)| {
            format!("{count} records name the executable {executable:?} of the service {service:?}")
        })
        .collect();
    if strangers > 0 {
        faults.push(format!("{strangers} records name a process that was not in the sandbox"));
    }
    faults
}

/// Executable and service of each series of the listener.
fn owners<'a>(netns: u64, listener: &ListenerFacts, series: &'a [Series]) -> Vec<[&'a str; 2]> {
    let netns = netns.to_string();
    let is_own = |series: &&Series| {
        series.has_listeners()
            && series.label("acceptd_netns_inode") == netns
            && match &listener.reach {
                Reach::Port(port) => series.label("network_local_port") == port.to_string(),
                Reach::Socket(path) => series.label("network_local_address") == *path,
            }
    };
    let names = ["process_executable_name", "acceptd_listener_service"];
    series.iter().filter(is_own).map(|series| names.map(|label| series.label(label))).collect()
}

/// How the series of the listener name another owner.
fn owner(listener: &ListenerFacts, owners: &[[&str; 2]]) -> Option<String> {
    let is_right = |[executable, service]: &[&str; 2]| {
        listener.owners.iter().any(|name| name == executable) && listener.service.may_be(service, executable)
    };
    (owners.is_empty() || !owners.iter().all(is_right)).then(|| {
        format!(
            "the listener's series name executable and service {owners:?}, the owner is one of {:?}",
            listener.owners
        )
    })
}

/// How one executable has two services, in records and series.
fn two_names(accepts: &[&Record], owners: &[[&str; 2]]) -> Option<String> {
    let keys = [names::PROCESS_EXECUTABLE_NAME, names::SERVICE_NAME];
    let accepted = accepts.iter().map(|record| keys.map(|key| record.resource(key)));
    let all: BTreeSet<[&str; 2]> = accepted.chain(owners.iter().copied()).collect();
    let executables: BTreeSet<&str> = all.iter().map(|[executable, _]| *executable).collect();
    (all.len() > executables.len()).then(|| format!("one executable has two services: {all:?}"))
}

#[cfg(test)]
mod tests {
    use acceptd_otlp::names;

    use super::{Facts, ListenerFacts, Reach, Report, Row, Series, judge};
    use crate::{
        e2e::{counters::Counters, defaults::facts::Service},
        records::Record,
    };

    const ACCEPT: &str = names::EVENT_ACCEPTD_SOCKET_ACCEPT;
    const OWNER: &str = r#"acceptd_listener_count{acceptd_netns_inode="7",network_local_port="80",process_executable_name="httpd",acceptd_listener_service="shop"} 1"#;

    fn record(event: &str, service: &str, peer_port: &str) -> Record {
        let resource = [
            (names::PROCESS_EXECUTABLE_NAME, "httpd"),
            (names::SERVICE_NAME, service),
            (names::PROCESS_PID, "812"),
        ];
        let attributes = [
            (names::ACCEPTD_NETNS_INODE, "7"),
            (names::NETWORK_TRANSPORT, "tcp"),
            (names::NETWORK_LOCAL_PORT, "80"),
            (names::NETWORK_PEER_PORT, peer_port),
            (names::ACCEPTD_OVERFLOW_COUNT, "3"),
        ];
        Record::of_test(event, &resource, &attributes)
    }

    /// Judges the records of a server that accepted the clients 1 and 2.
    fn row(records: &[Record], series: &str) -> Row {
        let listener = ListenerFacts {
            name: "a server",
            reach: Reach::Port(80),
            report: Report::Ports(vec![1, 2]),
            refused: 0,
            executables: vec!["httpd".to_owned()],
            owners: vec!["httpd".to_owned()],
            service: Service::Named("shop".to_owned()),
        };
        let facts = Facts {
            netns: 7,
            counters: Counters { passive_opens: 2, listen_overflows: 0 },
            listeners: vec![listener],
            processes: Some([812].into()),
            probes: 0,
        };
        judge(&facts, records, &Series::parse(series)).remove(0)
    }

    fn right() -> Vec<Record> {
        ["1", "2"].map(|port| record(ACCEPT, "shop", port)).into()
    }

    #[test]
    fn right_records_have_no_fault() {
        assert_eq!(row(&right(), OWNER).faults, [""; 0]);
    }

    #[test]
    fn a_missing_or_surplus_record_is_a_fault() {
        assert_eq!(row(&right()[1..], OWNER).faults.len(), 2, "the ports and PassiveOpens");
        let three = [right(), vec![record(ACCEPT, "shop", "3")]].concat();
        assert!(row(&three, OWNER).faults.iter().any(|fault| fault.contains("(\"3\", -1)")));
    }

    #[test]
    fn a_false_alarm_is_a_fault() {
        for (event, word) in [
            (names::EVENT_ACCEPTD_LISTENER_OVERFLOW, "told as overflow 3"),
            (names::EVENT_ACCEPTD_LISTENER_ABANDONED, "1 are told as abandoned"),
            (names::EVENT_ACCEPTD_LISTENER_STALLED, "1 stalls"),
        ] {
            let faults = row(&[right(), vec![record(event, "shop", "3")]].concat(), OWNER).faults;
            assert!(faults.iter().any(|fault| fault.contains(word)), "{faults:?}");
        }
    }

    #[test]
    fn another_service_or_owner_is_a_fault() {
        let other: Vec<Record> = ["1", "2"].map(|port| record(ACCEPT, "other", port)).into();
        assert!(row(&other, OWNER).faults[0].contains("2 records name"));
        assert!(row(&other, OWNER).faults.iter().any(|fault| fault.contains("two services")));
        assert!(row(&right(), "").faults[0].contains("series"));
        assert!(row(&right(), &OWNER.replace("httpd", "parent")).faults[0].contains("parent"));
    }
}
