//! The adapter for Linux: guests run inside Bubblewrap.

pub(crate) mod argv;
mod burials;
pub(crate) mod engine;
mod files;
mod plan;
mod probe;
pub(crate) mod process;
mod remedy;
pub(crate) mod spawner;
mod trial;
mod walls;
mod warm;
mod watchdog;
mod zygote;

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use executor_application::{
    CancellationToken, Job, OutputStream, Sandbox, SandboxDescription, SandboxError, WarmPool,
};
use executor_domain::{Outcome, ResourceLimit, Start};

pub use self::probe::{StartError, examine};
use self::{
    engine::{Engine, Look},
    warm::Warm,
};
use crate::{
    cgroup::Wished,
    outcome::{Program, judge},
    runtime::{Runtime, Stage, Surroundings},
    supervisor::SuperviseError,
    warm::WarmOptions,
};

/// What the adapter needs to know of its host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BwrapConfig {
    /// bubblewrap. The distribution's own, since its AppArmor profile is bound to this path.
    pub bwrap: PathBuf,
    /// A program whose `main` calls [`crate::stage::dispatch`] first: launcher and init. This very executable, if it does.
    pub stages: PathBuf,
    /// User and group that guests are on the host where the daemon is root. Must not be root's, and should be nobody
    /// else's.
    pub guest_user: (u32, u32),
    /// Where to make the cgroups of runs; `None`: below the daemon's own.
    pub cgroup_parent: Option<PathBuf>,
    /// Bounds for all runs together, where they are not to be a share of what the host has.
    pub together: Wished,
    /// What a guest of our own may use when isolation is tried. Slots are made with these, so that runs with the same need
    /// no adjustment.
    pub limits: ResourceLimit,
    /// What is kept warm.
    pub warm: WarmOptions,
}

impl BwrapConfig {
    /// The usual: bubblewrap of the distribution, this executable as its own launcher, cgroups below the daemon's, nothing
    /// warm.
    ///
    /// 64064 is an id that no distribution hands out: Debian reserves 64000–64999 for packages that ask for one, and none
    /// has this.
    pub fn new(limits: ResourceLimit) -> Self {
        Self {
            bwrap: "/usr/bin/bwrap".into(),
            stages: "/proc/self/exe".into(),
            guest_user: (64064, 64064),
            cgroup_parent: None,
            together: Wished::default(),
            limits,
            warm: WarmOptions::off(),
        }
    }
}

/// Runs guests inside Bubblewrap.
#[derive(Debug)]
pub struct BwrapSandbox {
    engine: Arc<Engine>,
    runtimes: Vec<Runtime>,
    warm: Warm,
    description: SandboxDescription,
    /// What a guest of our own may use when isolation is tried.
    limits: ResourceLimit,
}

impl BwrapSandbox {
    /// Makes the sandbox ready, and proves by a real run that its walls stand. Takes some tenths of a second.
    ///
    /// Must be called inside a tokio runtime with I/O and time.
    ///
    /// # Errors
    ///
    /// What is missing and what to do about it. There is no sandbox without isolation.
    pub async fn start(config: BwrapConfig) -> Result<Self, StartError> {
        probe::start(config).await
    }

    fn runtime(&self, language: executor_domain::Language) -> Result<&Runtime, SandboxError> {
        self.runtimes
            .iter()
            .find(|runtime| runtime.language() == language)
            .ok_or_else(|| SandboxError::Unavailable {
                reason: format!("there is no interpreter for {language}"),
            })
    }
}

#[async_trait]
impl Sandbox for BwrapSandbox {
    async fn run(&self, job: Job, cancel: CancellationToken) -> Result<Outcome, SandboxError> {
        let program = Program {
            language: job.source.language(),
            mode: job.source.mode(),
            limits: job.limits,
        };
        let workspace = job
            .workspace
            .to_str()
            .ok_or_else(|| SandboxError::Failed {
                step: "use the workspace",
                source: "its path is not UTF-8".into(),
            })?
            .to_owned();
        let listener = job.listener.clone();
        let runtime = self.runtime(program.language)?;
        let slot = self.warm.slot_for(&job).await;
        let stage = match slot {
            Some(_) => Stage::Waiting,
            None => Stage::ToStart,
        };
        let mut prepared = runtime.prepare(job, &Surroundings::of_bubblewrap(), stage);
        let note = prepared.note.take();
        let engine = Arc::clone(&self.engine);
        let mounts = self.warm.mounts();
        // A task of its own: it goes on to the guest's end whoever stops listening. Whoever does cancels it.
        let cancel = cancel.child_token();
        let dropped = cancel.clone().drop_guard();
        let run = tokio::spawn(async move {
            let (workspace, limits) = (Some(workspace.as_str()), &program.limits);
            match (slot, mounts) {
                (Some((slot, start)), Some(mounts)) => engine
                    .run_in(slot, &mounts, prepared.program, limits, workspace, &cancel)
                    .await
                    .map(|run| (run, start)),
                _ => engine
                    .run(prepared.program, limits, workspace, Look::Not, &cancel)
                    .await
                    .map(|run| (run, Start::Cold)),
            }
        });
        let (run, start) = run
            .await
            .map_err(|panicked| SandboxError::Failed {
                step: "supervise the guest",
                source: panicked.into(),
            })?
            .map_err(translate)?;
        dropped.disarm();
        let mut outcome = judge(&program, run.finished, run.used.as_ref());
        outcome.start = start;
        if let Some(note) = note {
            listener.wrote(OutputStream::Stderr, note.as_bytes());
            outcome.stderr.bytes.extend_from_slice(note.as_bytes());
        }
        Ok(outcome)
    }

    async fn check(&self) -> Result<(), SandboxError> {
        // The interpreter that starts fastest.
        let Some(runtime) = self.runtimes.last() else {
            return Err(SandboxError::Unavailable {
                reason: "there is no interpreter".into(),
            });
        };
        probe::version(&self.engine, &runtime.interpreter, &self.limits)
            .await
            .map(|_| ())
            .map_err(|error| SandboxError::Unavailable {
                reason: error.to_string(),
            })
    }

    fn description(&self) -> &SandboxDescription {
        &self.description
    }

    fn warm_pools(&self) -> Vec<WarmPool> {
        self.warm.pools()
    }
}

fn translate(error: SuperviseError) -> SandboxError {
    match error {
        SuperviseError::Sandbox(said) => SandboxError::Unavailable {
            reason: remedy::explain(&said),
        },
        SuperviseError::System { step, source } => SandboxError::Failed {
            step,
            source: source.into(),
        },
        other @ (SuperviseError::TooSlow | SuperviseError::Unkillable) => SandboxError::Failed {
            step: "supervise the guest",
            source: other.into(),
        },
    }
}
