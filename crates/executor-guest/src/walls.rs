//! The walls of a slot: what its init mounts, and what init and guest give up.

use std::{
    ffi::CString,
    fs, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use rustix::{
    mount::{MountFlags, MoveMountFlags},
    process::{DumpableBehavior, Resource, Rlimit},
    thread::{CapabilitySet, CapabilitySets},
};

use crate::{
    plan,
    protocol::{self, File, Limits, Private, ZygoteSpec},
    system,
};

/// Why a wall could not be built: what we were doing, and what the system said.
#[derive(Debug)]
pub(crate) struct Failure {
    step: String,
    source: io::Error,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.step, self.source)
    }
}

/// Names the step that failed.
pub(crate) trait Step<T> {
    fn step(self, step: impl Into<String>) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, step: impl Into<String>) -> Result<T, Failure> {
        self.map_err(|error| Failure {
            step: step.into(),
            source: error.into(),
        })
    }
}

const PRIVATE: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);

/// Closes every descriptor from 3 on but these.
pub(crate) fn close_others(keep: &[BorrowedFd<'_>]) -> Result<(), Failure> {
    let keep: Vec<i32> = keep.iter().map(AsRawFd::as_raw_fd).collect();
    for (first, last) in plan::gaps(3, &keep) {
        system::close_range(first, last).step("close inherited descriptors")?;
    }
    Ok(())
}

/// Maps this process's user and group, who have the ids `outside` in the namespace above, to `inside`.
pub(crate) fn map_ids(inside: (u32, u32), outside: (u32, u32)) -> Result<(), Failure> {
    // A change of user namespace makes a process opaque, and then its files in /proc belong to nobody (proc(5)).
    rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable).step("become visible")?;
    fs::write("/proc/self/setgroups", "deny").step("deny setgroups")?;
    fs::write("/proc/self/uid_map", plan::id_map(inside.0, outside.0)).step("map the user")?;
    fs::write("/proc/self/gid_map", plan::id_map(inside.1, outside.1)).step("map the group")
}

/// Enters the run's cgroups by files that the daemon, who may, has opened; and hides where in them it is.
pub(crate) fn enter_cgroups(files: Vec<OwnedFd>) -> Result<(), Failure> {
    for file in files {
        // "0" is the writing process itself (cgroups(7)).
        rustix::io::write(&file, b"0").step("enter a cgroup")?;
    }
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWCGROUP).step("enter a cgroup namespace")
}

/// Mounts what a slot has for itself. The system below it is the zygote's, read-only, and locked: a mount namespace that
/// belongs to a lesser user namespace can neither change nor uncover it (`mount_namespaces(7)`).
pub(crate) fn furnish(spec: &ZygoteSpec) -> Result<(), Failure> {
    let kernel = PRIVATE | MountFlags::NOEXEC;
    rustix::mount::mount("proc", "/proc", "proc", kernel, None).step("mount /proc")?;
    // Its own pseudo-terminals: those of the zygote's /dev would be shared by all slots.
    let terminals = MountFlags::NOSUID | MountFlags::NOEXEC;
    // And few of them: the kernel counts those of the whole host (`kernel.pty.max`).
    let options = c"newinstance,ptmxmode=0666,mode=620,max=16";
    rustix::mount::mount("devpts", "/dev/pts", "devpts", terminals, options)
        .step("mount /dev/pts")?;
    for private in &spec.private {
        let path = private.path.as_str();
        let options = CString::new(plan::options(private)).step("bound a file system")?;
        rustix::mount::mount("tmpfs", path, "tmpfs", PRIVATE, options.as_c_str())
            .step(format!("mount {path}"))?;
        if !private.writable {
            seal(path, true)?;
        }
    }
    system::loopback_up().step("switch the loopback interface on")
}

/// Gives the writable memory file systems another size.
pub(crate) fn resize(privates: &[Private], bytes: u64) -> Result<(), Failure> {
    for private in privates {
        if private.writable && private.bytes != bytes {
            let path = private.path.as_str();
            rustix::mount::mount_remount(path, PRIVATE, plan::bounds(private, bytes))
                .step(format!("bound {path}"))?;
        }
    }
    Ok(())
}

/// Writes the job's files where the guest cannot.
pub(crate) fn write_files(privates: &[Private], files: &[File]) -> Result<(), Failure> {
    let sealed = || privates.iter().filter(|private| !private.writable);
    if files.is_empty() {
        return Ok(());
    }
    sealed().try_for_each(|private| seal(&private.path, false))?;
    for file in files {
        fs::write(&file.path, &file.text).step(format!("write {}", file.path))?;
    }
    sealed().try_for_each(|private| seal(&private.path, true))
}

fn seal(path: &str, sealed: bool) -> Result<(), Failure> {
    let mut flags = MountFlags::BIND | PRIVATE;
    flags.set(MountFlags::RDONLY, sealed);
    rustix::mount::mount_remount(path, flags, "").step(format!("seal {path}"))
}

/// Attaches the session's directory, which came as a mount without a place.
pub(crate) fn attach_workspace(workspace: &OwnedFd, at: &str) -> Result<(), Failure> {
    rustix::mount::move_mount(
        workspace.as_fd(),
        "",
        rustix::fs::CWD,
        at,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
    .step("attach the workspace")?;
    let path = CString::new(at).step("attach the workspace")?;
    system::harden_mount(&path).step("harden the workspace")
}

/// Allows one user namespace below this one: the guest's (`user_namespaces(7)`, `max_user_namespaces`).
pub(crate) fn limit_user_namespaces() -> Result<(), Failure> {
    fs::write("/proc/sys/user/max_user_namespaces", "1").step("limit user namespaces")
}

/// Keeps these capabilities and gives up all others, for this process and whatever program it starts.
pub(crate) fn keep_capabilities(kept: CapabilitySet) -> Result<(), Failure> {
    for capability in CapabilitySet::all().iter() {
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // An older kernel that does not know this capability cannot grant it either.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(error).step("empty the bounding set"),
        }
    }
    rustix::thread::clear_ambient_capability_set().step("clear ambient capabilities")?;
    hold(kept)?;
    rustix::thread::set_no_new_privs(true).step("give up new privileges")
}

/// Holds these capabilities and no others, of those that it has.
pub(crate) fn hold(capabilities: CapabilitySet) -> Result<(), Failure> {
    let sets = CapabilitySets {
        effective: capabilities,
        permitted: capabilities,
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, sets).step("drop capabilities")
}

/// Installs a seccomp filter that the daemon compiled.
pub(crate) fn filter(instructions: &[u64]) -> Result<(), Failure> {
    let program: Vec<_> = instructions
        .iter()
        .map(|instruction| {
            let (code, jt, jf, k) = protocol::fields(*instruction);
            seccompiler::sock_filter { code, jt, jf, k }
        })
        .collect();
    // An empty program is refused in there, so a filter that was lost on the way cannot pass for one.
    seccompiler::apply_filter(&program)
        .map_err(io::Error::other)
        .step("install the seccomp filter")
}

/// Enters the guest's directory. It is the guest's own, so an earlier guest may have locked everybody out, itself as well:
/// its owner, who we are, lets the next one in again.
pub(crate) fn enter(directory: &str) -> io::Result<()> {
    match std::env::set_current_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            rustix::fs::chmod(directory, rustix::fs::Mode::RWXU)?;
            std::env::set_current_dir(directory)
        }
        entered => entered,
    }
}

/// Stack of a guest's first thread: what Linux gives by default.
const STACK_BYTES: u64 = 8 << 20;

/// Sets the resource limits of this process, and of whatever it starts.
pub(crate) fn limit(limits: &Limits) -> Result<(), Failure> {
    let all = [
        (Resource::Core, Some(0)),
        (Resource::Nofile, Some(limits.open_files)),
        (Resource::Fsize, Some(limits.file_size)),
        (Resource::Nproc, Some(limits.processes)),
        (Resource::Data, limits.data),
        (Resource::Memlock, Some(0)),
        (Resource::Msgqueue, Some(0)),
        (Resource::Rtprio, Some(0)),
        (Resource::Nice, Some(0)),
        (Resource::Stack, Some(STACK_BYTES)),
    ];
    for (resource, value) in all {
        if let Some(value) = value {
            // Never more than the daemon itself may have, which nobody without power over the host can raise.
            let most = rustix::process::getrlimit(resource).maximum;
            let value = most.map_or(value, |most| most.min(value));
            let limit = Rlimit {
                current: Some(value),
                maximum: Some(value),
            };
            rustix::process::setrlimit(resource, limit)
                .step(format!("set the limit {resource:?}"))?;
        }
    }
    // At the soft limit the kernel asks (SIGXCPU), a second later it kills (setrlimit(2)).
    let cpu = Rlimit {
        current: Some(limits.cpu_seconds),
        maximum: Some(limits.cpu_seconds + 1),
    };
    rustix::process::setrlimit(Resource::Cpu, cpu).step("set the limit Cpu")
}
