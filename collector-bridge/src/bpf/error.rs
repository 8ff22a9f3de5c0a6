//! Why the programs do not run, or not all of them.

use super::{hooks::Tier, offsets::OffsetError, pins};

/// Why the programs do not run.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The kernel's types do not fit.
    #[error(transparent)]
    Offsets(#[from] OffsetError),
    /// The object or its maps were refused.
    #[error("the kernel refused acceptd's maps: {0}; acceptd needs Linux 5.15 or later")]
    Object(String),
    /// The kernel's own BTF could not be parsed.
    #[error("the kernel's type information cannot be parsed: {0}")]
    Btf(#[from] aya::BtfError),
    /// The kernel has no function or tracepoint of this name.
    #[error("the program {hook} has nothing to be attached to: this kernel has no {name}")]
    NoFunction {
        /// Name of the program.
        hook: &'static str,
        /// What it lacks.
        name: String,
    },
    /// A program of the BPF security module would be attached, and never run.
    #[error(
        "the program {hook} needs the BPF security module, which is not active: add bpf to lsm= of the kernel's command line"
    )]
    SecurityModule {
        /// Name of the program.
        hook: &'static str,
    },
    /// A program that this one does harm without is not there.
    #[error("the program {hook} needs {needed}, which is not attached")]
    Needs {
        /// Name of the program.
        hook: &'static str,
        /// Name of the other.
        needed: &'static str,
    },
    /// A program was refused, and what stands in for it, too.
    #[error("{0}; {1}")]
    Both(Box<LoadError>, Box<LoadError>),
    /// The configuration says not to attach it.
    #[error("the program {hook} is in capture.skip_hooks")]
    Skipped {
        /// Name of the program.
        hook: &'static str,
    },
    /// One program was refused.
    #[error("the kernel refused the program {hook}: {reason}")]
    Program {
        /// Name of the program.
        hook: &'static str,
        /// The error, with the verifier's last words if it had any.
        reason: String,
        /// The whole verifier log.
        verifier_log: String,
    },
    /// The object lacks a map or program that this agent expects.
    #[error("the eBPF object has no {0}: agent and programs are of different builds")]
    Incomplete(&'static str),
}

impl LoadError {
    /// The program that was refused, if it was one.
    #[must_use]
    pub fn hook(&self) -> Option<&'static str> {
        match self {
            Self::NoFunction { hook, .. }
            | Self::SecurityModule { hook }
            | Self::Needs { hook, .. }
            | Self::Skipped { hook }
            | Self::Program { hook, .. } => Some(hook),
            Self::Both(_, second) => second.hook(),
            Self::Offsets(_) | Self::Object(_) | Self::Btf(_) | Self::Incomplete(_) => None,
        }
    }

    /// What to do, where it is known.
    #[must_use]
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Skipped { .. } => Some("remove it from capture.skip_hooks"),
            Self::Both(first, second) => first.remedy().or_else(|| second.remedy()),
            _ => None,
        }
    }
}

/// How accepts are captured on this kernel.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Capture {
    /// By which programs.
    pub tier: Tier,
    /// Why not in tier 1; absent in tier 1 and where the configuration chose.
    pub because: Option<String>,
    /// What this kernel refused and the agent does without.
    pub missing: Vec<Missing>,
}

/// A feature that this kernel does not allow.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Missing {
    /// The program's name.
    pub hook: &'static str,
    /// What is gone with it.
    pub feature: &'static str,
    /// Why.
    pub reason: String,
    /// What to do, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<&'static str>,
    /// Whether it concerns nothing but what was there before the start: no reason to call a running agent degraded.
    #[serde(skip)]
    pub at_start: bool,
}

/// What is gone, why, and what to do.
impl std::fmt::Display for Missing {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "without {}: {}", self.feature, self.reason)?;
        self.remedy.map_or(Ok(()), |remedy| write!(out, "; {remedy}"))
    }
}

impl Missing {
    pub(super) fn new(hook: &'static str, feature: &'static str, error: &LoadError) -> Self {
        Self { hook, feature, reason: error.to_string(), remedy: error.remedy(), at_start: false }
    }

    /// Connections do not outlive the agent.
    pub(super) fn pins(reason: String) -> Self {
        Self { hook: pins::NAME, feature: pins::FEATURE, reason, remedy: Some(pins::REMEDY), at_start: false }
    }
}
