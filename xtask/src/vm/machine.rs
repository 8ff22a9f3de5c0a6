//! Boots a machine in QEMU, with a serial line as its only device. KVM is not used, since not every host has
//! it.

use std::{
    fs::File,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result};
use xtask_support::command;

use super::matrix::Arch;

/// A machine that runs longer is stuck, and is killed.
const LIMIT_SECONDS: u32 = 9000;

/// The default kernel parameters: Debian's security modules, and BPF.
pub(super) const CMDLINE: &str = "lsm=landlock,lockdown,bpf";

/// Boots a machine, and waits until the guest powers itself off. The serial line is written to `log`.
pub(super) fn boot(arch: Arch, kernel: &Path, initrd: &Path, cmdline: &str, log: &Path) -> Result<()> {
    // `timeout` ends the machine even if xtask is killed.
    let mut qemu = Command::new("timeout");
    qemu.args(["--kill-after=10", &LIMIT_SECONDS.to_string()]);
    let console = match arch {
        Arch::X86_64 => {
            qemu.args(["qemu-system-x86_64", "-cpu", "max"]);
            "ttyS0"
        }
        Arch::Arm64 => {
            // pauth-impdef: QEMU's own algorithm for pointer authentication, which is much faster to emulate.
            qemu.args(["qemu-system-aarch64", "-M", "virt", "-cpu", "max,pauth-impdef=on"]);
            "ttyAMA0"
        }
    };
    // Not thread=multi: the kernel patches its text whenever a program is attached. With several threads, a
    // CPU may still execute the breakpoint of a patch that another CPU has just finished, and the kernel dies
    // ("Oops: int3", seen on 6.12).
    qemu.args(["-accel", "tcg,thread=single", "-m", "3G", "-smp", "2"]);
    qemu.args(["-nographic", "-no-reboot", "-nic", "none"]);
    qemu.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd);
    // loglevel=1: only messages of a dying kernel go to the console. A warning would interrupt a scenario's
    // line; the guest prints warnings at the end (dmesg).
    qemu.arg("-append").arg(format!("console={console} loglevel=1 panic=-1 {cmdline}"));
    let file = || File::create(log).with_context(|| format!("creating {}", log.display()));
    let output = file()?;
    qemu.stdin(Stdio::null())
        .stderr(output.try_clone().context("duplicating the log's descriptor")?)
        .stdout(output);
    command::run(qemu).with_context(|| format!("the machine did not power off; its log is {}", log.display()))
}
