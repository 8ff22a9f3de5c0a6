//! What the facts mean. No I/O: every verdict can be tested with the facts of another host.

use std::collections::BTreeSet;

use serde::Serialize;

use super::facts::{BtfError, Canary, Endpoint, EndpointError, Facts, Trial, VsockTypes};
use crate::{
    bpf::{Tier, hooks},
    pipeline::destination::DEFAULT,
};

/// How one item stands.
#[derive(Debug, Clone, Copy, Serialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Not looked at, because something before it failed.
    Skipped,
    /// acceptd works without a part of it.
    Degraded,
    /// acceptd does not work.
    Failed,
}

/// One thing that was looked at.
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
pub struct Item {
    /// A name for programs.
    pub id: String,
    /// What was looked at, and what was found.
    pub looked_at: String,
    /// How it stands.
    pub verdict: Verdict,
    /// Why, if it is not ok.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub because: String,
    /// What to do, if it is not ok.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub remedy: String,
}

// include/uapi/linux/capability.h
const CAP_DAC_OVERRIDE: u32 = 1;
const CAP_DAC_READ_SEARCH: u32 = 2;
const CAP_SYS_PTRACE: u32 = 19;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// Nobody may attach to a process, which reading its memory counts as (`YAMA_SCOPE_NO_ATTACH`, `security/yama/yama_lsm.c`).
const NO_ATTACH: u8 = 3;

/// The filter mode of seccomp (`SECCOMP_MODE_FILTER`, include/uapi/linux/seccomp.h).
const SECCOMP_FILTER: u32 = 2;

/// Every item, in the order in which one depends on the other: the first that is not ok is the one to look at.
#[must_use]
pub fn items(facts: &Facts) -> Vec<Item> {
    let mut items = vec![kernel(facts), privileges(facts), lockdown(facts), btf(facts)];
    let blocked = items.iter().any(|item| item.verdict == Verdict::Failed);
    items.extend(tier(facts));
    items.extend(programs(facts, blocked));
    items.extend(canary(facts));
    items.extend(vsock(facts));
    items.push(processes(facts));
    items.push(pid_namespace(facts));
    items.push(cgroups(facts));
    items.push(state(facts));
    items.extend(facts.endpoints.iter().map(endpoint));
    items
}

fn ok(id: &str, looked_at: String) -> Item {
    Item { id: id.to_owned(), looked_at, verdict: Verdict::Ok, because: String::new(), remedy: String::new() }
}

impl Item {
    fn is(self, verdict: Verdict, because: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { verdict, because: because.into(), remedy: remedy.into(), ..self }
    }
}

/// The release is advisory, since vendors backport: the programs decide. The architecture is not.
fn kernel(facts: &Facts) -> Item {
    let item = ok("kernel", format!("Linux {} on {}", facts.kernel.release, facts.kernel.machine));
    if !matches!(facts.kernel.machine.as_str(), "x86_64" | "aarch64") {
        return item.is(
            Verdict::Failed,
            "there are programs for x86_64 and aarch64 only",
            "run acceptd on another machine",
        );
    }
    match version(&facts.kernel.release) {
        Some(version) if version < (5, 15) => item.is(
            Verdict::Degraded,
            "acceptd is made for 5.15 and later; an older kernel may have what it needs, if its vendor added it",
            "if a program is refused below, update the kernel",
        ),
        _ => item,
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn has(facts: &Facts, capability: u32) -> bool {
    facts.process.capabilities >> capability & 1 == 1
}

/// To load the programs.
fn privileges(facts: &Facts) -> Item {
    let user = facts.process.user_id;
    let item = ok("privileges", format!("user {user}, capabilities {:#x}", facts.process.capabilities));
    let missing: Vec<&str> = [(CAP_BPF, "CAP_BPF"), (CAP_PERFMON, "CAP_PERFMON")]
        .into_iter()
        .filter(|(capability, _)| !has(facts, *capability) && !has(facts, CAP_SYS_ADMIN))
        .map(|(_, name)| name)
        .collect();
    if missing.is_empty() {
        return item;
    }
    let missing = missing.join(" and ");
    item.is(
        Verdict::Failed,
        format!("the process lacks {missing}, without which the kernel takes no tracing program"),
        "run acceptd with sudo; in a service unit add AmbientCapabilities=CAP_BPF CAP_PERFMON CAP_SYS_PTRACE CAP_DAC_READ_SEARCH; in a container --cap-add BPF --cap-add PERFMON (an old engine knows only SYS_ADMIN)",
    )
}

fn lockdown(facts: &Facts) -> Item {
    match facts.lockdown.as_deref() {
        None => ok("lockdown", "kernel lockdown: not known (securityfs is not mounted)".to_owned()),
        Some("confidentiality") => ok("lockdown", "kernel lockdown: confidentiality".to_owned()).is(
            Verdict::Failed,
            "in this mode the kernel lets no program read its memory (bpf_probe_read), so sockets cannot be described",
            "boot with lockdown=integrity, or on Talos with a kernel argument of the same; Secure Boot may set it",
        ),
        Some(mode) => ok("lockdown", format!("kernel lockdown: {mode}")),
    }
}

fn btf(facts: &Facts) -> Item {
    let item = ok("btf", format!("type information of the kernel, {}", facts.btf.path));
    match &facts.btf.error {
        None => item,
        Some(BtfError::Missing) => item.is(
            Verdict::Failed,
            "there is no such file, so the kernel was built without CONFIG_DEBUG_INFO_BTF, or /sys is not mounted",
            "use a kernel of your distribution that has it (every current one does); in a container mount /sys",
        ),
        Some(BtfError::Unusable(reason)) => item.is(
            Verdict::Failed,
            reason.clone(),
            "see whether `bpftool btf dump file` can read the file; if it can, report this with the file attached",
        ),
    }
}

/// What tier 2 costs is measured by `cargo xtask bench`, docs/results/bench.md.
fn tier(facts: &Facts) -> Option<Item> {
    let capture = facts.capture.as_ref()?;
    let item = ok("tier", format!("capture in {}", capture.tier));
    Some(match &capture.because {
        None => item,
        Some(because) => item.is(
            Verdict::Degraded,
            format!(
                "{because}; so every system call of this host pays some 90 ns, UNIX, SCTP and VSOCK accepts are unverified and without queue time, accepts by the kernel itself are not seen, and blocked times are absent"
            ),
            "to have tier 1, use a kernel with BPF trampolines (x86_64, or arm64 from 6.4 on) on a host that allows them; capture.tier = 2 says that this is what you want",
        ),
    })
}

/// Their addresses are in a struct of their own.
fn vsock(facts: &Facts) -> Option<Item> {
    let item = ok("vsock", "type information of VSOCK".to_owned());
    match facts.btf.vsock {
        VsockTypes::NotLoaded => None,
        VsockTypes::Found => Some(item),
        VsockTypes::Missing => Some(item.is(
            Verdict::Degraded,
            "the module vsock is loaded, and there is no /sys/kernel/btf/vsock: the addresses of VSOCK connections are absent",
            "use a kernel with CONFIG_DEBUG_INFO_BTF_MODULES whose modules are of the same build",
        )),
    }
}

fn programs(facts: &Facts, blocked: bool) -> Vec<Item> {
    let id = |name: &str| format!("program.{name}");
    if blocked {
        let item = ok("programs", "loading and attaching each program".to_owned());
        return vec![item.is(Verdict::Skipped, "it cannot work because of what failed above", "")];
    }
    let Some(programs) = &facts.programs else { return Vec::new() };
    if let Some(error) = &programs.error {
        let item = ok("programs", "making the maps of the programs".to_owned());
        return vec![item.is(Verdict::Failed, error.clone(), refusal_remedy(facts))];
    }
    let judge = |trial: &Trial| {
        let item = ok(&id(&trial.program), format!("program {}: loaded and attached", trial.program));
        let Some(error) = &trial.error else { return item };
        let item =
            Item { looked_at: format!("program {}: tried to load and attach it", trial.program), ..item };
        match &trial.feature {
            None => {
                let remedy = trial.remedy.clone().unwrap_or_else(|| refusal_remedy(facts));
                item.is(Verdict::Failed, error.clone(), remedy)
            }
            Some(feature) => item.is(
                Verdict::Degraded,
                format!("{error}; acceptd does without {feature}"),
                trial
                    .remedy
                    .as_deref()
                    .unwrap_or("nothing, unless you need it: then use a kernel that has this hook"),
            ),
        }
    };
    programs.trials.iter().map(judge).collect()
}

/// A refusal although the capabilities are there has few causes.
fn refusal_remedy(facts: &Facts) -> String {
    if facts.process.in_host_user_namespace == Some(false) {
        return "the process is in a user namespace of its own, where capabilities do not count for eBPF: run it outside (rootless containers cannot)".to_owned();
    }
    if facts.process.seccomp == SECCOMP_FILTER {
        return "a seccomp filter applies to this process and may refuse bpf(2): with docker add --security-opt seccomp=unconfined, or CAP_BPF with an engine that knows it".to_owned();
    }
    if facts.chosen_tier == Some(Tier::One) {
        return "set capture.tier to auto: tier 2 may work here".to_owned();
    }
    "update the kernel; if it is 5.15 or later, report this with the output of `acceptd check --output json`"
        .to_owned()
}

fn canary(facts: &Facts) -> Option<Item> {
    let item = ok("canary", "an accept of acceptd's own on the loopback, seen by its programs".to_owned());
    Some(match facts.canary.as_ref()? {
        Canary::Seen => item,
        Canary::Unproven => item.is(
            Verdict::Degraded,
            "it was seen when it was accepted, but not when it was established, so queue times are absent and records unverified",
            "see whether another program on the tracepoint inet_sock_set_state overrides it, and report this",
        ),
        Canary::Silent(programs) => silent(facts, item, programs),
        Canary::Failed(reason) => item.is(
            Verdict::Degraded,
            format!("it could not be made: {reason}"),
            "bring up the loopback interface: ip link set lo up",
        ),
    })
}

/// Attached, and never run.
fn silent(facts: &Facts, item: Item, programs: &[String]) -> Item {
    let tier = facts.capture.as_ref().map_or(Tier::Two, |capture| capture.tier);
    let features: Option<BTreeSet<_>> =
        programs.iter().map(|program| hooks::feature(tier, program)).collect();
    let remedy = "see whether /proc/sys/kernel/ftrace_enabled is 1, and run acceptd in the host's namespaces; if both are so, report this";
    match features {
        Some(features) if !features.is_empty() => item.is(
            Verdict::Degraded,
            format!(
                "{} attached, and did not run when it should; acceptd does without {}",
                are(programs),
                features.into_iter().collect::<Vec<_>>().join(", and ")
            ),
            remedy,
        ),
        _ if programs.is_empty() => item.is(
            Verdict::Failed,
            "the programs are attached, but no event came within two seconds; which of them is silent cannot be told without CAP_SYS_ADMIN",
            remedy,
        ),
        _ => item.is(
            Verdict::Failed,
            format!("{} attached, and did not run when it should, so accepts are not seen", are(programs)),
            remedy,
        ),
    }
}

fn are(programs: &[String]) -> String {
    format!("{} {}", programs.join(" and "), if programs.len() == 1 { "is" } else { "are" })
}

/// To complete what is known of processes of other users.
fn processes(facts: &Facts) -> Item {
    let item = ok("processes", "reading /proc of every user's processes".to_owned());
    // User 0 needs them, too: in a container it has not all of them.
    let may_open = has(facts, CAP_DAC_READ_SEARCH) || has(facts, CAP_DAC_OVERRIDE);
    if has(facts, CAP_SYS_PTRACE) && may_open {
        return match facts.process.ptrace_scope {
            Some(NO_ATTACH) => item.is(
                Verdict::Degraded,
                "kernel.yama.ptrace_scope is 3, with which nobody reads the memory of another process: what SDKs publish there (OTEL_CTX) is not seen; service names in the environment are",
                "boot with kernel.yama.ptrace_scope=2 (it cannot be lowered before the next boot), or name services by OTEL_SERVICE_NAME",
            ),
            _ => item,
        };
    }
    item.is(
        Verdict::Degraded,
        "without CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH the executable path, the owner and the published service name of other users' processes are absent",
        "add both capabilities",
    )
}

fn pid_namespace(facts: &Facts) -> Item {
    let item = ok("pid_namespace", "the host's pid namespace".to_owned());
    if facts.process.in_host_pid_namespace != Some(false) || facts.process.sees_host_processes {
        return item;
    }
    item.is(
        Verdict::Degraded,
        "this process is in another one: its /proc shows other processes than the programs see, so executable paths, owners, containers and service names are absent, and executable names the kernel's alone",
        "run the container with --pid=host (Kubernetes: hostPID: true), or mount the host's root and set host.root to it",
    )
}

/// Nothing but a filter needs them.
fn cgroups(facts: &Facts) -> Item {
    let where_to = facts.cgroup2.as_deref().unwrap_or("not mounted, so filter.cgroups cannot be used");
    ok("cgroups", format!("cgroups of version 2: {where_to}"))
}

fn state(facts: &Facts) -> Item {
    let item = ok("state", format!("state.directory {}", facts.state.directory));
    match &facts.state.error {
        None => item,
        Some(error) => item.is(
            Verdict::Degraded,
            format!("{error}; process.creation.time may differ by milliseconds after a restart of the agent"),
            "create it and make it writable, or set state.directory to one that is",
        ),
    }
}

fn endpoint(endpoint: &Endpoint) -> Item {
    let Endpoint { destination, address, error } = endpoint;
    let is_default = destination == DEFAULT;
    let id = if is_default { "endpoint".to_owned() } else { format!("endpoint.{destination}") };
    let key = if is_default { "export".to_owned() } else { format!("destinations.{destination}") };
    let item = ok(&id, format!("an empty request to the Collector at {address}"));
    match error {
        None => item,
        Some(EndpointError::Name(reason)) => item.is(
            Verdict::Degraded,
            format!("the name has no address: {reason}"),
            format!("correct {key}.endpoint, or the host's name resolution; until then records wait, and are dropped in the end"),
        ),
        Some(EndpointError::Connect(reason)) => item.is(
            Verdict::Degraded,
            format!("nobody answers there: {reason}"),
            format!("start the Collector, or correct {key}.endpoint; `acceptd receive --listen {address}` is one to try with"),
        ),
        Some(EndpointError::Otlp(reason)) => item.is(
            Verdict::Degraded,
            format!("somebody answers, but takes no log records: {reason}"),
            format!("Collectors receive gRPC on port 4317 and http/protobuf on 4318: see that {key}.protocol is that of the port, and that the Collector has an otlp receiver in a pipeline for logs (otel-config/minimal.yaml)"),
        ),
        Some(EndpointError::Settings(reason)) => item.is(Verdict::Degraded, reason.clone(), format!("correct {key}; `acceptd run` does not start with it")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preflight::Report;

    /// The facts of a host in tests/fixtures/preflight.
    fn report(host: &str) -> Report {
        let path = format!("{}/tests/fixtures/preflight/{host}.json", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        Report::new(serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}")))
    }

    /// Exit code, and what is not ok: id and verdict.
    fn summary(report: &Report) -> (u8, Vec<(&str, Verdict)>) {
        let wrong = report.items.iter().filter(|item| item.verdict != Verdict::Ok);
        (report.exit_code(), wrong.map(|item| (item.id.as_str(), item.verdict)).collect())
    }

    #[test]
    fn each_host_is_told_the_one_thing_that_is_wrong() {
        use Verdict::{Degraded, Failed, Skipped};
        for (host, code, wrong) in [
            ("root", 0, vec![]),
            ("debian-12", 0, vec![]),
            ("debian-13", 0, vec![]),
            (
                "nobody",
                1,
                vec![
                    ("privileges", Failed),
                    ("programs", Skipped),
                    ("processes", Degraded),
                    ("state", Degraded),
                ],
            ),
            ("no-btf", 1, vec![("btf", Failed), ("programs", Skipped)]),
            ("truncated-btf", 1, vec![("btf", Failed), ("programs", Skipped)]),
            ("lockdown-confidentiality", 1, vec![("lockdown", Failed), ("programs", Skipped)]),
            ("talos", 1, vec![("lockdown", Failed), ("programs", Skipped)]),
            ("container-without-host-pid", 2, vec![("pid_namespace", Degraded)]),
            ("container-with-host-root", 0, vec![]),
            ("container-without-ptrace", 2, vec![("processes", Degraded)]),
            ("yama-no-attach", 2, vec![("processes", Degraded)]),
            ("container-with-seccomp", 1, vec![("programs", Failed)]),
            ("rhel-8", 1, vec![("kernel", Degraded), ("programs", Failed)]),
            ("no-io-uring", 2, vec![("program.io_uring_complete", Degraded)]),
            ("silent", 1, vec![("canary", Failed)]),
            ("collector-closed", 2, vec![("endpoint", Degraded)]),
        ] {
            let report = report(host);
            assert_eq!(summary(&report), (code, wrong), "{host}\n{report}");
        }
    }

    #[test]
    fn whatever_is_wrong_has_a_reason_and_a_remedy() {
        let folder = format!("{}/tests/fixtures/preflight", env!("CARGO_MANIFEST_DIR"));
        let mut hosts = 0;
        for entry in std::fs::read_dir(folder).expect("the fixtures") {
            let path = entry.expect("an entry").path();
            let report = report(path.file_stem().and_then(|stem| stem.to_str()).expect("a name"));
            hosts += 1;
            for item in &report.items {
                let wants = item.verdict != Verdict::Ok;
                assert_eq!(!item.because.is_empty(), wants, "{item:?}");
                assert_eq!(!item.remedy.is_empty(), wants && item.verdict != Verdict::Skipped, "{item:?}");
            }
            assert!(report.to_string().ends_with('\n'));
            assert!(serde_json::to_string(&report).is_ok_and(|json| json.contains("\"items\"")));
        }
        assert_eq!(hosts, 17);
    }

    #[test]
    fn the_remedy_fits_the_cause() {
        let remedy = |host: &str, id: &str| {
            let report = report(host);
            let found = report.items.iter().find(|item| item.id == id);
            found.map(|item| format!("{} / {}", item.because, item.remedy)).expect("an item")
        };
        for (host, id, words) in [
            ("nobody", "privileges", "CAP_BPF and CAP_PERFMON"),
            ("no-btf", "btf", "CONFIG_DEBUG_INFO_BTF"),
            ("truncated-btf", "btf", "bpftool"),
            ("talos", "lockdown", "lockdown=integrity"),
            ("container-without-host-pid", "pid_namespace", "--pid=host"),
            ("container-with-seccomp", "programs", "seccomp=unconfined"),
            ("rhel-8", "programs", "update the kernel"),
            ("yama-no-attach", "processes", "ptrace_scope=2"),
            ("no-io-uring", "program.io_uring_complete", "accepts through io_uring"),
            ("collector-closed", "endpoint", "acceptd receive --listen localhost:4317"),
        ] {
            assert!(remedy(host, id).contains(words), "{host}: {}", remedy(host, id));
        }
    }

    #[test]
    fn versions_are_read_from_any_vendors_release() {
        assert_eq!(version("6.1.0-18-amd64"), Some((6, 1)));
        assert_eq!(version("4.18.0-553.el8_10.x86_64"), Some((4, 18)));
        assert_eq!(version("5.15"), Some((5, 15)));
        assert_eq!(version("next"), None);
    }
}
