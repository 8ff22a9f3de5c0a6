//! Looking at the host.

use std::{
    fs, io,
    net::{TcpStream, ToSocketAddrs as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use acceptd_otlp::{Signal, probe};

use super::{
    canary,
    facts::{
        Btf, BtfError, Endpoint, EndpointError, Facts, Kernel, Process, Programs, State, Trial, VsockTypes,
    },
    heard,
};
use crate::{
    bpf::{
        LoadError, Settings, Tier, Traces, Wanted,
        filter::Filter,
        {self},
    },
    config::{CaptureTier, Config, Loaded, View},
    identity::process::proc_of_host,
    pipeline::destination::{
        Destination, {self},
    },
};

/// Inode numbers of the host's first namespaces (`include/linux/proc_ns.h`).
const INIT_USER_NAMESPACE: u64 = 0xEFFF_FFFD;
const INIT_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// How long somebody who waits at a terminal lets a Collector think.
const ENDPOINT_TIMEOUT: Duration = Duration::from_secs(3);

/// Everything but what needs programs and network.
#[must_use]
pub fn host(config: &Config, btf: &Path) -> Facts {
    let system = rustix::system::uname();
    Facts {
        kernel: Kernel {
            release: system.release().to_string_lossy().into_owned(),
            machine: system.machine().to_string_lossy().into_owned(),
        },
        process: process(&config.host.root),
        btf: Btf {
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

/// Everything: also loads and attaches each program, accepts a connection, and sends an empty request.
#[must_use]
pub fn everything(loaded: &Loaded, btf: &Path) -> Facts {
    let config = &loaded.config;
    let mut facts = host(config, btf);
    if facts.btf.error.is_none() {
        let settings = trial_settings(config, facts.process.in_host_pid_namespace == Some(true));
        match heard::load(&mut facts, &settings, canary::sing) {
            Ok(programs) => facts.programs = Some(Programs { error: None, trials: trials(&programs) }),
            Err(LoadError::Offsets(error)) => {
                facts.btf.error = Some(BtfError::Unusable(error.to_string()));
            }
            Err(error) => facts.programs = Some(refusal(&error)),
        }
    }
    facts.endpoints =
        destination::of_records(loaded).iter().filter_map(|(name, view)| ask(name, view)).collect();
    facts
}

/// All programs. They tell of nothing but this process's own accepts where they know it by the id that it knows itself by.
fn trial_settings(config: &Config, knows_its_pid: bool) -> Settings {
    let filter = if knows_its_pid { Filter::of_process(std::process::id()) } else { Filter::default() };
    Settings {
        tier: chosen_tier(config),
        skip: config.capture.skip_hooks.clone(),
        ring_bytes: 1 << 20,
        record_self: true,
        failure_budget: 0,
        wanted: Wanted { bind: true, create: true, attempts: true, traces: true, lives: true },
        filter,
        traces: Traces { slow_ns: 1, ..Traces::NONE },
    }
}

/// The tier that the configuration asks for, if it leaves no choice.
#[must_use]
pub fn chosen_tier(config: &Config) -> Option<Tier> {
    match config.capture.tier {
        CaptureTier::Auto => None,
        CaptureTier::One => Some(Tier::One),
        CaptureTier::Two => Some(Tier::Two),
    }
}

fn trials(programs: &bpf::Programs) -> Vec<Trial> {
    let attached = programs.hooks.programs().map(|program| Trial {
        program: program.to_owned(),
        feature: None,
        error: None,
        remedy: None,
    });
    let missing = programs.capture.missing.iter().map(|missing| Trial {
        program: missing.hook.to_owned(),
        feature: Some(missing.feature.to_owned()),
        error: Some(missing.reason.clone()),
        remedy: missing.remedy.map(str::to_owned),
    });
    attached.chain(missing).collect()
}

/// Without one indispensable program there are none; or not even the maps could be made.
fn refusal(error: &LoadError) -> Programs {
    let reason = Some(error.to_string());
    match error.hook() {
        Some(hook) => {
            let remedy = error.remedy().map(str::to_owned);
            let trial = Trial { program: hook.to_owned(), feature: None, error: reason, remedy };
            Programs { error: None, trials: vec![trial] }
        }
        None => Programs { error: reason, trials: Vec::new() },
    }
}

fn process(root: &Path) -> Process {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    };
    Process {
        user_id: rustix::process::geteuid().as_raw(),
        capabilities: field("CapEff").and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or_default(),
        seccomp: field("Seccomp").and_then(|mode| mode.parse().ok()).unwrap_or_default(),
        in_host_user_namespace: is_namespace("user", INIT_USER_NAMESPACE),
        in_host_pid_namespace: is_namespace("pid", INIT_PID_NAMESPACE),
        sees_host_processes: proc_of_host(root).is_some(),
        ptrace_scope: fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope")
            .ok()
            .and_then(|scope| scope.trim().parse().ok()),
    }
}

/// A module's types are a file of their own beside the kernel's.
fn vsock_types(btf: &Path) -> VsockTypes {
    if btf.with_file_name("vsock").exists() {
        return VsockTypes::Found;
    }
    match Path::new("/sys/module/vsock").exists() {
        // Built in, it has a folder there only for its parameters, and its types are the kernel's own.
        true if Path::new("/sys/module/vsock/initstate").exists() => VsockTypes::Missing,
        true => VsockTypes::Found,
        false => VsockTypes::NotLoaded,
    }
}

fn is_namespace(kind: &str, inode: u64) -> Option<bool> {
    Some(fs::metadata(format!("/proc/self/ns/{kind}")).ok()?.ino() == inode)
}

/// The word in brackets: `none [integrity] confidentiality`.
fn lockdown() -> Option<String> {
    let text = fs::read_to_string("/sys/kernel/security/lockdown").ok()?;
    Some(text.split_once('[')?.1.split_once(']')?.0.to_owned())
}

/// Where cgroups of version 2 are under `root`: alone, or beside those of version 1.
#[must_use]
pub fn cgroup2(root: &Path) -> Option<PathBuf> {
    ["sys/fs/cgroup", "sys/fs/cgroup/unified"]
        .map(|folder| root.join(folder))
        .into_iter()
        .find(|folder| folder.join("cgroup.controllers").exists())
}

/// [`cgroup2`], or where they would be.
#[must_use]
pub fn cgroups(root: &Path) -> PathBuf {
    cgroup2(root).unwrap_or_else(|| root.join("sys/fs/cgroup"))
}

fn state(directory: &Path) -> State {
    let probe = directory.join(".check");
    let written = fs::create_dir_all(directory)
        .and_then(|()| fs::write(&probe, ""))
        .and_then(|()| fs::remove_file(&probe));
    State {
        directory: directory.display().to_string(),
        error: written.err().map(|error| format!("nothing can be written there: {error}")),
    }
}

/// Name, connection, request: the first that fails is told. Of a file only that it cannot be written.
fn ask(name: &str, view: &View) -> Option<Endpoint> {
    let told =
        |address: &str, error| Endpoint { destination: name.to_owned(), address: address.to_owned(), error };
    let Destination { target, settings, address } = match destination::of(view, Signal::Logs) {
        Ok(destination) => destination?,
        Err(cause) => return Some(told("headers_file", Some(EndpointError::Settings(cause)))),
    };
    let send = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        runtime.block_on(probe(&target, &settings, Signal::Logs, ENDPOINT_TIMEOUT))
    };
    match address {
        Some(address) => {
            let error = reach(&address).and_then(|()| send().map_err(EndpointError::Otlp)).err();
            Some(told(&address, error))
        }
        None => send().err().map(|cause| told("file", Some(EndpointError::Settings(cause)))),
    }
}

fn reach(address: &str) -> Result<(), EndpointError> {
    let name = |error: io::Error| EndpointError::Name(error.to_string());
    let addresses: Vec<_> = address.to_socket_addrs().map_err(name)?.collect();
    let mut last = EndpointError::Name("it resolves to nothing".to_owned());
    for address in addresses {
        match TcpStream::connect_timeout(&address, ENDPOINT_TIMEOUT) {
            Ok(_) => return Ok(()),
            Err(error) => last = EndpointError::Connect(error.to_string()),
        }
    }
    Err(last)
}
