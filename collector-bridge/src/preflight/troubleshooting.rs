//! docs/troubleshooting.md: the reports of `acceptd check` with cause and remedy, rendered from recorded
//! hosts. Tests only: one compares the page with the tree, and writes it when `UPDATE_DOCS` is set.

use std::{collections::BTreeMap, fmt::Write as _, fs};

use serde_json::{Value, json};

use super::Report;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/preflight");
const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/troubleshooting.md");

/// A recorded host on which everything is ok, the base of [`variants`].
const HEALTHY: &str = "root";

const HEAD: &str = "\
# Troubleshooting

Generated from the hosts in `collector-bridge/tests/fixtures/preflight`; do not edit.

`sudo acceptd check` tests the host item by item. For each item that is not ok it prints the cause (`because`) and
what to do (`do`). Look at the first such item: later ones often follow from it. This page has every report that the
recorded hosts, and variants of them, produce; the text of yours may differ in names and numbers. `acceptd run` logs
the same messages at its start, and `acceptd status` has the reasons of a running agent.

";

const TAIL: &str = "\
## Everything is ok, but records are missing

| symptom | see |
|---|---|
| `acceptd status` reports lost events | the reasons and remedies in [delivery.md](delivery.md#losses) |
| `acceptd status` reports lost events with the reason `skipped` | `acceptd check` names the kernel's preemption model and what it means |
| only some accepts of a busy listener have a record | overload: [delivery.md](delivery.md#overload); `acceptd.sampling.adjusted_count` says for how many each stands |
| accepts of the Collector or of another local peer of the agent are missing | the agent excludes its own connections unless `filter.self` is set |
| an attribute is missing | [fields.md](fields.md) says when it is absent; `--attributes full` sends those that the profile `standard` omits |
| records say `acceptd.accept.verified=false` | tier 2 could not prove the socket: [the matrix](../README.md#what-works) |
| no `service.name` but `unknown_service:` | the process publishes none: [configuration.md](configuration.md#identity-of-processes) |
| log records arrive, traces or metrics do not | the Collector needs pipelines for both; the agent's log names the signal and how to switch it off |
| Kubernetes: no pods, or the Collector refuses data | the table in [packaging/kubernetes](../packaging/kubernetes/README.md#does-it-work) |
| the Docker demo does not start | the service `backends` prints what does not answer: [demo.md](demo.md) |

If none of this helps, report the problem with the output of `acceptd check --output json` and `acceptd status`.
";

/// One report of an item, and the hosts that produce it.
struct Case {
    looked_at: String,
    because: String,
    remedy: String,
    hosts: Vec<String>,
}

/// The facts of every recorded host, by name.
fn recorded() -> BTreeMap<String, Value> {
    let entries = fs::read_dir(FIXTURES).expect("the recorded hosts");
    let read = entries.map(|entry| {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().and_then(|stem| stem.to_str()).expect("a name of text");
        let text = fs::read_to_string(&path).expect("facts of text");
        (name.to_owned(), serde_json::from_str(&text).expect("facts in JSON"))
    });
    read.collect()
}

/// The healthy host with one fact replaced, for the verdicts that no recorded host has.
fn variants(healthy: &Value) -> Vec<(String, Value)> {
    let endpoint =
        |error: Value| json!([{ "destination": "default", "address": "collector:4317", "error": error }]);
    let lookup = "failed to lookup address information: Name or service not known";
    let replaced = [
        ("another architecture", "/kernel/machine", json!("riscv64")),
        (
            "tier 2",
            "/capture",
            json!({ "tier": 2, "because": "do_accept_exit: the kernel refuses it: EPERM" }),
        ),
        ("VSOCK without types", "/btf/vsock", json!("missing")),
        ("an accept that is seen late", "/canary", json!("unproven")),
        ("a program that does not run", "/canary", json!({ "silent": ["io_uring_complete"] })),
        ("an indispensable program that does not run", "/canary", json!({ "silent": ["sys_exit"] })),
        ("no loopback", "/canary", json!({ "failed": "Network is unreachable (os error 101)" })),
        ("a read-only state directory", "/state/error", json!("Read-only file system (os error 30)")),
        ("a Collector's name that does not resolve", "/endpoints", endpoint(json!({ "name": lookup }))),
        ("another server at the endpoint", "/endpoints", endpoint(json!({ "otlp": "HTTP 404 Not Found" }))),
    ];
    let patch = |(name, pointer, value): (&str, &str, Value)| {
        let mut facts = healthy.clone();
        let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
        facts.pointer_mut(parent).expect("a fact")[key] = value;
        (format!("`{HEALTHY}` with {name}"), facts)
    };
    replaced.into_iter().map(patch).collect()
}

/// The page.
fn render() -> String {
    let recorded = recorded();
    let variants = variants(&recorded[HEALTHY]);
    // By verdict, and in it in the order in which `check` reports the items: by place and id.
    let mut cases: BTreeMap<(&str, usize, String), Vec<Case>> = BTreeMap::new();
    let recorded = recorded.into_iter().map(|(name, facts)| (format!("`{name}`"), facts));
    for (host, facts) in recorded.chain(variants) {
        let report = Report::new(serde_json::from_value(facts).expect("facts"));
        let report = serde_json::to_value(&report).expect("a report in JSON");
        let items = report["items"].as_array().expect("items");
        for item in items {
            let text = |key: &str| item[key].as_str().unwrap_or_default().to_owned();
            let section = match item["verdict"].as_str() {
                Some("failed") => "0",
                Some("degraded") => "1",
                _ => continue,
            };
            let id = text("id");
            let place = [
                "kernel",
                "privileges",
                "lockdown",
                "btf",
                "tier",
                "program",
                "canary",
                "vsock",
                "processes",
            ]
            .iter()
            .position(|first| id.starts_with(first))
            .unwrap_or(usize::MAX);
            let same = cases.entry((section, place, id)).or_default();
            let (looked_at, because, remedy) = (text("looked_at"), text("because"), text("remedy"));
            match same.iter_mut().find(|case| case.because == because && case.remedy == remedy) {
                Some(case) => case.hosts.push(host.clone()),
                None => same.push(Case { looked_at, because, remedy, hosts: vec![host.clone()] }),
            }
        }
    }
    let mut page = HEAD.to_owned();
    let mut last = "";
    for ((section, _, id), cases) in &cases {
        if *section != last {
            let (title, word) = sections(section);
            _ = writeln!(page, "## {title}\n\nThese items print `{word}`.\n");
            last = section;
        }
        for Case { looked_at, because, remedy, hosts } in cases {
            _ = writeln!(
                page,
                "### `{id}`\n\nItem: {looked_at}\n\n- **Cause:** {because}.\n- **Remedy:** {remedy}.\n\
                 - Produced by: {}.\n",
                hosts.join("; ")
            );
        }
    }
    page + TAIL
}

fn sections(section: &str) -> (&'static str, &'static str) {
    match section {
        "0" => ("acceptd does not work (exit code 1)", "FAILED"),
        _ => ("acceptd works in part (exit code 2)", "degraded"),
    }
}

#[test]
fn the_page_of_troubleshooting_is_what_the_recorded_hosts_report() {
    let page = render();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(PAGE, &page).expect("docs/troubleshooting.md is written");
    }
    let found = fs::read_to_string(PAGE).unwrap_or_default();
    assert_eq!(found, page, "write it anew: UPDATE_DOCS=1 cargo test -p acceptd --lib troubleshooting");
}
