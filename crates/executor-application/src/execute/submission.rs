//! A command that was accepted, in the hands of its caller.

use std::sync::Arc;

use executor_domain::{Execution, ExecutionId};
use tokio::sync::watch;

use super::{ExecuteError, RunFailure, Shared};
use crate::{
    Events, Position,
    ledger::{Live, Progress, Registration},
};

/// A command that was accepted. Dropping it means not to wait any more.
pub struct Submission {
    shared: Arc<Shared>,
    what: What,
}

enum What {
    /// It is under way, or was when it was submitted.
    Live { live: Live, seat: Seat },
    /// It had ended before it was submitted again.
    Ended(Execution),
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
    pub(super) fn of_live(shared: &Arc<Shared>, id: ExecutionId, live: Live) -> Self {
        let seat = Seat {
            shared: Arc::clone(shared),
            id,
            registration: live.registration,
        };
        Self {
            shared: Arc::clone(shared),
            what: What::Live { live, seat },
        }
    }

    pub(super) fn of_ended(shared: &Arc<Shared>, execution: Execution) -> Self {
        Self {
            shared: Arc::clone(shared),
            what: What::Ended(execution),
        }
    }

    /// The execution's name.
    pub const fn id(&self) -> &ExecutionId {
        match &self.what {
            What::Live { seat, .. } => &seat.id,
            What::Ended(execution) => execution.id(),
        }
    }

    /// Waits for the end. Dropping the future means not to wait any more.
    pub async fn finished(self) -> Result<Execution, ExecuteError> {
        match self.what {
            // The seat is kept as long as somebody waits.
            What::Live { live, seat: _seat } => end_of(live.progress).await,
            What::Ended(execution) => Ok(execution),
        }
    }

    /// Keeps the run: from the call on it goes on and has a result, whoever waits. Returns the execution as it is, once
    /// its acceptance is on record: should the process die now, the next one still knows of it. Dropping the future does
    /// not take the keeping back.
    pub async fn keep(&self) -> Result<Execution, ExecuteError> {
        let (live, seat) = match &self.what {
            What::Live { live, seat } => (live, seat),
            What::Ended(execution) => return Ok(execution.clone()),
        };
        self.shared.ledger.detach(&seat.id, seat.registration);
        let mut progress = live.progress.clone();
        let recorded = progress
            .wait_for(|progress| progress.recorded || progress.is_over())
            .await
            .map(|progress| progress.clone());
        execution_of(recorded.ok())
    }

    /// The events of the run from this place on.
    pub fn events(&self, from: Position) -> Events {
        match &self.what {
            What::Live { live, .. } => Events::of_live(live.clone(), from),
            What::Ended(execution) => Events::of_ended(execution.clone(), from),
        }
    }
}

/// Waits for the end of a run.
pub(super) async fn end_of(
    mut progress: watch::Receiver<Progress>,
) -> Result<Execution, ExecuteError> {
    let last = progress
        .wait_for(Progress::is_over)
        .await
        .map(|progress| progress.clone());
    execution_of(last.ok())
}

/// `None`: the task that carried the run is gone.
fn execution_of(progress: Option<Progress>) -> Result<Execution, ExecuteError> {
    let failure = match progress {
        Some(Progress {
            failure: None,
            execution,
            ..
        }) => return Ok(execution),
        Some(Progress {
            failure: Some(failure),
            ..
        }) => failure,
        None => Arc::new(RunFailure::Lost),
    };
    Err(ExecuteError::Failed(failure))
}
