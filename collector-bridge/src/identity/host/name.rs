//! Finds the host's name, also from inside a container, which has a name of its own in its UTS namespace.

use std::{
    fs::{self, File},
    os::fd::AsFd as _,
    path::Path,
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::identity::proc_dir::host_proc;

/// The host's name, and a warning if it may be the container's name instead. `root` is where the host's files
/// are.
pub(super) fn host_name(root: &Path) -> (String, Option<String>) {
    // The namespace of kthreadd (pid 2). That of pid 1 is hidden without CAP_SYS_PTRACE.
    let host_namespace = host_proc(root).map(|proc| proc.join("2/ns/uts"));
    let seen = host_namespace.as_ref().and_then(|link| fs::read_link(link).ok());
    if seen.is_some() && seen == fs::read_link("/proc/self/ns/uts").ok() {
        return (own_name(), None);
    }
    let from_namespace = host_namespace.as_deref().and_then(name_in_namespace);
    if let Some(name) = from_namespace.or_else(|| name_from_file(root)) {
        return (name, None);
    }
    let name = own_name();
    // If both are false, the agent has no sign of being in a container.
    let may_be_containers = seen.is_some() || root != Path::new("/");
    let warning = may_be_containers.then(|| {
        format!(
            "cannot find the host's name; host.name is that of the agent's container: {name}; set host.name, mount the host's /etc to {}, run the agent in the host's UTS namespace, or give it CAP_SYS_ADMIN",
            if root == Path::new("/") { "host.root".to_owned() } else { root.join("etc").display().to_string() },
        )
    });
    (name, warning)
}

/// The name in the agent's own UTS namespace.
fn own_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The name in a UTS namespace. A thread of its own enters the namespace and ends there. Needs
/// `CAP_SYS_ADMIN`.
fn name_in_namespace(link: &Path) -> Option<String> {
    let namespace = File::open(link).ok()?;
    let read_name = move || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::HostNameAndNISDomainName))
            .ok()
            .map(|()| own_name())
    };
    thread::Builder::new().spawn(read_name).ok()?.join().ok()?
}

/// The name that the host gets at boot, from `etc/hostname` (hostname(5)).
fn name_from_file(root: &Path) -> Option<String> {
    if root == Path::new("/") {
        // This file is the container's if the agent is in one.
        return None;
    }
    let text = fs::read_to_string(root.join("etc/hostname")).ok()?;
    let mut lines = text.lines().map(str::trim);
    lines.find(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::{fs, name_from_file, own_name};

    #[test]
    fn the_first_line_that_is_no_comment_is_the_name() {
        let root = tempfile::tempdir().expect("a temporary folder");
        assert_eq!(name_from_file(root.path()), None);
        fs::create_dir(root.path().join("etc")).expect("a new folder");
        for (text, name) in [("# us\n\n web-1 \n", Some("web-1")), ("\n", None), ("db\n", Some("db"))] {
            fs::write(root.path().join("etc/hostname"), text).expect("writable");
            assert_eq!(name_from_file(root.path()).as_deref(), name);
        }
    }

    #[test]
    fn on_the_host_the_name_is_the_kernels() {
        let expected = fs::read_to_string("/proc/sys/kernel/hostname").expect("a name");
        assert_eq!(own_name(), expected.trim());
    }
}
