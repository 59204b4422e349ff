//! The life of an execution: accepted, running, finished, and nothing else in between.

use alloc::sync::Arc;

use thiserror::Error;

use crate::{Artifacts, Ending, ExecutionId, Outcome, SessionId, Timestamp, TraceParent};

/// Where an execution is in its life, in one word for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// Accepted, and waiting for a slot.
    Pending,
    /// Its guest runs.
    Running,
    /// Its guest ended well.
    Completed,
    /// Its guest went wrong in its own way.
    Failed,
    /// It ran out of time.
    Timeout,
    /// Its guest crashed, or we did.
    Crashed,
    /// Somebody cancelled it.
    Cancelled,
}

impl Status {
    /// Every one of them.
    pub const ALL: [Self; 7] = [
        Self::Pending,
        Self::Running,
        Self::Completed,
        Self::Failed,
        Self::Timeout,
        Self::Crashed,
        Self::Cancelled,
    ];

    /// The name as the API spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Timeout => "timeout",
            Self::Crashed => "crashed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The same for a person, in a sentence.
    pub const fn message(self) -> &'static str {
        match self {
            Self::Pending => "Execution submitted",
            Self::Running => "Execution running",
            Self::Completed => "Execution completed",
            Self::Failed => "Execution failed",
            Self::Timeout => "Execution timed out",
            Self::Crashed => "Execution crashed",
            Self::Cancelled => "Execution cancelled",
        }
    }

    /// Whether nothing more will happen.
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Pending | Self::Running)
    }
}

/// Where an execution is in its life, with all that is known there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Accepted, and waiting for a slot.
    Pending,
    /// Its guest runs.
    Running {
        /// Since when.
        started_at: Timestamp,
    },
    /// Nothing more will happen.
    Finished {
        /// When its guest started; `None` where it was cancelled before that.
        started_at: Option<Timestamp>,
        /// When it ended.
        completed_at: Timestamp,
        /// What it came to.
        outcome: Arc<Outcome>,
        /// Files that it left.
        artifacts: Arc<Artifacts>,
    },
}

/// A change that an execution's life does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("an execution that is {} cannot become {}", from.as_str(), to.as_str())]
pub struct IllegalTransition {
    /// What it is.
    pub from: Status,
    /// What it was to become.
    pub to: Status,
}

/// One run of one guest, from acceptance to result. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Execution {
    id: ExecutionId,
    session: SessionId,
    accepted_at: Timestamp,
    state: State,
    trace_parent: Option<TraceParent>,
}

impl Execution {
    /// A new execution, accepted and pending.
    pub const fn accept(id: ExecutionId, session: SessionId, accepted_at: Timestamp) -> Self {
        Self {
            id,
            session,
            accepted_at,
            state: State::Pending,
            trace_parent: None,
        }
    }

    /// Says which step of a trace it is. What is reported of it later names that step as its parent.
    pub const fn trace(&mut self, step: TraceParent) {
        self.trace_parent = Some(step);
    }

    /// Its guest starts.
    pub fn start(&mut self, started_at: Timestamp) -> Result<(), IllegalTransition> {
        match self.state {
            State::Pending => {
                self.state = State::Running { started_at };
                Ok(())
            }
            _ => Err(self.illegal(Status::Running)),
        }
    }

    /// It ends with an outcome. A guest that never started can only be cancelled or lost.
    pub fn finish(
        &mut self,
        completed_at: Timestamp,
        outcome: Outcome,
        artifacts: Artifacts,
    ) -> Result<(), IllegalTransition> {
        let to = status_of(&outcome.ending);
        let started_at = match self.state {
            State::Running { started_at } => Some(started_at),
            State::Pending if matches!(to, Status::Cancelled | Status::Crashed) => None,
            State::Pending | State::Finished { .. } => return Err(self.illegal(to)),
        };
        self.state = State::Finished {
            started_at,
            completed_at,
            outcome: Arc::new(outcome),
            artifacts: Arc::new(artifacts),
        };
        Ok(())
    }

    fn illegal(&self, to: Status) -> IllegalTransition {
        IllegalTransition {
            from: self.status(),
            to,
        }
    }

    /// Its name.
    pub const fn id(&self) -> &ExecutionId {
        &self.id
    }

    /// The session whose workspace it uses.
    pub const fn session(&self) -> &SessionId {
        &self.session
    }

    /// When it was accepted.
    pub const fn accepted_at(&self) -> Timestamp {
        self.accepted_at
    }

    /// Which step of a trace it is, where it belongs to one: the `traceparent` of whatever is reported of it.
    pub const fn trace_parent(&self) -> Option<TraceParent> {
        self.trace_parent
    }

    /// Where it is in its life, with all that is known there.
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// Where it is in its life, in one word.
    pub fn status(&self) -> Status {
        match &self.state {
            State::Pending => Status::Pending,
            State::Running { .. } => Status::Running,
            State::Finished { outcome, .. } => status_of(&outcome.ending),
        }
    }

    /// Whether its guest has ever started.
    pub const fn has_started(&self) -> bool {
        match &self.state {
            State::Pending => false,
            State::Running { .. } => true,
            State::Finished { started_at, .. } => started_at.is_some(),
        }
    }

    /// What it came to, once it has ended.
    pub const fn outcome(&self) -> Option<&Arc<Outcome>> {
        match &self.state {
            State::Finished { outcome, .. } => Some(outcome),
            _ => None,
        }
    }
}

const fn status_of(ending: &Ending) -> Status {
    match ending {
        Ending::Completed { .. } => Status::Completed,
        Ending::Failed { .. } => Status::Failed,
        Ending::TimedOut { .. } => Status::Timeout,
        Ending::Crashed(_) => Status::Crashed,
        Ending::Cancelled => Status::Cancelled,
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;
    use crate::{CapturedOutput, JsonText, Start, Usage};

    const T0: Timestamp = Timestamp::from_unix_micros(0);
    const T1: Timestamp = Timestamp::from_unix_micros(1);
    const T2: Timestamp = Timestamp::from_unix_micros(2);

    fn accepted() -> Execution {
        Execution::accept(
            ExecutionId::parse("e").unwrap(),
            SessionId::parse("s").unwrap(),
            T0,
        )
    }

    fn outcome(ending: Ending) -> Outcome {
        Outcome {
            ending,
            stdout: CapturedOutput::default(),
            stderr: CapturedOutput::default(),
            usage: Usage::default(),
            start: Start::Cold,
            limits_hit: Vec::new(),
        }
    }

    fn completed() -> Outcome {
        outcome(Ending::Completed {
            return_value: JsonText::null(),
        })
    }

    #[test]
    fn lives_once_from_start_to_end() {
        let mut execution = accepted();
        assert_eq!(execution.status(), Status::Pending);
        execution.start(T1).unwrap();
        assert_eq!(execution.status(), Status::Running);
        execution
            .finish(T2, completed(), Artifacts::default())
            .unwrap();
        assert_eq!(execution.status(), Status::Completed);
        assert!(matches!(
            execution.state(),
            State::Finished {
                started_at: Some(T1),
                completed_at: T2,
                ..
            }
        ));
    }

    #[test]
    fn does_not_start_twice_nor_end_twice() {
        let mut execution = accepted();
        execution.start(T1).unwrap();
        assert_eq!(
            execution.start(T1),
            Err(IllegalTransition {
                from: Status::Running,
                to: Status::Running
            })
        );
        execution
            .finish(T2, completed(), Artifacts::default())
            .unwrap();
        let late = outcome(Ending::Cancelled);
        assert_eq!(
            execution.finish(T2, late, Artifacts::default()),
            Err(IllegalTransition {
                from: Status::Completed,
                to: Status::Cancelled
            })
        );
        assert!(execution.start(T2).is_err());
    }

    #[test]
    fn what_never_started_is_cancelled_or_lost_but_not_completed() {
        let mut execution = accepted();
        assert!(
            execution
                .finish(T1, completed(), Artifacts::default())
                .is_err()
        );
        execution
            .finish(T1, outcome(Ending::Cancelled), Artifacts::default())
            .unwrap();
        assert_eq!(execution.status(), Status::Cancelled);
    }
}
