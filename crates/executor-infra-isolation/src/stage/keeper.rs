//! The keeper: stays outside of the sandbox, starts the guest inside, watches what its processes use, ends them all, and
//! reports. Launcher and init in one, where no namespace does half of their work.

use std::{
    collections::VecDeque,
    env,
    io::{self, PipeReader, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    process::{Child, Command, ExitStatus},
    thread,
    time::{Duration, Instant},
};

use nix::sys::{
    resource::{Usage, UsageWho, getrusage},
    time::TimeValLike,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec},
    fs::Mode,
    io::FdFlags,
    process::{Pid, Signal, WaitId, WaitIdOptions},
};

use super::{
    CONFINER, StageError, Step, close_others,
    handover::{self, Connections},
    tree::{self, Found, Tree},
    wire::{self, ConfineSpec, Ended, Exit, KeeperSpec, Report},
};

/// Time between two looks at what the guest's processes use: each costs some ten milliseconds of CPU time on macOS.
const INTERVAL: Duration = Duration::from_millis(250);
/// How many of the units in which the kernel counts resident memory make a KiB (getrusage(2): bytes on macOS, KiB on Linux).
const RSS_PER_KIB: u64 = if cfg!(target_vendor = "apple") {
    1024
} else {
    1
};

/// Runs one guest to its end, as the daemon orders on the control socket.
pub(super) fn run_guest() -> Result<(), StageError> {
    let control = rustix::stdio::stdin();
    match start(control) {
        Ok(mut guest) => {
            let over = guest.watch(control);
            // Whatever has happened, the daemon's death included: nobody is left alive.
            let ended = guest.kill_all()?;
            let (exceeded, most) = over?;
            let report = ended.report(exceeded, most);
            wire::send(control, &Report::Ended(report)).step("report the end")
        }
        Err(failure) => {
            wire::send(control, &Report::Failed(failure.to_string())).step("report a failure")?;
            Err(failure)
        }
    }
}

/// A guest that runs.
struct Guest {
    /// What becomes the guest. Not waited for before everybody else is dead: its number, and that of its group, stay its
    /// own so long.
    child: Child,
    tree: Tree,
    memory: u64,
    cpu: Duration,
}

fn start(control: BorrowedFd<'_>) -> Result<Guest, StageError> {
    close_others(&[]).step("close inherited descriptors")?;
    let descriptors =
        handover::receive_descriptors(control).step("receive the guest's descriptors")?;
    let spec: KeeperSpec = wire::receive(control).step("read the order")?;

    // A session of our own: no terminal to push characters into, and what the guest starts is found by it.
    let session = rustix::process::setsid().step("begin a session")?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    env::set_current_dir("/").step("change to /")?;

    let processes = tree::list().step("list the processes of this host")?;
    let user = spec
        .run_as
        .map_or_else(|| rustix::process::geteuid().as_raw(), |(user, _)| user);
    let mut rlimits = spec.rlimits;
    // Counted by user, on macOS, not by sandbox: those that are there already come on top.
    rlimits.processes += tree::count_of(user, &processes);
    let order = ConfineSpec {
        rlimits,
        argv: spec.argv,
        environment: spec.environment,
        directory: spec.directory,
    };
    let (child, mut failure) = spawn(spec.run_as, descriptors, &order)?;
    let mut guest = Guest {
        child,
        tree: Tree::led_by(session.as_raw_nonzero().get()),
        memory: spec.memory,
        cpu: Duration::from_micros(spec.cpu_micros),
    };
    // To the end of the stream, which comes when the confiner has become somebody else, or has ended.
    let mut said = String::new();
    let heard = failure.read_to_string(&mut said).step("hear the confiner");
    if said.is_empty() && heard.is_ok() {
        return Ok(guest);
    }
    guest.kill_all()?;
    heard?;
    Err(io::Error::other(said)).step("confine the guest")
}

/// Starts the confiner, with exactly the descriptors that were handed over, and two more: one for its order, and one by
/// which it says why it failed.
fn spawn(
    run_as: Option<(u32, u32)>,
    descriptors: VecDeque<OwnedFd>,
    order: &ConfineSpec,
) -> Result<(Child, PipeReader), StageError> {
    let Connections {
        inherited,
        stdin,
        stdout,
        stderr,
    } = handover::tell_apart(descriptors)?;
    let (order_to_read, mut order_to_write) = io::pipe().step("make a pipe")?;
    let (failure_to_read, failure_to_write) = io::pipe().step("make a pipe")?;
    pass_on(&order_to_read, run_as).step("pass a descriptor on")?;
    pass_on(&failure_to_write, run_as).step("pass a descriptor on")?;
    let mut command = Command::new(this_executable().step("find this executable")?);
    command
        .arg(CONFINER)
        .arg(order_to_read.as_raw_fd().to_string())
        .arg(failure_to_write.as_raw_fd().to_string())
        .env_clear()
        .stdin(stdin)
        .stdout(stdout)
        .stderr(stderr)
        // A group of its own, so that `kill 0` means the guest and not us.
        .process_group(0);
    if let Some((user, group)) = run_as {
        // The standard library drops the supplementary groups as well, where it is root that changes.
        command.uid(user).gid(group);
    }
    let child = command.spawn().step("start the confiner")?;
    drop((inherited, order_to_read, failure_to_write));
    let text = serde_json::to_vec(order)
        .map_err(io::Error::from)
        .step("encode the order for the confiner")?;
    // It reads to the end of this pipe before it does anything else; where it has died, so will the guest have.
    let _ = order_to_write.write_all(&text);
    Ok((child, failure_to_read))
}

/// Lets a pipe be inherited, on purpose; the confiner closes it.
fn pass_on(pipe: impl AsFd, run_as: Option<(u32, u32)>) -> io::Result<()> {
    rustix::io::fcntl_setfd(&pipe, FdFlags::empty())?;
    // It is opened by its name, and on Linux checked for who owns it.
    #[cfg(target_os = "linux")]
    if let Some((user, group)) = run_as {
        use rustix::fs::{Gid, Uid};

        let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
        rustix::fs::fchown(&pipe, Some(user), Some(group))?;
    }
    #[cfg(not(target_os = "linux"))]
    let _ = run_as;
    Ok(())
}

/// What to start as another stage. On Linux by a name that is right even where its path cannot be reached.
fn this_executable() -> io::Result<std::path::PathBuf> {
    if cfg!(target_os = "linux") {
        Ok("/proc/self/exe".into())
    } else {
        env::current_exe()
    }
}

impl Guest {
    /// Says that the guest runs, and watches until it has ended, or has used more than it may, or the daemon asks to
    /// stop, or the daemon is gone. Returns what it has used too much of, and what was seen.
    fn watch(&mut self, control: BorrowedFd<'_>) -> Result<(Option<Exit>, Found), StageError> {
        wire::send(control, &Report::Started(None)).step("report the start")?;
        let ended = self.end().step("wait for the guest")?;
        let mut next = Instant::now() + INTERVAL;
        let mut most = Found::default();
        let mut exceeded = None;
        while exceeded.is_none() {
            let pause = next.saturating_duration_since(Instant::now());
            let pause = Timespec::try_from(pause)
                .map_err(io::Error::other)
                .step("wait")?;
            let mut sources = [
                PollFd::new(&ended, PollFlags::IN),
                PollFd::from_borrowed_fd(control, PollFlags::IN),
            ];
            let ready =
                rustix::io::retry_on_intr(|| rustix::event::poll(&mut sources, Some(&pause)));
            // The guest's end, a byte from the daemon, or the end of the stream because the daemon is gone.
            if ready.step("wait")? > 0 {
                break;
            }
            // A look that fails (no process to be had for ps) is made up for by the next one.
            if let Ok(processes) = tree::list() {
                let found = self.tree.look(&processes);
                most.memory = most.memory.max(found.memory);
                most.cpu = found.cpu;
            }
            exceeded = self.exceeded(most);
            next = Instant::now() + INTERVAL;
        }
        Ok((exceeded, most))
    }

    fn exceeded(&self, most: Found) -> Option<Exit> {
        if most.memory > self.memory {
            Some(Exit::OutOfMemory)
        } else if most.cpu >= self.cpu {
            // What the kernel does where one process has used it all.
            Some(Exit::Signal(Signal::XCPU.as_raw()))
        } else {
            None
        }
    }

    /// A descriptor that can be read once the guest's first process has ended.
    fn end(&self) -> io::Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair()?;
        let pid = self.pid()?;
        thread::Builder::new()
            .name("waiter".into())
            .spawn(move || {
                // Without reaping it: see `child`.
                let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
                let _ = rustix::io::retry_on_intr(|| {
                    rustix::process::waitid(WaitId::Pid(pid), options)
                });
                drop(theirs);
            })?;
        Ok(ours)
    }

    fn pid(&self) -> io::Result<Pid> {
        i32::try_from(self.child.id())
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(|| io::Error::other("no process id"))
    }

    /// Kills the guest's group at once, and then everybody who belongs to it, until nobody is left.
    fn kill_all(&mut self) -> Result<Buried, StageError> {
        let group = self.pid().step("kill the guest")?;
        // While parents live, children are known by them. Where this look fails, the sweep below makes do without.
        if let Ok(processes) = tree::list() {
            self.tree.look(&processes);
        }
        // At once, and without needing a process for ps. There may be nobody left in it.
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
        self.tree.sweep().step("kill the guest's processes")?;
        // What ps and the like have used is not the guest's.
        let before = getrusage(UsageWho::RUSAGE_CHILDREN).step("ask for the usage")?;
        let status = self.child.wait().step("reap the guest")?;
        let after = getrusage(UsageWho::RUSAGE_CHILDREN).step("ask for the usage")?;
        let micros = |usage: &Usage| {
            usage.user_time().num_microseconds() + usage.system_time().num_microseconds()
        };
        let rss = |usage: &Usage| usage.max_rss().unsigned_abs() / RSS_PER_KIB;
        Ok(Buried {
            status,
            cpu_micros: (micros(&after) - micros(&before)).unsigned_abs(),
            max_rss_kib: (rss(&after) > rss(&before)).then(|| rss(&after)),
        })
    }
}

/// A guest that is dead, and all that it started.
struct Buried {
    status: ExitStatus,
    /// Of its first process, and of those that it waited for.
    cpu_micros: u64,
    /// The same; `None` where another child of ours has used more.
    max_rss_kib: Option<u64>,
}

impl Buried {
    /// What the daemon is told, with what was seen while the guest lived.
    fn report(&self, exceeded: Option<Exit>, most: Found) -> Ended {
        let sampled_micros = u64::try_from(most.cpu.as_micros()).unwrap_or(u64::MAX);
        Ended {
            how: exceeded.unwrap_or_else(|| exit_of(self.status)),
            cpu_micros: self.cpu_micros.max(sampled_micros),
            max_rss_kib: self.max_rss_kib.unwrap_or(0).max(most.memory >> 10),
        }
    }
}

fn exit_of(status: ExitStatus) -> Exit {
    use std::os::unix::process::ExitStatusExt;

    match (status.code(), status.signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, Some(signal)) => Exit::Signal(signal),
        (None, None) => Exit::Signal(Signal::KILL.as_raw()),
    }
}
