//! Runs any program under Seatbelt. What kind of program it is, and what its end means, is for others.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    sync::atomic::{AtomicU64, Ordering},
};

use executor_domain::ResourceLimit;
use tokio::task;
use tokio_util::sync::CancellationToken;

use super::{
    area::{Area, write_readable},
    layout::Layout,
    plan::KeeperPlan,
    profile::{Policy, profile},
};
use crate::{
    runtime::{MAX_RESULT_BYTES, OPEN_FILES, Program, Surroundings, cpu_seconds},
    stage::wire::{KeeperSpec, Rlimits},
    supervisor::{Connections, Doing, Finished, Order, Processes, SuperviseError, Supervisor},
};

/// Runs programs under Seatbelt.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) supervisor: Supervisor,
    /// sandbox-exec.
    pub(super) tool: PathBuf,
    /// A program whose `main` calls [`crate::stage::dispatch`] first.
    pub(super) stages: PathBuf,
    pub(super) layout: Layout,
    /// What guests read and execute besides the system.
    pub(super) software: Vec<String>,
    /// User and group that guests are on the host; `None`: the daemon's own.
    pub(super) run_as: Option<(u32, u32)>,
    /// Where the directories of runs are.
    pub(super) areas: Arc<Area>,
    pub(super) next: AtomicU64,
}

impl Engine {
    /// Makes the directory of a run.
    pub(super) async fn area(&self) -> Result<Area, SuperviseError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (root, owner) = (Arc::clone(&self.areas), self.run_as);
        blocking("make the directory of a run", move || {
            Area::new(&root, number, owner)
        })
        .await
    }

    /// Where a guest finds itself that runs in this directory.
    pub(super) fn surroundings(&self, area: &Area) -> Result<Surroundings, SuperviseError> {
        let home = text(&area.home())?;
        let tmp = text(&area.tmp())?;
        let fixed = self.layout.environment.iter();
        let environment = fixed
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .chain([
                ("HOME".to_owned(), home),
                ("MPLCONFIGDIR".to_owned(), format!("{tmp}/matplotlib")),
                ("TMPDIR".to_owned(), tmp),
            ])
            .collect();
        Ok(Surroundings {
            environment,
            script: text(&area.script())?,
        })
    }

    /// Runs a program to its end, in a directory that is gone when this returns. Must be polled to its end as well;
    /// cancel with the token. Without a workspace it gets an empty one.
    pub(super) async fn run(
        &self,
        area: Area,
        program: Program,
        limits: &ResourceLimit,
        workspace: Option<&Path>,
        cancel: &CancellationToken,
    ) -> Result<Finished, SuperviseError> {
        let own = area.workspace();
        let (workspace, private, script) = (
            text(workspace.unwrap_or(&own))?,
            text(&area.private())?,
            text(&area.script())?,
        );
        let profile = profile(&Policy {
            workspace: &workspace,
            private: &private,
            script: &script,
            software: &self.software,
        });
        let mut argv = vec![text(&self.tool)?];
        argv.extend(profile.arguments());
        argv.extend(program.argv);
        let mut plan = KeeperPlan {
            stages: &self.stages,
            spec: KeeperSpec {
                run_as: self.run_as,
                rlimits: rlimits(limits),
                memory: limits.memory_bytes(),
                cpu_micros: u64::try_from(limits.cpu_time().as_micros()).unwrap_or(u64::MAX),
                argv,
                environment: program.environment,
                directory: workspace,
            },
        };

        let (files, stdin) = (program.files, program.stdin);
        let (area, stdin) = blocking("write the files of a run", move || {
            for file in &files {
                write_readable(&file.path, &file.text)?;
            }
            let stdin = area.standard_input(&stdin)?;
            Ok((area, stdin))
        })
        .await?;
        let connections = Connections {
            stdin,
            has_channel: program.job.is_some(),
            file: None,
        };
        let order = Order {
            job: program.job,
            wall_time: limits.wall_time(),
            cpu_time: limits.cpu_time(),
            max_output: usize::try_from(limits.max_output_bytes()).unwrap_or(usize::MAX),
            listener: program.listener,
            max_result: MAX_RESULT_BYTES,
        };
        let finished = async {
            let guest = self.supervisor.start(&mut plan, connections).await?;
            // Nobody but the keeper can tell what its guest uses.
            let (finished, mut keeper) = self
                .supervisor
                .see_through(guest, &order, &(), cancel)
                .await?;
            keeper.bury(true).await?;
            Ok(finished)
        };
        let finished = finished.await;
        blocking("remove the directory of a run", move || {
            drop(area);
            Ok(())
        })
        .await?;
        finished
    }
}

/// Limits of one process of the guest's, and of how many its user may have on top of those there are.
fn rlimits(limits: &ResourceLimit) -> Rlimits {
    Rlimits {
        open_files: OPEN_FILES,
        file_size: limits.file_size_bytes(),
        processes: limits.max_processes(),
        cpu_seconds: cpu_seconds(limits),
        data: None,
    }
}

/// A path as text: parameters, messages and environments of ours are UTF-8.
fn text(path: &Path) -> Result<String, SuperviseError> {
    path.to_str()
        .map(str::to_owned)
        .ok_or_else(|| io::Error::other("a path is not UTF-8"))
        .doing("name the directories of a run")
}

/// Does what waits for the disk where it holds up nobody.
async fn blocking<T: Send + 'static>(
    step: &'static str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, SuperviseError> {
    task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)
        .and_then(|done| done)
        .doing(step)
}
