//! Loads and attaches one eBPF program of any kind: BTF tracepoint, fentry, fexit, LSM hook, iterator, or one
//! in a module.

use std::{any::Any, fs, io::ErrorKind};

use acceptd_otlp::error_chain;
use aya::{
    Btf, BtfError, Ebpf,
    programs::{
        BtfTracePoint, FEntry, FExit, Iter, KProbe, Lsm, Program, ProgramError, RawTracePoint, TracePoint,
    },
};

use super::{
    error::LoadError,
    hooks::{AttachPoint, Hook, ModulePoint},
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
        AttachPoint::Module(point) => return attach_to_module(program, hook.program, point),
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

/// Loads a program and attaches it to a place in a module. It may be loaded already.
pub(super) fn attach_to_module(
    program: &mut Program,
    hook: &'static str,
    point: ModulePoint,
) -> Result<Link, LoadError> {
    let (attached, name) = match point {
        ModulePoint::Entry(function) => (attach_probe(program, function), function),
        ModulePoint::Return(functions) => first_there(functions, |function| attach_probe(program, function)),
        ModulePoint::Tracepoint(name) => {
            let attached = program.try_into().and_then(|program: &mut RawTracePoint| {
                unless_loaded(program.load())?;
                let link = program.attach(name)?;
                Ok(Box::new(program.take_link(link)?) as Link)
            });
            (attached, name)
        }
    };
    attached.map_err(|error| match &error {
        _ if is_absent(&error) => LoadError::NoFunction { hook, name: name.to_owned() },
        _ => load_error(hook, &error),
    })
}

/// Attaches to the first of `functions` that is there. Returns the name of the one that was tried last.
fn first_there(
    functions: &[&'static str],
    mut attach: impl FnMut(&'static str) -> Result<Link, ProgramError>,
) -> (Result<Link, ProgramError>, &'static str) {
    let mut last = (Err(ProgramError::NotLoaded), "");
    for function in functions {
        last = (attach(function), function);
        if !last.0.as_ref().is_err_and(is_absent) {
            break;
        }
    }
    last
}

/// Whether the kernel has no function or tracepoint with this name.
fn is_absent(error: &ProgramError) -> bool {
    matches!(error, ProgramError::SyscallError(call) if call.io_error.kind() == ErrorKind::NotFound)
}

/// Attaches to the entry of a function, or to its return if the program is one for returns.
fn attach_probe(program: &mut Program, function: &str) -> Result<Link, ProgramError> {
    let program: &mut KProbe = program.try_into()?;
    unless_loaded(program.load())?;
    let link = program.attach(function, 0)?;
    Ok(Box::new(program.take_link(link)?))
}

/// The result of a load, which is no error if the program is loaded already.
fn unless_loaded(result: Result<(), ProgramError>) -> Result<(), ProgramError> {
    match result {
        Err(ProgramError::AlreadyLoaded) => Ok(()),
        result => result,
    }
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
