//! Loading and attaching one program, whatever it is attached to.

use std::{any::Any, fs};

use acceptd_otlp::causes::causes;
use aya::{
    Btf, BtfError, Ebpf,
    programs::{BtfTracePoint, FEntry, FExit, Iter, Lsm, ProgramError},
};

use super::{
    error::LoadError,
    hooks::{Hook, Point},
};

/// Keeps a program attached until it is dropped.
pub(super) type Link = Box<dyn Any + Send>;

/// Loads the hook's program and attaches it.
///
/// # Errors
/// When the kernel refuses, with its reason.
pub(super) fn attach(object: &mut Ebpf, hook: &Hook, btf: &Btf) -> Result<Link, LoadError> {
    let program = object.program_mut(hook.program).ok_or(LoadError::Incomplete(hook.program))?;
    let attached: Result<Link, ProgramError> = match hook.point {
        Point::Tracepoint(name) => program.try_into().and_then(|program: &mut BtfTracePoint| {
            program.load(name, btf)?;
            let link = program.attach()?;
            Ok(Box::new(program.take_link(link)?) as Link)
        }),
        Point::Entry(function) => program.try_into().and_then(|program: &mut FEntry| {
            program.load(function, btf)?;
            let link = program.attach()?;
            Ok(Box::new(program.take_link(link)?) as Link)
        }),
        Point::Exit(function) => program.try_into().and_then(|program: &mut FExit| {
            program.load(function, btf)?;
            let link = program.attach()?;
            Ok(Box::new(program.take_link(link)?) as Link)
        }),
        Point::Security(name) => {
            // The kernel would take it, and never run it.
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
    attached.map_err(|error| refused(hook.program, &error))
}

/// Loads an iterator, which is attached anew for each pass.
///
/// # Errors
/// When the kernel refuses.
pub(super) fn load_iterator(
    object: &mut Ebpf,
    name: &'static str,
    target: &'static str,
    btf: &Btf,
) -> Result<(), LoadError> {
    let program = iterator(object, name).ok_or(LoadError::Incomplete(name))?;
    program.load(target, btf).map_err(|error| refused(name, &error))
}

pub(super) fn iterator<'a>(object: &'a mut Ebpf, name: &str) -> Option<&'a mut Iter> {
    object.program_mut(name)?.try_into().ok()
}

/// Whether a security module is among the active ones; it is taken for one that is not when securityfs is not mounted.
fn is_security_module_active(name: &str) -> bool {
    let active = fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
    active.trim().split(',').any(|module| module == name)
}

fn refused(hook: &'static str, error: &ProgramError) -> LoadError {
    if let ProgramError::Btf(BtfError::UnknownBtfTypeName { type_name }) = error {
        return LoadError::NoFunction { hook, name: type_name.clone() };
    }
    let ProgramError::LoadError { io_error, verifier_log } = error else {
        return LoadError::Program { hook, reason: causes(error), verifier_log: String::new() };
    };
    let verifier_log = verifier_log.to_string();
    // Behind what is wrong the verifier says what it took to see that.
    let is_epilogue = |line: &str| {
        ["processed ", "stack depth ", "verification time ", "subprog "]
            .iter()
            .any(|begin| line.starts_with(begin))
    };
    let last_words = verifier_log.lines().rev().find(|line| !line.is_empty() && !is_epilogue(line));
    let reason = match last_words {
        Some(words) => format!("{io_error} ({words})"),
        None => io_error.to_string(),
    };
    tracing::debug!("the verifier on {hook}:\n{verifier_log}");
    LoadError::Program { hook, reason, verifier_log }
}
