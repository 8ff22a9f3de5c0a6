//! Attaches the programs in modules. The kernel loads most modules when they are first used, so each survey
//! looks for them again.

use std::{fs, path::Path};

use acceptd_otlp::error_chain;
use aya::{Ebpf, maps::Array};

use super::{
    attach::{Link, attach_to_module},
    error::{LoadError, MissingFeature},
    hooks::{AttachPoint, Hook, MODULES, Module},
    offsets,
    settings::LoadSettings,
};

/// The modules whose programs are not attached yet.
pub(super) struct ModuleHooks {
    waiting: Vec<Waiting>,
}

struct Waiting {
    module: &'static Module,
    /// Whether the module is not built into the kernel.
    is_loadable: bool,
}

/// Whether a module is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    Absent,
    /// It is not there, unless it is built into the kernel.
    PerhapsBuiltIn,
    Present,
}

impl ModuleHooks {
    pub(super) fn new(settings: &LoadSettings) -> Self {
        let is_wanted = |module: &&Module| !module.hooks.iter().any(|hook| settings.skips(hook));
        let waiting = MODULES.iter().filter(is_wanted).map(|module| Waiting { module, is_loadable: false });
        Self { waiting: waiting.collect() }
    }

    /// Attaches the programs of each module that is there. Returns the first program of a module that the
    /// kernel refused; no program of that module is tried again. A refusal counts only where the module is
    /// known to be there.
    pub(super) fn attach(&mut self, object: &mut Ebpf, links: &mut Vec<(Hook, Link)>) -> Vec<MissingFeature> {
        let mut missing = Vec::new();
        self.waiting.retain_mut(|Waiting { module, is_loadable }| {
            let presence = presence(Path::new("/sys/module"), module);
            if presence == Presence::Absent || presence == Presence::PerhapsBuiltIn && *is_loadable {
                return true;
            }
            match attach_all(object, module) {
                Ok(attached) => links.extend(attached),
                Err((_, LoadError::NoFunction { .. })) if presence == Presence::PerhapsBuiltIn => {
                    *is_loadable = true;
                    return true;
                }
                // Perhaps the kernel does not have the module, so nothing is said to be missing.
                Err((_, error)) if presence == Presence::PerhapsBuiltIn => {
                    tracing::info!(
                        "without programs in {}, if it is built into the kernel: {error}",
                        module.name
                    );
                }
                Err((hook, error)) => {
                    let feature = hook.feature.unwrap_or(hook.program);
                    missing.push(MissingFeature::new(hook.program, feature, &error));
                }
            }
            false
        });
        missing
    }
}

/// Attaches all programs of a module, or none. Returns the program that the kernel refused.
fn attach_all(
    object: &mut Ebpf,
    module: &'static Module,
) -> Result<Vec<(Hook, Link)>, (&'static Hook, LoadError)> {
    let attach = |hook: &'static Hook| {
        attach_one(object, module, hook).map(|link| (*hook, link)).map_err(|error| (hook, error))
    };
    module.hooks.iter().map(attach).collect()
}

fn attach_one(object: &mut Ebpf, module: &Module, hook: &Hook) -> Result<Link, LoadError> {
    let AttachPoint::Module(point) = hook.point else { return Err(LoadError::Incomplete(hook.program)) };
    if module.name == "sctp" {
        set_endpoint_offset(object, module.name)?;
    }
    let program = object.program_mut(hook.program).ok_or(LoadError::Incomplete(hook.program))?;
    attach_to_module(program, hook.program, point)
}

fn set_endpoint_offset(object: &mut Ebpf, module: &str) -> Result<(), LoadError> {
    let offset = offsets::sctp_endpoint_sock(offsets::VMLINUX, module)?;
    let map = object.map_mut("SCTP_ENDPOINT_SOCK").ok_or(LoadError::Incomplete("map SCTP_ENDPOINT_SOCK"))?;
    let mut map: Array<_, u64> =
        Array::try_from(map).map_err(|_| LoadError::Incomplete("array SCTP_ENDPOINT_SOCK"))?;
    map.set(0, &offset, 0).map_err(|error| LoadError::Object(error_chain(&error)))
}

/// Whether the module is there, and ready. `modules` is the folder `/sys/module`, which also has the modules
/// with parameters that are built into the kernel. Once programs are attached, the module stays: SCTP has
/// sockets of its own, and the programs at tracepoints of VSOCK hold it.
fn presence(modules: &Path, module: &Module) -> Presence {
    // A built-in module has no such file.
    let state = |name: &str| fs::read_to_string(modules.join(name).join("initstate")).ok();
    let is_there = |name: &str| modules.join(name).exists();
    match state(module.name) {
        Some(state) if state.trim_end() == "live" => Presence::Present,
        None if is_there(module.name) => Presence::Present,
        None if is_there(module.base) && state(module.base).is_none() => Presence::PerhapsBuiltIn,
        _ => Presence::Absent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCTP: Module = Module { name: "sctp", base: "sctp", hooks: &[] };
    const VIRTIO: Module = Module { name: "virtio", base: "vsock", hooks: &[] };

    #[test]
    fn a_module_is_there_when_it_is_ready_or_built_in() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        assert_eq!(presence(folder.path(), &SCTP), Presence::Absent);
        let module = folder.path().join("sctp");
        fs::create_dir(&module).expect("an empty folder");
        assert_eq!(presence(folder.path(), &SCTP), Presence::Present, "built in");
        fs::write(module.join("initstate"), "coming\n").expect("a file");
        assert_eq!(presence(folder.path(), &SCTP), Presence::Absent);
        fs::write(module.join("initstate"), "live\n").expect("a file");
        assert_eq!(presence(folder.path(), &SCTP), Presence::Present);
    }

    #[test]
    fn a_module_may_be_built_in_where_its_base_is() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        assert_eq!(presence(folder.path(), &VIRTIO), Presence::Absent);
        let base = folder.path().join("vsock");
        fs::create_dir(&base).expect("an empty folder");
        assert_eq!(presence(folder.path(), &VIRTIO), Presence::PerhapsBuiltIn);
        fs::write(base.join("initstate"), "live\n").expect("a file");
        assert_eq!(presence(folder.path(), &VIRTIO), Presence::Absent);
    }
}
