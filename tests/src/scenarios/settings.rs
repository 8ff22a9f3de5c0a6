//! Machines on which a part of acceptd cannot work: `cargo xtask vm` boots one for each, as tests/kernels.toml says.

use std::{
    fs,
    io::ErrorKind,
    net::{TcpListener, TcpStream},
    process::Command,
};

use acceptd::bpf::Tier;
use rustix::net::accept;

use super::check::{check, report, wrong};
use crate::{
    agent::{Agent, binary},
    truth::Truth,
};

/// `lockdown=confidentiality`: no program may read the kernel's memory.
pub(super) fn lockdown() {
    let mode = fs::read_to_string("/sys/kernel/security/lockdown").expect("securityfs is mounted");
    assert!(mode.contains("[confidentiality]"), "the machine was booted for this: {mode}");
    let (code, report) = report(check());
    let wrong = wrong(&report);
    assert_eq!((code, wrong[0][0], wrong[0][1]), (Some(1), "lockdown", "failed"), "{report}");
    assert!(wrong[0][3].contains("lockdown=integrity"), "{report}");
    assert_eq!(wrong[1][..2], ["programs", "skipped"], "what follows from it is not called another fault");
    let run = Command::new(binary("acceptd"))
        .env_clear()
        .args(["run", "--config", "/dev/null", "--endpoint", "127.0.0.1:9", "--set", "state.directory=/tmp"])
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(!run.status.success(), "{said}");
    assert!(said.contains("confidentiality") && said.contains("lockdown=integrity"), "{said}");
}

/// A kernel that allows it attaches what then does not run. With a tier of its choice acceptd takes tier 2, and says why; with
/// tier 1 it names what is silent. Newer kernels refuse the setting (ENOTSUPP) or the programs.
pub(super) fn ftrace_switched_off() {
    const SETTING: &str = "/proc/sys/kernel/ftrace_enabled";
    match fs::write(SETTING, "0") {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::Unsupported => panic!("this kernel does not allow it"),
        Err(error) => panic!("{SETTING}: {error}"),
    }
    let with = |tier: &str| {
        let mut command = check();
        command.args(["--set", &format!("capture.tier={tier}")]);
        report(command)
    };
    let (code, chosen) = with("1");
    let canary = wrong(&chosen);
    assert_eq!((code, canary.len()), (Some(1), 1), "{chosen}");
    assert_eq!(canary[0][..2], ["canary", "failed"], "{chosen}");
    let [_, _, because, remedy] = canary[0];
    assert!(because.contains("do_accept_exit") && because.contains("sock_graft"), "{chosen}");
    assert!(!because.contains("inet_sock_set_state"), "the tracepoints still run: {chosen}");
    assert!(remedy.contains(SETTING), "{chosen}");

    let (code, auto) = with("auto");
    let tier = wrong(&auto);
    assert_eq!((code, tier.len(), tier[0][0]), (Some(2), 1, "tier"), "{auto}");
    assert!(tier[0][2].contains("do_accept_exit") && tier[0][2].contains(SETTING), "{auto}");
    assert_eq!(auto["facts"]["capture"]["tier"], 2, "{auto}");
    assert_eq!(auto["facts"]["canary"], "seen", "{auto}");

    let agent = Agent::with(&["--set", "capture.tier=auto"]);
    let said = agent.said();
    assert!(said.contains("do_accept_exit") && said.contains(SETTING), "{said}");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let _client = TcpStream::connect(("127.0.0.1", port)).expect("somebody listens");
    let accepted = accept(&listener).expect("a connection");
    let record = agent.inbox.of_port(port, 1).remove(0);
    assert_eq!(record.tier(), Tier::Two, "{record:?}");
    super::assert_tells(&record, &Truth::of(&accepted, &listener));
    let _ = agent.stop();
}
