//! What the control plane is told, and who keeps it until it has been told.

use std::time::Duration;

use async_trait::async_trait;
use executor_domain::{Execution, ExecutionId, Timestamp};
use thiserror::Error;

use super::PortError;

/// Why the store could not do its part.
#[derive(Debug, Error)]
pub enum StoreError {
    /// There is no room for more, on the disk or under the cap.
    #[error("the store is full")]
    Full(#[source] PortError),
    /// What is kept cannot be trusted.
    #[error("the store is damaged")]
    Damaged(#[source] PortError),
    /// What is kept of this one execution cannot be trusted; all others are as they were.
    #[error("what is kept of the execution cannot be read")]
    Unreadable(#[source] PortError),
    /// We failed in this step.
    #[error("failed to {step}")]
    Failed {
        /// What we were doing.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: PortError,
    },
}

/// How the daemon came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExitReason {
    /// It was told to stop, in no hurry (SIGINT).
    Normal,
    /// SIGTERM.
    Terminated,
    /// It failed.
    Error,
}

/// One thing that the control plane is told.
#[derive(Debug, Clone, PartialEq)]
pub enum Report {
    /// The socket listens, and a sandbox was really started.
    Ready {
        /// Where it listens.
        port: u16,
        /// Since when.
        at: Timestamp,
    },
    /// An execution is still running.
    Heartbeat {
        /// The execution as it was when it started.
        execution: Execution,
        /// When this was so.
        at: Timestamp,
    },
    /// An execution has ended; never a live one.
    Result(Execution),
    /// The daemon stops.
    Exited {
        /// Where it listened.
        port: u16,
        /// The exit code that its process is about to have.
        exit_code: i32,
        /// Why it stops.
        reason: ExitReason,
        /// When.
        at: Timestamp,
    },
}

/// What became of one attempt to deliver a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// The control plane has it.
    Delivered,
    /// Not this time; another attempt may succeed.
    Retry {
        /// When the control plane asked to be left alone until, from now.
        after: Option<Duration>,
        /// Why, for an operator; without secrets.
        reason: String,
    },
    /// The control plane will never take it.
    Refused {
        /// Why, for an operator; without secrets.
        reason: String,
    },
}

/// Takes reports to the control plane.
#[cfg_attr(any(test, feature = "mocks"), mockall::automock)]
#[async_trait]
pub trait ControlPlane: Send + Sync {
    /// Attempts once to deliver a report. MUST come back within a bounded time whatever the other side does, MUST NOT
    /// follow redirects, and MUST read a bounded part of the answer. Dropping the future gives the attempt up; the other
    /// side may have got the report nevertheless, so reports are idempotent.
    async fn deliver(&self, report: &Report) -> Delivery;
}

/// How it stands with the reports of an outbox.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OutboxLevels {
    /// Reports that wait for delivery.
    pub undelivered: u64,
    /// Reports that the control plane refused for good, since the outbox was opened.
    pub refused: u64,
    /// Reports that were given up undelivered for want of room, since the outbox was opened.
    pub dropped: u64,
    /// Reports that cannot be made since what is kept of their executions is damaged, since the outbox was opened.
    pub unreadable: u64,
}

/// Keeps the reports of ended executions until they are delivered. A report comes into it together with the result, in
/// one transaction.
#[cfg_attr(any(test, feature = "mocks"), mockall::automock)]
#[async_trait]
pub trait Outbox: Send + Sync {
    /// Ended executions whose reports are not delivered, oldest first, after `after` in that order, at most `limit`; none
    /// only where there are none. One that cannot be read MUST be passed over.
    async fn undelivered(
        &self,
        after: Option<ExecutionId>,
        limit: usize,
    ) -> Result<Vec<Execution>, StoreError>;

    /// The report of this execution has been delivered. Idempotent.
    async fn delivered(&self, id: &ExecutionId) -> Result<(), StoreError>;

    /// The control plane will never take the report of this execution: it is kept for inspection and not tried again.
    async fn refused(&self, id: &ExecutionId, reason: &str) -> Result<(), StoreError>;

    /// Waits until a report has come in since the last call. May wake for nothing. Cancel safe.
    async fn changed(&self);

    /// How it stands now. MUST NOT block.
    fn levels(&self) -> OutboxLevels;
}
