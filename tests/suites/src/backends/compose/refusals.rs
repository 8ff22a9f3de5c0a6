//! Runs docker-compose.yml under conditions in which it cannot work, and checks that the first lines of the
//! output name the cause.

use std::{
    net::{Ipv4Addr, TcpListener},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use super::project::Project;

/// How many lines of the output a user is expected to read.
const FIRST_LINES: usize = 8;

const CHECK: &[&str] = &["run", "--rm", "--no-deps", "-T", "check"];
const VICTORIALOGS: &[&str] = &["up", "--detach", "--no-build", "--no-deps", "victorialogs"];

/// Tries each condition; no service may run yet. Returns a line to report.
pub(super) fn run(project: &Project<'_>) -> Result<String> {
    let without_privileges = "services: {check: {cap_add: !override []}}";
    check_refusal(
        project.compose_with(Some(&project.write_file(without_privileges)?), CHECK),
        &["lacks CAP_BPF and CAP_PERFMON"],
    )?;
    // An empty file system is mounted over the kernel's BTF.
    let without_btf = "services: {check: {tmpfs: [/sys/kernel/btf]}}";
    check_refusal(
        project.compose_with(Some(&project.write_file(without_btf)?), CHECK),
        &["the file does not exist: the kernel was built without CONFIG_DEBUG_INFO_BTF"],
    )?;
    let image = format!("{}-no-such-tag", project.environment.value("VICTORIALOGS_IMAGE")?);
    let mut with_another_tag = project.compose(VICTORIALOGS);
    with_another_tag.env("VICTORIALOGS_IMAGE", &image);
    check_refusal(with_another_tag, &[&image])?;
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port is free on 127.0.0.1")?;
    let port = taken.local_addr()?.port().to_string();
    let mut on_taken_port = project.compose(VICTORIALOGS);
    on_taken_port.env("VICTORIALOGS_PORT", &port);
    check_refusal(on_taken_port, &[&format!("127.0.0.1:{port}"), "address already in use"])?;
    Ok("compose: no privileges, no BTF, a wrong tag and an occupied port are named in its first lines"
        .to_owned())
}

/// Whether a line is empty or progress of Compose, which a terminal would overwrite.
fn is_progress(line: &str) -> bool {
    let is_indented_once = line.starts_with(' ') && !line.starts_with("  ");
    line.trim().is_empty() || (is_indented_once && !line.contains(" Error "))
}

/// Checks that a command fails, and that one of its first lines has all of these words.
fn check_refusal(mut compose: Command, words: &[&str]) -> Result<()> {
    let output = compose.output().context("docker compose")?;
    let bytes = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&bytes);
    ensure!(
        !output.status.success(),
        "the command succeeded, and should have failed with {words:?}:\n{text}"
    );
    let mut first = text.lines().filter(|line| !is_progress(line)).take(FIRST_LINES);
    let is_named = first.any(|line| words.iter().all(|word| line.contains(word)));
    ensure!(is_named, "{words:?} is not in the first lines of\n{text}");
    Ok(())
}
