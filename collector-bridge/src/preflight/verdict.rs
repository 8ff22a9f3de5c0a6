//! Judges the facts about a host: each item's verdict, cause and remedy. No I/O, so that tests can judge
//! recorded hosts.

use std::collections::BTreeSet;

use serde::Serialize;

use super::facts::{BtfError, Canary, EndpointError, EndpointFacts, Facts, ProgramTrial, VsockTypes};
use crate::{
    bpf::{Tier, hooks, preemption::Preemption},
    config::DEFAULT_DESTINATION,
};

/// The verdict on one item. The order is by severity.
#[derive(Debug, Clone, Copy, Serialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// As required.
    Ok,
    /// Not checked, because an item that it depends on failed.
    Skipped,
    /// acceptd works, but a feature is missing.
    Degraded,
    /// acceptd does not work.
    Failed,
}

/// One thing that was checked.
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
pub(crate) struct Item {
    /// A stable name, for programs that read the report.
    pub(crate) id: String,
    /// The subject of the check, with the relevant facts.
    #[serde(rename = "looked_at")]
    pub(crate) subject: String,
    /// The verdict.
    pub(crate) verdict: Verdict,
    /// The cause; empty if the verdict is ok.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) because: String,
    /// The remedy; empty if the verdict is ok or skipped.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) remedy: String,
}

// include/uapi/linux/capability.h
const CAP_DAC_OVERRIDE: u32 = 1;
const CAP_DAC_READ_SEARCH: u32 = 2;
const CAP_SYS_PTRACE: u32 = 19;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// The mode of Yama in which no process may attach to another, which includes reading its memory
/// (`YAMA_SCOPE_NO_ATTACH`, `security/yama/yama_lsm.c`).
const NO_ATTACH: u8 = 3;

/// The filter mode of seccomp (`SECCOMP_MODE_FILTER`, include/uapi/linux/seccomp.h).
const SECCOMP_FILTER: u32 = 2;

/// Judges the facts. The items are in the order of their dependencies, so the first item that is not ok is
/// the one to fix first.
#[must_use]
pub(crate) fn judge(facts: &Facts) -> Vec<Item> {
    let mut items = vec![kernel(facts), preemption(facts), privileges(facts), lockdown(facts), btf(facts)];
    let is_blocked = items.iter().any(|item| item.verdict == Verdict::Failed);
    items.extend(tier(facts));
    items.extend(programs(facts, is_blocked));
    items.extend(canary(facts));
    items.extend(vsock(facts));
    items.push(processes(facts));
    items.push(pid_namespace(facts));
    items.push(cgroups(facts));
    items.push(state(facts));
    items.extend(facts.endpoints.iter().map(endpoint));
    items
}

fn ok(id: &str, subject: String) -> Item {
    Item { id: id.to_owned(), subject, verdict: Verdict::Ok, because: String::new(), remedy: String::new() }
}

impl Item {
    fn judged(self, verdict: Verdict, because: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { verdict, because: because.into(), remedy: remedy.into(), ..self }
    }
}

/// An old release is only degraded: vendors backport features, so the trial of the programs decides. A wrong
/// architecture has failed.
fn kernel(facts: &Facts) -> Item {
    let item = ok("kernel", format!("Linux {} on {}", facts.kernel.release, facts.kernel.machine));
    if !matches!(facts.kernel.machine.as_str(), "x86_64" | "aarch64") {
        return item.judged(
            Verdict::Failed,
            "acceptd has eBPF programs for x86_64 and aarch64 only",
            "run acceptd on a machine of one of these architectures",
        );
    }
    match version(&facts.kernel.release) {
        Some(version) if version < (5, 15) => item.judged(
            Verdict::Degraded,
            "acceptd supports Linux 5.15 and later; an older kernel works only if its vendor backported the required features",
            "if the kernel refuses a program below, update the kernel",
        ),
        _ => item,
    }
}

/// Always ok: acceptd works with every model, and a loss is reported when it happens.
fn preemption(facts: &Facts) -> Item {
    let model = facts.kernel.preemption;
    let meaning = match (model.may_skip_programs(), model) {
        (false, _) => "no task is preempted inside an eBPF program, so the kernel skips none under load",
        (true, Preemption::Unknown) => {
            "neither debugfs nor the kernel's configuration can be read. If the kernel preempts tasks inside eBPF programs, it skips those programs for other tasks of that CPU; acceptd attaches copies that stand in, and reports what may be missing all the same"
        }
        (true, _) => {
            "under load the kernel may preempt a task inside an eBPF program, and then skips that program for other tasks of that CPU. acceptd attaches copies that stand in, and reports what may be missing all the same"
        }
    };
    ok("preemption", format!("the kernel's preemption model: {model}; {meaning}"))
}

/// The major and minor version of a release such as `6.1.0-18-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn has(facts: &Facts, capability: u32) -> bool {
    facts.process.capabilities >> capability & 1 == 1
}

/// The capabilities that bpf(2) requires.
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
    item.judged(
        Verdict::Failed,
        format!("the process lacks {missing}, without which the kernel refuses tracing programs"),
        "run acceptd with sudo; in a service unit add AmbientCapabilities=CAP_BPF CAP_PERFMON CAP_SYS_PTRACE CAP_DAC_READ_SEARCH; in a container --cap-add BPF --cap-add PERFMON (an old engine knows only SYS_ADMIN)",
    )
}

fn lockdown(facts: &Facts) -> Item {
    match facts.lockdown.as_deref() {
        None => ok("lockdown", "kernel lockdown: unknown (securityfs is not mounted)".to_owned()),
        Some("confidentiality") => ok("lockdown", "kernel lockdown: confidentiality".to_owned()).judged(
            Verdict::Failed,
            "in this mode the kernel does not let eBPF programs read kernel memory (bpf_probe_read), so acceptd cannot read sockets",
            "boot with the kernel argument lockdown=integrity (on Talos, set it in the machine configuration); Secure Boot may set the mode",
        ),
        Some(mode) => ok("lockdown", format!("kernel lockdown: {mode}")),
    }
}

fn btf(facts: &Facts) -> Item {
    let item = ok("btf", format!("the kernel's type information (BTF), {}", facts.btf.path));
    match &facts.btf.error {
        None => item,
        Some(BtfError::Missing) => item.judged(
            Verdict::Failed,
            "the file does not exist: the kernel was built without CONFIG_DEBUG_INFO_BTF, or /sys is not mounted",
            "use a kernel of your distribution with CONFIG_DEBUG_INFO_BTF (all current ones have it); in a container, mount /sys",
        ),
        Some(BtfError::Unusable(reason)) => item.judged(
            Verdict::Failed,
            reason.clone(),
            "check whether `bpftool btf dump file` can read the file; if it can, report a bug and attach the file",
        ),
    }
}

/// `cargo xtask bench` measures the cost of tier 2; docs/results/bench.md has the result.
fn tier(facts: &Facts) -> Option<Item> {
    let capture = facts.capture.as_ref()?;
    let item = ok("tier", format!("capture in {}", capture.tier));
    Some(match &capture.because {
        None => item,
        Some(because) => item.judged(
            Verdict::Degraded,
            format!(
                "{because}; tier 2 adds a cost to every system call of this host, UNIX, SCTP and VSOCK accepts are unverified and have no queue time, accepts by the kernel itself are not captured, and blocked times are absent"
            ),
            "for tier 1, use a kernel with BPF trampolines (x86_64, or arm64 from 6.4 on) on a host that allows them; to accept tier 2 without this warning, set capture.tier = 2",
        ),
    })
}

/// The addresses of VSOCK sockets are in a struct of the VSOCK module, whose BTF the module may lack.
fn vsock(facts: &Facts) -> Option<Item> {
    let item = ok("vsock", "type information (BTF) of VSOCK".to_owned());
    match facts.btf.vsock {
        VsockTypes::NotLoaded => None,
        VsockTypes::Found => Some(item),
        VsockTypes::Missing => Some(item.judged(
            Verdict::Degraded,
            "the module vsock is loaded but /sys/kernel/btf/vsock does not exist, so records of VSOCK connections have no addresses",
            "use a kernel with CONFIG_DEBUG_INFO_BTF_MODULES, with modules of the same build",
        )),
    }
}

fn programs(facts: &Facts, is_blocked: bool) -> Vec<Item> {
    let id = |name: &str| format!("program.{name}");
    if is_blocked {
        let item = ok("programs", "loading and attaching each program".to_owned());
        return vec![item.judged(
            Verdict::Skipped,
            "an item above failed, without which no program can be loaded",
            "",
        )];
    }
    let Some(programs) = &facts.programs else { return Vec::new() };
    if let Some(error) = &programs.error {
        let item = ok("programs", "creating the maps of the programs".to_owned());
        return vec![item.judged(Verdict::Failed, error.clone(), refusal_remedy(facts))];
    }
    let judge_trial = |trial: &ProgramTrial| {
        let item = ok(&id(&trial.program), format!("program {}: loaded and attached", trial.program));
        let Some(error) = &trial.error else { return item };
        let item =
            Item { subject: format!("program {}: tried to load and attach it", trial.program), ..item };
        match &trial.feature {
            None => {
                let remedy = trial.remedy.clone().unwrap_or_else(|| refusal_remedy(facts));
                item.judged(Verdict::Failed, error.clone(), remedy)
            }
            Some(feature) => item.judged(
                Verdict::Degraded,
                format!("{error}; missing: {feature}"),
                trial.remedy.as_deref().unwrap_or(
                    "none needed, unless you need this feature: then use a kernel that has this hook",
                ),
            ),
        }
    };
    programs.trials.iter().map(judge_trial).collect()
}

/// The remedy for a refused program of a process that has the capabilities: the likely cause is one of a few.
fn refusal_remedy(facts: &Facts) -> String {
    if facts.process.in_host_user_namespace == Some(false) {
        return "the process is in its own user namespace, whose capabilities do not allow eBPF: run acceptd in the host's user namespace (a rootless container cannot)".to_owned();
    }
    if facts.process.seccomp == SECCOMP_FILTER {
        return "a seccomp filter applies to this process and may refuse bpf(2): with Docker add --security-opt seccomp=unconfined, or --cap-add BPF if the engine supports it".to_owned();
    }
    if facts.chosen_tier == Some(Tier::One) {
        return "set capture.tier = auto: tier 2 may work on this host".to_owned();
    }
    "update the kernel; if it is 5.15 or later, report a bug with the output of `acceptd check --output json`"
        .to_owned()
}

fn canary(facts: &Facts) -> Option<Item> {
    let item = ok(
        "canary",
        "canary: an accept that acceptd makes on the loopback, and that its programs must capture".to_owned(),
    );
    Some(match facts.canary.as_ref()? {
        Canary::Seen => item,
        Canary::Unproven => item.judged(
            Verdict::Degraded,
            "the programs saw the accept but not that the connection was established, so records have no queue time and are unverified",
            "check whether another tool has a program on the tracepoint inet_sock_set_state, and report a bug",
        ),
        Canary::Silent(programs) => silent(facts, item, programs),
        Canary::Failed(reason) => item.judged(
            Verdict::Degraded,
            format!("the connection on the loopback failed: {reason}"),
            "bring up the loopback interface: ip link set lo up",
        ),
    })
}

/// The verdict on programs that are attached but did not run.
fn silent(facts: &Facts, item: Item, programs: &[String]) -> Item {
    let tier = facts.capture.as_ref().map_or(Tier::Two, |capture| capture.tier);
    let features: Option<BTreeSet<_>> =
        programs.iter().map(|program| hooks::feature_of(tier, program)).collect();
    let remedy = "make sure that /proc/sys/kernel/ftrace_enabled is 1 and that acceptd runs in the host's namespaces; if both hold, report a bug";
    match features {
        Some(features) if !features.is_empty() => item.judged(
            Verdict::Degraded,
            format!(
                "{} attached but did not run; missing: {}",
                names_with_verb(programs),
                features.into_iter().collect::<Vec<_>>().join(", and ")
            ),
            remedy,
        ),
        _ if programs.is_empty() => item.judged(
            Verdict::Failed,
            "the programs are attached, but no event came within two seconds; without CAP_SYS_ADMIN the kernel does not count their runs, so the silent program is unknown",
            remedy,
        ),
        _ => item.judged(
            Verdict::Failed,
            format!("{} attached but did not run, so accepts are not captured", names_with_verb(programs)),
            remedy,
        ),
    }
}

/// `a is`, or `a and b are`.
fn names_with_verb(programs: &[String]) -> String {
    format!("{} {}", programs.join(" and "), if programs.len() == 1 { "is" } else { "are" })
}

/// The capabilities that reading the processes of other users requires.
fn processes(facts: &Facts) -> Item {
    let item = ok("processes", "reading /proc of every user's processes".to_owned());
    // User 0 is checked as well: in a container it does not have all capabilities.
    let may_read_files = has(facts, CAP_DAC_READ_SEARCH) || has(facts, CAP_DAC_OVERRIDE);
    if has(facts, CAP_SYS_PTRACE) && may_read_files {
        return match facts.process.ptrace_scope {
            Some(NO_ATTACH) => item.judged(
                Verdict::Degraded,
                "kernel.yama.ptrace_scope is 3, so no process can read the memory of another: the context that OpenTelemetry SDKs publish there (OTEL_CTX) is not found; service names in the environment are",
                "boot with kernel.yama.ptrace_scope=2 (it cannot be lowered until the next boot), or set OTEL_SERVICE_NAME for the services",
            ),
            _ => item,
        };
    }
    item.judged(
        Verdict::Degraded,
        "without CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH the executable path, the owner and the published service name of other users' processes are absent",
        "add both capabilities (AmbientCapabilities= in a service unit, --cap-add in a container)",
    )
}

fn pid_namespace(facts: &Facts) -> Item {
    let item = ok("pid_namespace", "the host's pid namespace".to_owned());
    if facts.process.in_host_pid_namespace != Some(false) || facts.process.sees_host_processes {
        return item;
    }
    item.judged(
        Verdict::Degraded,
        "acceptd runs in another pid namespace, whose /proc does not show the processes that the programs see: executable paths, owners, containers and service names are absent, and executable names are those of the kernel (at most 15 bytes)",
        "run the container with --pid=host (Kubernetes: hostPID: true), or mount the host's root and set host.root to it",
    )
}

/// Always ok: only `filter.cgroups` needs the hierarchy.
fn cgroups(facts: &Facts) -> Item {
    let mounted = facts.cgroup2.as_deref().unwrap_or("not mounted, so filter.cgroups cannot be used");
    ok("cgroups", format!("cgroup2: {mounted}"))
}

fn state(facts: &Facts) -> Item {
    let item = ok("state", format!("state.directory {}", facts.state.directory));
    match &facts.state.error {
        None => item,
        Some(error) => item.judged(
            Verdict::Degraded,
            format!("{error}; process.creation.time may differ by milliseconds after a restart of the agent"),
            "create the directory and make it writable, or set state.directory to a writable one",
        ),
    }
}

fn endpoint(endpoint: &EndpointFacts) -> Item {
    let EndpointFacts { destination, address, error } = endpoint;
    let is_default = destination == DEFAULT_DESTINATION;
    let id = if is_default { "endpoint".to_owned() } else { format!("endpoint.{destination}") };
    let key = if is_default { "export".to_owned() } else { format!("destinations.{destination}") };
    let item = ok(&id, format!("an empty request to the Collector at {address}"));
    match error {
        None => item,
        Some(EndpointError::Name(reason)) => item.judged(
            Verdict::Degraded,
            format!("the host name cannot be resolved: {reason}"),
            format!("correct {key}.endpoint, or the name resolution of this host; until then records wait, and acceptd drops and counts those that wait too long"),
        ),
        Some(EndpointError::Connect(reason)) => item.judged(
            Verdict::Degraded,
            format!("the connection failed: {reason}"),
            format!("start the Collector, or correct {key}.endpoint; for a test, `acceptd receive --listen {address}` starts a receiver there"),
        ),
        Some(EndpointError::Otlp(reason)) => item.judged(
            Verdict::Degraded,
            format!("the server does not accept log records: {reason}"),
            format!("Collectors receive grpc on port 4317 and http/protobuf on port 4318: make sure that {key}.protocol matches the port, and that the Collector has an otlp receiver in a pipeline for logs (see otel-config/minimal.yaml)"),
        ),
        Some(EndpointError::Settings(reason)) => item.judged(Verdict::Degraded, reason.clone(), format!("correct {key}; `acceptd run` refuses to start with it")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preflight::Report;

    /// The report on a recorded host of tests/fixtures/preflight.
    fn report(host: &str) -> Report {
        let path = format!("{}/tests/fixtures/preflight/{host}.json", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        Report::new(serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}")))
    }

    /// The exit code, and id and verdict of each item that is not ok.
    fn summary(report: &Report) -> (u8, Vec<(&str, Verdict)>) {
        let wrong = report.items.iter().filter(|item| item.verdict != Verdict::Ok);
        (report.exit_code(), wrong.map(|item| (item.id.as_str(), item.verdict)).collect())
    }

    #[test]
    fn each_host_has_exactly_the_verdicts_of_its_defect() {
        use Verdict::{Degraded, Failed, Skipped};
        for (host, code, wrong) in [
            ("root", 0, vec![]),
            ("debian-12", 0, vec![]),
            ("debian-13", 0, vec![]),
            ("debian-trixie-backports", 0, vec![]),
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
    fn every_item_that_is_not_ok_has_a_cause_and_a_remedy() {
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
        assert_eq!(hosts, 18);
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
    fn the_preemption_model_is_named_with_its_meaning() {
        for (host, words) in [
            ("debian-12", "preemption model: voluntary; no task is preempted"),
            ("debian-trixie-backports", "preemption model: lazy; under load the kernel may preempt"),
            ("debian-13", "preemption model: unknown; neither debugfs nor"),
        ] {
            let report = report(host);
            let item = report.items.iter().find(|item| item.id == "preemption").expect("an item");
            assert_eq!(item.verdict, Verdict::Ok, "{host}");
            assert!(item.subject.contains(words), "{host}: {}", item.subject);
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
