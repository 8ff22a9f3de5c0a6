//! What docker-compose.yml says where it cannot work: the first lines name the cause.

use std::{
    net::{Ipv4Addr, TcpListener},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use super::compose::Up;

/// What is read before one looks elsewhere.
const LINES: usize = 8;

const CHECK: &[&str] = &["run", "--rm", "--no-deps", "-T", "check"];
const VICTORIALOGS: &[&str] = &["up", "--detach", "--no-build", "--no-deps", "victorialogs"];

/// Tried one after the other, before anything else runs; returns a line of what was seen.
pub(super) fn run(up: &Up<'_>) -> Result<String> {
    let without_privileges = "services: {check: {cap_add: !override []}}";
    says(up.compose_with(Some(&up.file(without_privileges)?), CHECK), &["lacks CAP_BPF and CAP_PERFMON"])?;
    // An empty folder in place of the kernel's.
    let without_btf = "services: {check: {tmpfs: [/sys/kernel/btf]}}";
    says(
        up.compose_with(Some(&up.file(without_btf)?), CHECK),
        &["there is no such file, so the kernel was built without CONFIG_DEBUG_INFO_BTF"],
    )?;
    let image = format!("{}-no-such-tag", up.environment.value("VICTORIALOGS_IMAGE")?);
    let mut with_another_tag = up.compose(VICTORIALOGS);
    with_another_tag.env("VICTORIALOGS_IMAGE", &image);
    says(with_another_tag, &[&image])?;
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port is free on 127.0.0.1")?;
    let port = taken.local_addr()?.port().to_string();
    let mut on_its_port = up.compose(VICTORIALOGS);
    on_its_port.env("VICTORIALOGS_PORT", &port);
    says(on_its_port, &[&format!("127.0.0.1:{port}"), "address already in use"])?;
    Ok("compose: no privileges, no BTF, a wrong tag and an occupied port are named in its first lines"
        .to_owned())
}

/// What Compose is doing, which a terminal shows in place of what it was doing before.
fn is_progress(line: &str) -> bool {
    let is_its_own = line.starts_with(' ') && !line.starts_with("  ");
    line.trim().is_empty() || (is_its_own && !line.contains(" Error "))
}

/// It fails, and one of its first lines has all of these words.
fn says(mut compose: Command, words: &[&str]) -> Result<()> {
    let output = compose.output().context("docker compose")?;
    let both = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&both);
    ensure!(!output.status.success(), "it does not fail, where it should say {words:?}:\n{said}");
    let mut first = said.lines().filter(|line| !is_progress(line)).take(LINES);
    let is_said = first.any(|line| words.iter().all(|word| line.contains(word)));
    ensure!(is_said, "{words:?} is not in the first lines of\n{said}");
    Ok(())
}
