//! The facts about a host, without judgement. They can be serialized, so that users can attach them to a bug
//! report, and so that tests can judge recorded hosts.

use serde::{Deserialize, Serialize};

use crate::bpf::{Tier, preemption::Preemption};

/// Everything on which the verdicts are based.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct Facts {
    /// The kernel.
    pub(crate) kernel: KernelFacts,
    /// The privileges and namespaces of this process.
    pub(crate) process: ProcessFacts,
    /// The kernel's type information.
    pub(crate) btf: BtfFacts,
    /// `/sys/kernel/security/lockdown`: none, integrity or confidentiality; `None` if it cannot be read.
    pub(crate) lockdown: Option<String>,
    /// Where the cgroup2 hierarchy is mounted.
    pub(crate) cgroup2: Option<String>,
    /// The state directory.
    pub(crate) state: StateFacts,
    /// The tier that the configuration requires; `None` if the kernel decides.
    #[serde(default)]
    pub(crate) chosen_tier: Option<Tier>,
    /// How accepts are captured; `None` if no program was loaded.
    #[serde(default)]
    pub(crate) capture: Option<CaptureFacts>,
    /// Whether the kernel accepts each program of that tier; `None` if no program was loaded.
    pub(crate) programs: Option<ProgramFacts>,
    /// The result of the canary; `None` if there was none.
    pub(crate) canary: Option<Canary>,
    /// The destinations of records.
    pub(crate) endpoints: Vec<EndpointFacts>,
}

/// See [`Facts::kernel`].
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct KernelFacts {
    /// `uname -r`
    pub(crate) release: String,
    /// `uname -m`
    pub(crate) machine: String,
    /// The preemption model.
    #[serde(default)]
    pub(crate) preemption: Preemption,
}

/// See [`Facts::process`].
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct ProcessFacts {
    /// The effective user id.
    pub(crate) user_id: u32,
    /// `CapEff` of `/proc/self/status`, bit N for capability N.
    pub(crate) capabilities: u64,
    /// `Seccomp` of the same file: 0 is off, 2 is a filter.
    pub(crate) seccomp: u32,
    /// Whether the process is in the host's initial user namespace; `None` if that cannot be read.
    pub(crate) in_host_user_namespace: Option<bool>,
    /// Whether the process is in the host's initial pid namespace; `None` if that cannot be read.
    pub(crate) in_host_pid_namespace: Option<bool>,
    /// Whether `host.root` has a /proc of the host's pid namespace.
    #[serde(default)]
    pub(crate) sees_host_processes: bool,
    /// `kernel.yama.ptrace_scope`; `None` without Yama.
    #[serde(default)]
    pub(crate) ptrace_scope: Option<u8>,
}

/// See [`Facts::btf`].
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct BtfFacts {
    /// The file with the kernel's BTF.
    pub(crate) path: String,
    /// Why the file cannot be used; `None` if it can.
    pub(crate) error: Option<BtfError>,
    /// Whether there is BTF for VSOCK.
    #[serde(default)]
    pub(crate) vsock: VsockTypes,
}

/// See [`BtfFacts::vsock`].
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum VsockTypes {
    /// The kernel has no VSOCK, or its module is not loaded.
    #[default]
    NotLoaded,
    /// In the kernel's BTF, or in that of the module.
    Found,
    /// The module is loaded but has no BTF.
    Missing,
}

/// See [`BtfFacts::error`].
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum BtfError {
    /// The file does not exist.
    Missing,
    /// The file cannot be read or parsed, or lacks a type.
    Unusable(String),
}

/// See [`Facts::state`].
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct StateFacts {
    /// The directory.
    pub(crate) directory: String,
    /// Why the directory is not writable; `None` if it is.
    pub(crate) error: Option<String>,
}

/// See [`Facts::capture`].
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct CaptureFacts {
    /// The tier.
    pub(crate) tier: Tier,
    /// Why tier 1 is not used; `None` in tier 1, and if the configuration chose the tier.
    pub(crate) because: Option<String>,
}

/// See [`Facts::programs`].
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct ProgramFacts {
    /// Why no program could be tried, for instance because the kernel refused the maps.
    pub(crate) error: Option<String>,
    /// The trial of each program.
    pub(crate) trials: Vec<ProgramTrial>,
}

/// The attempt to load and attach one program.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct ProgramTrial {
    /// The name of the program.
    pub(crate) program: String,
    /// The feature that is missing without the program; `None` if acceptd cannot work without it.
    pub(crate) feature: Option<String>,
    /// Why the kernel refused the program; `None` if it is attached.
    pub(crate) error: Option<String>,
    /// The remedy, if it follows from the error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) remedy: Option<String>,
}

/// The result of the canary.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Canary {
    /// The programs saw the accept, and it was verified.
    Seen,
    /// The programs saw the accept, but not that its connection was established, so it is unverified.
    Unproven,
    /// These programs are attached but did not run. Empty if no sample came and the kernel does not count
    /// runs.
    Silent(Vec<String>),
    /// The canary's connection could not be made.
    Failed(String),
}

/// See [`Facts::endpoints`].
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct EndpointFacts {
    /// The destination's name.
    pub(crate) destination: String,
    /// Host and port.
    pub(crate) address: String,
    /// The first step that failed; `None` if the endpoint accepts records.
    pub(crate) error: Option<EndpointError>,
}

/// See [`EndpointFacts::error`].
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum EndpointError {
    /// The host name cannot be resolved.
    Name(String),
    /// The connection failed.
    Connect(String),
    /// The server does not accept log records.
    #[serde(alias = "grpc")]
    Otlp(String),
    /// The configuration of the destination cannot be used.
    Settings(String),
}
