//! Keeps executions and their results.

use async_trait::async_trait;
use executor_domain::{Execution, ExecutionId, SessionId, State, Status, Timestamp};

use super::StoreError;

/// SHA-256 of everything in a request that decides what runs: two requests with the same one are the same request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// A fingerprint from a digest.
    pub const fn new(digest: [u8; 32]) -> Self {
        Self(digest)
    }

    /// The digest.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// An execution as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The execution: pending, as it was accepted, or finished.
    pub execution: Execution,
    /// Of the request that it came from.
    pub fingerprint: Fingerprint,
}

/// An execution without what a guest can make large.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Its name.
    pub id: ExecutionId,
    /// The session whose workspace it uses.
    pub session: SessionId,
    /// Where it is in its life.
    pub status: Status,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// When its guest started; `None` where it did not, or not yet.
    pub started_at: Option<Timestamp>,
    /// When it ended; `None` where it has not.
    pub completed_at: Option<Timestamp>,
}

impl From<&Execution> for Summary {
    fn from(execution: &Execution) -> Self {
        let (started_at, completed_at) = match execution.state() {
            State::Pending => (None, None),
            State::Running { started_at } => (Some(*started_at), None),
            State::Finished {
                started_at,
                completed_at,
                ..
            } => (*started_at, Some(*completed_at)),
        };
        Self {
            id: execution.id().clone(),
            session: execution.session().clone(),
            status: execution.status(),
            accepted_at: execution.accepted_at(),
            started_at,
            completed_at,
        }
    }
}

/// A place in the order in which executions were accepted: the older ones lie before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor(u64);

impl Cursor {
    /// The place of the execution that was accepted as this one in number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    pub const fn number(self) -> u64 {
        self.0
    }
}

/// Which executions to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// Those of this session; `None`: of all.
    pub session: Option<SessionId>,
    /// Those that are here in their life; `None`: anywhere.
    pub status: Option<Status>,
    /// Those accepted before this one; `None`: from the newest on.
    pub before: Option<Cursor>,
    /// At most so many; at least 1.
    pub limit: usize,
}

/// Some executions, newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// The executions.
    pub items: Vec<Summary>,
    /// Where the next page begins; `None`: there is none.
    pub next: Option<Cursor>,
}

/// Keeps executions: as accepted from their beginning, and with their results from their end on, for a while.
///
/// To a store an execution that has not ended is pending; that its guest runs is known elsewhere. Futures may be dropped:
/// what was begun takes place or not, in whole.
#[cfg_attr(any(test, feature = "mocks"), mockall::automock)]
#[async_trait]
pub trait ExecutionStore: Send + Sync {
    /// Whether this id may be kept. `false` means that it surely is not. MUST NOT wait for anything: it is asked for
    /// every request.
    fn may_know(&self, id: &ExecutionId) -> bool;

    /// Keeps an execution that was just accepted, and returns once it is kept even if the process dies now. Its id MUST
    /// NOT be kept already.
    async fn accept(
        &self,
        execution: &Execution,
        fingerprint: Fingerprint,
    ) -> Result<(), StoreError>;

    /// Keeps the result of an accepted execution, together with its report where results are reported, and returns once
    /// both are kept even if the process dies now.
    async fn finish(&self, execution: &Execution) -> Result<(), StoreError>;

    /// Forgets an execution: from the return on its id is unknown. Idempotent.
    async fn forget(&self, id: &ExecutionId) -> Result<(), StoreError>;

    /// The execution of this id. One that cannot be read is [`StoreError::Unreadable`].
    async fn find(&self, id: &ExecutionId) -> Result<Option<Kept>, StoreError>;

    /// Executions, newest first, without those that cannot be read. [`Status::Pending`] finds those that have not ended.
    async fn list(&self, query: Query) -> Result<Page, StoreError>;

    /// Executions that were accepted and have not ended, oldest first, without those that cannot be read.
    async fn unfinished(&self) -> Result<Vec<Execution>, StoreError>;

    /// Whether results can be kept now. MUST try it for real.
    async fn check(&self) -> Result<(), StoreError>;

    /// Waits for what was begun, and lets go of everything. Nothing else may be called from then on.
    async fn close(&self);
}
