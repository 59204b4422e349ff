//! The sandboxes of zygotes, and what their slots have in common.

use std::os::fd::OwnedFd;

use executor_domain::{Language, ResourceLimit};
use executor_guest::protocol::{self, Limits, Private, ZygoteSpec};

use super::{
    engine::{
        Engine, GUEST_IDS, Look, Resident, SLOTS_OWN_PROCESSES, TMPFS_INODES, cgroup_limits,
        tmpfs_bytes,
    },
    files::standard_input,
    process::BwrapProcesses,
};
use crate::{
    cgroup::{CgroupLimits, RunCgroup},
    guest::interpreter::{GUEST_WORKSPACE, SHELL_SCRIPT},
    seccomp::{self, SeccompError},
    stage::wire::{Rlimits, SmallFile, Tenant},
    supervisor::{Connections, Doing, Guest, SuperviseError},
    warm::zygote::Recipe,
};

/// Most memory of a zygote: an interpreter and what it preloads.
const ZYGOTE_MEMORY_BYTES: u64 = 2 << 30;
/// Most processes in a zygote's cgroup, where each slot is for a moment.
const ZYGOTE_PROCESSES: u64 = 1024;
/// Bytes of a zygote's own `/tmp`.
const ZYGOTE_TMPFS_BYTES: u64 = 64 << 20;
/// Bytes of the file system for a shell's script of at most 1 MiB and its variables, which take at most 1 MiB and 128 KiB
/// before they are quoted, and four times that after.
const SCRIPT_BYTES: u64 = 8 << 20;

impl Engine {
    /// Starts a zygote in a sandbox of its own: an interpreter with our end of its channel, and the guest library.
    pub(crate) async fn start_zygote(
        &self,
        recipe: &Recipe,
        library: OwnedFd,
    ) -> Result<(Guest<BwrapProcesses>, Option<RunCgroup>), SuperviseError> {
        let limits = CgroupLimits {
            memory_bytes: ZYGOTE_MEMORY_BYTES,
            pids_max: ZYGOTE_PROCESSES,
            cpu_weight: None,
        };
        let cgroup = self.cgroup("zygote", &limits)?;
        let script = recipe.script.clone().map(|text| SmallFile {
            path: SHELL_SCRIPT.into(),
            text,
        });
        let resident = Resident {
            argv: recipe.argv.clone(),
            environment: recipe.environment.clone(),
            files: script.into_iter().collect(),
            workspace: None,
            tmpfs_bytes: ZYGOTE_TMPFS_BYTES,
            limits: &recipe.limits,
            look: Look::Not,
            tenant: Tenant::Zygote,
        };
        let connections = Connections {
            stdin: standard_input("").doing("make standard input")?,
            has_channel: true,
            file: Some(library),
        };
        let mut plan = self.plan(resident, cgroup.as_ref());
        let guest = self.supervisor.start(&mut plan, connections).await?;
        Ok((guest, cgroup))
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
        let filters = seccomp::programs_of_slots()?;
        Ok(ZygoteSpec {
            zygote_filter: seccomp::instructions(&filters.zygote),
            init_filter: seccomp::instructions(&filters.init),
            guest_filter: seccomp::instructions(&filters.guest),
            guest_ids: GUEST_IDS,
            private: writable.into_iter().chain(sealed).collect(),
            workspace: GUEST_WORKSPACE.into(),
            has_channel: !is_shell,
            rehearses: !is_shell,
            has_event_loop: language == Language::JavaScript,
        })
    }

    /// The cgroup of a slot.
    pub(crate) fn slot_cgroup(
        &self,
        limits: &ResourceLimit,
    ) -> Result<Option<RunCgroup>, SuperviseError> {
        self.cgroup("slot", &cgroup_limits(limits, SLOTS_OWN_PROCESSES))
    }
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
