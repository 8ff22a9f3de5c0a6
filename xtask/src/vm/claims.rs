//! Checks the reasons of tests/kernels.toml against the kernel's package, so that no scenario is skipped for
//! a reason that no longer holds.

use super::{
    kernel::PackageFacts,
    matrix::{Because, Kernel},
    version::numbers,
};

/// Why a reason is wrong for this kernel; `None` if it holds.
pub(super) fn refute(because: &Because, kernel: &Kernel, facts: &PackageFacts) -> Option<String> {
    match because {
        Because::Config(option) => facts.config.contains(option).then(|| format!("{option} is on")),
        Because::Module(module) => {
            facts.modules.contains(module).then(|| format!("the package has the module {module}"))
        }
        Because::OlderThan(version) => (numbers(&facts.release) >= numbers(version))
            .then(|| format!("{} is not older than {version}", facts.release)),
        Because::Arch(arch) => (*arch == kernel.arch).then(|| format!("this is {}", arch.name())),
    }
}

#[cfg(test)]
mod tests {
    use super::{PackageFacts, refute};
    use crate::vm::matrix::{Arch, Because, Kernel};

    #[test]
    fn a_claim_is_held_against_the_package() {
        let text = "arch = \"arm64\"\nseries = \"6.1\"";
        let kernel: Kernel = toml::from_str(text).unwrap();
        let facts = PackageFacts {
            release: "6.1.0-50-cloud-arm64".to_owned(),
            config: ["CONFIG_ON".to_owned()].into(),
            modules: ["sctp".to_owned()].into(),
        };
        let false_because = |because| refute(&because, &kernel, &facts);
        assert!(false_because(Because::Config("CONFIG_ON".to_owned())).is_some());
        assert!(false_because(Because::Config("CONFIG_OFF".to_owned())).is_none());
        assert!(false_because(Because::Module("sctp".to_owned())).is_some());
        assert!(false_because(Because::Module("nfsd".to_owned())).is_none());
        assert!(false_because(Because::OlderThan("5.19".to_owned())).is_some());
        assert!(false_because(Because::OlderThan("6.1".to_owned())).is_some());
        assert!(false_because(Because::OlderThan("6.4".to_owned())).is_none());
        assert!(false_because(Because::Arch(Arch::Arm64)).is_some());
        assert!(false_because(Because::Arch(Arch::X86_64)).is_none());
    }
}
