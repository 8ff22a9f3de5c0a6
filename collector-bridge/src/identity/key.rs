//! The key that identifies a process on this host until the next boot.

use acceptd_common::Task;

/// The key of a process, unique within one boot.
///
/// `exec` changes neither the pid nor the start time, so the exec id is part of the key. So are the users,
/// because many servers listen as root and accept as another user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ProcessKey {
    pub(super) tgid: u32,
    pub(super) leader_start_ns: u64,
    pub(super) exec_id: u32,
    pub(super) euid: u32,
    pub(super) uid: u32,
}

impl ProcessKey {
    /// The key of the process that `task` belongs to.
    pub(super) fn from_task(task: &Task) -> Self {
        let Task { tgid, leader_start_ns, exec_id, euid, uid, .. } = *task;
        Self { tgid, leader_start_ns, exec_id, euid, uid }
    }
}
