//! The adapter for macOS: guests run under Seatbelt, by `/usr/bin/sandbox-exec`.
//!
//! Nothing in here is for macOS alone but the places where it looks for interpreters, so that it is built and tested on
//! Linux too, with a stand-in for sandbox-exec. What holds and what does not is in `docs/macos.md`.

mod area;
mod engine;
mod layout;
mod plan;
mod probe;
pub mod profile;
mod remedy;
mod walls;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use executor_application::{
    CancellationToken, Job, OutputStream, Sandbox, SandboxDescription, SandboxError,
};
use executor_domain::{Language, Outcome, ResourceLimit};

use self::engine::Engine;
pub use self::{
    layout::{Layout, Software},
    probe::{StartError, examine},
};
use crate::{
    outcome::{Program, judge},
    runtime::{Runtime, Stage},
    supervisor::SuperviseError,
};

/// Where sandbox-exec is, on every macOS. By its absolute path: whatever a `PATH` finds first is not it.
const SANDBOX_EXEC: &str = "/usr/bin/sandbox-exec";

/// What the adapter needs to know of its host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeatbeltConfig {
    /// sandbox-exec. Anything else than [`SeatbeltConfig::new`] says is for tests: no setting leads here.
    pub tool: PathBuf,
    /// A program whose `main` calls [`crate::stage::dispatch`] first. This very executable, if it does.
    pub stages: PathBuf,
    /// User and group that guests are on the host where the daemon is root. Must not be root's, and should be nobody
    /// else's.
    pub guest_user: (u32, u32),
    /// Where interpreters are.
    pub layout: Layout,
    /// What a guest of our own may use when isolation is tried.
    pub limits: ResourceLimit,
}

impl SeatbeltConfig {
    /// The usual, with `stages` to be started as [`crate::stage`].
    pub fn new(stages: PathBuf, limits: ResourceLimit) -> Self {
        Self {
            tool: SANDBOX_EXEC.into(),
            stages,
            guest_user: (64064, 64064),
            layout: Layout::HERE,
            limits,
        }
    }
}

/// Runs guests under Seatbelt.
#[derive(Debug)]
pub struct SeatbeltSandbox {
    engine: Arc<Engine>,
    runtimes: Vec<Runtime>,
    description: SandboxDescription,
    /// What a guest of our own may use when isolation is tried.
    limits: ResourceLimit,
    /// Where interpreters were looked for.
    searched: String,
    /// Those that were found and do not run here, and why.
    refused: Vec<(Language, String)>,
}

impl SeatbeltSandbox {
    /// Makes the sandbox ready, and proves by a real run that its walls stand. Takes some tenths of a second.
    ///
    /// Must be called inside a tokio runtime with I/O and time.
    ///
    /// # Errors
    ///
    /// What is missing and what to do about it. There is no sandbox without isolation.
    pub async fn start(config: SeatbeltConfig) -> Result<Self, StartError> {
        probe::start(config).await
    }

    fn runtime(&self, language: Language) -> Result<&Runtime, SandboxError> {
        self.runtimes
            .iter()
            .find(|runtime| runtime.language() == language)
            .ok_or_else(|| SandboxError::Unavailable {
                reason: format!("there is no interpreter for {language}"),
            })
    }
}

#[async_trait]
impl Sandbox for SeatbeltSandbox {
    async fn run(&self, job: Job, cancel: CancellationToken) -> Result<Outcome, SandboxError> {
        let program = Program {
            language: job.source.language(),
            mode: job.source.mode(),
            limits: job.limits,
        };
        let runtime = self.runtime(program.language)?;
        let workspace = real(&job.workspace).await?;
        let area = self.engine.area().await.map_err(translate)?;
        let surroundings = self.engine.surroundings(&area).map_err(translate)?;
        let listener = job.listener.clone();
        let mut prepared = runtime.prepare(job, &surroundings, Stage::ToStart);
        let note = prepared.note.take();
        let engine = Arc::clone(&self.engine);
        // A task of its own: it goes on to the guest's end whoever stops listening. Whoever does cancels it.
        let cancel = cancel.child_token();
        let dropped = cancel.clone().drop_guard();
        let run = tokio::spawn(async move {
            let workspace = Some(workspace.as_path());
            let (guest, limits) = (prepared.program, program.limits);
            engine.run(area, guest, &limits, workspace, &cancel).await
        });
        let finished = run
            .await
            .map_err(|panicked| SandboxError::Failed {
                step: "supervise the guest",
                source: panicked.into(),
            })?
            .map_err(translate)?;
        dropped.disarm();
        let mut outcome = judge(&program, finished, None);
        if let Some(note) = note {
            listener.wrote(OutputStream::Stderr, note.as_bytes());
            outcome.stderr.bytes.extend_from_slice(note.as_bytes());
        }
        Ok(outcome)
    }

    async fn check(&self) -> Result<(), SandboxError> {
        let shell = &self.runtime(Language::Shell)?.interpreter;
        probe::try_walls(&self.engine, shell, &self.limits)
            .await
            .map_err(|error| SandboxError::Unavailable {
                reason: error.to_string(),
            })
    }

    fn description(&self) -> &SandboxDescription {
        &self.description
    }
}

/// Where a directory really is: the kernel compares a profile's paths with that.
async fn real(path: &Path) -> Result<PathBuf, SandboxError> {
    tokio::fs::canonicalize(path)
        .await
        .map_err(|error| SandboxError::Failed {
            step: "use the workspace",
            source: error.into(),
        })
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
