//! Runs a part of a scenario in a network namespace of its own.

use std::{any::Any, fs, process::Command, thread};

use crate::raw;

/// Runs `body` in a thread with a new network namespace, with `lo` up and these `net.ipv4` sysctls set.
///
/// # Panics
/// If `body` panics, with its message, or if the namespace cannot be prepared.
pub fn in_new_netns(settings: &[(&str, &str)], body: impl FnOnce() + Send) {
    let prepared = || {
        raw::unshare_network_namespace();
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
        assert!(up.expect("ip, of iproute2 or busybox").success());
        for (name, value) in settings {
            fs::write(format!("/proc/sys/net/ipv4/{name}"), value).expect("root privileges");
        }
        body();
    };
    let result = thread::scope(|scope| scope.spawn(prepared).join());
    if let Err(payload) = result {
        let payload: &dyn Any = &*payload;
        let message = payload.downcast_ref::<String>().map(String::as_str);
        panic!("{}", message.or_else(|| payload.downcast_ref().copied()).unwrap_or("(no message)"));
    }
}

/// A `TcpExt` counter of the calling thread's network namespace, from `/proc/thread-self/net/netstat`.
///
/// # Panics
/// If the kernel has no such counter.
#[must_use]
pub fn tcp_counter(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/thread-self/net/netstat").expect("statistics");
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    let at = names.split(' ').position(|other| other == name).expect("a counter of this kernel");
    values.split(' ').nth(at).and_then(|value| value.parse().ok()).expect("a number")
}
