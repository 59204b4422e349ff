//! Runs any program between all walls. What kind of program it is, and what its end means, is for others.

use std::{
    io,
    path::{Path, PathBuf},
};

use executor_application::Listener;
use executor_domain::ResourceLimit;
use executor_guest::protocol::JobSpec;
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

use super::{
    argv::{self, SystemPath, Walls},
    burials::{Burials, Remains},
    files::{identity_files, standard_input},
    plan::BwrapPlan,
    process::BwrapProcesses,
    spawner::Spawner,
};
use crate::{
    cgroup::{CgroupLimits, Cgroups, RunCgroup},
    guest::interpreter::GUEST_WORKSPACE,
    runtime::{MAX_RESULT_BYTES, OPEN_FILES, Program, cpu_seconds},
    stage::wire::{BoundedMount, InitSpec, LaunchSpec, Rlimits, SmallFile, Tenant},
    supervisor::{
        self, Connections, Doing, Finished, Guest, Order, Streams, SuperviseError, Supervisor,
        socket,
    },
    usage::Usage,
    warm::{
        mounts::Mounts,
        slot::{Lease, Release, Slot},
    },
};

/// Who guests are in their own eyes.
pub(super) const GUEST_IDS: (u32, u32) = (1000, 1000);
/// Most bytes of `/tmp`, and of `/dev/shm`: half of the memory that the run may use, since tmpfs is memory, and not more
/// than this.
const MAX_TMPFS_BYTES: u64 = 256 << 20;
/// Most files and directories in `/tmp`, and in `/dev/shm`. Each takes about a KiB of kernel memory.
pub(super) const TMPFS_INODES: u64 = 16 << 10;
/// Processes of ours in a run's cgroup: bubblewrap and the init.
const OWN_PROCESSES: u64 = 2;
/// The same in a slot's: its init.
pub(super) const SLOTS_OWN_PROCESSES: u64 = 1;
/// Pseudo-terminals of one run. The kernel counts them for the whole host (`kernel.pty.max`), so one run must not be able to
/// take them all.
const PSEUDO_TERMINALS: u32 = 16;
/// A run's share of the processors beside others, of which each has 100 by default (`cpu.weight` in the kernel's
/// cgroup-v2.rst): whoever spins must leave time for the daemon that is to end it.
const CPU_WEIGHT: u16 = 20;
/// How much later than the cgroup a process's own CPU limit comes, so that the cgroup, which counts the whole tree, is
/// the one that decides.
const CPU_SLACK_SECONDS: u64 = 2;

/// Whether the init is to look at the walls before it starts the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// It is, and reports what it sees.
    First,
    /// It is not: somebody has looked before.
    Not,
}

/// What a run came to, in raw facts.
pub(crate) struct Run {
    /// What the supervisor knows.
    pub finished: Finished,
    /// What the cgroup counted.
    pub used: Option<Usage>,
}

/// Runs programs between all walls.
#[derive(Debug)]
pub(crate) struct Engine {
    pub supervisor: Supervisor,
    pub(super) spawner: Spawner,
    pub cgroups: Cgroups,
    pub system: Vec<SystemPath>,
    pub bwrap: PathBuf,
    /// User and group that guests are on the host; `None`: the daemon's own.
    pub run_as: Option<(u32, u32)>,
    pub(super) burials: Burials,
}

/// What lives in a sandbox that is to be built.
pub(super) struct Resident<'a> {
    pub argv: Vec<String>,
    pub environment: Vec<(String, String)>,
    /// Files of ours that it needs.
    pub files: Vec<SmallFile>,
    /// The session's directory.
    pub workspace: Option<&'a str>,
    /// Bytes of `/tmp`, and of `/dev/shm`.
    pub tmpfs_bytes: u64,
    pub limits: &'a ResourceLimit,
    pub look: Look,
    pub tenant: Tenant,
}

impl Engine {
    /// Runs a program to its end. Must be polled to its end as well; cancel with the token.
    pub(crate) async fn run(
        &self,
        program: Program,
        limits: &ResourceLimit,
        workspace: Option<&str>,
        look: Look,
        cancel: &CancellationToken,
    ) -> Result<Run, SuperviseError> {
        let cgroup = self.cgroup("run", &cgroup_limits(limits, OWN_PROCESSES))?;
        let connections = Connections {
            stdin: standard_input(&program.stdin).doing("make standard input")?,
            has_channel: program.job.is_some(),
            file: None,
        };
        let resident = Resident {
            argv: program.argv,
            environment: program.environment,
            files: program.files,
            workspace,
            tmpfs_bytes: tmpfs_bytes(limits),
            limits,
            look,
            tenant: Tenant::Guest,
        };
        let mut plan = self.plan(resident, cgroup.as_ref());
        let order = order(program.job, program.listener, limits);
        let guest = self.supervisor.start(&mut plan, connections).await?;
        let (run, remains) = self.finish(guest, &order, cgroup, None, cancel).await?;
        remains.bury().await;
        Ok(run)
    }

    /// Runs a program to its end in a slot: what its arguments and its environment would have been is the slot's own
    /// affair. Must be polled to its end as well; cancel with the token.
    pub(crate) async fn run_in(
        &self,
        mut slot: Slot,
        mounts: &Mounts,
        program: Program,
        limits: &ResourceLimit,
        workspace: Option<&str>,
        cancel: &CancellationToken,
    ) -> Result<Run, SuperviseError> {
        let workspace = match workspace {
            Some(path) => {
                let mount = mounts.open(Path::new(path)).await;
                Some(mount.doing("hand over the workspace")?)
            }
            None => None,
        };
        let stdin = match program.stdin.as_str() {
            "" => None,
            text => Some(standard_input(text).doing("make standard input")?),
        };
        let mut cgroup = slot.cgroup.take();
        if let Some(cgroup) = &mut cgroup {
            let wanted = cgroup_limits(limits, SLOTS_OWN_PROCESSES);
            if wanted != cgroup_limits(&slot.limits, SLOTS_OWN_PROCESSES) {
                cgroup
                    .set_limits(&wanted)
                    .map_err(io::Error::other)
                    .doing("set the limits of a cgroup")?;
            }
            // What it took to build the slot is not the guest's.
            cgroup.start_counting();
        }
        let release = Release {
            job: JobSpec {
                // A slot's init stays in the namespace above its guest's.
                limits: self.rlimits(limits, 0).into(),
                private_bytes: tmpfs_bytes(limits),
                has_workspace: workspace.is_some(),
                has_stdin: stdin.is_some(),
                files: program.files.into_iter().map(Into::into).collect(),
            },
            workspace,
            stdin,
        };
        let order = order(program.job, program.listener, limits);
        let (guest, lease) = slot.release(release).await.doing("hand a slot its job")?;
        let (run, remains) = self
            .finish(guest, &order, cgroup, Some(lease), cancel)
            .await?;
        self.burials.take(remains).await;
        Ok(run)
    }

    async fn finish(
        &self,
        guest: Guest<BwrapProcesses>,
        order: &Order,
        cgroup: Option<RunCgroup>,
        lease: Option<Lease>,
        cancel: &CancellationToken,
    ) -> Result<(Run, Remains), SuperviseError> {
        let (finished, processes) = self
            .supervisor
            .see_through(guest, order, &cgroup, cancel)
            .await?;
        let used = cgroup.as_ref().map(RunCgroup::usage);
        let remains = Remains {
            processes,
            cgroup,
            _lease: lease,
        };
        Ok((Run { finished, used }, remains))
    }

    /// How a sandbox is to be built for this resident.
    pub(super) fn plan(&self, resident: Resident<'_>, cgroup: Option<&RunCgroup>) -> BwrapPlan<'_> {
        let walls = Walls {
            system: &self.system,
            workspace: resident.workspace,
            tmp_bytes: resident.tmpfs_bytes,
            shm_bytes: resident.tmpfs_bytes,
        };
        BwrapPlan {
            spawner: &self.spawner,
            launch: LaunchSpec {
                parent: 0,
                cgroup_files: cgroup.map(RunCgroup::entry_files).unwrap_or_default(),
                run_as: self.run_as,
                bwrap: self.bwrap.clone(),
                arguments: argv::arguments(&walls),
            },
            init: InitSpec {
                files: identity_files().into_iter().chain(resident.files).collect(),
                bounded: bounds(resident.tmpfs_bytes),
                pseudo_terminals: PSEUDO_TERMINALS,
                sealed: vec!["/dev".into(), "/".into()],
                guest_ids: GUEST_IDS,
                // The init counts as well.
                rlimits: self.rlimits(resident.limits, 1),
                inspect: resident.look == Look::First,
                argv: resident.argv,
                environment: resident.environment,
                directory: GUEST_WORKSPACE.into(),
                tenant: resident.tenant,
            },
            info: None,
        }
    }

    /// Starts a stage that is neither launcher nor init, tells it who we are, and returns our end of its control socket.
    pub(crate) async fn start_helper(
        &self,
        stage: &'static str,
    ) -> Result<(BwrapProcesses, UnixStream), SuperviseError> {
        let step = "start a helper";
        let (mut ours, control) = socket::pair().doing(step)?;
        let (_output, output) = supervisor::pipe().doing(step)?;
        let (_complaints, complaints) = supervisor::pipe().doing(step)?;
        let streams = Streams {
            control,
            complaints,
        };
        let child = self.spawner.spawn(stage, streams, output).await;
        let processes = BwrapProcesses::new(child.doing(step)?).doing(step)?;
        socket::introduce(&mut ours).await.doing(step)?;
        Ok((processes, ours))
    }

    /// A cgroup with these limits; `None`: there are none on this host.
    pub(super) fn cgroup(
        &self,
        label: &str,
        limits: &CgroupLimits,
    ) -> Result<Option<RunCgroup>, SuperviseError> {
        if self.cgroups.support().version.is_none() {
            return Ok(None);
        }
        let cgroup = self.cgroups.create(label, limits);
        cgroup
            .map(Some)
            .map_err(io::Error::other)
            .doing("make a cgroup")
    }

    /// `inits`: processes of ours that are in the guest's own user namespace.
    pub(super) fn rlimits(&self, limits: &ResourceLimit, inits: u64) -> Rlimits {
        let support = self.cgroups.support();
        Rlimits {
            open_files: OPEN_FILES,
            file_size: limits.file_size_bytes(),
            // With a cgroup, that one decides, because it reports what it refused.
            processes: limits.max_processes()
                + inits
                + if support.pids { OWN_PROCESSES } else { 0 },
            cpu_seconds: cpu_seconds(limits)
                + if support.cpu_accounting {
                    CPU_SLACK_SECONDS
                } else {
                    0
                },
            data: (!support.memory).then(|| limits.memory_bytes()),
        }
    }
}

/// What becomes of a guest with these limits.
fn order(job: Option<supervisor::Job>, listener: Listener, limits: &ResourceLimit) -> Order {
    Order {
        job,
        wall_time: limits.wall_time(),
        cpu_time: limits.cpu_time(),
        max_output: usize::try_from(limits.max_output_bytes()).unwrap_or(usize::MAX),
        listener,
        max_result: MAX_RESULT_BYTES,
    }
}

pub(super) const fn cgroup_limits(limits: &ResourceLimit, own_processes: u64) -> CgroupLimits {
    CgroupLimits {
        memory_bytes: limits.memory_bytes(),
        pids_max: limits.max_processes() + own_processes,
        cpu_weight: Some(CPU_WEIGHT),
    }
}

pub(super) fn tmpfs_bytes(limits: &ResourceLimit) -> u64 {
    (limits.memory_bytes() / 2).min(MAX_TMPFS_BYTES)
}

/// Bounds of what bubblewrap mounts.
fn bounds(tmpfs_bytes: u64) -> Vec<BoundedMount> {
    ["/tmp", "/dev/shm"]
        .map(|path| bounded(path, tmpfs_bytes, TMPFS_INODES))
        .into_iter()
        // bubblewrap's own /dev holds a dozen nodes and links and nothing else.
        .chain([bounded("/dev", 64 << 10, 64)])
        .collect()
}

fn bounded(path: &str, bytes: u64, inodes: u64) -> BoundedMount {
    BoundedMount {
        path: path.into(),
        bytes,
        inodes,
    }
}
