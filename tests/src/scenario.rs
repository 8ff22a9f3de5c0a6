//! The type of a scenario, and the requirements that it has of its host.

use std::path::Path;

use crate::raw::{alg_socket, sctp_socket, smc_socket};

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
    /// SMC sockets.
    Smc,
    /// Sockets of the kernel's cryptography (`AF_ALG`).
    Alg,
    /// TUN network interfaces (`/dev/net/tun`).
    Tun,
    /// The program nginx.
    Nginx,
    /// The program redis-server.
    Redis,
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
            Self::Smc => (smc_socket().is_ok(), "the kernel has no SMC"),
            Self::Alg => (alg_socket().is_ok(), "the kernel has no AF_ALG"),
            Self::Tun => (Path::new("/dev/net/tun").exists(), "there is no /dev/net/tun"),
            Self::Nginx => (Path::new("/usr/sbin/nginx").exists(), "nginx is not installed"),
            Self::Redis => (Path::new("/usr/bin/redis-server").exists(), "redis-server is not installed"),
            Self::Guest => (false, "it changes system-wide state"),
            Self::OwnGuest => (false, "it needs a virtual machine with special boot settings"),
        };
        (!is_available).then_some(reason)
    }
}
