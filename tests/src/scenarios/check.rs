//! `acceptd check`: with one defect prepared, it must report exactly that defect, with its cause and remedy.

use std::{
    fs::{self, Permissions},
    net::TcpListener,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    process::Command,
};

use acceptd::bpf::{Tier, offsets::VMLINUX};
use serde_json::Value as Json;

use crate::{
    agent::{binary, tier},
    check,
    inbox::Inbox,
};

/// On a supported kernel, as root, every item is ok, and the agent sees its own test accept (the canary).
pub(super) fn as_root_everything_is_ok() {
    let (code, report) = check::run(check::command());
    assert_eq!((code, check::not_ok(&report)), (Some(0), vec![]), "{report}");
    assert_eq!(report["facts"]["canary"], "seen", "{report}");
}

/// With `capture.tier=auto` the kernel decides: tier 1 where its hooks attach, else tier 2, with the reason.
pub(super) fn the_kernel_chooses_the_tier() {
    let mut command = check::command();
    command.args(["--set", "capture.tier=auto"]);
    let (code, report) = check::run(command);
    let chosen = report["facts"]["capture"]["tier"].as_u64();
    if chosen == Some(1) {
        assert_eq!((code, check::not_ok(&report)), (Some(0), vec![]), "{report}");
    } else {
        assert_eq!((tier(), chosen), (Tier::Two, Some(2)), "this kernel has tier 1: {report}");
        let findings = check::not_ok(&report);
        assert_eq!((code, findings.len(), findings[0][0]), (Some(2), 1, "tier"), "{report}");
        assert!(
            findings[0][2].contains("do_accept_exit") && findings[0][2].contains("system call"),
            "{report}"
        );
    }
}

/// Without privileges, check fails and names sudo and the capabilities.
pub(super) fn as_nobody() {
    // Run a copy: other users may lack access to the build directory.
    let folder =
        tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir().expect("a folder");
    let copy = folder.path().join("acceptd");
    fs::copy(binary("acceptd"), &copy).expect("a copy");
    let mut command = Command::new(copy);
    // When root changes the user id, std drops the supplementary groups, too.
    command.uid(65534).gid(65534);
    command.env_clear().args(["check", "--set", "state.directory=/tmp"]);
    let (code, report) = check::run(command);
    let findings = check::not_ok(&report);
    assert_eq!((code, findings[0][0], findings[0][1]), (Some(1), "privileges", "failed"), "{report}");
    assert!(findings[0][3].contains("sudo") && findings[0][3].contains("CAP_BPF"), "{report}");
}

/// Truncated BTF, mounted over the kernel's: only the item `btf` fails, and what depends on it is skipped.
pub(super) fn with_another_btf() {
    let prepare = "head -c 1000 /sys/kernel/btf/vmlinux > /tmp/acceptd-cut-btf && mount --bind /tmp/acceptd-cut-btf /sys/kernel/btf/vmlinux &&";
    let (code, report) = check::run(check::command_after(prepare, &["--mount"]));
    let findings = check::not_ok(&report);
    assert_eq!((code, findings[0][0], findings[0][1]), (Some(1), "btf", "failed"), "{report}");
    assert!(findings[0][2].contains("/sys/kernel/btf/vmlinux"), "{report}");
    assert_eq!(
        findings[1][..2],
        ["programs", "skipped"],
        "a consequence is skipped, not reported as a second failure"
    );
}

/// Runs check with a copy of the kernel's BTF in which names are replaced, each by one of the same length.
fn check_with_names(names: &[(&str, &str)]) -> (Option<i32>, Json) {
    let mut types = fs::read(VMLINUX).expect("the kernel's BTF");
    let offset_of = |bytes: &[u8], name: &str| {
        let whole = [b"\0", name.as_bytes(), b"\0"].concat();
        let at = bytes.windows(whole.len()).position(|window| window == whole);
        at.unwrap_or_else(|| panic!("the kernel's BTF has no {name}")) + 1
    };
    let places: Vec<_> = names.iter().map(|(name, _)| offset_of(&types, name)).collect();
    for ((name, other), at) in names.iter().zip(places) {
        assert_eq!(name.len(), other.len());
        types[at..at + other.len()].copy_from_slice(other.as_bytes());
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("vmlinux");
    fs::write(&path, types).expect("the temporary folder is writable");
    check::run(check::command_after(&format!("mount --bind {} {VMLINUX} &&", path.display()), &["--mount"]))
}

/// BTF without a member, or without a struct, that acceptd needs: check names both and the kernel release.
pub(super) fn without_a_member_or_a_struct() {
    for (name, other, words) in [
        ("sk_max_ack_backlog", "Xk_max_ack_backlog", ["`sk_max_ack_backlog`", "`struct sock`"]),
        ("fdtable", "Xdtable", ["`fd`", "`struct fdtable`"]),
    ] {
        let (code, report) = check_with_names(&[(name, other)]);
        let findings = check::not_ok(&report);
        assert_eq!((code, findings[0][0], findings[0][1]), (Some(1), "btf", "failed"), "{report}");
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        assert!(words.iter().all(|word| findings[0][2].contains(word)), "{report}");
        assert!(findings[0][2].contains(&release), "{report}");
        assert_eq!(findings[1][..2], ["programs", "skipped"], "{report}");
    }
}

/// BTF with the names of two members exchanged, and so their offsets: check finds that a member has the
/// wrong size or type, and fails.
pub(super) fn with_a_wrong_offset() {
    let names = [("group_leader", "self_exec_id"), ("self_exec_id", "group_leader")];
    let (code, report) = check_with_names(&names);
    let findings = check::not_ok(&report);
    assert_eq!((code, findings[0][0], findings[0][1]), (Some(1), "btf", "failed"), "{report}");
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let words = [release.as_str(), "`group_leader`", "`struct task_struct`", "8 bytes", "a pointer"];
    assert!(words.iter().all(|word| findings[0][2].contains(word)), "{report}");
}

/// Without BTF of the module `vsock`, check is degraded: VSOCK addresses are missing, and nothing else.
pub(super) fn without_the_types_of_vsock() {
    let prepare = "mkdir -p /tmp/acceptd-btf && cp /sys/kernel/btf/vmlinux /tmp/acceptd-btf && mount --bind /tmp/acceptd-btf /sys/kernel/btf &&";
    let (code, report) = check::run(check::command_after(prepare, &["--mount"]));
    let findings = check::not_ok(&report);
    assert_eq!(
        (code, findings.len(), findings[0][0], findings[0][1]),
        (Some(2), 1, "vsock", "degraded"),
        "{report}"
    );
    assert!(findings[0][2].contains("/sys/kernel/btf/vsock"), "{report}");
}

/// A closed endpoint makes check degraded; the remedy suggests `acceptd receive`.
pub(super) fn with_the_endpoint_closed() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = free.local_addr().expect("an address").to_string();
    drop(free);
    let mut command = check::command();
    command.args(["--endpoint", &address]);
    let (code, report) = check::run(command);
    let findings = check::not_ok(&report);
    assert_eq!((code, findings.len(), findings[0][0]), (Some(2), 1, "endpoint"), "{report}");
    assert!(
        findings[0][2].contains("Connection refused") && findings[0][3].contains("acceptd receive"),
        "{report}"
    );
}

/// Only the one of two destinations that refuses connections is reported.
pub(super) fn with_one_of_two_destinations_closed() {
    let [open, closed] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    let [good, bad] = [&open, &closed].map(|listener| listener.local_addr().expect("an address").to_string());
    drop(closed);
    let _inbox = Inbox::receive_on(open);
    let mut command = check::command();
    command.args(["--endpoint", &good, "--set", &format!("destinations.audit.endpoint={bad}")]);
    let (code, report) = check::run(command);
    let findings = check::not_ok(&report);
    assert_eq!((code, findings.len(), findings[0][0]), (Some(2), 1, "endpoint.audit"), "{report}");
    assert!(findings[0][2].contains("Connection refused"), "{report}");
    assert!(
        findings[0][3].contains("destinations.audit.endpoint") && findings[0][3].contains(&bad),
        "{report}"
    );
}

/// A server at the endpoint that does not speak gRPC is reported, with port 4318 (OTLP/HTTP) as the remedy.
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
    let mut command = check::command();
    command.args(["--endpoint", &address]);
    let (code, report) = check::run(command);
    let findings = check::not_ok(&report);
    assert_eq!((code, findings.len(), findings[0][0]), (Some(2), 1, "endpoint"), "{report}");
    assert!(
        findings[0][2].contains("does not accept log records") && findings[0][3].contains("4318"),
        "{report}"
    );
}

/// In a new PID namespace with the host's /proc under `host.root`, everything is ok.
pub(super) fn in_a_container_with_the_hosts_root() {
    let root = tempfile::tempdir().expect("a temporary folder");
    fs::create_dir(root.path().join("proc")).expect("a new folder");
    let root = root.path().display();
    let prepare = format!("mount --bind /proc {root}/proc && mount -t proc proc /proc &&");
    let mut command = check::command_after(&prepare, &["--mount", "--pid", "--fork"]);
    command.args(["--set", &format!("host.root={root}")]);
    let (code, report) = check::run(command);
    assert_eq!((code, check::not_ok(&report)), (Some(0), vec![]), "{report}");
    assert_eq!(report["facts"]["process"]["in_host_pid_namespace"], false, "{report}");
}

/// In a new PID namespace without `host.root`, check is degraded and suggests `--pid=host`.
pub(super) fn in_a_container_without_the_hosts_pid_namespace() {
    let (code, report) = check::run(check::command_after("", &["--pid", "--fork", "--mount-proc"]));
    let findings = check::not_ok(&report);
    assert_eq!((code, findings[0][0], findings[0][1]), (Some(2), "pid_namespace", "degraded"), "{report}");
    assert!(findings[0][3].contains("--pid=host"), "{report}");
    assert_eq!(findings.len(), 1, "{report}");
}
