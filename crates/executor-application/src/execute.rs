//! The use case: run untrusted code and come back with its result.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use executor_domain::{
    Artifacts, CapturedOutput, Ending, Event, Execution, ExecutionId, GuestEnvironment, Language,
    LimitError, LimitPolicy, Outcome, RequestedLimits, ResourceLimit, SessionId, Source, Start,
    Usage,
};
use sha2::{Digest, Sha256};
use thiserror::Error;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

use crate::{
    Clock, Job, Sandbox, SandboxDescription, SandboxError, WarmPool, WorkspaceError, Workspaces,
    admission::{Admission, Capacity, Place, Refusal},
    ledger::{Fingerprint, Ledger, Lookup, Progress, Registration, Retention},
};

/// A request to run code, parsed: nothing in it can be malformed. The wishes for limits are still wishes.
#[derive(Debug, Clone)]
pub struct ExecuteCommand {
    /// Names the execution, and is its idempotency key.
    pub execution_id: ExecutionId,
    /// Names the session whose workspace it uses.
    pub session_id: SessionId,
    /// The program.
    pub source: Source,
    /// The handler's input.
    pub event: Event,
    /// Variables that are added to the guest's environment.
    pub environment: GuestEnvironment,
    /// Standard input; `None`: the caller gave none.
    pub stdin: Option<String>,
    /// What the caller would like to use.
    pub limits: RequestedLimits,
}

impl ExecuteCommand {
    /// Bytes of what a caller can make large.
    fn size(&self) -> usize {
        let stdin = self.stdin.as_ref().map_or(0, String::len);
        let environment: usize = self
            .environment
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        self.source.code().len() + self.event.as_str().len() + stdin + environment
    }

    /// SHA-256 of everything that decides what runs. Each part is preceded by its length, so that no two commands
    /// read alike.
    fn fingerprint(&self) -> Fingerprint {
        let mut hash = Sha256::new();
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        part(self.session_id.as_str().as_bytes());
        part(self.source.language().as_str().as_bytes());
        part(self.source.mode().as_str().as_bytes());
        part(self.source.code().as_bytes());
        part(self.event.as_str().as_bytes());
        part(&[u8::from(self.stdin.is_some())]);
        part(self.stdin.as_deref().unwrap_or_default().as_bytes());
        part(format!("{:?}", self.limits).as_bytes());
        for (name, value) in self.environment.iter() {
            part(name.as_bytes());
            part(value.as_bytes());
        }
        hash.finalize().into()
    }
}

/// Why a command was not carried out. What a guest does wrong is not among this: that is an [`Outcome`].
#[derive(Debug, Clone, Error)]
pub enum ExecuteError {
    /// Wishes outside of what the operator allows; each one is named.
    #[error("limits outside of what is allowed")]
    Limits(Vec<LimitError>),
    /// This host has no interpreter for the language.
    #[error("no interpreter for {0} on this host")]
    LanguageUnavailable(Language),
    /// This executor serves another session, and only that one.
    #[error("this executor is bound to session {bound}")]
    OtherSession {
        /// The one that it serves.
        bound: SessionId,
    },
    /// The id belongs to another request.
    #[error("the execution id belongs to another request")]
    Conflict,
    /// All running and waiting slots are taken.
    #[error("all running and waiting slots are taken")]
    Busy {
        /// When to come back.
        retry_after: Duration,
    },
    /// The daemon is shutting down.
    #[error("no more executions are accepted")]
    Draining,
    /// We failed.
    #[error("the execution could not be carried out")]
    Failed(#[source] Arc<RunFailure>),
}

/// How we failed a run.
#[derive(Debug, Error)]
pub enum RunFailure {
    /// The sandbox did.
    #[error("the sandbox failed")]
    Sandbox(#[from] SandboxError),
    /// The workspace did.
    #[error("the workspace failed")]
    Workspace(#[from] WorkspaceError),
    /// The task that carried the run is gone, which a bug alone can do.
    #[error("the run was lost")]
    Lost,
}

/// What is configurable about the use case.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// How many executions run and wait.
    pub capacity: Capacity,
    /// What one run may use.
    pub policy: LimitPolicy,
    /// How long results are remembered.
    pub retention: Retention,
    /// The only session to serve; `None`: any.
    pub only_session: Option<SessionId>,
    /// Whether a run is cancelled once everybody who waited for it has gone.
    pub cancel_abandoned: bool,
}

/// Runs untrusted code. Cheap to clone: clones share everything.
#[derive(Clone)]
pub struct ExecuteCode {
    shared: Arc<Shared>,
}

struct Shared {
    sandbox: Arc<dyn Sandbox>,
    workspaces: Arc<dyn Workspaces>,
    clock: Arc<dyn Clock>,
    policy: LimitPolicy,
    only_session: Option<SessionId>,
    cancel_abandoned: bool,
    admission: Admission,
    ledger: Ledger,
    /// How long a run typically takes, in microseconds: a moving average.
    typical_micros: AtomicU64,
    runs: TaskTracker,
    /// Cancels every run.
    cancel_all: CancellationToken,
}

impl ExecuteCode {
    /// A use case on top of these adapters. Must be made inside a tokio runtime if it is used there: runs are tasks.
    pub fn new(
        sandbox: Arc<dyn Sandbox>,
        workspaces: Arc<dyn Workspaces>,
        clock: Arc<dyn Clock>,
        options: Options,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                sandbox,
                workspaces,
                clock,
                policy: options.policy,
                only_session: options.only_session,
                cancel_abandoned: options.cancel_abandoned,
                admission: Admission::new(options.capacity),
                ledger: Ledger::new(options.retention),
                typical_micros: AtomicU64::new(0),
                runs: TaskTracker::new(),
                cancel_all: CancellationToken::new(),
            }),
        }
    }

    /// Runs a command to its end: [`submit`](Self::submit) and [`Submission::finished`] in one.
    pub async fn execute(&self, command: ExecuteCommand) -> Result<Execution, ExecuteError> {
        self.submit(command)?.finished().await
    }

    /// Accepts a command and starts it as soon as there is a slot. The run is a task of its own: it goes on whether or
    /// not the submission is waited for, unless it is [abandoned](Options::cancel_abandoned).
    ///
    /// A command under a known id joins the first one where it is the same, and is refused where it is not.
    pub fn submit(&self, command: ExecuteCommand) -> Result<Submission, ExecuteError> {
        let shared = &self.shared;
        let limits = shared
            .policy
            .grant(&command.limits)
            .map_err(ExecuteError::Limits)?;
        let language = command.source.language();
        if !shared.sandbox.description().supports(language) {
            return Err(ExecuteError::LanguageUnavailable(language));
        }

        if let Some(bound) = &shared.only_session
            && *bound != command.session_id
        {
            let bound = bound.clone();
            return Err(ExecuteError::OtherSession { bound });
        }

        let id = command.execution_id.clone();
        let size = command.size();
        let fingerprint = command.fingerprint();
        let mut admitted = None;
        let lookup = shared
            .ledger
            .join_or_register(&id, fingerprint, |registration| {
                let place = shared
                    .admission
                    .enter(size)
                    .map_err(|refusal| match refusal {
                        Refusal::Full => ExecuteError::Busy {
                            retry_after: shared.admission.retry_after(shared.typical()),
                        },
                        Refusal::Closed => ExecuteError::Draining,
                    })?;
                let cancel = shared.cancel_all.child_token();
                let execution =
                    Execution::accept(id.clone(), command.session_id.clone(), shared.clock.now());
                let (progress, watcher) = watch::channel(Progress::Live(execution.clone()));
                let run = Run {
                    shared: Arc::clone(shared),
                    registration,
                    execution,
                    progress,
                    cancel: cancel.clone(),
                };
                admitted = Some((run, place, registration, watcher.clone()));
                Ok((watcher, cancel))
            })?;
        let (registration, watcher) = match lookup {
            Lookup::Different => return Err(ExecuteError::Conflict),
            Lookup::Same(registration, watcher) => (registration, watcher),
            Lookup::Unknown => match admitted {
                Some((run, place, registration, watcher)) => {
                    // In the caller's span, so that what the log says of the run names the request as well.
                    let carried = run.carry_through(place, command, limits).in_current_span();
                    shared.runs.spawn(carried);
                    (registration, watcher)
                }
                None => return Err(ExecuteError::Failed(Arc::new(RunFailure::Lost))),
            },
        };
        Ok(Submission {
            progress: watcher,
            seat: Seat {
                shared: Arc::clone(shared),
                id,
                registration,
            },
        })
    }

    /// Guests that run now.
    pub fn active(&self) -> usize {
        self.shared.admission.running()
    }

    /// Whether no more commands are accepted.
    pub fn is_draining(&self) -> bool {
        self.shared.runs.is_closed()
    }

    /// What one run may use.
    pub fn policy(&self) -> &LimitPolicy {
        &self.shared.policy
    }

    /// How many executions run and wait.
    pub fn capacity(&self) -> Capacity {
        self.shared.admission.capacity()
    }

    /// Where workspaces are kept, for people.
    pub fn workspace_root(&self) -> &Path {
        self.shared.workspaces.root()
    }

    /// What the sandbox is made of.
    pub fn sandbox(&self) -> &SandboxDescription {
        self.shared.sandbox.description()
    }

    /// What is kept warm, as it is now.
    pub fn warm_pools(&self) -> Vec<WarmPool> {
        self.shared.sandbox.warm_pools()
    }

    /// Accepts nothing more, gives what runs and waits the grace period, cancels the rest, and returns once every guest
    /// is dead. Dropping the future leaves the rest running.
    pub async fn drain(&self, grace: Duration) {
        self.shared.admission.close();
        self.shared.runs.close();
        if tokio::time::timeout(grace, self.shared.runs.wait())
            .await
            .is_err()
        {
            self.shared.cancel_all.cancel();
            self.shared.runs.wait().await;
        }
    }
}

impl Shared {
    fn typical(&self) -> Duration {
        Duration::from_micros(self.typical_micros.load(Ordering::Relaxed))
    }

    /// Takes one more run into the average, with the weight of one in eight. Racing updates lose a sample, which an
    /// estimate can bear.
    fn note_duration(&self, took: Duration) {
        let new = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let old = self.typical_micros.load(Ordering::Relaxed);
        let average = if old == 0 {
            new
        } else {
            old - old / 8 + new / 8
        };
        self.typical_micros.store(average, Ordering::Relaxed);
    }
}

/// A run on its way.
struct Run {
    shared: Arc<Shared>,
    registration: Registration,
    execution: Execution,
    progress: watch::Sender<Progress>,
    cancel: CancellationToken,
}

impl Run {
    async fn carry_through(mut self, place: Place, command: ExecuteCommand, limits: ResourceLimit) {
        let span = tracing::info_span!(
            "execution",
            execution_id = %command.execution_id,
            session_id = %command.session_id,
            language = %command.source.language(),
        );
        let id = command.execution_id.clone();
        let ended = self
            .carry_out(place, command, limits)
            .instrument(span.clone())
            .await;
        let _entered = span.entered();
        match ended {
            Ok(()) => {
                self.shared
                    .ledger
                    .ended(&id, self.registration, size_of(&self.execution));
                tracing::info!(status = self.execution.status().as_str(), "execution ended");
                self.progress.send_replace(Progress::Live(self.execution));
            }
            Err(failure) => {
                self.shared.ledger.forget(&id, self.registration);
                tracing::error!(
                    error = &failure as &dyn std::error::Error,
                    "execution failed"
                );
                self.progress
                    .send_replace(Progress::Failed(Arc::new(failure)));
            }
        }
    }

    async fn carry_out(
        &mut self,
        place: Place,
        command: ExecuteCommand,
        limits: ResourceLimit,
    ) -> Result<(), RunFailure> {
        let cancelled = self.cancel.clone();
        let slot = tokio::select! {
            biased;
            () = cancelled.cancelled() => {
                self.finish(never_ran(), Artifacts::default());
                return Ok(());
            }
            slot = place.slot() => slot,
        };

        let workspace = self.shared.workspaces.open(&command.session_id).await?;
        let started_at = self.shared.clock.now();
        if let Err(illegal) = self.execution.start(started_at) {
            tracing::error!(%illegal, "a run that was just accepted did not start");
        }
        self.progress
            .send_replace(Progress::Live(self.execution.clone()));
        let job = Job {
            execution_id: command.execution_id,
            session_id: command.session_id,
            source: command.source,
            event: command.event,
            environment: command.environment,
            stdin: command.stdin,
            limits,
            workspace: workspace.path().to_owned(),
        };
        let outcome = self.shared.sandbox.run(job, cancelled).await?;
        self.shared.note_duration(outcome.usage.wall_time);
        let artifacts = workspace.changes().await?;
        drop(slot);
        self.finish(outcome, artifacts);
        Ok(())
    }

    fn finish(&mut self, outcome: Outcome, artifacts: Artifacts) {
        let completed_at = self.shared.clock.now();
        if let Err(illegal) = self.execution.finish(completed_at, outcome, artifacts) {
            tracing::error!(%illegal, "a run did not end as it began");
        }
    }
}

/// The outcome of a run that was cancelled while it waited for a slot.
fn never_ran() -> Outcome {
    Outcome {
        ending: Ending::Cancelled,
        stdout: CapturedOutput::default(),
        stderr: CapturedOutput::default(),
        usage: Usage::default(),
        start: Start::Cold,
        limits_hit: Vec::new(),
    }
}

/// Roughly how many bytes a result takes in memory: what a guest can make large, and a flat sum for the rest.
fn size_of(execution: &Execution) -> usize {
    const FLAT: usize = 1024;
    let Some(outcome) = execution.outcome() else {
        return FLAT;
    };
    let ending = match &outcome.ending {
        Ending::Completed { return_value } => return_value.as_str().len(),
        Ending::Failed { error, .. } => {
            error.message.len() + error.stack_trace.iter().map(String::len).sum::<usize>()
        }
        _ => 0,
    };
    FLAT + ending + outcome.stdout.bytes.len() + outcome.stderr.bytes.len()
}

/// A command that was accepted. Dropping it means not to wait any more.
pub struct Submission {
    progress: watch::Receiver<Progress>,
    seat: Seat,
}

/// A caller's place among those who wait for a run.
struct Seat {
    shared: Arc<Shared>,
    id: ExecutionId,
    registration: Registration,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.shared
            .ledger
            .leave(&self.id, self.registration, self.shared.cancel_abandoned);
    }
}

impl Submission {
    /// The execution's name.
    pub fn id(&self) -> &ExecutionId {
        &self.seat.id
    }

    /// Waits for the end. Dropping the future means not to wait any more.
    pub async fn finished(mut self) -> Result<Execution, ExecuteError> {
        let last = self
            .progress
            .wait_for(|progress| match progress {
                Progress::Live(execution) => execution.status().is_final(),
                Progress::Failed(_) => true,
            })
            .await
            .map(|progress| progress.clone());
        match last {
            Ok(Progress::Live(execution)) => Ok(execution),
            Ok(Progress::Failed(failure)) => Err(ExecuteError::Failed(failure)),
            Err(_) => Err(ExecuteError::Failed(Arc::new(RunFailure::Lost))),
        }
    }
}

#[cfg(test)]
mod tests;
