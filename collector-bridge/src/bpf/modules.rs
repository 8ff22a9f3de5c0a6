//! Attaches the programs at functions of modules. The kernel loads most modules when they are first used, so
//! each survey looks for them again.

use std::{fs, path::Path};

use acceptd_otlp::error_chain;
use aya::{Ebpf, maps::Array};

use super::{
    attach::{Link, attach_probe},
    error::{LoadError, MissingFeature},
    hooks::{AttachPoint, Hook, MODULES},
    offsets,
    settings::LoadSettings,
};

/// The programs at functions of modules that are not attached yet.
pub(super) struct ModuleHooks {
    waiting: Vec<Hook>,
}

impl ModuleHooks {
    pub(super) fn new(settings: &LoadSettings) -> Self {
        Self { waiting: MODULES.iter().filter(|hook| !settings.skips(hook)).copied().collect() }
    }

    /// Attaches each program whose module is there. Returns those that the kernel refused; they are not tried
    /// again. A module that lacks the function has nothing to report.
    pub(super) fn attach(&mut self, object: &mut Ebpf, links: &mut Vec<(Hook, Link)>) -> Vec<MissingFeature> {
        let mut missing = Vec::new();
        self.waiting.retain(|hook| {
            let AttachPoint::ModuleEntry { module, function } = hook.point else { return false };
            if !is_loaded(Path::new("/sys/module"), module) {
                return true;
            }
            match attach_one(object, hook, module, function) {
                Ok(link) => links.push((*hook, link)),
                Err(LoadError::NoFunction { .. }) => {}
                Err(error) => {
                    let feature = hook.feature.unwrap_or(hook.program);
                    missing.push(MissingFeature::new(hook.program, feature, &error));
                }
            }
            false
        });
        missing
    }
}

fn attach_one(object: &mut Ebpf, hook: &Hook, module: &str, function: &str) -> Result<Link, LoadError> {
    let offset = offsets::sctp_endpoint_sock(offsets::VMLINUX, module)?;
    let map = object.map_mut("SCTP_ENDPOINT_SOCK").ok_or(LoadError::Incomplete("map SCTP_ENDPOINT_SOCK"))?;
    let mut map: Array<_, u64> =
        Array::try_from(map).map_err(|_| LoadError::Incomplete("array SCTP_ENDPOINT_SOCK"))?;
    map.set(0, &offset, 0).map_err(|error| LoadError::Object(error_chain(&error)))?;
    let program = object.program_mut(hook.program).ok_or(LoadError::Incomplete(hook.program))?;
    attach_probe(program, hook.program, function)
}

/// Whether the module `name` is there, and ready. `modules` is the folder `/sys/module`, which also has most
/// modules that are built into the kernel. SCTP is never unloaded: it has sockets of its own.
fn is_loaded(modules: &Path, name: &str) -> bool {
    let folder = modules.join(name);
    let state = fs::read_to_string(folder.join("initstate"));
    // A built-in module has no such file.
    folder.exists() && state.map_or(true, |state| state.trim_end() == "live")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_loaded_when_it_is_ready_or_built_in() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        assert!(!is_loaded(folder.path(), "sctp"));
        let module = folder.path().join("sctp");
        fs::create_dir(&module).expect("an empty folder");
        assert!(is_loaded(folder.path(), "sctp"), "built in");
        fs::write(module.join("initstate"), "coming\n").expect("a file");
        assert!(!is_loaded(folder.path(), "sctp"));
        fs::write(module.join("initstate"), "live\n").expect("a file");
        assert!(is_loaded(folder.path(), "sctp"));
    }
}
