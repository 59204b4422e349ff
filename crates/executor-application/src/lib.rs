//! Use cases of Sandbox Executor, and the ports that adapters implement.
//!
//! A program that embeds the executor makes an [`ExecuteCode`] from adapters of its own choice and calls
//! [`ExecuteCode::execute`], or [`ExecuteCode::submit`] and reads [`Events`]. Nothing here starts a process, opens a file or a socket: that is what the ports are for.
//!
//! With the feature `mocks`, every port has a mock (`MockSandbox`, …) and there is [`fake::FakeSandbox`], which keeps
//! the isolation port's contract without isolating anything.

mod admission;
mod chain;
mod description;
mod events;
mod execute;
#[cfg(any(test, feature = "mocks"))]
pub mod fake;
mod health;
mod ledger;
mod memory;
mod ports;
mod reports;
mod running;
mod sessions;
mod transcript;

pub use admission::Capacity;
pub use chain::chain;
pub use description::{LanguageSupport, SandboxDescription, Wall, WallState, WarmPool};
pub use events::{Events, ExecutionEvent};
pub use execute::{
    ArtifactUploads, ExecuteCode, ExecuteCommand, ExecuteError, Options, RunFailure, Submission,
};
pub use health::{CheckHealth, Health, Unhealthy};
pub use memory::{MemoryStore, Retention};
pub use ports::{
    AnsweredRequest, ArchiveFormat, ArtifactOwner, ArtifactStore, ArtifactStoreError, Clock,
    Condition, Content, ControlPlane, Cursor, Delivery, DiskUse, EndedRun, Entry, EntryKind,
    ExecutionStore, ExitReason, FilesError, Fingerprint, Found, Holdings, Instruments, Job, Kept,
    Levels, ListQuery, Listener, Listing, Outbox, OutboxLevels, OutputListener, OutputStream,
    Overflow, Page, PortError, Query, Report, Sandbox, SandboxError, SessionFiles, SessionUse,
    StoreError, Stored, Summary, Telemetry, TextFormat, Traces, Upload, UploadTotals, WarmSlots,
    Workspace, WorkspaceError, Workspaces,
};
#[cfg(any(test, feature = "mocks"))]
pub use ports::{
    MockArtifactStore, MockClock, MockControlPlane, MockExecutionStore, MockOutbox,
    MockOutputListener, MockSandbox, MockSessionFiles, MockTelemetry, MockTraces, MockWorkspace,
    MockWorkspaces,
};
pub use reports::{DeliveryBounds, ReportOptions, ReportPorts, Reports};
pub use running::Running;
pub use sessions::{CleanUp, ManageSessions, Removals, Removed};
/// Cancels a run: see [`Sandbox::run`].
pub use tokio_util::sync::CancellationToken;
pub use transcript::Position;
