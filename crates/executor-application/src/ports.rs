//! What the use cases need of the world, as traits. Each doc comment binds whoever implements the trait.

mod artifacts;
mod files;
mod output;
mod reports;
mod store;
mod telemetry;

use std::{error::Error, path::Path, path::PathBuf};

use async_trait::async_trait;
use executor_domain::{
    Artifact, Artifacts, Event, ExecutionId, GuestEnvironment, Outcome, ResourceLimit, SessionId,
    Source, Timestamp,
};
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::description::{SandboxDescription, Wall, WarmPool};

pub use artifacts::{ArtifactOwner, ArtifactStore, ArtifactStoreError};
pub use files::{
    ArchiveFormat, Condition, Content, DiskUse, Entry, EntryKind, FilesError, Found, Holdings,
    ListQuery, Listing, Overflow, SessionFiles, SessionUse, Stored, Upload,
};
pub use output::{Listener, OutputListener, OutputStream};
pub use reports::{ControlPlane, Delivery, ExitReason, Outbox, OutboxLevels, Report, StoreError};
pub use store::{Cursor, ExecutionStore, Fingerprint, Kept, Page, Query, Summary};
pub use telemetry::{
    AnsweredRequest, EndedRun, Instruments, Levels, Telemetry, TextFormat, Traces, UploadTotals,
    WarmSlots,
};
#[cfg(any(test, feature = "mocks"))]
pub use {
    artifacts::MockArtifactStore,
    files::MockSessionFiles,
    output::MockOutputListener,
    reports::{MockControlPlane, MockOutbox},
    store::MockExecutionStore,
    telemetry::{MockTelemetry, MockTraces},
};

/// Whatever an adapter failed with.
pub type PortError = Box<dyn Error + Send + Sync>;

/// A fully decided run: nothing in it is still to be checked, defaulted or granted.
#[derive(Debug, Clone)]
pub struct Job {
    /// The execution's name.
    pub execution_id: ExecutionId,
    /// The session's name.
    pub session_id: SessionId,
    /// The program.
    pub source: Source,
    /// The handler's input.
    pub event: Event,
    /// Variables that the caller adds to the guest's environment.
    pub environment: GuestEnvironment,
    /// Standard input; `None`: the caller gave none.
    pub stdin: Option<String>,
    /// What the guest may use.
    pub limits: ResourceLimit,
    /// The session's directory on the host; it exists and the guest may write to it.
    pub workspace: PathBuf,
    /// Who hears what the guest writes, while it runs.
    pub listener: Listener,
}

/// Why a sandbox could not do its part. What a *guest* does wrong is an [`Outcome`], never one of these.
#[derive(Debug, Error)]
pub enum SandboxError {
    /// A sandbox cannot be made here, now; trying again may help once the operator has acted.
    #[error("a sandbox cannot be started: {reason}")]
    Unavailable {
        /// What is wrong and what to do, for an operator. Not for clients.
        reason: String,
    },
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

/// Runs guests between walls.
#[cfg_attr(any(test, feature = "mocks"), mockall::automock)]
#[async_trait]
pub trait Sandbox: Send + Sync {
    /// Runs one guest to its end.
    ///
    /// - MUST return only when every process of the guest is dead, on every way out.
    /// - MUST return a value for whatever the guest does; `Err` means that we failed.
    /// - MUST end the guest when its wall time or CPU time is used up, whether or not this future is polled.
    /// - When `cancel` is cancelled, MUST kill the guest and return [`executor_domain::Ending::Cancelled`], unless the
    ///   guest had ended by then.
    /// - When the future is dropped, the guest MUST die as well; nobody waits for that.
    /// - What the guest writes MUST be told to the job's listener as soon as it is read, and of each stream exactly what
    ///   the outcome holds of it or the beginning of that: nothing from beyond the cap.
    async fn run(&self, job: Job, cancel: CancellationToken) -> Result<Outcome, SandboxError>;

    /// Whether a guest can be started now. MUST try it for real, with a guest of our own.
    async fn check(&self) -> Result<(), SandboxError>;

    /// What this sandbox is made of. Constant after start, cheap.
    fn description(&self) -> &SandboxDescription;

    /// What is kept warm, as it is now; nothing where every run starts cold by choice. Cheap.
    fn warm_pools(&self) -> Vec<WarmPool> {
        Vec::new()
    }
}

/// Why a workspace cannot be used.
#[derive(Debug, Error)]
#[error("failed to {step}")]
pub struct WorkspaceError {
    /// What we were doing.
    pub step: &'static str,
    /// Why it failed.
    #[source]
    pub source: PortError,
}

/// Keeps the directories that the runs of a session share.
#[cfg_attr(any(test, feature = "mocks"), mockall::automock)]
#[async_trait]
pub trait Workspaces: Send + Sync {
    /// Opens the directory of a session for one run, and makes it where it does not exist. What the run changes is
    /// counted from here on.
    async fn open(&self, session: &SessionId) -> Result<Box<dyn Workspace>, WorkspaceError>;

    /// Whether workspaces can be written to now.
    async fn check(&self) -> Result<(), WorkspaceError>;

    /// Where workspaces are kept, for people.
    fn root(&self) -> &Path;

    /// Whether the size of a workspace is bounded, and how.
    fn quota(&self) -> Wall;
}

/// The directory of a session, opened for one run.
#[cfg_attr(any(test, feature = "mocks"), mockall::automock)]
#[async_trait]
pub trait Workspace: Send + Sync {
    /// The directory on the host.
    fn path(&self) -> &Path;

    /// Regular files created or changed since the workspace was opened. MUST NOT follow a link, nor read anything but
    /// regular files, and MUST be bounded in count, bytes, depth and time: a guest made all of this.
    async fn changes(&self) -> Result<Artifacts, WorkspaceError>;

    /// Opens the content of a file that [`changes`](Self::changes) has found. MUST NOT follow a link, nor read anything
    /// but a regular file. Whether it is still the same is for the caller to find out, by its checksum. Without an
    /// implementation there is none to be read, and nothing is uploaded.
    async fn read(&self, artifact: &Artifact) -> Result<Box<dyn Content>, FilesError> {
        let _ = artifact;
        Err(FilesError::NoFile)
    }

    /// Waits until the workspace takes more than `max_bytes`, or has more files than it may; for ever where that never
    /// happens. Notices it while a run writes: how late, is the adapter's to say. Ready at once where a workspace was
    /// over its bounds before, and with `None` where nobody looks. Cancel safe.
    async fn overflows(&self, max_bytes: u64) -> Option<Overflow>;
}

/// Tells the time of day. For people and reports: what is measured runs on tokio's clock.
#[cfg_attr(any(test, feature = "mocks"), mockall::automock)]
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> Timestamp;
}
