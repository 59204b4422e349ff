//! System calls without a safe wrapper. Everything `unsafe` of a slot's life is in here.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr::NonNull,
};

use libc::{c_int, c_long};
use nix::{
    sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction},
    unistd::{ForkResult, Pid},
};

use crate::{
    plan::Small,
    protocol::{CHANNEL, LIBRARY},
};

/// Which side of a fork this is.
pub(crate) enum Side<Child> {
    /// The one that called, and a name for the new one.
    Parent(Child),
    /// The new one.
    Child,
}

/// `struct clone_args` of `linux/sched.h`, in its first version.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
}

/// Forks a child that is the first process of new namespaces, all but that of cgroups, which it makes once it is in its
/// cgroups. One call for all of them: see `docs/adr/0012-fork-zygotes.md`.
///
/// The calling process must have one thread only (or others that are parked for good): the child has a copy of this one,
/// and whatever lock another thread held stays locked in there.
pub(crate) fn fork_into_namespaces() -> io::Result<Side<OwnedFd>> {
    const NAMESPACES: c_int = libc::CLONE_NEWUSER
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWNET;
    let mut handle: c_int = -1;
    let arguments = CloneArgs {
        flags: u64::from((NAMESPACES | libc::CLONE_PIDFD).cast_unsigned()),
        pidfd: std::ptr::from_mut(&mut handle) as u64,
        exit_signal: u64::from(libc::SIGCHLD.cast_unsigned()),
        ..CloneArgs::default()
    };
    // SAFETY: the arguments live until the call returns, `pidfd` points to an int of ours, and without CLONE_VM the child has
    // its own copy of this memory and goes on on its own copy of this stack, as after fork(2).
    let result = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            std::ptr::from_ref(&arguments),
            size_of::<CloneArgs>(),
        )
    };
    match result {
        0 => Ok(Side::Child),
        1.. => {
            // SAFETY: the kernel has just made this descriptor for us, and nobody else knows its number.
            Ok(Side::Parent(unsafe { OwnedFd::from_raw_fd(handle) }))
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// Forks by way of the C library, so that its own state and what libraries registered with `pthread_atfork` (OpenSSL's
/// random numbers) are put right in the child.
pub(crate) fn fork() -> io::Result<Side<Pid>> {
    // SAFETY: the process has one thread (see `fork_into_namespaces`), so the child may do whatever its parent may.
    match unsafe { nix::unistd::fork() } {
        Ok(ForkResult::Parent { child }) => Ok(Side::Parent(child)),
        Ok(ForkResult::Child) => Ok(Side::Child),
        Err(error) => Err(error.into()),
    }
}

/// Ends this process at once: no exit handler of an interpreter whose memory this is a copy of.
pub(crate) fn exit(code: i32) -> ! {
    // SAFETY: `_exit` has no precondition.
    unsafe { libc::_exit(code) }
}

/// What an interpreter does when a child of its own ends.
pub(crate) struct ChildSignal(SigAction);

impl ChildSignal {
    /// Lets the kernel reap this process's children. Returns what was done before.
    pub(crate) fn ignore() -> io::Result<Self> {
        set_child_signal(&SigAction::new(
            SigHandler::SigIgn,
            SaFlags::empty(),
            SigSet::empty(),
        ))
        .map(Self)
    }

    /// Children wait to be reaped, and nobody is told.
    pub(crate) fn reset() -> io::Result<()> {
        set_child_signal(&SigAction::new(
            SigHandler::SigDfl,
            SaFlags::empty(),
            SigSet::empty(),
        ))?;
        Ok(())
    }

    /// Does again what was done before.
    pub(crate) fn apply(&self) -> io::Result<()> {
        set_child_signal(&self.0)?;
        Ok(())
    }
}

fn set_child_signal(action: &SigAction) -> io::Result<SigAction> {
    // SAFETY: no handler of ours runs; one of the interpreter's comes back only in a guest, where the interpreter that
    // installed it goes on.
    Ok(unsafe { sigaction(Signal::SIGCHLD, action) }?)
}

/// Reads a variable of the interpreter's own executable, an int, if it has one of this name.
pub(crate) fn symbol(name: &CStr) -> Option<c_int> {
    // SAFETY: the caller names a variable that is an int, and the process has one thread.
    find_symbol::<c_int>(name).map(|address| unsafe { address.as_ptr().read() })
}

/// Writes to a variable of the interpreter's own executable, an int, if it has one of this name.
pub(crate) fn set_symbol(name: &CStr, value: c_int) -> bool {
    let found = find_symbol::<c_int>(name);
    if let Some(address) = found {
        // SAFETY: as in `symbol`.
        unsafe { address.as_ptr().write(value) };
    }
    found.is_some()
}

/// A variable of the interpreter's own executable, by its name.
pub(crate) fn find_symbol<T>(name: &CStr) -> Option<NonNull<T>> {
    // SAFETY: a search by name through what is loaded, with a name that ends with NUL.
    let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    NonNull::new(address.cast())
}

/// Has this process hold these pages already, as if it had read from or written to each. In vain on kernels before Linux 5.14.
pub(crate) fn populate(small: &Small) {
    let reads = small
        .read
        .iter()
        .map(|range| (range, libc::MADV_POPULATE_READ));
    let writes = small
        .written
        .iter()
        .map(|range| (range, libc::MADV_POPULATE_WRITE));
    for (range, advice) in reads.chain(writes) {
        let address = std::ptr::with_exposed_provenance_mut(range.start);
        // SAFETY: this changes nothing of what is in the memory; where there is none any more, it fails.
        unsafe { libc::madvise(address, range.len(), advice) };
    }
}

/// Closes descriptors, both ends included. Those who own one of them must never be used or dropped again.
pub(crate) fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: the caller sees to it that nobody uses these numbers any more.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    check(result)
}

/// Where a guest keeps its line to its init until it has its job: the library is loaded and needs its number no more.
pub(crate) const LINE: u32 = LIBRARY.cast_unsigned();

/// The guest's line to its init. Only in a guest that has not got its job yet.
pub(crate) fn line() -> BorrowedFd<'static> {
    // SAFETY: `init::build` has placed it there before anything in a guest asks for it, and it is closed last.
    unsafe { BorrowedFd::borrow_raw(LIBRARY) }
}

/// The daemon's socket in a zygote.
pub(crate) fn channel() -> BorrowedFd<'static> {
    // SAFETY: the init of the zygote's sandbox has started the interpreter with this descriptor, and only slots, which ask
    // no more, close or replace it.
    unsafe { BorrowedFd::borrow_raw(CHANNEL) }
}

/// Copies a descriptor to a number, whoever had it before. It is passed on by exec where `inherit` says so.
pub(crate) fn place(descriptor: &OwnedFd, number: RawFd, inherit: bool) -> io::Result<()> {
    let flags = if inherit { 0 } else { libc::O_CLOEXEC };
    // SAFETY: the numbers that this crate places at are owned by nobody in this process: what was there belonged to the
    // zygote, and this is a slot.
    let result = unsafe { libc::dup3(descriptor.as_raw_fd(), number, flags) };
    check(result.into())
}

/// Adds flags to a mount, without taking any away as a remount would.
pub(crate) fn harden_mount(path: &CStr) -> io::Result<()> {
    /// `struct mount_attr` of `linux/mount.h`.
    #[repr(C)]
    struct MountAttributes {
        set: u64,
        clear: u64,
        propagation: u64,
        user_namespace: u64,
    }
    let attributes = MountAttributes {
        set: libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV,
        clear: 0,
        propagation: 0,
        user_namespace: 0,
    };
    // SAFETY: path and attributes live until the call returns.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            0,
            std::ptr::from_ref(&attributes),
            size_of::<MountAttributes>(),
        )
    };
    check(result)
}

/// `IFF_UP`, as wide as `struct ifreq` has it.
const IFF_UP: libc::c_short = 1;

/// Switches the loopback interface of this network namespace on (netdevice(7)).
pub(crate) fn loopback_up() -> io::Result<()> {
    /// `struct ifreq` of `linux/if.h`, as far as this call reads it: name, flags and room for the rest.
    #[repr(C)]
    struct Request {
        name: [u8; 16],
        flags: libc::c_short,
        rest: [u8; 22],
    }
    let mut request = Request {
        name: [0; 16],
        flags: IFF_UP,
        rest: [0; 22],
    };
    request.name[..2].copy_from_slice(b"lo");
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: the request has the size and layout of `struct ifreq` and lives until the call returns.
    let result = unsafe {
        libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCSIFFLAGS,
            std::ptr::from_mut(&mut request),
        )
    };
    check(result.into())
}

fn check(result: c_long) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
