//! The executor inside another program: the shortest way from code that nobody trusts to what it came to.
//!
//! ```no_run
//! use sandbox_executor::embed::{self, Ending, Executor, Request};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     // First of all: this program is also started as a stage of its own sandboxes.
//!     embed::dispatch();
//!     tokio::runtime::Runtime::new()?.block_on(async {
//!         let executor = Executor::builder().start().await?;
//!         let request = Request::python("def handler(event):\n    return event['n'] * 2").event(r#"{"n": 21}"#);
//!         let execution = executor.run(request).await?;
//!         if let Some(Ending::Completed { return_value }) = execution.outcome().map(|outcome| &outcome.ending) {
//!             assert_eq!(return_value.as_str(), "42");
//!         }
//!         executor.stop(std::time::Duration::ZERO).await;
//!         Ok(())
//!     })
//! }
//! ```
//!
//! What a program needs to make requests, to read what became of them and to write adapters of its own is here under one roof;
//! for more of the use case than that, depend on `executor-application` as well. What is promised is in `docs/library.md`.

mod request;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use thiserror::Error;

pub use executor_application::{
    CancellationToken, Capacity, Clock, Content, ExecuteCode, ExecuteCommand, ExecuteError,
    FilesError, Job, LanguageSupport, Listener, OutputListener, OutputStream, Overflow, PortError,
    RunFailure, Sandbox, SandboxDescription, SandboxError, Submission, Wall, WallState, WarmPool,
    Workspace, WorkspaceError, Workspaces,
};
pub use executor_domain::{
    Artifact, ArtifactKind, Artifacts, CapturedOutput, CrashCause, Ending, EnvironmentError, Event,
    Execution, ExecutionId, GuestEnvironment, GuestError, InvalidEvent, InvalidId, InvalidJson,
    InvalidPolicy, InvalidSource, JsonText, Language, Limit, LimitCeilings, LimitError, LimitHit,
    LimitPolicy, Mode, Outcome, Reason, RequestedLimits, ResourceLimit, SessionId, Source, Start,
    State, Status, Timestamp, TraceParent, Usage,
};
pub use request::{InvalidRequest, Request};

use crate::{
    config::{self, Config},
    wiring::{Adapters, WorkspacePlace},
};
pub use crate::{
    config::{Mistakes, Sources},
    wiring::StartError,
};

/// Must be the first call of `main`, before there is a thread: between daemon and guest stand a launcher and an init, beside
/// the daemon a watchdog, and all are this very executable. Comes back in the program itself, and never in a stage. Does
/// nothing where there are no stages.
pub fn dispatch() {
    #[cfg(target_os = "linux")]
    executor_infra_isolation::stage::dispatch();
    DISPATCHED.store(true, Ordering::Relaxed);
}

/// Whether [`dispatch`] has come back. A program that never calls it would start itself as its own launcher, which would start
/// itself, and so on.
static DISPATCHED: AtomicBool = AtomicBool::new(false);

/// Why there is no executor.
#[derive(Debug, Error)]
pub enum EmbedError {
    /// The program does not play its stages.
    #[error("embed::dispatch() must be the first call of main, and has not been called")]
    NotDispatched,
    /// The settings have mistakes.
    #[error(transparent)]
    Settings(#[from] Mistakes),
    /// An adapter does not work here.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// Why a request was not carried out. What a *guest* does wrong is an [`Outcome`], never one of these.
#[derive(Debug, Error)]
pub enum RunError {
    /// The request is malformed.
    #[error("the request is malformed")]
    Request(#[from] InvalidRequest),
    /// It was refused, or we failed.
    #[error(transparent)]
    Execute(#[from] ExecuteError),
}

/// Runs untrusted code inside this program. Cheap to clone: clones share everything.
///
/// Dropping the last clone ends what still runs once the runtime ends; [`stop`](Self::stop) does so in order.
#[derive(Clone)]
pub struct Executor {
    use_case: ExecuteCode,
}

impl Executor {
    /// What can be chosen; without a choice, [`Builder::start`] runs guests in Bubblewrap, in workspaces that are gone
    /// with the executor.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Runs a request to its end. Dropping the future cancels the run; every process of it dies.
    ///
    /// # Errors
    ///
    /// When the request is malformed, asks for more than is allowed, finds no slot, or when we fail. A guest that fails,
    /// crashes or runs out of time is no error.
    pub async fn run(&self, request: Request) -> Result<Execution, RunError> {
        let command = request.parse()?;
        Ok(self.use_case.execute(command).await?)
    }

    /// The use case itself, for whoever wants to submit now and wait later.
    pub const fn use_case(&self) -> &ExecuteCode {
        &self.use_case
    }

    /// What the sandbox is made of: walls, interpreters, versions.
    pub fn sandbox(&self) -> &SandboxDescription {
        self.use_case.sandbox()
    }

    /// Accepts nothing more, gives what runs the grace period, cancels the rest. When it returns, every guest is dead.
    /// Dropping the future leaves the rest running.
    pub async fn stop(self, grace: Duration) {
        self.use_case.drain(grace).await;
    }
}

/// An own sandbox on top of the one that this host offers.
type Wrap = Box<dyn FnOnce(Arc<dyn Sandbox>) -> Arc<dyn Sandbox> + Send>;

/// What can be chosen about an [`Executor`].
#[derive(Default)]
pub struct Builder {
    settings: Sources,
    workspace_path: Option<PathBuf>,
    limits: Option<LimitPolicy>,
    capacity: Option<Capacity>,
    sandbox: Option<Arc<dyn Sandbox>>,
    wrap: Option<Wrap>,
    workspaces: Option<Arc<dyn Workspaces>>,
    clock: Option<Arc<dyn Clock>>,
}

impl Builder {
    /// Reads settings as the daemon does (`docs/configuration.md`). Without this, neither a file nor the environment
    /// counts. What is chosen by the other methods counts more.
    #[must_use]
    pub fn settings(self, settings: Sources) -> Self {
        Self { settings, ..self }
    }

    /// Keeps the workspaces of sessions in this directory, and there they stay. Where this program is root, guests are
    /// somebody else, who must be able to walk to it. Without this they are in a temporary directory, which is removed
    /// with the executor.
    #[must_use]
    pub fn workspace_path(self, path: impl Into<PathBuf>) -> Self {
        Self {
            workspace_path: Some(path.into()),
            ..self
        }
    }

    /// What one run may use: ceilings, and defaults.
    #[must_use]
    pub fn limits(self, limits: LimitPolicy) -> Self {
        Self {
            limits: Some(limits),
            ..self
        }
    }

    /// How many runs there are at the same time, and how many may wait.
    #[must_use]
    pub fn capacity(self, capacity: Capacity) -> Self {
        Self {
            capacity: Some(capacity),
            ..self
        }
    }

    /// Runs guests in this sandbox instead of the one that this host offers.
    #[must_use]
    pub fn sandbox(self, sandbox: Arc<dyn Sandbox>) -> Self {
        Self {
            sandbox: Some(sandbox),
            ..self
        }
    }

    /// Puts an own sandbox around the one that is used otherwise: to count, to record, to refuse.
    #[must_use]
    pub fn wrap_sandbox(
        self,
        wrap: impl FnOnce(Arc<dyn Sandbox>) -> Arc<dyn Sandbox> + Send + 'static,
    ) -> Self {
        Self {
            wrap: Some(Box::new(wrap)),
            ..self
        }
    }

    /// Keeps workspaces here instead of in directories.
    #[must_use]
    pub fn workspaces(self, workspaces: Arc<dyn Workspaces>) -> Self {
        Self {
            workspaces: Some(workspaces),
            ..self
        }
    }

    /// Takes the time of day from here instead of from the host.
    #[must_use]
    pub fn clock(self, clock: Arc<dyn Clock>) -> Self {
        Self {
            clock: Some(clock),
            ..self
        }
    }

    /// Makes the executor. Unless there is an own sandbox, one is really started, and its walls are looked at from
    /// inside; that takes some tenths of a second. Must be called inside a tokio runtime with I/O and time.
    ///
    /// # Errors
    ///
    /// What is missing on this host, and what to do about it. There is no executor without isolation.
    pub async fn start(self) -> Result<Executor, EmbedError> {
        if self.sandbox.is_none() && !DISPATCHED.load(Ordering::Relaxed) {
            return Err(EmbedError::NotDispatched);
        }
        let mut config = config::load(&self.settings)?.config;
        let place = match self.workspace_path {
            Some(path) => {
                config.workspace_path = path;
                WorkspacePlace::Configured
            }
            None => WorkspacePlace::Temporary,
        };
        config.limits = self.limits.unwrap_or(config.limits);
        config.capacity = self.capacity.unwrap_or(config.capacity);
        let mut adapters = adapters(&config, place, self.sandbox).await?;
        if let Some(wrap) = self.wrap {
            adapters.sandbox = wrap(adapters.sandbox);
        }
        adapters.workspaces = self.workspaces.unwrap_or(adapters.workspaces);
        adapters.clock = self.clock.unwrap_or(adapters.clock);
        Ok(Executor {
            use_case: adapters.execute_code(&config),
        })
    }
}

async fn adapters(
    config: &Config,
    place: WorkspacePlace,
    sandbox: Option<Arc<dyn Sandbox>>,
) -> Result<Adapters, StartError> {
    match sandbox {
        Some(sandbox) => Adapters::around(config, place, sandbox),
        None => Adapters::start(config, place).await,
    }
}

#[cfg(test)]
mod tests {
    use executor_application::fake::{FakeSandbox, NoWorkspaces, StoppedClock};

    use super::*;

    fn fake() -> Builder {
        Executor::builder()
            .sandbox(Arc::new(FakeSandbox::default()))
            .workspaces(Arc::new(NoWorkspaces))
            .clock(Arc::new(StoppedClock))
    }

    #[tokio::test]
    async fn a_request_is_run_and_what_the_guest_does_wrong_is_no_error() {
        let executor = fake().start().await.unwrap();
        for (code, status) in [
            ("return 42", Status::Completed),
            ("exit 3", Status::Failed),
            ("kill 9", Status::Crashed),
        ] {
            let execution = executor.run(Request::shell(code)).await.unwrap();
            assert_eq!(execution.status(), status, "{code}");
        }
        assert_eq!(executor.sandbox().isolation, "fake");
    }

    #[tokio::test]
    async fn a_malformed_request_says_what_is_wrong_and_runs_nothing() {
        let sandbox = Arc::new(FakeSandbox::default());
        let executor = fake().sandbox(Arc::clone(&sandbox) as Arc<_>).start().await;
        let executor = executor.unwrap();
        for request in [
            Request::python("").event("[]"),
            Request::python("").event("{"),
            Request::python("\0"),
            Request::python("").session("../x"),
            Request::python("").id(".x"),
            Request::python("").variable("A=B", "x"),
        ] {
            let refused = executor.run(request).await;
            assert!(matches!(refused, Err(RunError::Request(_))), "{refused:?}");
        }
        assert_eq!(sandbox.started(), 0);
    }

    #[tokio::test]
    async fn what_the_program_chooses_counts() {
        let policy = LimitPolicy::new(LimitCeilings {
            max_memory_mb: 64,
            ..LimitCeilings::default()
        });
        let executor = fake().limits(policy.unwrap()).start().await.unwrap();
        let greedy = Request::shell("return 1").limits(RequestedLimits {
            max_memory_mb: Some(65),
            ..RequestedLimits::default()
        });
        let refused = executor.run(greedy).await;
        assert!(
            matches!(refused, Err(RunError::Execute(ExecuteError::Limits(_)))),
            "{refused:?}"
        );
    }

    #[tokio::test]
    async fn a_program_that_does_not_dispatch_starts_nothing() {
        // As this test's executable.
        let refused = Executor::builder().start().await;
        assert!(matches!(refused.err(), Some(EmbedError::NotDispatched)));
    }

    #[tokio::test]
    async fn settings_have_mistakes_or_count() {
        let settings = |value: &str| Sources {
            environment: [("MAX_MEMORY_MB".into(), value.into())].into(),
            ..Sources::default()
        };
        let refused = fake().settings(settings("little")).start().await;
        assert!(matches!(refused.err(), Some(EmbedError::Settings(_))));
        let executor = fake().settings(settings("77")).start().await.unwrap();
        assert_eq!(executor.use_case().policy().ceilings().max_memory_mb, 77);
    }

    #[tokio::test]
    async fn a_wrapped_sandbox_sees_every_run() {
        let inner = Arc::new(FakeSandbox::default());
        let outer = Arc::new(FakeSandbox::default());
        let instead = Arc::clone(&outer);
        let executor = fake()
            .sandbox(Arc::clone(&inner) as Arc<_>)
            .wrap_sandbox(move |_inner| instead)
            .start()
            .await
            .unwrap();
        executor.run(Request::shell("return 1")).await.unwrap();
        assert_eq!((inner.started(), outer.started()), (0, 1));
    }

    #[tokio::test]
    async fn after_the_stop_nothing_is_accepted() {
        let executor = fake().start().await.unwrap();
        let clone = executor.clone();
        executor.stop(Duration::ZERO).await;
        let refused = clone.run(Request::shell("return 1")).await;
        assert!(
            matches!(refused, Err(RunError::Execute(ExecuteError::Draining))),
            "{refused:?}"
        );
    }
}
