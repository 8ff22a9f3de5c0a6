//! Loads the programs with the kernel's offsets frozen into them, and attaches them.

use std::{
    error::Error,
    fs,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
};

use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{PerCpuArray, RingBuf},
    programs::{BtfTracePoint, ProgramError, tp_btf::BtfTracePointLinkId},
};

use super::{
    counters::Counters,
    offsets::{OffsetError, Value},
};

/// The programs, each under the name of the tracepoint that it is attached to. The order is free: an accept of a
/// connection that was not remembered yet is sent unverified.
const HOOKS: [&str; 2] = ["inet_sock_set_state", "sys_exit"];

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("ACCEPTD_EBPF_OBJECT"));

/// Why the programs do not run.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The kernel's types do not fit.
    #[error(transparent)]
    Offsets(#[from] OffsetError),
    /// The object or its maps were refused.
    #[error(
        "the kernel refused acceptd's maps: {0}; acceptd needs root, or CAP_BPF and CAP_PERFMON, and Linux 5.15 or later"
    )]
    Object(String),
    /// The kernel's own BTF could not be parsed.
    #[error("the kernel's type information cannot be parsed: {0}")]
    Btf(#[from] aya::BtfError),
    /// One program was refused.
    #[error(
        "the kernel refused the program on tracepoint {hook}: {reason}; acceptd needs root, or CAP_BPF and CAP_PERFMON"
    )]
    Program {
        /// Name of the tracepoint.
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

/// What the agent decides about the programs before they are loaded.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Bytes of the ring buffer; a power of two and a multiple of the page size.
    pub ring_bytes: u32,
    /// Whether accepts of the agent's own are recorded.
    pub record_self: bool,
}

/// The loaded and attached programs. Dropping [`Programs::hooks`] detaches them.
pub struct Programs {
    /// Keeps the programs attached.
    pub hooks: Hooks,
    /// Samples.
    pub ring: RingBuf<aya::maps::MapData>,
    /// Counters; readable also after the programs are detached.
    pub counters: Counters,
}

/// The attached programs.
#[derive(Debug)]
pub struct Hooks {
    object: Ebpf,
    links: Vec<(&'static str, BtfTracePointLinkId)>,
}

impl Hooks {
    /// Detaches every program, and says how often the kernel did not run one because it ran on that CPU already
    /// (recursion protection): the only loss that no counter of ours can see. `None` when the kernel does not tell.
    /// A program that runs at this moment still finishes.
    ///
    /// # Errors
    /// When the kernel refuses to detach one.
    pub fn detach(mut self) -> Result<Option<u64>, ProgramError> {
        let mut missed = Some(0);
        for (hook, link) in self.links {
            if let Some(program) = self.object.program_mut(hook) {
                let program: &mut BtfTracePoint = program.try_into()?;
                program.detach(link)?;
                let of_this_hook = recursion_misses(program.fd()?.as_fd());
                missed = missed.zip(of_this_hook).map(|(sum, misses): (u64, u64)| sum + misses);
            }
        }
        Ok(missed)
    }
}

/// `recursion_misses` of a program (`bpf_prog_show_fdinfo`, `kernel/bpf/syscall.c`).
fn recursion_misses(program: BorrowedFd<'_>) -> Option<u64> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_raw_fd())).ok()?;
    info.lines().find_map(|line| line.strip_prefix("recursion_misses:"))?.trim().parse().ok()
}

/// Loads and attaches every program.
///
/// # Errors
/// See [`LoadError`]; nothing stays attached.
pub fn load(settings: &Settings, offsets: &[Value]) -> Result<Programs, LoadError> {
    let agent = u64::from(std::process::id());
    let record_self = u64::from(settings.record_self);
    let mut loader = EbpfLoader::new();
    for (global, value) in offsets {
        loader.override_global(global, value, true);
    }
    loader
        .override_global("AGENT_TGID", &agent, true)
        .override_global("RECORD_SELF", &record_self, true)
        .map_max_entries("EVENTS", settings.ring_bytes);
    let mut object = loader.load(OBJECT).map_err(|error| LoadError::Object(causes(&error)))?;

    let ring = object.take_map("EVENTS").ok_or(LoadError::Incomplete("map EVENTS"))?;
    let counters = object.take_map("COUNTERS").ok_or(LoadError::Incomplete("map COUNTERS"))?;
    let ring = RingBuf::try_from(ring).map_err(|_| LoadError::Incomplete("ring buffer EVENTS"))?;
    let counters =
        PerCpuArray::try_from(counters).map_err(|_| LoadError::Incomplete("per-CPU array COUNTERS"))?;

    let btf = Btf::from_sys_fs()?;
    let mut links = Vec::with_capacity(HOOKS.len());
    for hook in HOOKS {
        links.push((hook, attach(&mut object, hook, &btf)?));
    }
    Ok(Programs { hooks: Hooks { object, links }, ring, counters: Counters::new(counters) })
}

fn attach(object: &mut Ebpf, hook: &'static str, btf: &Btf) -> Result<BtfTracePointLinkId, LoadError> {
    let program: &mut BtfTracePoint = object
        .program_mut(hook)
        .ok_or(LoadError::Incomplete(hook))?
        .try_into()
        .map_err(|_| LoadError::Incomplete(hook))?;
    program.load(hook, btf).and_then(|()| program.attach()).map_err(|error| refused(hook, &error))
}

/// The error and its causes, each once: aya's messages repeat those of their sources.
fn causes(mut error: &dyn Error) -> String {
    let mut said = error.to_string();
    while let Some(cause) = error.source() {
        let text = cause.to_string();
        if !said.contains(&text) {
            said.push_str(": ");
            said.push_str(&text);
        }
        error = cause;
    }
    said
}

fn refused(hook: &'static str, error: &ProgramError) -> LoadError {
    let ProgramError::LoadError { io_error, verifier_log } = error else {
        return LoadError::Program { hook, reason: causes(error), verifier_log: String::new() };
    };
    let verifier_log = verifier_log.to_string();
    let last_words =
        verifier_log.lines().rev().find(|line| !line.is_empty() && !line.starts_with("processed "));
    let reason = match last_words {
        Some(words) => format!("{io_error} ({words})"),
        None => io_error.to_string(),
    };
    LoadError::Program { hook, reason, verifier_log }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_each_of_its_causes_once() {
        let denied = std::io::Error::from_raw_os_error(1);
        let error = aya::EbpfError::from(aya::maps::MapError::CreateError {
            name: "PENDING".to_owned(),
            io_error: denied,
        });
        let said = causes(&error);
        assert_eq!(said.matches("PENDING").count(), 1, "{said}");
        assert!(said.ends_with("Operation not permitted (os error 1)"), "{said}");
    }
}
