//! Ring-buffer samples as the BPF programs write them, of twenty processes.

use acceptd_common::{ABI_VERSION, AcceptCall, InetAccept, Kind};
use zerocopy::FromZeros as _;

/// The number of accepting processes.
pub(crate) const PROCESSES: u32 = 20;

/// A sample of the process with this number, in which every field that tier 2 can know is set.
pub(crate) fn for_process(number: u32) -> InetAccept {
    let mut sample = InetAccept::new_zeroed();
    sample.header.abi = ABI_VERSION;
    sample.header.kind = Kind::InetAccept as u16;
    sample.header.length = u32::try_from(size_of::<InetAccept>()).expect("a small struct");
    sample.header.cpu = number % 2;
    sample.header.boot_ns = 1_000_000_000_000;
    sample.task.leader_start_ns = 900_000_000_000 + u64::from(number);
    // Above the kernel's highest pid, so that /proc has no such process.
    sample.task.tgid = (1 << 22) + number;
    sample.task.tid = sample.task.tgid;
    sample.task.exe[..5].copy_from_slice(b"nginx");
    sample.task.exe_len = 5;
    sample.task.comm[..5].copy_from_slice(b"nginx");
    sample.call.queue_ns = 123_456;
    sample.call.syscall = AcceptCall::SYSCALL_ACCEPT4;
    sample.call.tier = 2;
    sample.call.flags = AcceptCall::HAS_SOCKET
        | AcceptCall::HAS_LISTENER
        | AcceptCall::HAS_QUEUE_TIME
        | AcceptCall::VERIFIED
        | AcceptCall::HAS_FD
        | AcceptCall::HAS_LISTENER_FD;
    sample.call.result = 12;
    sample.call.listener_fd = 6;
    sample.socket.cookie = 1_000_000;
    sample.socket.inode = 2_000_000;
    sample.socket.local_addr[..4].copy_from_slice(&[10, 1, 2, 80]);
    sample.socket.peer_addr[..4].copy_from_slice(&[10, 0, 0, 7]);
    sample.socket.local_port = 443_u16.to_be();
    sample.socket.peer_port = 51_514_u16.to_be();
    sample.socket.family = 2;
    sample.socket.protocol = 6;
    sample.socket.netns = 4_026_531_833;
    sample.listener.cookie = 4_000 + u64::from(number);
    sample.listener.inode = 20_000 + u64::from(number);
    sample.listener.port = 443_u16.to_be();
    sample.listener.family = 2;
    sample.listener.protocol = 6;
    sample.listener.netns = 4_026_531_833;
    sample.listener.backlog_limit = 511;
    sample
}
