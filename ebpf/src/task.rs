//! The accepting task, with what vanishes when its process ends.

use acceptd_common::Task;
use aya_ebpf::helpers::{
    bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_probe_read_kernel, bpf_probe_read_kernel_str_bytes,
    generated::{bpf_get_current_cgroup_id, bpf_get_current_task_btf},
};

use crate::{offsets::*, read::typed};

/// Fills `out`, which is zero, for the current task.
#[inline(always)]
pub fn current(out: &mut Task) {
    // SAFETY: the helpers have no arguments; the first always returns the current task.
    let (task, cgroup_id) = unsafe { (bpf_get_current_task_btf() as *const u8, bpf_get_current_cgroup_id()) };
    let leader: *const u8 = typed(task, &TASK_GROUP_LEADER);
    let cred: *const u8 = typed(task, &TASK_CRED);
    let pid_tgid = bpf_get_current_pid_tgid();

    out.leader_start_ns = typed(leader, &TASK_START_BOOTTIME);
    out.cgroup_id = cgroup_id;
    out.exec_id = typed(leader, &TASK_SELF_EXEC_ID);
    out.tgid = (pid_tgid >> 32) as u32;
    out.tid = pid_tgid as u32;
    out.euid = typed(cred, &CRED_EUID);
    out.egid = typed(cred, &CRED_EGID);
    out.uid = typed(cred, &CRED_UID);
    out.comm = bpf_get_current_comm().unwrap_or_default();
    let leader_comm = leader.wrapping_add(TASK_COMM.load() as usize).cast();
    // SAFETY: the helper takes any address, and fails on one that cannot be read.
    out.leader_comm = unsafe { bpf_probe_read_kernel(leader_comm) }.unwrap_or_default();
    executable(task, out);
}

/// The basename of the executable, from the directory entry of `mm->exe_file`: comm is a thread's name.
#[inline(always)]
fn executable(task: *const u8, out: &mut Task) {
    let mm: *const u8 = typed(task, &TASK_MM);
    if mm.is_null() {
        out.kernel_thread = 1;
        return;
    }
    let file: *const u8 = typed(mm, &MM_EXE_FILE);
    let dentry: *const u8 = typed(file, &FILE_DENTRY);
    let name: u64 = typed(dentry, &DENTRY_NAME);
    // SAFETY: the helper takes any address, and fails on one that cannot be read.
    if let Ok(bytes) = unsafe { bpf_probe_read_kernel_str_bytes(name as *const u8, &mut out.exe) } {
        out.exe_len = bytes.len() as u32;
    }
}
