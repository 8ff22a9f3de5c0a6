//! Storage that the kernel keeps with sockets and tasks, and frees with them. The map definition of task
//! storage is here because aya-ebpf 0.3 has none.

use core::ptr;

use aya_ebpf::{
    bindings::bpf_map_type::BPF_MAP_TYPE_TASK_STORAGE,
    btf_maps::SkStorage,
    helpers::generated::{bpf_sk_storage_delete, bpf_sk_storage_get, bpf_task_storage_get},
};

use crate::{
    read::{Task, Typed},
    sock::TypedSock,
    uapi::BPF_F_NO_PREALLOC,
};

/// A map with one `T` for each task that asked for it. The fields are never read: their types tell the loader
/// what to create (libbpf's form of a map definition in BTF).
#[repr(C)]
pub struct TaskStorage<T> {
    r#type: *const [i32; BPF_MAP_TYPE_TASK_STORAGE as usize],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    // Storage maps must have this flag.
    map_flags: *const [i32; BPF_F_NO_PREALLOC as usize],
}

// SAFETY: nothing is ever read through the fields.
unsafe impl<T> Sync for TaskStorage<T> {}

impl<T> TaskStorage<T> {
    pub const fn new() -> Self {
        Self {
            r#type: ptr::null(),
            key: ptr::null(),
            value: ptr::null(),
            max_entries: ptr::null(),
            map_flags: ptr::null(),
        }
    }

    /// The value of `task`; null if it has none and `flags` does not ask for one, or if memory is short. It
    /// stays valid while the program runs.
    #[inline(always)]
    pub fn get(&self, task: Typed<Task>, flags: u64) -> *mut T {
        let map = ptr::from_ref(self).cast_mut().cast();
        // SAFETY: the map is one of task storage, and `task` is typed.
        unsafe { bpf_task_storage_get(map, task.as_ptr(), ptr::null_mut(), flags).cast() }
    }
}

/// The value that `map` has for `sk`; null if it has none and `flags` does not ask for one, or if memory is
/// short. It stays valid while the program runs. aya-ebpf's own accessors take only the context of
/// `sock_addr` programs.
#[inline(always)]
pub fn get_from_socket<T>(map: &SkStorage<T>, sk: TypedSock, flags: u64) -> *mut T {
    let map = ptr::from_ref(map).cast_mut().cast();
    // SAFETY: the map is one of socket storage, and `sk` is typed.
    unsafe { bpf_sk_storage_get(map, sk.as_ptr(), ptr::null_mut(), flags).cast() }
}

/// Removes the value that `map` has for `sk`.
#[inline(always)]
pub fn delete_from_socket<T>(map: &SkStorage<T>, sk: TypedSock) {
    let map = ptr::from_ref(map).cast_mut().cast();
    // SAFETY: the map is one of socket storage, and `sk` is typed.
    unsafe { bpf_sk_storage_delete(map, sk.as_ptr()) };
}
