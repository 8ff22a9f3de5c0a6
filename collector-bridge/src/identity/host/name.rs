//! The host's name, also for an agent in a container, which has a name of its own: a UTS namespace.

use std::{
    fs::{
        File, {self},
    },
    os::fd::AsFd as _,
    path::Path,
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::identity::process::proc_of_host;

/// The name, and a warning where it may be another one's. `root` is where the host's files are.
pub(super) fn of(root: &Path) -> (String, Option<String>) {
    // Of the parent of the kernel's threads: init does not show its own to everybody.
    let first = proc_of_host(root).map(|proc| proc.join("2/ns/uts"));
    let seen = first.as_ref().and_then(|first| fs::read_link(first).ok());
    if seen.is_some() && seen == fs::read_link("/proc/self/ns/uts").ok() {
        return (own(), None);
    }
    let asked = first.as_deref().and_then(in_namespace_of);
    if let Some(name) = asked.or_else(|| written(root)) {
        return (name, None);
    }
    let name = own();
    // Else nothing says that the agent is in a container.
    let is_anothers = seen.is_some() || root != Path::new("/");
    let warning = is_anothers.then(|| {
        format!(
            "the host's name is not known, host.name is the agent's own: {name}; set host.name, mount the host's /etc to {}, share its UTS namespace, or give the agent CAP_SYS_ADMIN",
            if root == Path::new("/") { "host.root".to_owned() } else { root.join("etc").display().to_string() },
        )
    });
    (name, warning)
}

fn own() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Asks in a thread of its own, which goes there and does not come back. Needs `CAP_SYS_ADMIN`.
fn in_namespace_of(link: &Path) -> Option<String> {
    let namespace = File::open(link).ok()?;
    let ask = move || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::HostNameAndNISDomainName))
            .ok()
            .map(|()| own())
    };
    thread::Builder::new().spawn(ask).ok()?.join().ok()?
}

/// What the host is called when it starts (hostname(5)).
fn written(root: &Path) -> Option<String> {
    if root == Path::new("/") {
        // That of the agent's container, if it is in one.
        return None;
    }
    let text = fs::read_to_string(root.join("etc/hostname")).ok()?;
    let mut lines = text.lines().map(str::trim);
    lines.find(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::{fs, own, written};

    #[test]
    fn the_first_line_that_is_no_comment_is_the_name() {
        let root = tempfile::tempdir().expect("a temporary folder");
        assert_eq!(written(root.path()), None);
        fs::create_dir(root.path().join("etc")).expect("a new folder");
        for (text, name) in [("# us\n\n web-1 \n", Some("web-1")), ("\n", None), ("db\n", Some("db"))] {
            fs::write(root.path().join("etc/hostname"), text).expect("writable");
            assert_eq!(written(root.path()).as_deref(), name);
        }
    }

    #[test]
    fn on_the_host_itself_it_is_the_kernels() {
        let told = fs::read_to_string("/proc/sys/kernel/hostname").expect("a name");
        assert_eq!(own(), told.trim());
    }
}
