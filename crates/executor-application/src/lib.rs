//! Use cases of Sandbox Executor, and the ports that adapters implement.
//!
//! A program that embeds the executor makes an [`ExecuteCode`] from adapters of its own choice and calls
//! [`ExecuteCode::execute`]. Nothing here starts a process, opens a file or a socket: that is what the ports are for.
//!
//! With the feature `mocks`, every port has a mock (`MockSandbox`, …) and there is [`fake::FakeSandbox`], which keeps
//! the isolation port's contract without isolating anything.

mod admission;
mod description;
mod execute;
#[cfg(any(test, feature = "mocks"))]
pub mod fake;
mod health;
mod ledger;
mod ports;

pub use admission::Capacity;
pub use description::{LanguageSupport, SandboxDescription, Wall, WallState, WarmPool};
pub use execute::{ExecuteCode, ExecuteCommand, ExecuteError, Options, RunFailure, Submission};
pub use health::{CheckHealth, Health, Unhealthy};
pub use ledger::Retention;
pub use ports::{
    Clock, ControlPlane, Delivery, ExitReason, Job, Outbox, PortError, Report, Sandbox,
    SandboxError, StoreError, Workspace, WorkspaceError, Workspaces,
};
#[cfg(any(test, feature = "mocks"))]
pub use ports::{
    MockClock, MockControlPlane, MockOutbox, MockSandbox, MockWorkspace, MockWorkspaces,
};
/// Cancels a run: see [`Sandbox::run`].
pub use tokio_util::sync::CancellationToken;
