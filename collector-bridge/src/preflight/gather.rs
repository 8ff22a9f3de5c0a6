//! Gathers the facts about the host and the destinations. All I/O of the preflight checks is here and in
//! `canary`.

use std::{
    fs, io,
    net::{TcpStream, ToSocketAddrs as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use acceptd_otlp::{Signal, check_target};

use super::{
    facts::{
        BtfError, BtfFacts, EndpointError, EndpointFacts, Facts, KernelFacts, ProcessFacts, ProgramFacts,
        ProgramTrial, StateFacts, VsockTypes,
    },
    verify::load_and_probe,
};
use crate::{
    bpf::{
        self, LoadError, LoadSettings, OptionalHooks, Tier, TraceSettings, filter::EventFilter, preemption,
    },
    config::{
        CaptureTier, Config, Loaded, View,
        destination::{Destination, record_destinations},
    },
    identity::proc_dir::host_proc,
};

/// Inode numbers of the initial namespaces (`include/linux/proc_ns.h`).
const INIT_USER_NAMESPACE: u64 = 0xEFFF_FFFD;
const INIT_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// Timeout of each step of the test of an endpoint. Short, because an operator waits for the result.
const ENDPOINT_TIMEOUT: Duration = Duration::from_secs(3);

/// Gathers every fact that needs neither programs nor the network. `btf` is the file with the kernel's BTF.
#[must_use]
pub(crate) fn host(config: &Config, btf: &Path) -> Facts {
    let system = rustix::system::uname();
    Facts {
        kernel: KernelFacts {
            release: system.release().to_string_lossy().into_owned(),
            machine: system.machine().to_string_lossy().into_owned(),
            preemption: preemption::model(),
        },
        process: process(&config.host.root),
        btf: BtfFacts {
            path: btf.display().to_string(),
            error: (!btf.exists()).then_some(BtfError::Missing),
            vsock: vsock_types(btf),
        },
        lockdown: lockdown(),
        cgroup2: cgroup2(&config.host.root).map(|folder| folder.display().to_string()),
        state: state(&config.state.directory),
        chosen_tier: chosen_tier(config),
        capture: None,
        programs: None,
        canary: None,
        endpoints: Vec::new(),
    }
}

/// Gathers every fact: also loads and attaches each program, probes them with a canary, and sends an empty
/// request to each destination.
#[must_use]
pub(crate) fn everything(loaded: &Loaded, btf: &Path) -> Facts {
    let config = &loaded.config;
    let mut facts = host(config, btf);
    if facts.btf.error.is_none() {
        let settings = trial_settings(config, facts.process.in_host_pid_namespace == Some(true));
        match load_and_probe(&mut facts, &settings) {
            Ok(programs) => facts.programs = Some(ProgramFacts { error: None, trials: trials(&programs) }),
            Err(LoadError::Offsets(error)) => {
                facts.btf.error = Some(BtfError::Unusable(error.to_string()));
            }
            Err(error) => facts.programs = Some(refusal(&error)),
        }
    }
    let destinations = record_destinations(loaded);
    facts.endpoints = destinations.iter().filter_map(|(name, view)| test_endpoint(name, view)).collect();
    facts
}

/// The settings for a trial of all programs. In the host's pid namespace, where the process knows the id that
/// the programs see, they report this process only.
fn trial_settings(config: &Config, in_host_pid_namespace: bool) -> LoadSettings {
    let filter = if in_host_pid_namespace {
        EventFilter::for_process(std::process::id())
    } else {
        EventFilter::default()
    };
    LoadSettings {
        tier: chosen_tier(config),
        skip: config.capture.skip_hooks.clone(),
        ring_bytes: 1 << 20,
        record_self: true,
        failure_budget: 0,
        service_names: true,
        optional: OptionalHooks { bind: true, create: true, attempts: true, traces: true, connections: true },
        filter,
        traces: TraceSettings { slow_ns: 1, ..TraceSettings::DISABLED },
    }
}

/// The tier that the configuration requires; `None` if the kernel decides.
#[must_use]
pub(crate) fn chosen_tier(config: &Config) -> Option<Tier> {
    match config.capture.tier {
        CaptureTier::Auto => None,
        CaptureTier::One => Some(Tier::One),
        CaptureTier::Two => Some(Tier::Two),
    }
}

fn trials(programs: &bpf::Programs) -> Vec<ProgramTrial> {
    let attached = programs.attached.programs().map(|program| ProgramTrial {
        program: program.to_owned(),
        feature: None,
        error: None,
        remedy: None,
    });
    let missing = programs.capture.missing.iter().map(|missing| ProgramTrial {
        program: missing.hook.to_owned(),
        feature: Some(missing.feature.to_owned()),
        error: Some(missing.reason.clone()),
        remedy: missing.remedy.map(str::to_owned),
    });
    attached.chain(missing).collect()
}

/// The facts after a failed load: either the kernel refused an indispensable program, or no program could be
/// tried.
fn refusal(error: &LoadError) -> ProgramFacts {
    let reason = Some(error.to_string());
    match error.hook() {
        Some(hook) => {
            let remedy = error.remedy().map(str::to_owned);
            let trial = ProgramTrial { program: hook.to_owned(), feature: None, error: reason, remedy };
            ProgramFacts { error: None, trials: vec![trial] }
        }
        None => ProgramFacts { error: reason, trials: Vec::new() },
    }
}

fn process(root: &Path) -> ProcessFacts {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    };
    ProcessFacts {
        user_id: rustix::process::geteuid().as_raw(),
        capabilities: field("CapEff").and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or_default(),
        seccomp: field("Seccomp").and_then(|mode| mode.parse().ok()).unwrap_or_default(),
        in_host_user_namespace: is_namespace("user", INIT_USER_NAMESPACE),
        in_host_pid_namespace: is_namespace("pid", INIT_PID_NAMESPACE),
        sees_host_processes: host_proc(root).is_some(),
        ptrace_scope: fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope")
            .ok()
            .and_then(|scope| scope.trim().parse().ok()),
    }
}

/// The BTF of a module is a file of its own beside the kernel's.
fn vsock_types(btf: &Path) -> VsockTypes {
    if btf.with_file_name("vsock").exists() {
        return VsockTypes::Found;
    }
    match Path::new("/sys/module/vsock").exists() {
        // Only a module has `initstate`. If VSOCK is built in, the folder exists for its parameters, and its
        // types are in the kernel's BTF.
        true if Path::new("/sys/module/vsock/initstate").exists() => VsockTypes::Missing,
        true => VsockTypes::Found,
        false => VsockTypes::NotLoaded,
    }
}

fn is_namespace(kind: &str, inode: u64) -> Option<bool> {
    Some(fs::metadata(format!("/proc/self/ns/{kind}")).ok()?.ino() == inode)
}

/// The current mode, which is in brackets: `none [integrity] confidentiality`.
fn lockdown() -> Option<String> {
    let text = fs::read_to_string("/sys/kernel/security/lockdown").ok()?;
    Some(text.split_once('[')?.1.split_once(']')?.0.to_owned())
}

/// The cgroup2 hierarchy under `root`, mounted alone or beside version 1.
#[must_use]
pub(crate) fn cgroup2(root: &Path) -> Option<PathBuf> {
    ["sys/fs/cgroup", "sys/fs/cgroup/unified"]
        .map(|folder| root.join(folder))
        .into_iter()
        .find(|folder| folder.join("cgroup.controllers").exists())
}

/// [`cgroup2`], or the usual place of the hierarchy if it is not mounted.
#[must_use]
pub(crate) fn cgroups(root: &Path) -> PathBuf {
    cgroup2(root).unwrap_or_else(|| root.join("sys/fs/cgroup"))
}

fn state(directory: &Path) -> StateFacts {
    let probe = directory.join(".check");
    let written = fs::create_dir_all(directory)
        .and_then(|()| fs::write(&probe, ""))
        .and_then(|()| fs::remove_file(&probe));
    StateFacts {
        directory: directory.display().to_string(),
        error: written.err().map(|error| format!("the directory is not writable: {error}")),
    }
}

/// Tests a destination in three steps, resolve, connect and request, and reports the first step that fails.
/// Returns `None` for a writable file.
fn test_endpoint(name: &str, view: &View) -> Option<EndpointFacts> {
    let endpoint = |address: &str, error| EndpointFacts {
        destination: name.to_owned(),
        address: address.to_owned(),
        error,
    };
    let Destination { target, settings, address } = match Destination::from_view(view, Signal::Logs) {
        Ok(destination) => destination?,
        Err(cause) => return Some(endpoint("headers_file", Some(EndpointError::Settings(cause)))),
    };
    let send = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        runtime.block_on(check_target(&target, &settings, Signal::Logs, ENDPOINT_TIMEOUT))
    };
    match address {
        Some(address) => {
            let error = connect(&address).and_then(|()| send().map_err(EndpointError::Otlp)).err();
            Some(endpoint(&address, error))
        }
        None => send().err().map(|cause| endpoint("file", Some(EndpointError::Settings(cause)))),
    }
}

fn connect(address: &str) -> Result<(), EndpointError> {
    let unresolved = |error: io::Error| EndpointError::Name(error.to_string());
    let addresses: Vec<_> = address.to_socket_addrs().map_err(unresolved)?.collect();
    let mut last = EndpointError::Name("the name resolves to no address".to_owned());
    for address in addresses {
        match TcpStream::connect_timeout(&address, ENDPOINT_TIMEOUT) {
            Ok(_) => return Ok(()),
            Err(error) => last = EndpointError::Connect(error.to_string()),
        }
    }
    Err(last)
}
