//! Runs any program between all walls. What kind of program it is, and what its end means, is for others.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use executor_application::Listener;
use executor_domain::{Language, ResourceLimit};
use executor_guest::protocol::{self, JobSpec, Limits, Private, ZygoteSpec};
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use tokio_util::sync::CancellationToken;

use super::argv::{self, SystemPath, Walls};
use crate::{
    cgroup::{self, CgroupLimits, Cgroups, RunCgroup},
    guest::interpreter::{GUEST_WORKSPACE, SHELL_SCRIPT},
    seccomp::{self, SeccompError},
    stage::wire::{BoundedMount, InitSpec, LaunchSpec, Rlimits, SmallFile, Tenant},
    supervisor::{ColdStart, Finished, Job, Order, Start, SuperviseError, Supervisor},
    warm::{
        mounts::Mounts,
        slot::{Release, Slot},
        zygote::Recipe,
    },
};

/// Who guests are in their own eyes.
const GUEST_IDS: (u32, u32) = (1000, 1000);
/// Most bytes of `/tmp`, and of `/dev/shm`: half of the memory that the run may use, since tmpfs is memory, and not more
/// than this.
const MAX_TMPFS_BYTES: u64 = 256 << 20;
/// Most files and directories in `/tmp`, and in `/dev/shm`. Each takes about a KiB of kernel memory.
const TMPFS_INODES: u64 = 16 << 10;
/// Open files of one process. What Linux gives by default; enough for every library that we know of.
const OPEN_FILES: u64 = 1024;
/// Processes of ours in a run's cgroup: bubblewrap and the init.
const OWN_PROCESSES: u64 = 2;
/// Pseudo-terminals of one run. The kernel counts them for the whole host (`kernel.pty.max`), so one run must not be able to
/// take them all.
const PSEUDO_TERMINALS: u32 = 16;
/// A run's share of the processors beside others, of which each has 100 by default (`cpu.weight` in the kernel's
/// cgroup-v2.rst): whoever spins must leave time for the daemon that is to end it.
const CPU_WEIGHT: u16 = 20;
/// The same in a slot's: its init.
const SLOTS_OWN_PROCESSES: u64 = 1;
/// Most memory of a zygote: an interpreter and what it preloads.
const ZYGOTE_MEMORY_BYTES: u64 = 2 << 30;
/// Most processes in a zygote's cgroup, where each slot is for a moment.
const ZYGOTE_PROCESSES: u64 = 1024;
/// Bytes of a zygote's own `/tmp`.
const ZYGOTE_TMPFS_BYTES: u64 = 64 << 20;
/// How much later than the cgroup a process's own CPU limit comes, so that the cgroup, which counts the whole tree, is
/// the one that decides.
const CPU_SLACK_SECONDS: u64 = 2;
/// Bytes of the file system for a shell's script of at most 1 MiB and its variables, which take at most 1 MiB and 128 KiB
/// before they are quoted, and four times that after.
const SCRIPT_BYTES: u64 = 8 << 20;
/// Most bytes of a result.
const MAX_RESULT_BYTES: usize = 8 << 20;

/// A program to run.
pub(crate) struct Program {
    /// The program, by absolute path in the sandbox, and its arguments.
    pub argv: Vec<String>,
    /// Its whole environment.
    pub environment: Vec<(String, String)>,
    /// Files of ours that it needs, below `/run/sandbox`.
    pub files: Vec<SmallFile>,
    /// Its standard input.
    pub stdin: String,
    /// What it is told on its channel; `None`: it has none.
    pub job: Option<Job>,
    /// Whether the init is to look at the walls first.
    pub inspect: bool,
    /// Who hears what it writes.
    pub listener: Listener,
}

/// What a run came to, in raw facts.
pub(crate) struct Run {
    /// What the supervisor knows.
    pub finished: Finished,
    /// What the cgroup counted.
    pub used: Option<cgroup::Usage>,
}

/// Runs programs between all walls.
#[derive(Debug)]
pub(crate) struct Engine {
    pub supervisor: Supervisor,
    pub cgroups: Cgroups,
    pub system: Vec<SystemPath>,
    pub bwrap: PathBuf,
    /// User and group that guests are on the host; `None`: the daemon's own.
    pub run_as: Option<(u32, u32)>,
}

impl Engine {
    /// Runs a program to its end. Must be polled to its end as well; cancel with the token.
    pub(crate) async fn run(
        &self,
        program: Program,
        limits: &ResourceLimit,
        workspace: Option<&str>,
        cancel: &CancellationToken,
    ) -> Result<Run, SuperviseError> {
        let cgroup = self.cgroup("run", limits, OWN_PROCESSES)?;
        let tmpfs_bytes = tmpfs_bytes(limits);
        let walls = Walls {
            system: &self.system,
            workspace,
            tmp_bytes: tmpfs_bytes,
            shm_bytes: tmpfs_bytes,
        };
        let stdin = standard_input(&program.stdin).map_err(|source| SuperviseError::System {
            step: "make standard input",
            source,
        })?;
        let order = Order {
            start: Start::Cold(Box::new(ColdStart {
                launch: self.launch(cgroup.as_ref(), &walls),
                stdin,
                init: InitSpec {
                    files: identity_files().into_iter().chain(program.files).collect(),
                    bounded: bounds(tmpfs_bytes),
                    pseudo_terminals: PSEUDO_TERMINALS,
                    sealed: vec!["/dev".into(), "/".into()],
                    guest_ids: GUEST_IDS,
                    rlimits: self.rlimits(limits, 1),
                    inspect: program.inspect,
                    argv: program.argv,
                    environment: program.environment,
                    directory: GUEST_WORKSPACE.into(),
                    tenant: Tenant::Guest,
                },
            })),
            ..Self::order(program.job, program.listener, limits, cgroup)
        };
        self.finish(order, cancel).await
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
        let failed = |step| move |source| SuperviseError::System { step, source };
        let workspace = match workspace {
            Some(path) => Some(
                mounts
                    .open(Path::new(path))
                    .await
                    .map_err(failed("hand over the workspace"))?,
            ),
            None => None,
        };
        let stdin = match program.stdin.as_str() {
            "" => None,
            text => Some(standard_input(text).map_err(failed("make standard input"))?),
        };
        let mut cgroup = slot.cgroup.take();
        if let Some(cgroup) = &mut cgroup {
            let wanted = cgroup_limits(limits, SLOTS_OWN_PROCESSES);
            if wanted != cgroup_limits(&slot.limits, SLOTS_OWN_PROCESSES) {
                cgroup
                    .set_limits(&wanted)
                    .map_err(|error| SuperviseError::System {
                        step: "set the limits of a cgroup",
                        source: io::Error::other(error),
                    })?;
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
        let order = Order {
            start: Start::Warm(Box::new(slot), release),
            ..Self::order(program.job, program.listener, limits, cgroup)
        };
        self.finish(order, cancel).await
    }

    /// Everything of a run but its start.
    fn order(
        job: Option<Job>,
        listener: Listener,
        limits: &ResourceLimit,
        cgroup: Option<RunCgroup>,
    ) -> Order {
        Order {
            start: Start::Taken,
            job,
            wall_time: limits.wall_time(),
            cpu_time: limits.cpu_time(),
            max_output: usize::try_from(limits.max_output_bytes()).unwrap_or(usize::MAX),
            listener,
            max_result: MAX_RESULT_BYTES,
            cgroup,
        }
    }

    async fn finish(
        &self,
        order: Order,
        cancel: &CancellationToken,
    ) -> Result<Run, SuperviseError> {
        let mut finished = self.supervisor.run(order, cancel).await?;
        let used = match finished.cgroup.take() {
            Some(cgroup) => Some(settle(cgroup).await),
            None => None,
        };
        Ok(Run { finished, used })
    }

    /// The sandbox of a zygote, and its cgroup.
    pub(crate) fn zygote(
        &self,
        recipe: &Recipe,
    ) -> Result<(ColdStart, Option<RunCgroup>), SuperviseError> {
        let cgroup = self.new_cgroup(
            "zygote",
            &CgroupLimits {
                memory_bytes: ZYGOTE_MEMORY_BYTES,
                pids_max: ZYGOTE_PROCESSES,
                cpu_weight: None,
            },
        )?;
        let walls = Walls {
            system: &self.system,
            workspace: None,
            tmp_bytes: ZYGOTE_TMPFS_BYTES,
            shm_bytes: ZYGOTE_TMPFS_BYTES,
        };
        let stdin = standard_input("").map_err(|source| SuperviseError::System {
            step: "make standard input",
            source,
        })?;
        let script = recipe.script.clone().map(|text| SmallFile {
            path: SHELL_SCRIPT.into(),
            text,
        });
        let start = ColdStart {
            launch: self.launch(cgroup.as_ref(), &walls),
            stdin,
            init: InitSpec {
                files: identity_files().into_iter().chain(script).collect(),
                bounded: bounds(ZYGOTE_TMPFS_BYTES),
                pseudo_terminals: PSEUDO_TERMINALS,
                sealed: vec!["/dev".into(), "/".into()],
                guest_ids: GUEST_IDS,
                rlimits: self.rlimits(&recipe.limits, 1),
                inspect: false,
                argv: recipe.argv.clone(),
                environment: recipe.environment.clone(),
                directory: GUEST_WORKSPACE.into(),
                tenant: Tenant::Zygote,
            },
        };
        Ok((start, cgroup))
    }

    /// What all slots of a zygote have in common.
    pub(crate) fn zygote_spec(
        language: Language,
        limits: &ResourceLimit,
    ) -> Result<ZygoteSpec, SeccompError> {
        let bytes = tmpfs_bytes(limits);
        let writable = ["/tmp", "/dev/shm"].map(|path| Private {
            path: path.into(),
            bytes,
            inodes: TMPFS_INODES,
            writable: true,
        });
        let is_shell = language == Language::Shell;
        // A guest that has no channel gets its program as a file.
        let sealed = is_shell.then(|| Private {
            path: "/run/sandbox".into(),
            bytes: SCRIPT_BYTES,
            inodes: 8,
            writable: false,
        });
        Ok(ZygoteSpec {
            guest_filter: seccomp::instructions(seccomp::program()?),
            init_filter: seccomp::instructions(&seccomp::program_of_slots()?),
            guest_ids: GUEST_IDS,
            private: writable.into_iter().chain(sealed).collect(),
            workspace: GUEST_WORKSPACE.into(),
            has_channel: !is_shell,
        })
    }

    /// The cgroup of a slot.
    pub(crate) fn slot_cgroup(
        &self,
        limits: &ResourceLimit,
    ) -> Result<Option<RunCgroup>, SuperviseError> {
        self.cgroup("slot", limits, SLOTS_OWN_PROCESSES)
    }

    fn launch(&self, cgroup: Option<&RunCgroup>, walls: &Walls<'_>) -> LaunchSpec {
        LaunchSpec {
            parent: 0,
            cgroup_files: cgroup.map(RunCgroup::entry_files).unwrap_or_default(),
            run_as: self.run_as,
            bwrap: self.bwrap.clone(),
            arguments: argv::arguments(walls),
        }
    }

    fn cgroup(
        &self,
        label: &str,
        limits: &ResourceLimit,
        own_processes: u64,
    ) -> Result<Option<RunCgroup>, SuperviseError> {
        self.new_cgroup(label, &cgroup_limits(limits, own_processes))
    }

    fn new_cgroup(
        &self,
        label: &str,
        limits: &CgroupLimits,
    ) -> Result<Option<RunCgroup>, SuperviseError> {
        if self.cgroups.support().version.is_none() {
            return Ok(None);
        }
        self.cgroups
            .create(label, limits)
            .map(Some)
            .map_err(|error| SuperviseError::System {
                step: "make a cgroup",
                source: io::Error::other(error),
            })
    }

    /// `inits`: processes of ours that are in the guest's own user namespace.
    fn rlimits(&self, limits: &ResourceLimit, inits: u64) -> Rlimits {
        let support = self.cgroups.support();
        let cpu_seconds = limits
            .cpu_time()
            .max(Duration::from_millis(1))
            .as_millis()
            .div_ceil(1000);
        let cpu_seconds = u64::try_from(cpu_seconds).unwrap_or(u64::MAX / 2);
        Rlimits {
            open_files: OPEN_FILES,
            file_size: limits.file_size_bytes(),
            // With a cgroup, that one decides, because it reports what it refused.
            processes: limits.max_processes()
                + inits
                + if support.pids { OWN_PROCESSES } else { 0 },
            cpu_seconds: cpu_seconds
                + if support.cpu_accounting {
                    CPU_SLACK_SECONDS
                } else {
                    0
                },
            data: (!support.memory).then(|| limits.memory_bytes()),
        }
    }
}

/// Reads what a run used and removes its cgroup.
async fn settle(mut cgroup: RunCgroup) -> cgroup::Usage {
    let used = cgroup.usage();
    if !cgroup.try_remove() {
        // Somebody is still on the way out. That takes a moment, in which no worker of the runtime is to stand still.
        let removed = tokio::task::spawn_blocking(move || cgroup.remove()).await;
        if let Ok(Err(error)) = removed {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "a run's cgroup stays behind"
            );
        }
    }
    used
}

const fn cgroup_limits(limits: &ResourceLimit, own_processes: u64) -> CgroupLimits {
    CgroupLimits {
        memory_bytes: limits.memory_bytes(),
        pids_max: limits.max_processes() + own_processes,
        cpu_weight: Some(CPU_WEIGHT),
    }
}

fn tmpfs_bytes(limits: &ResourceLimit) -> u64 {
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

/// The files that tell a program who it is and where. None of it is the host's.
fn identity_files() -> Vec<SmallFile> {
    [
        (
            "/etc/passwd",
            "root:x:0:0:root:/:/usr/sbin/nologin\n\
             sandbox:x:1000:1000:sandbox:/workspace:/bin/bash\n\
             nobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n",
        ),
        (
            "/etc/group",
            "root:x:0:\nsandbox:x:1000:\nnogroup:x:65534:\n",
        ),
        (
            "/etc/hosts",
            "127.0.0.1 localhost sandbox\n::1 localhost sandbox\n",
        ),
        (
            "/etc/nsswitch.conf",
            "passwd: files\ngroup: files\nhosts: files\n",
        ),
        ("/etc/hostname", "sandbox\n"),
    ]
    .map(|(path, text)| SmallFile {
        path: path.into(),
        text: text.into(),
    })
    .into()
}

/// A read-only descriptor with this text. In sealed memory: a pipe would block us on a guest that does not read, and
/// need a task to feed it.
fn standard_input(text: &str) -> io::Result<OwnedFd> {
    if text.is_empty() {
        return Ok(File::open("/dev/null")?.into());
    }
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut memory = File::from(rustix::fs::memfd_create("stdin", flags)?);
    memory.write_all(text.as_bytes())?;
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&memory, seals)?;
    // Opened anew, for a position of its own and without the right to write.
    let path = format!("/proc/self/fd/{}", memory.as_raw_fd());
    Ok(rustix::fs::open(
        path,
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

impl From<Rlimits> for Limits {
    fn from(limits: Rlimits) -> Self {
        Self {
            open_files: limits.open_files,
            file_size: limits.file_size,
            processes: limits.processes,
            cpu_seconds: limits.cpu_seconds,
            data: limits.data,
        }
    }
}

impl From<SmallFile> for protocol::File {
    fn from(SmallFile { path, text }: SmallFile) -> Self {
        Self { path, text }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn standard_input_is_read_from_its_start_and_never_written() {
        let mut stdin = File::from(standard_input("hello\n").unwrap());
        let mut text = String::new();
        stdin.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello\n");
        assert!(stdin.write_all(b"x").is_err());

        let mut empty = File::from(standard_input("").unwrap());
        assert_eq!(empty.read_to_string(&mut text).unwrap(), 0);
    }
}
