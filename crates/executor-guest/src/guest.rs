//! The guest's side of a slot: from a copy of the zygote to an interpreter between walls that waits for its job.

use std::fs::{self, File};

use nix::sched::CloneFlags;
use rustix::thread::CapabilitySet;

use crate::{
    init::Streams,
    node,
    protocol::{self, CHANNEL, Fork, Inspection, JobSpec, Report, ZygoteSpec},
    socket,
    system::{self, ChildSignal, LINE},
    walls::{self, Failure, Step},
};

/// A guest that waits for its job.
#[derive(Debug)]
pub(crate) struct Guest {
    workspace: String,
    has_channel: bool,
    /// Whether its run waits for it.
    pub(crate) is_awaited: bool,
}

/// Walls this process in. On return it has no more rights than a guest, and has read nothing of any.
pub(crate) fn wall_in(
    spec: &ZygoteSpec,
    restore: &ChildSignal,
    streams: Streams,
    fork: Fork,
) -> Result<Guest, Failure> {
    // A group of its own, so that `kill 0` means the guest and not its init.
    nix::unistd::setpgid(nix::unistd::Pid::from_raw(0), nix::unistd::Pid::from_raw(0))
        .step("make a process group")?;
    restore.apply().step("restore the interpreter's signals")?;
    nix::sys::signal::SigSet::empty()
        .thread_set_mask()
        .step("clear the signal mask")?;

    // Exactly the descriptors that were handed over, each with a position of its own: what is shared with the zygote is
    // shared with every other guest.
    let nothing = File::open("/dev/null").step("open /dev/null")?;
    rustix::stdio::dup2_stdin(&nothing).step("connect the guest")?;
    rustix::stdio::dup2_stdout(&streams.stdout).step("connect the guest")?;
    rustix::stdio::dup2_stderr(&streams.stderr).step("connect the guest")?;
    system::place(&streams.channel, CHANNEL, true).step("connect the guest")?;
    drop((nothing, streams));
    if spec.has_event_loop {
        node::replace_descriptors().step("replace inherited descriptors")?;
    } else {
        system::close_range(LINE + 1, u32::MAX).step("close inherited descriptors")?;
    }

    // A user namespace of its own, in which it is an ordinary user. The mounts belong to that of the init, so no capability
    // in this one has power over them; and it is the last, because the init's may have one below it.
    nix::sched::unshare(CloneFlags::CLONE_NEWUSER).step("enter a user namespace")?;
    walls::map_ids(spec.guest_ids, (0, 0))?;
    walls::keep_capabilities(CapabilitySet::empty())?;
    // Last, since it refuses half of the above.
    walls::filter(&spec.guest_filter)?;

    if fork == Fork::Shown {
        tell(&Report::Started(Some(look())))?;
    }
    Ok(Guest {
        workspace: spec.workspace.clone(),
        has_channel: spec.has_channel,
        is_awaited: fork == Fork::Awaited,
    })
}

impl Guest {
    /// Says that the interpreter is ready, and waits for the job.
    pub(crate) fn take_job(self) -> Result<(), Failure> {
        tell(&Report::Started(None))?;
        let mut packet = vec![0; 4096];
        let received = socket::receive(system::line(), &mut packet).step("receive the job")?;
        let Some((length, mut descriptors)) = received else {
            // Nobody needs this slot any more.
            system::exit(0);
        };
        let job: JobSpec = protocol::decode(&packet[..length]).step("read the job")?;
        if job.has_stdin {
            let stdin = socket::next(&mut descriptors).step("connect the guest")?;
            rustix::stdio::dup2_stdin(&stdin).step("connect the guest")?;
        }
        let first = if self.has_channel { LINE } else { LINE - 1 };
        system::close_range(first, LINE).step("leave the line to the init")?;
        walls::enter(&self.workspace).step("enter the working directory")?;
        walls::limit(&job.limits)
    }
}

/// Ends this guest, for a reason that its init passes on.
pub(crate) fn give_up(failure: &Failure) -> ! {
    // Nobody is left to tell if this fails too: then the init sees the line end.
    let _ = tell(&Report::Failed(failure.to_string()));
    system::exit(1)
}

/// Says something to the init.
fn tell(report: &Report) -> Result<(), Failure> {
    let packet = serde_json::to_vec(report).step("report to the init")?;
    socket::send(system::line(), &packet, None).step("report to the init")
}

/// Looks at the walls from the inside. What cannot be read is reported as empty, which passes no judgement.
fn look() -> Inspection {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let own = std::process::id();
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
        namespaces: fs::read_dir("/proc/self/ns")
            .into_iter()
            .flatten()
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let link = fs::read_link(entry.path()).ok()?;
                let kind = entry.file_name().into_string().ok()?;
                Some((kind, link.to_string_lossy().into_owned()))
            })
            .collect(),
        limits: read("/proc/self/limits"),
        // This is the guest's own process: it tries.
        opaque: fs::read("/proc/1/environ").is_err(),
        processes: fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|process| *process != own)
            .collect(),
        user_namespace_refused: nix::sched::unshare(CloneFlags::CLONE_NEWUSER)
            .err()
            .map(|error| error.to_string()),
    }
}
