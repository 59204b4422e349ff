//! One run on its way, from its place in the queue to its result in the store.

use std::{sync::Arc, time::Duration};

use executor_domain::{Artifacts, CrashCause, Ending, Execution, Outcome, ResourceLimit};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::{ExecuteCommand, RunFailure, Shared, lost, nothing_known, quota};
use crate::{
    ArtifactOwner, EndedRun, Fingerprint, Job, Listener,
    admission::{Place, Slot},
    ledger::{Live, Progress, Registration, Remains},
    transcript::Transcript,
};

/// A run on its way.
pub(super) struct Run {
    shared: Arc<Shared>,
    registration: Registration,
    fingerprint: Fingerprint,
    execution: Execution,
    progress: watch::Sender<Progress>,
    transcript: Arc<Transcript>,
    cancel: CancellationToken,
    times: Times,
}

/// When a run got how far, for those who count.
struct Times {
    accepted: Instant,
    waited: Duration,
    sandboxed: Option<Duration>,
}

impl Times {
    fn since_now() -> Self {
        Self {
            accepted: Instant::now(),
            waited: Duration::ZERO,
            sandboxed: None,
        }
    }
}

impl Run {
    pub(super) fn new(
        shared: &Arc<Shared>,
        registration: Registration,
        command: &ExecuteCommand,
        fingerprint: Fingerprint,
        limits: &ResourceLimit,
    ) -> Self {
        let execution = Execution::accept(
            command.execution_id.clone(),
            command.session_id.clone(),
            shared.clock.now(),
        );
        let progress = Progress {
            recorded: false,
            execution: execution.clone(),
            failure: None,
        };
        let cap = usize::try_from(limits.max_output_bytes()).unwrap_or(usize::MAX);
        Self {
            registration,
            fingerprint,
            execution,
            progress: watch::Sender::new(progress),
            transcript: Arc::new(Transcript::new(cap)),
            cancel: shared.cancel_all.child_token(),
            times: Times::since_now(),
            shared: Arc::clone(shared),
        }
    }

    /// What those who look on need.
    pub(super) fn live(&self) -> Live {
        Live {
            registration: self.registration,
            progress: self.progress.subscribe(),
            transcript: Arc::clone(&self.transcript),
        }
    }

    pub(super) fn cancellation(&self) -> CancellationToken {
        self.cancel.clone()
    }

    pub(super) async fn carry_through(
        mut self,
        place: Place,
        command: ExecuteCommand,
        limits: ResourceLimit,
    ) {
        let span = tracing::info_span!(
            "execution",
            execution_id = %command.execution_id,
            session_id = %command.session_id,
            language = %command.source.language(),
        );
        let instruments = &self.shared.instruments;
        // Where spans are exported, ours comes between the caller's and those of whoever is told of this execution.
        if let Some(step) = instruments.traces.name_of(&span).or(command.trace_parent) {
            self.execution.trace(step);
        }
        self.carry(place, command, limits).instrument(span).await;
    }

    async fn carry(mut self, place: Place, command: ExecuteCommand, limits: ResourceLimit) {
        let language = command.source.language();
        let mut slot = None;
        let ran = self.record_and_run(place, command, limits, &mut slot).await;
        let telemetry = Arc::clone(&self.shared.instruments.telemetry);
        match &ran {
            Ok(()) => telemetry.execution_ended(&EndedRun {
                execution: &self.execution,
                language,
                waited: self.times.waited,
                sandboxed: self.times.sandboxed,
            }),
            Err(failure) => telemetry.execution_failed(language, failure),
        }
        if let Err(failure) = &ran {
            tracing::error!(error = crate::chain(failure), "execution failed");
        }
        let ran_well = ran.is_ok();
        let kept = self.keep(ran).await;
        if let (true, Err(failure)) = (ran_well, &kept) {
            telemetry.execution_failed(language, failure);
        }
        // Only now: a store that cannot keep up slows runs down instead of filling the memory with results.
        drop(slot);
        self.leave(kept.err());
    }

    /// Leaves the ledger and tells those who wait.
    fn leave(&self, failure: Option<RunFailure>) {
        let id = self.execution.id();
        self.shared.ledger.remove(id, self.registration);
        self.progress.send_if_modified(|progress| {
            if progress.is_over() {
                return false;
            }
            progress.execution = match failure {
                None => self.execution.clone(),
                Some(_) => lost(&self.execution, self.shared.clock.now()),
            };
            progress.failure = failure.map(Arc::new);
            true
        });
    }

    /// Runs the guest, and records the acceptance meanwhile: nobody has been promised anything yet, and whoever is
    /// promised something waits for the record.
    async fn record_and_run(
        &mut self,
        place: Place,
        command: ExecuteCommand,
        limits: ResourceLimit,
        slot: &mut Option<Slot>,
    ) -> Result<(), RunFailure> {
        let shared = Arc::clone(&self.shared);
        let accepted = self.execution.clone();
        let fingerprint = self.fingerprint;
        let cancel = self.cancel.clone();
        let progress = self.progress.clone();
        let record = async {
            let recorded = shared.store.accept(&accepted, fingerprint).await;
            match &recorded {
                Ok(()) => progress.send_modify(|progress| progress.recorded = true),
                // There would be no place for a result.
                Err(_) => cancel.cancel(),
            }
            recorded
        };
        let (recorded, ran) = tokio::join!(record, self.run(place, command, limits, slot));
        recorded?;
        ran
    }

    async fn run(
        &mut self,
        place: Place,
        command: ExecuteCommand,
        limits: ResourceLimit,
        slot: &mut Option<Slot>,
    ) -> Result<(), RunFailure> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => {
                self.times.waited = self.times.accepted.elapsed();
                self.finish(nothing_known(Ending::Cancelled), Artifacts::default());
                return Ok(());
            }
            taken = place.slot() => *slot = Some(taken),
        }
        self.times.waited = self.times.accepted.elapsed();

        let workspace = self.shared.workspaces.open(&command.session_id).await?;
        let started_at = self.shared.clock.now();
        if let Err(illegal) = self.execution.start(started_at) {
            tracing::error!(%illegal, "a run that was just accepted did not start");
        }
        self.progress
            .send_modify(|progress| progress.execution = self.execution.clone());
        let _running = self.shared.running.enter(&self.execution);
        let job = Job {
            execution_id: command.execution_id,
            session_id: command.session_id,
            source: command.source,
            event: command.event,
            environment: command.environment,
            stdin: command.stdin,
            limits,
            workspace: workspace.path().to_owned(),
            listener: Listener::new(Arc::clone(&self.transcript) as _),
        };
        let handed_over = Instant::now();
        let sandbox = &*self.shared.sandbox;
        let outcome = quota::run_within(sandbox, &*workspace, job, self.cancel.clone()).await?;
        self.times.sandboxed = Some(handed_over.elapsed());
        self.shared.note_duration(outcome.usage.wall_time);
        let mut artifacts = workspace.changes().await?;
        if let Some(uploads) = &self.shared.uploads {
            let owner = ArtifactOwner {
                session: self.execution.session().clone(),
                execution: self.execution.id().clone(),
            };
            uploads
                .upload(owner, &*workspace, &mut artifacts, &self.cancel)
                .await;
        }
        self.finish(outcome, artifacts);
        Ok(())
    }

    fn finish(&mut self, mut outcome: Outcome, artifacts: Artifacts) {
        // Whom nobody has asked to end was ended because we end: that is our doing, not a caller's.
        let asked_for = || {
            self.shared
                .ledger
                .was_cancelled(self.execution.id(), self.registration)
        };
        if outcome.ending == Ending::Cancelled && !asked_for() {
            outcome.ending = Ending::Crashed(CrashCause::ExecutorLost);
        }
        let completed_at = self.shared.clock.now();
        if let Err(illegal) = self.execution.finish(completed_at, outcome, artifacts) {
            tracing::error!(%illegal, "a run did not end as it began");
        }
    }

    /// Puts what remains of the run where it belongs.
    async fn keep(&mut self, ran: Result<(), RunFailure>) -> Result<(), RunFailure> {
        let id = self.execution.id().clone();
        let remains = self.shared.ledger.over(&id, self.registration);
        match (remains, ran) {
            (Remains::Result | Remains::ResultWhatever, Ok(())) => {}
            (Remains::ResultWhatever, Err(failure)) => {
                if let RunFailure::Store(_) = failure {
                    // Its acceptance is not on record, and its caller is told so.
                    return Err(failure);
                }
                self.execution = lost(&self.execution, self.shared.clock.now());
            }
            (Remains::Result, Err(failure)) => {
                self.forget().await;
                return Err(failure);
            }
            (Remains::Nothing, ran) => {
                self.forget().await;
                return ran;
            }
        }
        let kept = self.shared.store.finish(&self.execution).await;
        match &kept {
            Ok(()) => {
                tracing::info!(status = self.execution.status().as_str(), "execution ended");
            }
            Err(error) => {
                tracing::error!(error = crate::chain(error), "a result could not be kept");
                if remains == Remains::Result {
                    // Its caller is about to hear of it, and may try again.
                    self.forget().await;
                }
            }
        }
        Ok(kept?)
    }

    /// Frees the id. Where that fails, the id stays taken by an execution that was lost.
    async fn forget(&self) {
        if let Err(error) = self.shared.store.forget(self.execution.id()).await {
            tracing::error!(
                error = crate::chain(&error),
                "an execution could not be forgotten"
            );
        }
    }
}

impl Drop for Run {
    /// Where the run ended as it should, nothing is left to be done.
    fn drop(&mut self) {
        self.leave(Some(RunFailure::Lost));
    }
}
