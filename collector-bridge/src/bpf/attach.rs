//! Loads and attaches one eBPF program of any kind: BTF tracepoint, fentry, fexit, LSM hook or iterator.

use std::{any::Any, fs, io::ErrorKind};

use acceptd_otlp::error_chain;
use aya::{
    Btf, BtfError, Ebpf,
    programs::{BtfTracePoint, FEntry, FExit, Iter, KProbe, Lsm, Program, ProgramError, TracePoint},
};

use super::{
    error::LoadError,
    hooks::{AttachPoint, Hook},
};

/// Keeps a program attached; dropping the link detaches the program.
pub(super) type Link = Box<dyn Any + Send>;

/// Loads the hook's program and attaches it.
///
/// # Errors
/// When the kernel refuses the program, with the kernel's reason and the verifier's log.
pub(super) fn attach(object: &mut Ebpf, hook: &Hook, btf: &Btf) -> Result<Link, LoadError> {
    let program = object.program_mut(hook.program).ok_or(LoadError::Incomplete(hook.program))?;
    let attached: Result<Link, ProgramError> = match hook.point {
        AttachPoint::Tracepoint(name) => program.try_into().and_then(|program: &mut BtfTracePoint| {
            program.load(name, btf)?;
            let link = program.attach()?;
            Ok(Box::new(program.take_link(link)?) as Link)
        }),
        AttachPoint::Perf(category, name) => program.try_into().and_then(|program: &mut TracePoint| {
            program.load()?;
            let link = program.attach(category, name)?;
            Ok(Box::new(program.take_link(link)?) as Link)
        }),
        AttachPoint::ModuleEntry { function, .. } => {
            return attach_probe(program, hook.program, function);
        }
        AttachPoint::Entry(function) => program.try_into().and_then(|program: &mut FEntry| {
            program.load(function, btf)?;
            let link = program.attach()?;
            Ok(Box::new(program.take_link(link)?) as Link)
        }),
        AttachPoint::Exit(function) => program.try_into().and_then(|program: &mut FExit| {
            program.load(function, btf)?;
            let link = program.attach()?;
            Ok(Box::new(program.take_link(link)?) as Link)
        }),
        AttachPoint::Security(name) => {
            // Without the module the kernel accepts the program but never runs it.
            if !is_security_module_active("bpf") {
                return Err(LoadError::SecurityModule { hook: hook.program });
            }
            program.try_into().and_then(|program: &mut Lsm| {
                program.load(name, btf)?;
                let link = program.attach()?;
                Ok(Box::new(program.take_link(link)?) as Link)
            })
        }
    };
    attached.map_err(|error| load_error(hook.program, &error))
}

/// Loads a program and attaches it to the entry of a function that has no type in the kernel's own BTF.
pub(super) fn attach_probe(
    program: &mut Program,
    hook: &'static str,
    function: &str,
) -> Result<Link, LoadError> {
    let attached = program.try_into().and_then(|program: &mut KProbe| {
        program.load()?;
        let link = program.attach(function, 0)?;
        Ok(Box::new(program.take_link(link)?) as Link)
    });
    attached.map_err(|error| match &error {
        ProgramError::SyscallError(call) if call.io_error.kind() == ErrorKind::NotFound => {
            LoadError::NoFunction { hook, name: function.to_owned() }
        }
        _ => load_error(hook, &error),
    })
}

/// Loads an iterator. Each pass attaches the loaded iterator again.
///
/// # Errors
/// When the kernel refuses the program.
pub(super) fn load_iterator(
    object: &mut Ebpf,
    name: &'static str,
    target: &'static str,
    btf: &Btf,
) -> Result<(), LoadError> {
    let program = iterator(object, name).ok_or(LoadError::Incomplete(name))?;
    program.load(target, btf).map_err(|error| load_error(name, &error))
}

/// The iterator named `name`, or `None` if the object has no such iterator.
pub(super) fn iterator<'a>(object: &'a mut Ebpf, name: &str) -> Option<&'a mut Iter> {
    object.program_mut(name)?.try_into().ok()
}

/// Whether a Linux security module is active. False when securityfs is not mounted, because the list cannot
/// be read.
fn is_security_module_active(name: &str) -> bool {
    let active = fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
    active.trim().split(',').any(|module| module == name)
}

fn load_error(hook: &'static str, error: &ProgramError) -> LoadError {
    if let ProgramError::Btf(BtfError::UnknownBtfTypeName { type_name }) = error {
        return LoadError::NoFunction { hook, name: type_name.clone() };
    }
    let ProgramError::LoadError { io_error, verifier_log } = error else {
        return LoadError::Program { hook, reason: error_chain(error), verifier_log: String::new() };
    };
    let verifier_log = verifier_log.to_string();
    // The verifier prints statistics after the line with the error.
    let is_statistics = |line: &str| {
        ["processed ", "stack depth ", "verification time ", "subprog "]
            .iter()
            .any(|prefix| line.starts_with(prefix))
    };
    let last_message = verifier_log.lines().rev().find(|line| !line.is_empty() && !is_statistics(line));
    let reason = match last_message {
        Some(message) => format!("{io_error} ({message})"),
        None => io_error.to_string(),
    };
    tracing::debug!("verifier log of the program {hook}:\n{verifier_log}");
    LoadError::Program { hook, reason, verifier_log }
}
