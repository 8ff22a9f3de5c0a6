//! Constants of the kernel's headers, each with the header that defines it.

use aya_ebpf::bindings;

// include/uapi/linux/bpf.h
/// Map update: create the entry only if the key is absent.
pub const BPF_NOEXIST: u64 = bindings::BPF_NOEXIST as u64;
/// Map update: create the entry or overwrite it.
pub const BPF_ANY: u64 = bindings::BPF_ANY as u64;
/// Hash map flag: allocate entries on demand. The limit then costs memory only for entries that exist.
pub const BPF_F_NO_PREALLOC: u32 = bindings::BPF_F_NO_PREALLOC;
/// Socket and task storage: create the value, zeroed, if the object has none yet.
pub const BPF_LOCAL_STORAGE_GET_F_CREATE: u64 = bindings::BPF_LOCAL_STORAGE_GET_F_CREATE as u64;

// include/linux/socket.h
pub use acceptd_common::family::{AF_INET, AF_INET6, AF_UNIX, AF_VSOCK};
pub const AF_SMC: u16 = 43;

// include/uapi/linux/in.h
pub const IPPROTO_TCP: u16 = 6;
pub const IPPROTO_SCTP: u16 = 132;
pub const IPPROTO_SMC: u16 = 256;
pub const IPPROTO_MPTCP: u16 = 262;

// include/linux/net.h
pub const SOCK_STREAM: u16 = 1;
pub const SOCK_SEQPACKET: u16 = 5;
/// Types and operations of a VSOCK packet (include/uapi/linux/virtio_vsock.h).
pub const VIRTIO_VSOCK_TYPE_STREAM: u16 = 1;
pub const VIRTIO_VSOCK_TYPE_SEQPACKET: u16 = 2;
pub const VIRTIO_VSOCK_OP_REQUEST: u16 = 1;
pub const VIRTIO_VSOCK_OP_RST: u16 = 3;
/// The type without `SOCK_CLOEXEC` and `SOCK_NONBLOCK`, which socket(2) takes in the same argument.
pub const SOCK_TYPE_MASK: u64 = 0xf;

// include/net/tcp_states.h
pub const TCP_ESTABLISHED: u8 = 1;
pub const TCP_SYN_SENT: u8 = 2;
pub const TCP_SYN_RECV: u8 = 3;
pub const TCP_FIN_WAIT1: u8 = 4;
pub const TCP_CLOSE: u8 = 7;
pub const TCP_CLOSE_WAIT: u8 = 8;
pub const TCP_LAST_ACK: u8 = 9;
/// UNIX and VSOCK listeners have this state, too.
pub const TCP_LISTEN: u8 = 10;

// include/net/sock.h, `enum sock_flags`
/// Bit of `sk_flags`: the process closed the socket, or it is being destroyed (`sock_orphan`).
pub const SOCK_DEAD: u64 = 0;
/// Bit of `sk_flags`: a FIN arrived (`tcp_fin`).
pub const SOCK_DONE: u64 = 1;

// include/uapi/asm-generic/errno-base.h, include/linux/errno.h
pub const EINTR: i32 = 4;
pub const EAGAIN: i32 = 11;
pub const EFAULT: u32 = 14;
pub const ECONNABORTED: u32 = 103;
pub const ECANCELED: i32 = 125;
pub const ERESTARTSYS: i32 = 512;
pub const ERESTARTNOINTR: i32 = 513;
pub const ERESTARTNOHAND: i32 = 514;
pub const ERESTART_RESTARTBLOCK: i32 = 516;

// include/linux/err.h
/// A function that returns a pointer returns an errno as an address from here on (`IS_ERR`, `MAX_ERRNO`).
pub const FIRST_ERROR_POINTER: u64 = 0_u64.wrapping_sub(4095);

// include/uapi/linux/net.h: first argument of socketcall(2)
pub const SYS_SOCKET: u64 = 1;
pub const SYS_BIND: u64 = 2;
pub const SYS_LISTEN: u64 = 4;
pub const SYS_ACCEPT: u64 = 5;
pub const SYS_ACCEPT4: u64 = 18;

// include/uapi/linux/io_uring.h
pub const IORING_OP_ACCEPT: u8 = 13;
pub const IORING_OP_BIND: u8 = 56;
pub const IORING_OP_LISTEN: u8 = 57;
/// `file_index` of a request whose slot the kernel chooses. Others have their slot plus one.
pub const IORING_FILE_INDEX_ALLOC: u32 = u32::MAX;
/// Completion flag: the completion carries a provided buffer.
pub const IORING_CQE_F_BUFFER: u32 = 1;
/// Completion flag: the request will post further completions.
pub const IORING_CQE_F_MORE: u32 = 2;

// include/uapi/linux/seccomp.h
/// `task_struct.seccomp.mode`: filters decide on each system call.
pub const SECCOMP_MODE_FILTER: u32 = 2;

// include/linux/io_uring_types.h
/// Request flag: the file is a slot of the ring's own table. The flags of the submission are the lowest bits.
pub const REQ_F_FIXED_FILE: u64 = 1;

// include/linux/sched.h
/// Bit of `task_struct.flags`: the task is a worker of io_uring.
pub const PF_IO_WORKER: u32 = 0x10;
/// Bit of `task_struct.flags`: the task is a worker of a work queue.
pub const PF_WQ_WORKER: u32 = 0x20;
/// Bit of `task_struct.flags`: the task is a kernel thread.
pub const PF_KTHREAD: u32 = 0x20_0000;

// include/uapi/linux/personality.h
/// Bit of `task_struct.personality`: the addresses of the process are not random.
pub const ADDR_NO_RANDOMIZE: u32 = 0x004_0000;

// include/linux/pid_types.h
/// Index into `struct pid.tasks` and `task_struct.pid_links`: thread groups.
pub const PIDTYPE_TGID: usize = 1;

// include/uapi/asm-generic/fcntl.h; x86 and arm64 use it
pub const O_NONBLOCK: u32 = 0o4000;

// include/uapi/linux/if_ether.h
pub const ETH_P_IP: u16 = 0x0800;
