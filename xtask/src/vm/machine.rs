//! One boot: QEMU without KVM, which not every host has, with nothing but a serial line.

use std::{
    fs::File,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result};

use super::matrix::Arch;
use crate::command;

/// A machine that is not done by then is stuck.
const LIMIT_SECONDS: u32 = 9000;

/// What every run boots with; `lsm=` as Debian has it, with BPF.
pub(super) const CMDLINE: &str = "lsm=landlock,lockdown,bpf";

/// Boots until the guest powers itself off, its serial line going to `log`.
pub(super) fn boot(arch: Arch, kernel: &Path, initrd: &Path, cmdline: &str, log: &Path) -> Result<()> {
    // `timeout`, so that no machine outlives us for long even when we are killed.
    let mut qemu = Command::new("timeout");
    qemu.args(["--kill-after=10", &LIMIT_SECONDS.to_string()]);
    let console = match arch {
        Arch::X86_64 => {
            qemu.args(["qemu-system-x86_64", "-cpu", "max"]);
            "ttyS0"
        }
        Arch::Arm64 => {
            // Pointer authentication by an algorithm of QEMU's own, which is much faster than the real one.
            qemu.args(["qemu-system-aarch64", "-M", "virt", "-cpu", "max,pauth-impdef=on"]);
            "ttyAMA0"
        }
    };
    // Not thread=multi: there a CPU may still run the breakpoint of a text patch that another has just finished, and the kernel,
    // which patches itself whenever a program is attached, dies of it ("Oops: int3", seen on 6.12).
    qemu.args(["-accel", "tcg,thread=single", "-m", "3G", "-smp", "2"]);
    qemu.args(["-nographic", "-no-reboot", "-nic", "none"]);
    qemu.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd);
    // Only what ends the machine goes to the console: a warning would cut a scenario's line, and is shown at the end.
    qemu.arg("-append").arg(format!("console={console} loglevel=1 panic=-1 {cmdline}"));
    let file = || File::create(log).with_context(|| format!("making {}", log.display()));
    let output = file()?;
    qemu.stdin(Stdio::null()).stderr(output.try_clone().context("the log twice")?).stdout(output);
    command::run(qemu).with_context(|| format!("the machine did not power off; its log is {}", log.display()))
}
