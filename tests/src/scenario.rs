//! The type of a scenario, and the requirements that it has of its host.

use std::path::Path;

use crate::raw::sctp_socket;

/// One scenario. Each starts agents of its own and needs root.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// `module::function`, as runners, tests/kernels.toml and docs/kernels.md call it.
    pub name: &'static str,
    /// The test itself. It panics when the agent reports something wrong.
    pub run: fn(),
    /// Requirements that a host may lack.
    pub needs: &'static [Need],
    /// Whether no other scenario may run at the same time.
    pub alone: bool,
}

/// Something that a scenario needs and a host may lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// VSOCK's loopback transport (the module `vsock_loopback`).
    VsockLoopback,
    /// SCTP sockets.
    Sctp,
    /// TUN network interfaces (`/dev/net/tun`).
    Tun,
    /// A disposable virtual machine, because the scenario changes system-wide state.
    Guest,
    /// A virtual machine booted with special settings, for this scenario only.
    OwnGuest,
}

impl Need {
    /// Why this host cannot run the scenario; `None` if it can. Used for native runs only: for virtual
    /// machines, tests/kernels.toml lists what does not apply.
    #[must_use]
    pub fn missing_on_this_host(self) -> Option<&'static str> {
        let (is_available, reason) = match self {
            Self::VsockLoopback => {
                (Path::new("/sys/module/vsock_loopback").exists(), "the module vsock_loopback is not loaded")
            }
            Self::Sctp => (sctp_socket().is_ok(), "the kernel has no SCTP"),
            Self::Tun => (Path::new("/dev/net/tun").exists(), "there is no /dev/net/tun"),
            Self::Guest => (false, "it changes system-wide state"),
            Self::OwnGuest => (false, "it needs a virtual machine with special boot settings"),
        };
        (!is_available).then_some(reason)
    }
}
