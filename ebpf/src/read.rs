//! Pointers into kernel memory, by what the verifier knows about them, and the loads that each allows.
//!
//! A [`Typed`] pointer has a BTF type for the verifier: it comes from the program's context or from a helper
//! that returns one. The programs load through it with plain instructions, which the verifier checks against
//! BTF, and may pass it to helpers that want this type. A [`Probed`] pointer is only an address: each load is
//! a call of `bpf_probe_read_kernel`. Both are one register wide, and every function here is inlined.

use core::{ffi::c_void, marker::PhantomData};

use aya_ebpf::{EbpfContext, Global, helpers::generated::bpf_probe_read_kernel};

/// `struct sock`, and the structs that begin with one: `tcp_sock`, `unix_sock`, `sock_common` of a whole
/// socket.
pub enum Sock {}
/// `struct socket`, the part of a socket that user space has open.
pub enum Socket {}
/// `struct file`
pub enum File {}
/// `struct task_struct`
pub enum Task {}
/// Any other struct. No helper that the programs call takes a pointer to one.
pub enum AnyStruct {}

/// A pointer whose BTF type the verifier knows to be `S *`. The verifier wants a null check where the
/// kernel's own type says that the pointer may be null.
#[repr(transparent)]
pub struct Typed<S>(*const u8, PhantomData<S>);

/// An address at which there should be an `S`. A load that faults yields zero, so null needs no check.
#[repr(transparent)]
pub struct Probed<S>(*const u8, PhantomData<S>);

// Not derived: that would want `S: Copy`, and the kernel's structs are not.
impl<S> Clone for Typed<S> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}
impl<S> Copy for Typed<S> {}
impl<S> Clone for Probed<S> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}
impl<S> Copy for Probed<S> {}

impl<S> Typed<S> {
    pub const NULL: Self = Self(core::ptr::null(), PhantomData);

    /// # Safety
    /// For the verifier, `pointer` is an `S *`: an argument of the hook, or the result of a helper that
    /// returns one. Otherwise the verifier refuses the program.
    #[inline(always)]
    pub const unsafe fn new(pointer: *const u8) -> Self {
        Self(pointer, PhantomData)
    }

    #[inline(always)]
    pub fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// Loads the member at `offset`, which must have the size of `T`: the verifier refuses the program
    /// otherwise.
    #[inline(always)]
    pub fn load<T: Copy>(self, offset: &Global<u64>) -> T {
        // SAFETY: the verifier checks the load against the type of the pointer. A fault yields zero.
        unsafe { core::ptr::read_volatile(self.0.add(offset.load() as usize).cast::<T>()) }
    }

    /// Loads a pointer member, whose type the verifier takes from BTF.
    #[inline(always)]
    pub fn follow<M>(self, offset: &Global<u64>) -> Typed<M> {
        Typed(self.load(offset), PhantomData)
    }

    /// The same address for loads that the verifier does not check.
    #[inline(always)]
    pub const fn probed(self) -> Probed<S> {
        Probed(self.0, PhantomData)
    }

    /// The pointer as an argument of a helper.
    #[inline(always)]
    pub const fn as_ptr<T>(self) -> *mut T {
        self.0.cast_mut().cast()
    }

    /// The pointer's value. The verifier still takes it for a pointer; see [`as_scalar`].
    #[inline(always)]
    pub fn address(self) -> u64 {
        self.0 as u64
    }
}

impl<S> Probed<S> {
    pub const NULL: Self = Self(core::ptr::null(), PhantomData);

    #[inline(always)]
    pub const fn new(address: *const u8) -> Self {
        Self(address, PhantomData)
    }

    #[inline(always)]
    pub fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// Loads the member at `offset`; zero if the address cannot be read.
    #[inline(always)]
    pub fn load<T: Copy + Default>(self, offset: &Global<u64>) -> T {
        load_at(self.member(offset).cast())
    }

    /// Loads a pointer member; null if the address cannot be read.
    #[inline(always)]
    pub fn follow<M>(self, offset: &Global<u64>) -> Probed<M> {
        Probed(self.load::<u64>(offset) as *const u8, PhantomData)
    }

    /// The address of the member at `offset`.
    #[inline(always)]
    pub fn member(self, offset: &Global<u64>) -> *const u8 {
        self.0.wrapping_add(offset.load() as usize)
    }

    #[inline(always)]
    pub const fn as_ptr(self) -> *const u8 {
        self.0
    }
}

impl<S> PartialEq for Probed<S> {
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

/// Loads the value at any address; zero if it cannot be read. There is no result to check: the helper fills
/// the value with zeros on a fault (`bpf_probe_read_kernel_common`, kernel/trace/bpf_trace.c), and a check
/// would double the paths that the verifier follows from each load.
#[inline(always)]
pub fn load_at<T: Copy + Default>(address: *const T) -> T {
    let mut value = core::mem::MaybeUninit::<T>::uninit();
    // SAFETY: the helper takes any address, and always fills the value.
    unsafe {
        bpf_probe_read_kernel(value.as_mut_ptr().cast(), size_of::<T>() as u32, address.cast());
        value.assume_init()
    }
}

/// Copies a pointer's value through memory, after which the verifier takes it for a number.
#[inline(always)]
pub fn as_scalar(address: u64) -> u64 {
    load_at(&raw const address)
}

/// The context of a program: the hook's arguments, eight bytes each, and for fexit the return value behind
/// them.
#[derive(Clone, Copy)]
pub struct Arguments(*const u64);

impl Arguments {
    #[inline(always)]
    pub fn from_context(context: &impl EbpfContext) -> Self {
        Self(context.as_ptr().cast())
    }

    /// For program types that aya-ebpf has no context for: iterators.
    #[inline(always)]
    pub const fn from_raw(context: *mut c_void) -> Self {
        Self(context.cast())
    }

    /// The argument at `index`, from 0.
    ///
    /// # Safety
    /// The hook has more than `index` arguments (with fexit, the return value counts as one). Otherwise the
    /// verifier refuses the program.
    #[inline(always)]
    pub unsafe fn word(self, index: usize) -> u64 {
        // SAFETY: by this function's contract. Volatile, so that LLVM neither merges nor moves context loads.
        unsafe { core::ptr::read_volatile(self.0.add(index)) }
    }

    /// The pointer argument at `index`, from 0.
    ///
    /// # Safety
    /// As for [`Self::word`], and the argument is an `S *`.
    #[inline(always)]
    pub unsafe fn typed<S>(self, index: usize) -> Typed<S> {
        // SAFETY: by this function's contract.
        unsafe { Typed::new(self.word(index) as *const u8) }
    }
}
