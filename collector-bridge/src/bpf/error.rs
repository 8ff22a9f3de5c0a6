//! Why the eBPF programs could not be loaded, and which features this kernel does not allow.

use super::{
    hooks::{self, Tier},
    offsets::OffsetError,
    pins,
};

/// Why the programs could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The kernel's types do not match what the programs read.
    #[error(transparent)]
    Offsets(#[from] OffsetError),
    /// The kernel refused the object or its maps.
    #[error("the kernel refused acceptd's maps: {0}; acceptd needs Linux 5.15 or later")]
    Object(String),
    /// The kernel's own BTF could not be parsed.
    #[error("the kernel's type information cannot be parsed: {0}")]
    Btf(#[from] aya::BtfError),
    /// The kernel has no function or tracepoint of this name.
    #[error("the program {hook} has nothing to attach to: this kernel has no {name}")]
    NoFunction {
        /// Name of the program.
        hook: &'static str,
        /// Name of the missing function or tracepoint.
        name: String,
    },
    /// The kernel accepts a program for the BPF security module, but never runs the program while that module
    /// is inactive.
    #[error(
        "the program {hook} needs the BPF security module, which is not active: add bpf to lsm= on the kernel's command line"
    )]
    SecurityModule {
        /// Name of the program.
        hook: &'static str,
    },
    /// The program records wrong data unless another program, which is not attached, runs beside it.
    #[error("the program {hook} needs {required}, which is not attached")]
    Requires {
        /// Name of the program.
        hook: &'static str,
        /// Name of the program that is not attached.
        required: &'static str,
    },
    /// The kernel refused a program and the program's fallback; or tier 1 and tier 2.
    #[error("{0}; {1}")]
    Both(Box<LoadError>, Box<LoadError>),
    /// The configuration says not to attach the program.
    #[error("the program {hook} is in capture.skip_hooks")]
    Skipped {
        /// Name of the program.
        hook: &'static str,
    },
    /// The kernel refused one program.
    #[error("the kernel refused the program {hook}: {reason}")]
    Program {
        /// Name of the program.
        hook: &'static str,
        /// The error, with the verifier's last message if there is one.
        reason: String,
        /// The whole verifier log; empty when the verifier did not run.
        verifier_log: String,
    },
    /// The object lacks a map or program that this agent expects.
    #[error("the eBPF object has no {0}: agent and programs are of different builds; rebuild acceptd")]
    Incomplete(&'static str),
}

impl LoadError {
    /// The name of the program that could not be attached; `None` if the error concerns no single program.
    #[must_use]
    pub fn hook(&self) -> Option<&'static str> {
        match self {
            Self::NoFunction { hook, .. }
            | Self::SecurityModule { hook }
            | Self::Requires { hook, .. }
            | Self::Skipped { hook }
            | Self::Program { hook, .. } => Some(hook),
            Self::Both(_, second) => second.hook(),
            Self::Offsets(_) | Self::Object(_) | Self::Btf(_) | Self::Incomplete(_) => None,
        }
    }

    /// The action for the operator; `None` where the message itself already names it, or none is known.
    #[must_use]
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Skipped { .. } => Some("remove it from capture.skip_hooks"),
            Self::Both(first, second) => first.remedy().or_else(|| second.remedy()),
            _ => None,
        }
    }
}

/// How accepts are captured on this kernel. Serialized into the status document.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct CaptureMode {
    /// The tier whose programs are attached.
    pub tier: Tier,
    /// Why tier 1 is not used; `None` in tier 1, and where the configuration chose the tier.
    pub because: Option<String>,
    /// The features that this kernel refused and that the agent works without.
    pub missing: Vec<MissingFeature>,
}

impl CaptureMode {
    /// Whether the programs count what the full queue of each TCP listener refuses.
    #[must_use]
    pub fn counts_overflows(&self) -> bool {
        hooks::counts_tcp_overflows(self.tier, self.missing.iter().map(|missing| missing.hook))
    }

    /// This mode, also without the features that the kernel refused since the start.
    #[must_use]
    pub fn without(mut self, refused_later: &[MissingFeature]) -> Self {
        self.missing.extend_from_slice(refused_later);
        self
    }
}

/// A feature that this kernel does not allow.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct MissingFeature {
    /// Name of the program that provides the feature.
    pub hook: &'static str,
    /// The feature.
    pub feature: &'static str,
    /// Why the feature is missing.
    pub reason: String,
    /// The action for the operator; `None` if no action is known to help.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<&'static str>,
    /// Whether the feature concerns only what existed before the start. Such a feature does not make a
    /// running agent degraded.
    #[serde(skip)]
    pub at_start: bool,
}

/// The missing feature, the reason and the remedy, in one line.
impl std::fmt::Display for MissingFeature {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "without {}: {}", self.feature, self.reason)?;
        self.remedy.map_or(Ok(()), |remedy| write!(out, "; {remedy}"))
    }
}

impl MissingFeature {
    pub(super) fn new(hook: &'static str, feature: &'static str, error: &LoadError) -> Self {
        Self { hook, feature, reason: error.to_string(), remedy: error.remedy(), at_start: false }
    }

    /// The maps of open connections could not be pinned.
    pub(super) fn pins(reason: String) -> Self {
        Self { hook: pins::NAME, feature: pins::FEATURE, reason, remedy: Some(pins::REMEDY), at_start: false }
    }
}
