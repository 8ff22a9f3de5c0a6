//! Kernel settings with which acceptd cannot work fully. `cargo xtask vm` boots a machine for each
//! (tests/kernels.toml).

use std::{
    fs,
    io::ErrorKind,
    net::{TcpListener, TcpStream},
    process::Command,
};

use acceptd::bpf::Tier;
use rustix::net::accept;

use crate::{
    agent::{Agent, binary},
    check,
    ground_truth::GroundTruth,
};

/// With `lockdown=confidentiality`, under which no BPF program may read kernel memory, check and run both
/// fail, naming the cause and `lockdown=integrity`.
pub(super) fn lockdown() {
    let mode = fs::read_to_string("/sys/kernel/security/lockdown").expect("securityfs is mounted");
    assert!(
        mode.contains("[confidentiality]"),
        "the machine must be booted with lockdown=confidentiality: {mode}"
    );
    let (code, report) = check::run(check::command());
    let findings = check::not_ok(&report);
    assert_eq!((code, findings[0][0], findings[0][1]), (Some(1), "lockdown", "failed"), "{report}");
    assert!(findings[0][3].contains("lockdown=integrity"), "{report}");
    assert_eq!(
        findings[1][..2],
        ["programs", "skipped"],
        "a consequence is skipped, not reported as a second failure"
    );
    let run = Command::new(binary("acceptd"))
        .env_clear()
        .args(["run", "--config", "/dev/null", "--endpoint", "127.0.0.1:9", "--set", "state.directory=/tmp"])
        .output()
        .expect("acceptd starts");
    let stderr = String::from_utf8_lossy(&run.stderr);
    assert!(!run.status.success(), "{stderr}");
    assert!(stderr.contains("confidentiality") && stderr.contains("lockdown=integrity"), "{stderr}");
}

/// With `kernel.ftrace_enabled=0` programs attach but never run. With tier 1 configured, check's canary fails
/// and names the silent programs; with `capture.tier=auto`, check and run take tier 2, give the reason, and
/// record correctly. Newer kernels refuse the setting (ENOTSUPP) or the programs.
pub(super) fn ftrace_switched_off() {
    const SETTING: &str = "/proc/sys/kernel/ftrace_enabled";
    match fs::write(SETTING, "0") {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            panic!("this kernel does not support the setting")
        }
        Err(error) => panic!("{SETTING}: {error}"),
    }
    let with = |tier: &str| {
        let mut command = check::command();
        command.args(["--set", &format!("capture.tier={tier}")]);
        check::run(command)
    };
    let (code, chosen) = with("1");
    let canary = check::not_ok(&chosen);
    assert_eq!((code, canary.len()), (Some(1), 1), "{chosen}");
    assert_eq!(canary[0][..2], ["canary", "failed"], "{chosen}");
    let [_, _, because, remedy] = canary[0];
    assert!(because.contains("do_accept_exit") && because.contains("sock_graft"), "{chosen}");
    assert!(!because.contains("inet_sock_set_state"), "the tracepoints still run: {chosen}");
    assert!(remedy.contains(SETTING), "{chosen}");

    let (code, auto) = with("auto");
    let tier = check::not_ok(&auto);
    assert_eq!((code, tier.len(), tier[0][0]), (Some(2), 1, "tier"), "{auto}");
    assert!(tier[0][2].contains("do_accept_exit") && tier[0][2].contains(SETTING), "{auto}");
    assert_eq!(auto["facts"]["capture"]["tier"], 2, "{auto}");
    assert_eq!(auto["facts"]["canary"], "seen", "{auto}");

    let agent = Agent::with_flags(&["--set", "capture.tier=auto"]);
    let stderr = agent.stderr();
    assert!(stderr.contains("do_accept_exit") && stderr.contains(SETTING), "{stderr}");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let _client = TcpStream::connect(("127.0.0.1", port)).expect("the listener is up");
    let accepted = accept(&listener).expect("a connection");
    let record = agent.inbox.wait_for_accepts(port, 1).remove(0);
    assert_eq!(record.tier(), Tier::Two, "{record:?}");
    super::support::assert_matches_truth(&record, &GroundTruth::from_sockets(&accepted, &listener));
    let _ = agent.stop();
}
