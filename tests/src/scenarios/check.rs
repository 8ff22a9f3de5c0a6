//! `acceptd check` where something is wrong: it names that one thing.

use std::{
    fs::{
        Permissions, {self},
    },
    net::TcpListener,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    process::Command,
};

use acceptd::bpf::{Tier, offsets::VMLINUX};
use serde_json::Value as Json;

use crate::agent::{Inbox, binary, tier, tier_setting};

/// Runs `command`, which ends with `acceptd check`'s own arguments; its exit code and report.
pub(super) fn report(mut command: Command) -> (Option<i32>, Json) {
    let output = command.args(["--output", "json", "--config", "/dev/null"]).output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let report = serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("{error}: {text}\n{}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code(), report)
}

/// Ids of the items that are not ok, each with its verdict, reason and remedy.
pub(super) fn wrong(report: &Json) -> Vec<[&str; 4]> {
    let items = report["items"].as_array().expect("items");
    items
        .iter()
        .filter(|item| item["verdict"] != "ok")
        .map(|item| ["id", "verdict", "because", "remedy"].map(|key| item[key].as_str().unwrap_or_default()))
        .collect()
}

pub(super) fn check() -> Command {
    let mut command = Command::new(binary("acceptd"));
    command.env_clear().args(["check", "--set", "state.directory=/tmp", "--set", &tier_setting()]);
    command
}

/// `acceptd check` behind `sh -c`, for what has to be arranged before.
fn check_after(prepare: &str, wrapper: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    let script = format!(
        "{prepare} exec {} check --set state.directory=/tmp --set {} \"$@\"",
        binary("acceptd").display(),
        tier_setting()
    );
    command.args(wrapper).args(["sh", "-c", &script, "sh"]);
    // The harness's own variables begin with ACCEPTD_, too; the shell needs its path.
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
}

pub(super) fn as_root_everything_is_ok() {
    let (code, report) = report(check());
    assert_eq!((code, wrong(&report)), (Some(0), vec![]), "{report}");
    assert_eq!(report["facts"]["canary"], "seen", "{report}");
}

/// Without a word of the configuration the kernel decides: tier 1 where it allows that, else tier 2 with the reason.
pub(super) fn the_kernel_chooses_the_tier() {
    let mut command = check();
    command.args(["--set", "capture.tier=auto"]);
    let (code, report) = report(command);
    let chosen = report["facts"]["capture"]["tier"].as_u64();
    if chosen == Some(1) {
        assert_eq!((code, wrong(&report)), (Some(0), vec![]), "{report}");
    } else {
        assert_eq!((tier(), chosen), (Tier::Two, Some(2)), "this kernel has tier 1: {report}");
        let wrong = wrong(&report);
        assert_eq!((code, wrong.len(), wrong[0][0]), (Some(2), 1, "tier"), "{report}");
        assert!(wrong[0][2].contains("do_accept_exit") && wrong[0][2].contains("system call"), "{report}");
    }
}

pub(super) fn as_nobody() {
    // A copy that everybody may run: the build's folder may be closed to others.
    let folder =
        tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir().expect("a folder");
    let copy = folder.path().join("acceptd");
    fs::copy(binary("acceptd"), &copy).expect("a copy");
    let mut command = Command::new(copy);
    // A change of the user by root drops the other groups, too.
    command.uid(65534).gid(65534);
    command.env_clear().args(["check", "--set", "state.directory=/tmp"]);
    let (code, report) = report(command);
    let wrong = wrong(&report);
    assert_eq!((code, wrong[0][0], wrong[0][1]), (Some(1), "privileges", "failed"), "{report}");
    assert!(wrong[0][3].contains("sudo") && wrong[0][3].contains("CAP_BPF"), "{report}");
}

/// A file that is no type information, mounted where the kernel has its own.
pub(super) fn with_another_btf() {
    let prepare = "head -c 1000 /sys/kernel/btf/vmlinux > /tmp/acceptd-cut-btf && mount --bind /tmp/acceptd-cut-btf /sys/kernel/btf/vmlinux &&";
    let (code, report) = report(check_after(prepare, &["--mount"]));
    let wrong = wrong(&report);
    assert_eq!((code, wrong[0][0], wrong[0][1]), (Some(1), "btf", "failed"), "{report}");
    assert!(wrong[0][2].contains("/sys/kernel/btf/vmlinux"), "{report}");
    assert_eq!(wrong[1][..2], ["programs", "skipped"], "what follows from it is not called another fault");
}

/// The kernel's type information with other names in it, each as long as the one that it replaces.
fn check_with_names(names: &[(&str, &str)]) -> (Option<i32>, Json) {
    let mut types = fs::read(VMLINUX).expect("the kernel has types");
    let begin = |bytes: &[u8], name: &str| {
        let whole = [b"\0", name.as_bytes(), b"\0"].concat();
        let at = bytes.windows(whole.len()).position(|window| window == whole);
        at.unwrap_or_else(|| panic!("there is no {name}")) + 1
    };
    let places: Vec<_> = names.iter().map(|(name, _)| begin(&types, name)).collect();
    for ((name, other), at) in names.iter().zip(places) {
        assert_eq!(name.len(), other.len());
        types[at..at + other.len()].copy_from_slice(other.as_bytes());
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("vmlinux");
    fs::write(&path, types).expect("there is room");
    report(check_after(&format!("mount --bind {} {VMLINUX} &&", path.display()), &["--mount"]))
}

/// What acceptd needs is not there.
pub(super) fn without_a_member_or_a_struct() {
    for (name, other, words) in [
        ("sk_max_ack_backlog", "Xk_max_ack_backlog", ["`sk_max_ack_backlog`", "`struct sock`"]),
        ("fdtable", "Xdtable", ["`fd`", "`struct fdtable`"]),
    ] {
        let (code, report) = check_with_names(&[(name, other)]);
        let wrong = wrong(&report);
        assert_eq!((code, wrong[0][0], wrong[0][1]), (Some(1), "btf", "failed"), "{report}");
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        assert!(words.iter().all(|word| wrong[0][2].contains(word)), "{report}");
        assert!(wrong[0][2].contains(&release), "{report}");
        assert_eq!(wrong[1][..2], ["programs", "skipped"], "{report}");
    }
}

/// Two members change their places: the offset of each is that of the other.
pub(super) fn with_a_wrong_offset() {
    let names = [("group_leader", "self_exec_id"), ("self_exec_id", "group_leader")];
    let (code, report) = check_with_names(&names);
    let wrong = wrong(&report);
    assert_eq!((code, wrong[0][0], wrong[0][1]), (Some(1), "btf", "failed"), "{report}");
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let words = [release.as_str(), "`group_leader`", "`struct task_struct`", "8 bytes", "a pointer"];
    assert!(words.iter().all(|word| wrong[0][2].contains(word)), "{report}");
}

/// Of a module that is loaded: its addresses are gone, and nothing else.
pub(super) fn without_the_types_of_vsock() {
    let prepare = "mkdir -p /tmp/acceptd-btf && cp /sys/kernel/btf/vmlinux /tmp/acceptd-btf && mount --bind /tmp/acceptd-btf /sys/kernel/btf &&";
    let (code, report) = report(check_after(prepare, &["--mount"]));
    let wrong = wrong(&report);
    assert_eq!((code, wrong.len(), wrong[0][0], wrong[0][1]), (Some(2), 1, "vsock", "degraded"), "{report}");
    assert!(wrong[0][2].contains("/sys/kernel/btf/vsock"), "{report}");
}

pub(super) fn with_the_endpoint_closed() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = free.local_addr().expect("an address").to_string();
    drop(free);
    let mut command = check();
    command.args(["--endpoint", &address]);
    let (code, report) = report(command);
    let wrong = wrong(&report);
    assert_eq!((code, wrong.len(), wrong[0][0]), (Some(2), 1, "endpoint"), "{report}");
    assert!(
        wrong[0][2].contains("Connection refused") && wrong[0][3].contains("acceptd receive"),
        "{report}"
    );
}

/// The one in `export` is answered by a receiver of ours.
pub(super) fn with_one_of_two_destinations_closed() {
    let [open, closed] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    let [good, bad] = [&open, &closed].map(|listener| listener.local_addr().expect("an address").to_string());
    drop(closed);
    let _inbox = Inbox::on(open);
    let mut command = check();
    command.args(["--endpoint", &good, "--set", &format!("destinations.audit.endpoint={bad}")]);
    let (code, report) = report(command);
    let wrong = wrong(&report);
    assert_eq!((code, wrong.len(), wrong[0][0]), (Some(2), 1, "endpoint.audit"), "{report}");
    assert!(wrong[0][2].contains("Connection refused"), "{report}");
    assert!(wrong[0][3].contains("destinations.audit.endpoint") && wrong[0][3].contains(&bad), "{report}");
}

/// Somebody listens there who does not speak gRPC.
pub(super) fn with_another_server_at_the_endpoint() {
    use std::io::{Read as _, Write as _};
    let server = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = server.local_addr().expect("an address").to_string();
    std::thread::spawn(move || {
        for connection in server.incoming() {
            let mut connection = connection.expect("a connection");
            _ = connection.read(&mut [0; 1024]);
            _ = connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let mut command = check();
    command.args(["--endpoint", &address]);
    let (code, report) = report(command);
    let wrong = wrong(&report);
    assert_eq!((code, wrong.len(), wrong[0][0]), (Some(2), 1, "endpoint"), "{report}");
    assert!(wrong[0][2].contains("no log records") && wrong[0][3].contains("4318"), "{report}");
}

/// Its /proc is its own, and the host's is under `host.root`.
pub(super) fn in_a_container_with_the_hosts_root() {
    let root = tempfile::tempdir().expect("a temporary folder");
    fs::create_dir(root.path().join("proc")).expect("a new folder");
    let root = root.path().display();
    let prepare = format!("mount --bind /proc {root}/proc && mount -t proc proc /proc &&");
    let mut command = check_after(&prepare, &["--mount", "--pid", "--fork"]);
    command.args(["--set", &format!("host.root={root}")]);
    let (code, report) = report(command);
    assert_eq!((code, wrong(&report)), (Some(0), vec![]), "{report}");
    assert_eq!(report["facts"]["process"]["in_host_pid_namespace"], false, "{report}");
}

pub(super) fn in_a_container_without_the_hosts_pid_namespace() {
    let (code, report) = report(check_after("", &["--pid", "--fork", "--mount-proc"]));
    let wrong = wrong(&report);
    assert_eq!((code, wrong[0][0], wrong[0][1]), (Some(2), "pid_namespace", "degraded"), "{report}");
    assert!(wrong[0][3].contains("--pid=host"), "{report}");
    assert_eq!(wrong.len(), 1, "{report}");
}
