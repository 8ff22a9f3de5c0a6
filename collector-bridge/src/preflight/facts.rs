//! What was found, without judging it. Serialisable, so that a report can be attached to an issue, and so that the
//! verdicts on hosts that are not here can be tested.

use serde::{Deserialize, Serialize};

use crate::bpf::Tier;

/// Everything that the verdicts are made of.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Facts {
    /// The kernel.
    pub kernel: Kernel,
    /// What this process may do, and where it is.
    pub process: Process,
    /// The kernel's type information.
    pub btf: Btf,
    /// `/sys/kernel/security/lockdown`: none, integrity or confidentiality; absent when it cannot be read.
    pub lockdown: Option<String>,
    /// Where cgroups of version 2 are mounted.
    pub cgroup2: Option<String>,
    /// The folder of small files.
    pub state: State,
    /// The tier that the configuration asks for, if it leaves no choice.
    #[serde(default)]
    pub chosen_tier: Option<Tier>,
    /// How accepts would be captured; absent when nothing was tried.
    #[serde(default)]
    pub capture: Option<Capture>,
    /// Each program of that tier, as the kernel took it; absent when it was not tried.
    pub programs: Option<Programs>,
    /// An accept of our own; absent when it was not tried.
    pub canary: Option<Canary>,
    /// The destinations of records.
    pub endpoints: Vec<Endpoint>,
}

/// See [`Facts::kernel`].
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Kernel {
    /// `uname -r`
    pub release: String,
    /// `uname -m`
    pub machine: String,
}

/// See [`Facts::process`].
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Process {
    /// Effective user.
    pub user_id: u32,
    /// `CapEff` of `/proc/self/status`, bit N for capability N.
    pub capabilities: u64,
    /// `Seccomp` of the same file: 0 is off, 2 a filter.
    pub seccomp: u32,
    /// Whether the user namespace is the host's first; absent when that cannot be told.
    pub in_host_user_namespace: Option<bool>,
    /// Whether the pid namespace is.
    pub in_host_pid_namespace: Option<bool>,
    /// Whether the host's processes can be looked up in spite of that, under `host.root`.
    #[serde(default)]
    pub sees_host_processes: bool,
    /// `kernel.yama.ptrace_scope`; absent without Yama.
    #[serde(default)]
    pub ptrace_scope: Option<u8>,
}

/// See [`Facts::btf`].
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Btf {
    /// The file.
    pub path: String,
    /// Why it cannot be used, if it cannot.
    pub error: Option<BtfError>,
    /// Where VSOCK's types are.
    #[serde(default)]
    pub vsock: VsockTypes,
}

/// See [`Btf::vsock`].
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum VsockTypes {
    /// The kernel has no VSOCK, or its module is not loaded.
    #[default]
    NotLoaded,
    /// With the kernel's own, or the module's.
    Found,
    /// The module is loaded, and has none.
    Missing,
}

/// See [`Btf::error`].
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum BtfError {
    /// There is no such file.
    Missing,
    /// It cannot be read, or parsed, or lacks a type.
    Unusable(String),
}

/// See [`Facts::state`].
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct State {
    /// The folder.
    pub directory: String,
    /// Why nothing can be written there, if nothing can.
    pub error: Option<String>,
}

/// See [`Facts::capture`].
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Capture {
    /// The tier.
    pub tier: Tier,
    /// Why it is not tier 1, if the kernel decided that.
    pub because: Option<String>,
}

/// See [`Facts::programs`].
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Programs {
    /// Why not even the maps could be made.
    pub error: Option<String>,
    /// Each program.
    pub trials: Vec<Trial>,
}

/// One program that was loaded and attached, or was to be.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Trial {
    /// Its name, which is that of its tracepoint or iterator.
    pub program: String,
    /// What is gone without it; absent for one that is indispensable.
    pub feature: Option<String>,
    /// Why the kernel refused it.
    pub error: Option<String>,
    /// What to do about that, where the cause says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// What became of an accept of our own.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Canary {
    /// It was seen, and proven to be the connection that it was.
    Seen,
    /// It was seen, but not when it was established.
    Unproven,
    /// These programs are attached, and did not run; none are named when the kernel does not tell which.
    Silent(Vec<String>),
    /// It could not be made.
    Failed(String),
}

/// See [`Facts::endpoints`].
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Endpoint {
    /// The destination's name.
    pub destination: String,
    /// Host and port.
    pub address: String,
    /// Why it does not answer, if it does not.
    pub error: Option<EndpointError>,
}

/// The first step that failed.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum EndpointError {
    /// The name has no address.
    Name(String),
    /// Nobody answers at the address.
    Connect(String),
    /// What answers does not take log records.
    #[serde(alias = "grpc")]
    Otlp(String),
    /// What is configured cannot be used.
    Settings(String),
}
