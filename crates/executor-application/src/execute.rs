//! The use case: run untrusted code and come back with its result.

mod command;
mod quota;
mod run;
mod submission;
#[cfg(test)]
mod tests;
mod uploads;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use executor_domain::{
    Artifacts, CapturedOutput, CrashCause, Ending, Execution, ExecutionId, Language, LimitError,
    LimitPolicy, Outcome, SessionId, Start, Status, Timestamp, Usage,
};
use thiserror::Error;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

use crate::{
    Clock, Events, ExecutionStore, Instruments, Levels, MemoryStore, Page, Position, Query,
    Retention, Running, Sandbox, SandboxDescription, SandboxError, StoreError, Summary, Wall,
    WarmPool, WarmSlots, WorkspaceError, Workspaces,
    admission::{Admission, Capacity, Place, Refusal},
    ledger::{Cancelled, Ledger, Live, Lookup},
};

pub use command::ExecuteCommand;
use run::Run;
pub use submission::Submission;
pub use uploads::ArtifactUploads;
use uploads::Uploads;

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

impl From<StoreError> for ExecuteError {
    fn from(error: StoreError) -> Self {
        Self::Failed(Arc::new(RunFailure::Store(error)))
    }
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
    /// The store did.
    #[error("the store failed")]
    Store(#[from] StoreError),
    /// The task that carried the run is gone, which a bug alone can do.
    #[error("the run was lost")]
    Lost,
}

impl RunFailure {
    /// The part that failed, in one word for those who count.
    pub const fn part(&self) -> &'static str {
        match self {
            Self::Sandbox(_) => "sandbox",
            Self::Workspace(_) => "workspace",
            Self::Store(_) => "store",
            Self::Lost => "lost",
        }
    }
}

/// What is configurable about the use case.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// How many executions run and wait.
    pub capacity: Capacity,
    /// What one run may use.
    pub policy: LimitPolicy,
    /// How long results are remembered where no store is given.
    pub retention: Retention,
    /// The only session to serve; `None`: any.
    pub only_session: Option<SessionId>,
    /// Whether a run is cancelled once everybody who waited for it has gone.
    pub cancel_abandoned: bool,
    /// Where artifacts go after a run; `None`: they stay in their workspace.
    pub uploads: Option<ArtifactUploads>,
    /// Who is told what happens.
    pub instruments: Instruments,
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
    store: Arc<dyn ExecutionStore>,
    policy: LimitPolicy,
    only_session: Option<SessionId>,
    cancel_abandoned: bool,
    uploads: Option<Uploads>,
    instruments: Instruments,
    admission: Admission,
    ledger: Ledger,
    /// How long a run typically takes, in microseconds: a moving average.
    typical_micros: AtomicU64,
    runs: TaskTracker,
    /// Cancels every run.
    cancel_all: CancellationToken,
    /// Those whose guests run now, for heartbeats.
    running: Running,
}

/// Why an id is not registered.
enum Refused {
    /// The store may know it.
    Remembered,
    Execute(ExecuteError),
}

impl ExecuteCode {
    /// A use case on top of these adapters, which remembers results in memory, as [`Options::retention`] says.
    ///
    /// Must be made inside a tokio runtime if it is used there: runs are tasks.
    pub fn new(
        sandbox: Arc<dyn Sandbox>,
        workspaces: Arc<dyn Workspaces>,
        clock: Arc<dyn Clock>,
        options: Options,
    ) -> Self {
        let store = Arc::new(MemoryStore::new(options.retention));
        Self::with_store(sandbox, workspaces, clock, store, options)
    }

    /// A use case on top of these adapters. Whoever opens a store that outlives processes lets the use case
    /// [recover](Self::recover) first.
    pub fn with_store(
        sandbox: Arc<dyn Sandbox>,
        workspaces: Arc<dyn Workspaces>,
        clock: Arc<dyn Clock>,
        store: Arc<dyn ExecutionStore>,
        options: Options,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                sandbox,
                workspaces,
                clock,
                store,
                policy: options.policy,
                only_session: options.only_session,
                cancel_abandoned: options.cancel_abandoned,
                uploads: options.uploads.map(Uploads::new),
                instruments: options.instruments,
                admission: Admission::new(options.capacity),
                ledger: Ledger::default(),
                typical_micros: AtomicU64::new(0),
                runs: TaskTracker::new(),
                cancel_all: CancellationToken::new(),
                running: Running::default(),
            }),
        }
    }

    /// Ends what an earlier process had accepted and not finished: such executions have crashed, because their executor
    /// was lost. Returns how many there were. Call it once, before anything is submitted.
    pub async fn recover(&self) -> Result<usize, StoreError> {
        let unfinished = self.shared.store.unfinished().await?;
        for execution in &unfinished {
            let lost = lost(execution, self.shared.clock.now());
            self.shared.store.finish(&lost).await?;
            tracing::warn!(execution_id = %lost.id(), "an earlier process was lost with this execution");
        }
        Ok(unfinished.len())
    }

    /// Runs a command to its end: [`submit`](Self::submit) and [`Submission::finished`] in one.
    pub async fn execute(&self, command: ExecuteCommand) -> Result<Execution, ExecuteError> {
        self.submit(command).await?.finished().await
    }

    /// Accepts a command and starts it as soon as there is a slot. The run is a task of its own: it goes on whether or
    /// not the submission is waited for, unless it is [abandoned](Options::cancel_abandoned) before it is
    /// [kept](Submission::keep).
    ///
    /// A command under a known id joins the first one where it is the same, and is refused where it is not. Dropping the
    /// future accepts nothing.
    pub async fn submit(&self, command: ExecuteCommand) -> Result<Submission, ExecuteError> {
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
        let fingerprint = command.fingerprint();
        // Whether the store has said that it does not know the id.
        let mut unknown = false;
        loop {
            let mut admitted = None;
            let lookup = shared
                .ledger
                .join_or_register(&id, fingerprint, |registration| {
                    // Asked under the ledger's lock: what leaves the ledger is in the store by then.
                    if !unknown && shared.store.may_know(&id) {
                        return Err(Refused::Remembered);
                    }
                    let place = shared.admit(command.size()).map_err(Refused::Execute)?;
                    let run = Run::new(shared, registration, &command, fingerprint, &limits);
                    let registered = (run.live(), run.cancellation());
                    admitted = Some((run, place));
                    Ok(registered)
                });
            match lookup {
                Ok(Lookup::Different) => return Err(ExecuteError::Conflict),
                Ok(Lookup::Same(live)) => return Ok(Submission::of_live(shared, id, live)),
                Ok(Lookup::New(live)) => {
                    if let Some((run, place)) = admitted {
                        // In the caller's span, so that what the log says of the run names the request as well.
                        let carried = run.carry_through(place, command, limits).in_current_span();
                        shared.runs.spawn(carried);
                    }
                    return Ok(Submission::of_live(shared, id, live));
                }
                Ok(Lookup::Leaving(mut progress)) => while progress.changed().await.is_ok() {},
                Err(Refused::Execute(error)) => return Err(error),
                Err(Refused::Remembered) => match shared.store.find(&id).await? {
                    None => unknown = true,
                    Some(kept) if kept.fingerprint != fingerprint => {
                        return Err(ExecuteError::Conflict);
                    }
                    Some(_) => match self.locate(&id).await? {
                        Some(Located::Ended(execution)) => {
                            return Ok(Submission::of_ended(shared, execution));
                        }
                        // Somebody was faster: join them.
                        Some(Located::Live(_)) => {}
                        None => unknown = true,
                    },
                },
            }
        }
    }

    /// The execution of this id, as it is now.
    pub async fn find(&self, id: &ExecutionId) -> Result<Option<Execution>, ExecuteError> {
        Ok(self.locate(id).await?.map(|located| match located {
            Located::Live(live) => live.progress.borrow().execution.clone(),
            Located::Ended(execution) => execution,
        }))
    }

    /// Ends an execution and returns it once every process of its guest is dead. One that has ended already stays as it
    /// is; `None`: there is none. Dropping the future does not take the cancelling back.
    pub async fn cancel(&self, id: &ExecutionId) -> Result<Option<Execution>, ExecuteError> {
        match self.shared.ledger.cancel(id) {
            Some(Cancelled::Ends(live)) => submission::end_of(live.progress).await.map(Some),
            Some(Cancelled::Leaving(mut progress)) => {
                while progress.changed().await.is_ok() {}
                self.find(id).await
            }
            None => self.find(id).await,
        }
    }

    /// The events of an execution from this place on; `None`: there is no such execution.
    pub async fn events(
        &self,
        id: &ExecutionId,
        from: Position,
    ) -> Result<Option<Events>, ExecuteError> {
        Ok(self.locate(id).await?.map(|located| match located {
            Located::Live(live) => Events::of_live(live, from),
            Located::Ended(execution) => Events::of_ended(execution, from),
        }))
    }

    /// Executions, newest first.
    pub async fn list(&self, query: Query) -> Result<Page, ExecuteError> {
        let mut page = Page::default();
        let mut before = query.before;
        loop {
            let asked = Query {
                session: query.session.clone(),
                // The store knows of no running ones.
                status: query.status.map(|status| match status {
                    Status::Running => Status::Pending,
                    other => other,
                }),
                before,
                limit: query.limit.max(1) - page.items.len(),
            };
            let found = self.shared.store.list(asked).await?;
            for mut item in found.items {
                if !item.status.is_final() {
                    self.shared.bring_up_to_date(&mut item);
                }
                if query.status.is_none_or(|status| status == item.status) {
                    page.items.push(item);
                }
            }
            page.next = found.next;
            before = found.next;
            if before.is_none() || page.items.len() >= query.limit {
                return Ok(page);
            }
        }
    }

    /// Whether results can be kept now.
    pub(crate) async fn check_store(&self) -> Result<(), StoreError> {
        self.shared.store.check().await
    }

    /// Guests that run now.
    pub fn active(&self) -> usize {
        self.shared.admission.running()
    }

    /// Those whose guests run now.
    pub fn running(&self) -> Running {
        self.shared.running.clone()
    }

    /// What can be counted now.
    pub fn levels(&self) -> Levels {
        let admission = &self.shared.admission;
        let capacity = admission.capacity();
        Levels {
            running: admission.running(),
            waiting: admission.waiting(),
            max_running: capacity.running.max(1),
            max_waiting: capacity.queued,
            outbox: self
                .shared
                .instruments
                .outbox
                .as_ref()
                .map(|outbox| outbox.levels()),
            warm_slots: self
                .warm_pools()
                .iter()
                .map(|pool| WarmSlots {
                    language: pool.language,
                    ready: pool.ready,
                })
                .collect(),
            uploads: self.shared.uploads.as_ref().map(Uploads::totals),
            ..Levels::default()
        }
    }

    /// Who is told what happens.
    pub fn instruments(&self) -> &Instruments {
        &self.shared.instruments
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

    /// The only session that is served; `None`: any.
    pub fn only_session(&self) -> Option<&SessionId> {
        self.shared.only_session.as_ref()
    }

    /// Where workspaces are kept, for people.
    pub fn workspace_root(&self) -> &Path {
        self.shared.workspaces.root()
    }

    /// Whether the size of a workspace is bounded, and how.
    pub fn workspace_quota(&self) -> Wall {
        self.shared.workspaces.quota()
    }

    /// Cancels every run of a session, waiting ones included, and returns once every guest of theirs is dead. Runs that
    /// are submitted meanwhile are not among them.
    pub async fn stop_session(&self, session: &SessionId) {
        for live in self.shared.ledger.cancel_session(session) {
            // Where it failed, its guest is dead as well.
            let _ = submission::end_of(live.progress).await;
        }
    }

    /// What the sandbox is made of.
    pub fn sandbox(&self) -> &SandboxDescription {
        self.shared.sandbox.description()
    }

    /// What is kept warm, as it is now.
    pub fn warm_pools(&self) -> Vec<WarmPool> {
        self.shared.sandbox.warm_pools()
    }

    /// Accepts nothing more, gives what runs and waits the grace period, kills the rest, and returns once every guest is
    /// dead and every result is kept. What is killed here has crashed: its executor was lost. Dropping the future leaves
    /// the rest running.
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

    /// Closes the store, once the executor has [drained](Self::drain) and nobody asks any more.
    pub async fn close(&self) {
        self.shared.store.close().await;
    }

    /// Where an execution is to be found.
    async fn locate(&self, id: &ExecutionId) -> Result<Option<Located>, ExecuteError> {
        let shared = &self.shared;
        let mut unfinished = None;
        // What leaves the ledger is in the store by then, so at the second look it is in one of them.
        for _ in 0..2 {
            if let Some(live) = shared.ledger.find(id) {
                return Ok(Some(Located::Live(live)));
            }
            if !shared.store.may_know(id) {
                return Ok(None);
            }
            match shared.store.find(id).await? {
                None => return Ok(None),
                Some(kept) if kept.execution.status().is_final() => {
                    return Ok(Some(Located::Ended(kept.execution)));
                }
                Some(kept) => unfinished = Some(kept.execution),
            }
        }
        // Nobody carries it: its result could not be kept.
        Ok(unfinished.map(|execution| Located::Ended(lost(&execution, shared.clock.now()))))
    }
}

/// Where an execution is to be found.
enum Located {
    Live(Live),
    Ended(Execution),
}

impl Shared {
    fn admit(&self, bytes: usize) -> Result<Place, ExecuteError> {
        self.admission
            .enter(bytes)
            .map_err(|refusal| match refusal {
                Refusal::Full => ExecuteError::Busy {
                    retry_after: self.admission.retry_after(self.typical()),
                },
                Refusal::Closed => ExecuteError::Draining,
            })
    }

    /// Adds to what the store knows of an execution that has not ended what the ledger knows.
    fn bring_up_to_date(&self, item: &mut Summary) {
        if let Some(live) = self.ledger.find(&item.id) {
            *item = Summary::from(&live.progress.borrow().execution);
        }
    }

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

/// The outcome of a run whose guest did not run, or of which nobody knows how it did.
fn nothing_known(ending: Ending) -> Outcome {
    Outcome {
        ending,
        stdout: CapturedOutput::default(),
        stderr: CapturedOutput::default(),
        usage: Usage::default(),
        start: Start::Cold,
        limits_hit: Vec::new(),
    }
}

/// An execution whose executor was lost. One that had ended stays as it is.
pub(crate) fn lost(execution: &Execution, at: Timestamp) -> Execution {
    let mut lost = execution.clone();
    let outcome = nothing_known(Ending::Crashed(CrashCause::ExecutorLost));
    // An execution that is over refuses, and is right.
    let _ = lost.finish(at, outcome, Artifacts::default());
    lost
}
