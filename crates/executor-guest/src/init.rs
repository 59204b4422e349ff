//! The init of a slot: pid 1 inside. Builds the walls, attaches the workspace, lets the guest go, reaps and reports.

use std::{
    mem::ManuallyDrop,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use nix::{
    errno::Errno,
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
    net::{AddressFamily, SocketFlags, SocketType},
    process::DumpableBehavior,
    thread::CapabilitySet,
};

use crate::{
    guest::{self, Guest},
    protocol::{self, Ended, Exit, Fork, JobSpec, LIBRARY, Report, ZygoteSpec},
    socket::{self, Descriptors},
    system::{self, ChildSignal, Side},
    walls::{self, Failure, Step},
    zygote::Zygote,
};

/// Most bytes of what a guest says to its init before its job: that it is ready, or what failed;
const MAX_PACKET: usize = 4 << 10;
/// and an inspection of its walls, mostly `/proc/self/mounts`. This much room in every init would be memory of every slot.
const MAX_INSPECTION: usize = 64 << 10;
/// Exit code of a slot that failed; what happened is in its report.
const FAILED: i32 = 125;

/// The descriptors of a slot.
pub(crate) struct Slot {
    pub(crate) control: OwnedFd,
    pub(crate) streams: Streams,
    /// Files by which it enters its cgroups.
    pub(crate) cgroups: Vec<OwnedFd>,
}

/// What a guest is connected to. Its standard input comes with its job.
pub(crate) struct Streams {
    pub(crate) channel: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

impl Slot {
    pub(crate) fn new(mut descriptors: Descriptors) -> std::io::Result<Self> {
        let mut next = || socket::next(&mut descriptors);
        let control = next()?;
        let streams = Streams {
            channel: next()?,
            stdout: next()?,
            stderr: next()?,
        };
        Ok(Self {
            control,
            streams,
            cgroups: descriptors.into(),
        })
    }
}

/// Makes a slot of this process, the first one of new namespaces and a copy of its zygote. Returns in the guest only; the init
/// ends in here.
pub(crate) fn run(zygote: &Zygote, slot: Slot, fork: Fork) -> Guest {
    let spec = &zygote.spec;
    let Slot {
        control,
        streams,
        cgroups,
    } = slot;
    // The guest closes whatever it was not given, and must not close that number again.
    let control = ManuallyDrop::new(control);
    let ended = prepare(spec, zygote.ids, cgroups)
        .and_then(|()| divide(zygote, &control, streams, fork))
        .and_then(|side| match side {
            Half::Guest(guest) => Ok(Some(guest)),
            Half::Init { guest, line } => {
                serve(spec, control.as_fd(), guest, line.as_fd(), fork).map(|()| None)
            }
        });
    match ended {
        Ok(Some(guest)) => guest,
        Ok(None) => system::exit(0),
        Err(failure) => {
            // Nobody is left to tell if this fails too.
            let _ = socket::send_frame(control.as_fd(), &Report::Failed(failure.to_string()));
            system::exit(FAILED)
        }
    }
}

/// Builds what both halves of the slot live in.
fn prepare(spec: &ZygoteSpec, outside: (u32, u32), cgroups: Vec<OwnedFd>) -> Result<(), Failure> {
    ChildSignal::reset().step("watch for children")?;
    walls::map_ids((0, 0), outside)?;
    walls::enter_cgroups(cgroups)?;
    nix::unistd::setsid().step("make a session")?;
    walls::furnish(spec)?;
    walls::limit_user_namespaces()
}

enum Half {
    Init { guest: Pid, line: OwnedFd },
    Guest(Guest),
}

/// Forks the guest, and gives up in each half what it will not need.
fn divide(
    zygote: &Zygote,
    control: &OwnedFd,
    streams: Streams,
    fork: Fork,
) -> Result<Half, Failure> {
    let (ours, theirs) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .step("make a line to the guest")?;
    SigSet::from(Signal::SIGCHLD)
        .thread_block()
        .step("block SIGCHLD")?;
    match system::fork().step("fork the guest")? {
        Side::Child => {
            system::place(&theirs, LIBRARY, false).step("make a line to the init")?;
            drop((ours, theirs));
            // By its number: see `run`.
            let number = control.as_raw_fd().cast_unsigned();
            system::close_range(number, number).step("leave the daemon to the init")?;
            match guest::wall_in(&zygote.spec, &zygote.signal, streams, fork) {
                Ok(guest) => {
                    if fork != Fork::Awaited {
                        system::populate(&zygote.small);
                    }
                    Ok(Half::Guest(guest))
                }
                Err(failure) => guest::give_up(&failure),
            }
        }
        Side::Parent(guest) => {
            drop((streams, theirs));
            // What the zygote had open is none of ours; and from here on nobody in this slot may look into this process.
            walls::close_others(&[ours.as_fd(), control.as_fd()])?;
            rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
                .step("become opaque")?;
            // What attaching the workspace takes, and nothing else; and a filter that allows no more than that.
            walls::keep_capabilities(CapabilitySet::SYS_ADMIN)?;
            walls::filter(&zygote.spec.init_filter)?;
            Ok(Half::Init { guest, line: ours })
        }
    }
}

/// Waits until the guest is ready, takes the job, lets the guest go, and sees it to its end.
fn serve(
    spec: &ZygoteSpec,
    control: BorrowedFd<'_>,
    guest: Pid,
    line: BorrowedFd<'_>,
    fork: Fork,
) -> Result<(), Failure> {
    let children = SignalFd::with_flags(&SigSet::from(Signal::SIGCHLD), SfdFlags::SFD_CLOEXEC)
        .step("watch for SIGCHLD")?;
    if !forward_until_ready(control, line, fork)? {
        return Ok(());
    }
    let waiting = Waiting {
        control,
        children: &children,
        guest,
    };
    if let Some(how) = waiting.for_control()? {
        return Err(std::io::Error::other(format!("{how:?}"))).step("keep the guest waiting");
    }
    let Some((payload, descriptors)) = socket::receive_frame(control).step("receive the job")?
    else {
        // Nobody needs this slot. The kernel kills whoever is left in a namespace whose first process ends.
        return Ok(());
    };
    let job: JobSpec = protocol::decode(&payload).step("read the job")?;
    let stdin = attach(spec, &job, descriptors)?;
    walls::hold(CapabilitySet::empty())?;
    let go = serde_json::to_vec(&JobSpec {
        files: Vec::new(),
        ..job
    })
    .step("let the guest go")?;
    socket::send(line, &go, stdin.as_ref().map(AsFd::as_fd)).step("let the guest go")?;
    drop(stdin);

    // From here on there is a guest, of this process's user, that can take limits and more away from it. Where that keeps
    // the init from its work there is no report, as if the guest had killed it: to say that a wall is missing would be untrue.
    if see_to_its_end(&waiting).is_err() {
        system::exit(FAILED);
    }
    Ok(())
}

/// Waits for the guest's end, or for the daemon to want it; kills and reaps the rest; and reports.
fn see_to_its_end(waiting: &Waiting<'_>) -> Result<(), Failure> {
    // A byte, or the end of the stream because the daemon is gone: the same to us.
    let how = waiting.for_control()?;
    let how = kill_all(waiting.guest, how)?;
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).step("ask for the usage")?;
    let cpu = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    let ended = Ended {
        how,
        cpu_micros: cpu.unsigned_abs(),
        max_rss_kib: usage.max_rss().unsigned_abs(),
    };
    socket::send_frame(waiting.control, &Report::Ended(ended)).step("report the end")
}

/// Passes on what the guest says of its walls, until it says that it is ready. Whether it did.
fn forward_until_ready(
    control: BorrowedFd<'_>,
    line: BorrowedFd<'_>,
    fork: Fork,
) -> Result<bool, Failure> {
    let room = match fork {
        Fork::Shown => MAX_INSPECTION,
        Fork::Ahead | Fork::Awaited => MAX_PACKET,
    };
    let mut packet = vec![0; room];
    let mut seen = None;
    loop {
        let received = socket::receive(line, &mut packet).step("wait for the guest")?;
        let Some((length, _)) = received else {
            return Err(std::io::ErrorKind::UnexpectedEof).step("wait for the guest");
        };
        let report = protocol::decode(&packet[..length]).step("understand the guest")?;
        match report {
            Report::Started(None) => {
                let ready = Report::Started(seen);
                socket::send_frame(control, &ready).step("report a slot")?;
                return Ok(true);
            }
            Report::Started(inspection) => seen = inspection,
            Report::Failed(_) | Report::Ended(_) => {
                socket::send_frame(control, &report).step("report a failure")?;
                return Ok(false);
            }
        }
    }
}

/// Does what had to wait for the job, with the last capability. Returns the guest's standard input, if it has one.
fn attach(
    spec: &ZygoteSpec,
    job: &JobSpec,
    mut descriptors: Descriptors,
) -> Result<Option<OwnedFd>, Failure> {
    let mut next = || socket::next(&mut descriptors).step("receive the job");
    if job.has_workspace {
        walls::attach_workspace(&next()?, &spec.workspace)?;
    }
    let stdin = job.has_stdin.then(next).transpose()?;
    walls::resize(&spec.private, job.private_bytes)?;
    walls::write_files(&spec.private, &job.files)?;
    Ok(stdin)
}

/// What an init waits with.
struct Waiting<'a> {
    control: BorrowedFd<'a>,
    children: &'a SignalFd,
    guest: Pid,
}

impl Waiting<'_> {
    /// Reaps whatever ends, until the guest has ended, and says how; or until the daemon says something or is gone.
    fn for_control(&self) -> Result<Option<Exit>, Failure> {
        let mut how = reap(self.guest)?;
        while how.is_none() {
            let mut sources = [
                PollFd::new(self.children, PollFlags::IN),
                PollFd::from_borrowed_fd(self.control, PollFlags::IN),
            ];
            rustix::io::retry_on_intr(|| rustix::event::poll(&mut sources, None)).step("wait")?;
            let told = !sources[1].revents().is_empty();
            if !sources[0].revents().is_empty() {
                self.children.read_signal().step("read SIGCHLD")?;
                how = reap(self.guest)?;
            }
            if told && how.is_none() {
                break;
            }
        }
        Ok(how)
    }
}

/// Reaps every child that has ended, and says how the guest did if it was among them.
fn reap(guest: Pid) -> Result<Option<Exit>, Failure> {
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
///
/// Nobody is looked for where this process has no child: whoever lives in here descends from it, and orphans become its
/// children (`pid_namespaces(7)`).
fn kill_all(guest: Pid, mut how: Option<Exit>) -> Result<Exit, Failure> {
    let any_child = WaitPidFlag::WNOHANG | WaitPidFlag::__WALL;
    if let Some(how) = how
        && waitpid(None, Some(any_child)) == Err(Errno::ECHILD)
    {
        return Ok(how);
    }
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
