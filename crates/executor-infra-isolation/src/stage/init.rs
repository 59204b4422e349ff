//! The init: pid 1 inside the sandbox. Finishes the walls, starts the guest, and says how it ended.
//!
//! bubblewrap starts it as root *of a user namespace of its own*, with the capabilities to finish the mounts and no
//! others. The order of the steps below matters, and each is there for a reason that its comment gives.

use std::{
    collections::VecDeque,
    env, fs, io,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::Command,
};

use nix::{
    errno::Errno,
    sched::CloneFlags,
    sys::{
        resource::{UsageWho, getrusage},
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
        time::TimeValLike,
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use rustix::{
    event::{PollFd, PollFlags},
    fs::Mode,
    mount::MountFlags,
    process::{DumpableBehavior, Resource, Rlimit},
    thread::{CapabilitySet, CapabilitySets},
};

use super::{
    StageError, Step, close_others,
    handover::{self, Connections},
    wire::{self, Ended, Exit, InitSpec, Inspection, Report, Rlimits, Tenant},
};
use crate::seccomp;

/// Stack of a guest's first thread: what Linux gives by default.
const STACK_BYTES: u64 = 8 << 20;

/// Runs one guest to its end, as the daemon orders on the control socket.
pub(super) fn run_guest() -> Result<(), StageError> {
    let control = rustix::stdio::stdin();
    match build_and_start(control) {
        Ok(guest) => watch(control, guest),
        Err(failure) => {
            wire::send(control, &Report::Failed(failure.to_string())).step("report a failure")?;
            Err(failure)
        }
    }
}

fn build_and_start(control: BorrowedFd<'_>) -> Result<Pid, StageError> {
    close_others(&[]).step("close inherited descriptors")?;
    let descriptors =
        handover::receive_descriptors(control).step("receive the guest's descriptors")?;
    let spec: InitSpec = wire::receive(control).step("read the order")?;

    furnish(&spec)?;
    lock(&spec)?;
    let inspection = spec.inspect.then(inspect);
    let guest = start(&spec, descriptors)?;
    wire::send(control, &Report::Started(inspection)).step("report the start")?;
    Ok(guest)
}

/// Finishes the mounts, with the capabilities that are about to go.
fn furnish(spec: &InitSpec) -> Result<(), StageError> {
    for file in &spec.files {
        fs::write(&file.path, &file.text).step(format!("write {}", file.path))?;
    }
    // bubblewrap bounds the bytes of a tmpfs but not its inodes, and bounds its own /dev in nothing.
    let private = MountFlags::NOSUID | MountFlags::NODEV;
    for mount in &spec.bounded {
        let bounds = format!("size={},nr_inodes={}", mount.bytes, mount.inodes);
        rustix::mount::mount_remount(mount.path.as_str(), private, bounds)
            .step(format!("bound {}", mount.path))?;
    }
    // A remount forgets what it is not told again. These are bubblewrap's own options.
    let terminals = format!("mode=620,ptmxmode=666,max={}", spec.pseudo_terminals);
    rustix::mount::mount_remount(
        "/dev/pts",
        MountFlags::NOSUID | MountFlags::NOEXEC,
        terminals,
    )
    .step("bound /dev/pts")?;
    for path in &spec.sealed {
        let flags = MountFlags::BIND | MountFlags::RDONLY | private;
        rustix::mount::mount_remount(path.as_str(), flags, "").step(format!("seal {path}"))?;
    }
    Ok(())
}

/// Gives up everything. After this, init has no more rights than the guest.
fn lock(spec: &InitSpec) -> Result<(), StageError> {
    // 1. A second user namespace, in which the guest is an ordinary user. The mounts belong to the first one, so no
    //    capability in the second has power over them; and it is the last: the first may have one below it, and that
    //    one is ours (user_namespaces(7), "max_user_namespaces").
    if spec.tenant == Tenant::Guest {
        fs::write("/proc/sys/user/max_user_namespaces", "1").step("limit user namespaces")?;
    }
    nix::sched::unshare(CloneFlags::CLONE_NEWUSER).step("enter a user namespace")?;
    let (user, group) = spec.guest_ids;
    fs::write("/proc/self/setgroups", "deny").step("deny setgroups")?;
    fs::write("/proc/self/uid_map", format!("{user} 0 1")).step("map the user")?;
    fs::write("/proc/self/gid_map", format!("{group} 0 1")).step("map the group")?;

    // 2. Nobody inside may look into this process: not its memory, not its descriptors, not its executable.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).step("become opaque")?;

    // 3. Resource limits, which the guest inherits. A slot sets its own, and could not raise those of a zygote.
    if spec.tenant == Tenant::Guest {
        limit(&spec.rlimits)?;
    }

    // 4. No capability, now or through any program (capabilities(7)).
    for capability in CapabilitySet::all().iter() {
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // An older kernel that does not know this capability cannot grant it either.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(error).step("empty the bounding set"),
        }
    }
    rustix::thread::clear_ambient_capability_set().step("clear ambient capabilities")?;
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, none).step("drop capabilities")?;
    rustix::thread::set_no_new_privs(true).step("give up new privileges")?;

    // 5. Last, since it refuses half of the above, and all that a zygote is there for.
    if spec.tenant == Tenant::Guest {
        seccomp::apply()
            .map_err(io::Error::other)
            .step("install the seccomp filter")?;
    }

    enter(&spec.directory).step("enter the working directory")
}

/// Enters the guest's directory. It is the guest's own, so an earlier guest may have locked everybody out, itself as well:
/// its owner, who we are, lets the next one in again.
fn enter(directory: &str) -> io::Result<()> {
    match env::set_current_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            rustix::fs::chmod(directory, Mode::RWXU)?;
            env::set_current_dir(directory)
        }
        entered => entered,
    }
}

fn limit(limits: &Rlimits) -> Result<(), StageError> {
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

/// Starts the guest with exactly the descriptors that were handed over.
fn start(spec: &InitSpec, descriptors: VecDeque<OwnedFd>) -> Result<Pid, StageError> {
    let Connections {
        inherited,
        stdin,
        stdout,
        stderr,
    } = handover::tell_apart(descriptors)?;
    let (program, arguments) = spec
        .argv
        .split_first()
        .ok_or_else(|| io::Error::other("no program"))
        .step("start the guest")?;

    if spec.tenant == Tenant::Zygote {
        // A zygote must not have the number that its guests have in their own namespaces, which is the next one:
        // libraries with a random state of their own, such as OpenSSL, tell a fork by its number. A thread takes one too.
        let thread = std::thread::Builder::new().spawn(|| {});
        let _ = thread.step("use up a process number")?.join();
    }
    let guest = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(spec.environment.iter().map(|(name, value)| (name, value)))
        .stdin(stdin)
        .stdout(stdout)
        .stderr(stderr)
        // A group of its own, so that `kill 0` means the guest and not us.
        .process_group(0)
        .spawn()
        .step(format!("start {program}"))?;
    drop(inherited);
    // For us, and not before: the guest would inherit it. Whoever has ended by now is found by the first look.
    SigSet::from(Signal::SIGCHLD)
        .thread_block()
        .step("block SIGCHLD")?;
    let id = i32::try_from(guest.id())
        .map_err(io::Error::other)
        .step("start the guest")?;
    Ok(Pid::from_raw(id))
}

/// Reaps whatever ends, until the guest has ended, or the daemon asks to stop, or the daemon is gone. Then kills and
/// reaps the rest, and reports.
fn watch(control: BorrowedFd<'_>, guest: Pid) -> Result<(), StageError> {
    let children = SignalFd::with_flags(&SigSet::from(Signal::SIGCHLD), SfdFlags::SFD_CLOEXEC)
        .step("watch for SIGCHLD")?;
    let mut how = reap(guest)?;
    while how.is_none() {
        let mut sources = [
            PollFd::new(&children, PollFlags::IN),
            PollFd::from_borrowed_fd(control, PollFlags::IN),
        ];
        rustix::io::retry_on_intr(|| rustix::event::poll(&mut sources, None)).step("wait")?;
        let asked_to_stop = !sources[1].revents().is_empty();
        if !sources[0].revents().is_empty() {
            children.read_signal().step("read SIGCHLD")?;
            how = reap(guest)?;
        }
        if asked_to_stop && how.is_none() {
            // A byte, or the end of the stream because the daemon is gone: the same to us.
            break;
        }
    }
    let how = kill_all(guest, how)?;

    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).step("ask for the usage")?;
    let cpu = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    let ended = Ended {
        how,
        cpu_micros: cpu.unsigned_abs(),
        max_rss_kib: usage.max_rss().unsigned_abs(),
    };
    wire::send(control, &Report::Ended(ended)).step("report the end")
}

/// Reaps every child that has ended, and says how the guest did if it was among them.
fn reap(guest: Pid) -> Result<Option<Exit>, StageError> {
    let mut how = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(how),
            Ok(status) => how = exit_of(guest, status).or(how),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error).step("reap"),
        }
    }
}

/// Kills every process in this pid namespace but us, and reaps until none is left. The kernel takes one look at all
/// processes under the lock that a fork needs as well, so nothing slips through (kill(2), "-1").
fn kill_all(guest: Pid, mut how: Option<Exit>) -> Result<Exit, StageError> {
    match nix::sys::signal::kill(Pid::from_raw(-1), Signal::SIGKILL) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(error) => return Err(error).step("kill the guest"),
    }
    loop {
        match waitpid(None, None) {
            Ok(status) => how = exit_of(guest, status).or(how),
            Err(Errno::EINTR) => {}
            Err(Errno::ECHILD) => break,
            Err(error) => return Err(error).step("reap"),
        }
    }
    Ok(how.unwrap_or(Exit::Signal(Signal::SIGKILL as i32)))
}

fn exit_of(guest: Pid, status: WaitStatus) -> Option<Exit> {
    match status {
        WaitStatus::Exited(pid, code) if pid == guest => Some(Exit::Code(code)),
        WaitStatus::Signaled(pid, signal, _) if pid == guest => Some(Exit::Signal(signal as i32)),
        _ => None,
    }
}

/// Looks at the walls from the inside. What cannot be read is reported as empty, which passes no judgement.
fn inspect() -> Inspection {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let list = |path| {
        fs::read_dir(path)
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
    };
    Inspection {
        status: read("/proc/self/status"),
        uid_map: read("/proc/self/uid_map"),
        mounts: read("/proc/self/mounts"),
        // /proc/net/dev has two lines of headings; no sysfs is mounted.
        interfaces: read("/proc/self/net/dev")
            .lines()
            .skip(2)
            .filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()))
            .collect(),
        namespaces: list("/proc/self/ns")
            .filter_map(|kind| {
                let link = fs::read_link(format!("/proc/self/ns/{kind}")).ok()?;
                Some((kind, link.to_string_lossy().into_owned()))
            })
            .collect(),
        limits: read("/proc/self/limits"),
        opaque: rustix::process::dumpable_behavior()
            .is_ok_and(|dumpable| dumpable == DumpableBehavior::NotDumpable),
        processes: list("/proc").filter_map(|name| name.parse().ok()).collect(),
        user_namespace_refused: nix::sched::unshare(CloneFlags::CLONE_NEWUSER)
            .err()
            .map(|error| error.to_string()),
    }
}
