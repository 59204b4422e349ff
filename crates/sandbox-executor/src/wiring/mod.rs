//! The composition root: the only place that names every adapter.

mod artifacts;
mod clock;
#[cfg_attr(target_os = "linux", path = "linux.rs")]
#[cfg_attr(target_os = "macos", path = "macos.rs")]
#[cfg_attr(
    not(any(target_os = "linux", target_os = "macos")),
    path = "elsewhere.rs"
)]
mod platform;
mod reports;
mod store;

use std::{path::PathBuf, sync::Arc};

use executor_application::{
    ArtifactUploads, CheckHealth, CleanUp, Clock, ExecuteCode, ExecutionStore, Instruments,
    ManageSessions, Options, Outbox, Retention, Sandbox, SessionFiles, Traces, WorkspaceError,
    Workspaces,
};
use executor_domain::SessionId;
#[cfg(any(target_os = "linux", target_os = "macos"))]
use executor_domain::{RequestedLimits, ResourceLimit};
use executor_infra_control_plane::OptionsError;
#[cfg(any(target_os = "linux", target_os = "macos"))]
use executor_infra_isolation::Check;
use executor_infra_telemetry::Counters;
use executor_infra_workspace::{Owner, SessionWorkspaces, WorkspaceOptions};
use executor_interfaces_http::{Access, ApiOptions, ApiState, BearerToken};

pub use artifacts::ArtifactStoreFailure;
pub use clock::SystemClock;
pub use platform::{IsolationError, examine};
pub use reports::control_plane;
pub use store::StoreFailure;

use crate::{config::Config, exit::Exit};

/// How long a guest of our own may take, in seconds.
#[cfg(any(target_os = "linux", target_os = "macos"))]
const PROBE_TIMEOUT: u64 = 10;

/// Where the sessions' workspaces are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkspacePlace {
    /// Where the configuration says.
    Configured,
    /// In a directory that is gone with the adapters.
    Temporary,
}

/// One thing that `doctor` has looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at: stable, for programs.
    pub name: String,
    /// Whether it is as it should be.
    pub passed: bool,
    /// Whether no sandbox can be started without it.
    pub essential: bool,
    /// What was seen; where it is not as it should be, why, and what to do about it.
    pub detail: String,
}

#[cfg(any(target_os = "linux", target_os = "macos"))]
impl From<Check> for Finding {
    fn from(check: Check) -> Self {
        Self {
            name: check.name,
            passed: check.passed,
            essential: check.essential,
            detail: check.detail,
        }
    }
}

/// Why the executor cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No sandbox can be started here.
    #[error("isolation does not work here, so nothing is run")]
    Isolation(#[source] IsolationError),
    /// The workspaces cannot be used.
    #[error("the workspaces cannot be used; see WORKSPACE_PATH")]
    Workspaces(#[source] WorkspaceError),
    /// Executions and results cannot be kept.
    #[error("executions and results cannot be kept; see STATE_PATH")]
    Store(#[source] StoreFailure),
    /// The control plane cannot be talked to, whether or not it is there.
    #[error("the control plane cannot be talked to; see CONTROL_PLANE_URL")]
    ControlPlane(#[source] OptionsError),
    /// Artifacts cannot be uploaded, whether or not the store is there.
    #[error("artifacts cannot be uploaded; see S3_ENDPOINT")]
    ArtifactStore(#[source] ArtifactStoreFailure),
}

impl StartError {
    pub(crate) const fn exit(&self) -> Exit {
        match self {
            Self::Isolation(_) => Exit::Unavailable,
            Self::Workspaces(_)
            | Self::Store(_)
            | Self::ControlPlane(_)
            | Self::ArtifactStore(_) => Exit::Usage,
        }
    }
}

/// A use case whose results outlive the process, as far as the configuration says so.
pub struct Lasting {
    /// The use case.
    pub executor: ExecuteCode,
    /// Reports that are not delivered yet. Empty where nothing is reported.
    pub outbox: Arc<dyn Outbox>,
}

/// Every adapter that the use cases need.
#[derive(Clone)]
pub struct Adapters {
    /// Runs guests.
    pub sandbox: Arc<dyn Sandbox>,
    /// Keeps workspaces.
    pub workspaces: Arc<dyn Workspaces>,
    /// Brings and fetches their files.
    pub files: Arc<dyn SessionFiles>,
    /// Tells the time of day.
    pub clock: Arc<dyn Clock>,
    /// Takes artifacts after a run; `None`: they stay in their workspaces.
    pub uploads: Option<ArtifactUploads>,
    /// Are told what happens.
    pub instruments: Instruments,
    /// Whether the root of the workspaces is the only workspace.
    single: bool,
}

impl Adapters {
    /// Opens the workspaces and starts this platform's sandbox, which is proven by a real run. Blocks for some
    /// milliseconds while the workspaces are opened. Dropping the future leaves nothing behind.
    pub async fn start(config: &Config, place: WorkspacePlace) -> Result<Self, StartError> {
        // Opened first: it is cheap, and a mistake in the path shows at once.
        let workspaces = workspaces(config, place).map_err(StartError::Workspaces)?;
        let uploads = artifacts::uploads(config).map_err(StartError::ArtifactStore)?;
        let sandbox = platform::start(config)
            .await
            .map_err(StartError::Isolation)?;
        Ok(Self::new(config, place, sandbox, workspaces, uploads))
    }

    /// The same around a sandbox that is there already, and that nobody proves.
    pub fn around(
        config: &Config,
        place: WorkspacePlace,
        sandbox: Arc<dyn Sandbox>,
    ) -> Result<Self, StartError> {
        let workspaces = workspaces(config, place).map_err(StartError::Workspaces)?;
        let uploads = artifacts::uploads(config).map_err(StartError::ArtifactStore)?;
        Ok(Self::new(config, place, sandbox, workspaces, uploads))
    }

    fn new(
        config: &Config,
        place: WorkspacePlace,
        sandbox: Arc<dyn Sandbox>,
        workspaces: SessionWorkspaces,
        uploads: Option<ArtifactUploads>,
    ) -> Self {
        let workspaces = Arc::new(workspaces);
        Self {
            sandbox,
            single: place == WorkspacePlace::Configured && config.session.is_some(),
            files: Arc::clone(&workspaces) as Arc<_>,
            workspaces,
            clock: Arc::new(SystemClock),
            uploads,
            instruments: Instruments {
                telemetry: Arc::new(Counters::new(env!("CARGO_PKG_VERSION"))),
                ..Instruments::default()
            },
        }
    }

    /// The same with links to the traces of others, if there are any.
    #[must_use]
    pub fn with_traces(mut self, traces: Option<Arc<dyn Traces>>) -> Self {
        if let Some(traces) = traces {
            self.instruments.traces = traces;
        }
        self
    }

    /// The use case on top of these adapters, which forgets everything with the process.
    pub fn execute_code(&self, config: &Config) -> ExecuteCode {
        ExecuteCode::new(
            Arc::clone(&self.sandbox),
            Arc::clone(&self.workspaces),
            Arc::clone(&self.clock),
            self.options(config),
        )
    }

    /// The use case on top of these adapters and the configured store, with what an earlier process left unfinished
    /// brought to an end. Blocks while the store is opened: for a second or so where it is large.
    pub async fn lasting_execute_code(&self, config: &Config) -> Result<Lasting, StartError> {
        let store =
            store::open(config, self.workspaces.root(), self.single).map_err(StartError::Store)?;
        let mut options = self.options(config);
        options.instruments.outbox = Some(Arc::clone(&store) as Arc<dyn Outbox>);
        let executor = ExecuteCode::with_store(
            Arc::clone(&self.sandbox),
            Arc::clone(&self.workspaces),
            Arc::clone(&self.clock),
            Arc::clone(&store) as Arc<dyn ExecutionStore>,
            options,
        );
        let lost = executor
            .recover()
            .await
            .map_err(|error| StartError::Store(StoreFailure::Recover(error)))?;
        if lost > 0 {
            tracing::warn!(
                lost,
                "executions of an earlier process have crashed with it"
            );
        }
        Ok(Lasting {
            executor,
            outbox: store,
        })
    }

    fn options(&self, config: &Config) -> Options {
        Options {
            capacity: config.capacity,
            policy: config.limits,
            retention: Retention {
                ttl: config.result_ttl,
                ..Retention::default()
            },
            only_session: self.single.then(|| config.session.clone()).flatten(),
            cancel_abandoned: config.cancel_on_disconnect,
            uploads: self.uploads.clone(),
            instruments: self.instruments.clone(),
        }
    }

    /// The use case that looks after the sessions of this executor.
    pub fn manage_sessions(&self, config: &Config, executor: ExecuteCode) -> Arc<ManageSessions> {
        let clean_up = CleanUp {
            ttl: config.workspace_ttl,
            high_water_percent: config.workspace_high_water,
            // Sessions may be kept for seconds, and are then looked for as often.
            period: config.workspace_ttl.min(CleanUp::default().period),
            ..CleanUp::default()
        };
        Arc::new(ManageSessions::new(
            Arc::clone(&self.files),
            executor,
            Arc::clone(&self.clock),
            clean_up,
        ))
    }

    /// The REST interface of the use cases.
    pub fn api(
        &self,
        config: &Config,
        executor: ExecuteCode,
        sessions: Arc<ManageSessions>,
    ) -> ApiState {
        let health = CheckHealth::new(
            executor.clone(),
            Arc::clone(&self.sandbox),
            Arc::clone(&self.workspaces),
        );
        let options = ApiOptions {
            access: match config.inbound_token() {
                Some(token) => Access::Bearer(BearerToken::new(token.expose())),
                None if config.listen.ip().is_loopback() => Access::ThisHost,
                None => Access::Anyone,
            },
            max_body_bytes: config.max_body_bytes,
            answer_later: config.async_by_default,
            version: env!("CARGO_PKG_VERSION"),
            ..ApiOptions::default()
        };
        ApiState::new(executor, Arc::new(health), options).with_sessions(sessions)
    }

    /// Where a session's files are on the host.
    pub(crate) fn directory_of(&self, session: &SessionId) -> PathBuf {
        if self.single {
            self.workspaces.root().to_owned()
        } else {
            self.workspaces.root().join(session.as_str())
        }
    }
}

/// What a guest of our own may use when isolation is tried; `None` where the ceilings leave nothing for one, which no
/// accepted configuration does. It takes milliseconds; one that hangs must not hang `/health` for long.
#[cfg(any(target_os = "linux", target_os = "macos"))]
fn probe_limits(config: &Config) -> Option<ResourceLimit> {
    let wish = RequestedLimits {
        timeout: Some(config.limits.ceilings().max_timeout.min(PROBE_TIMEOUT)),
        ..RequestedLimits::default()
    };
    config.limits.grant(&wish).ok()
}

fn workspaces(config: &Config, place: WorkspacePlace) -> Result<SessionWorkspaces, WorkspaceError> {
    let options = WorkspaceOptions {
        owner: guests_apart(config).map(|(uid, gid)| Owner { uid, gid }),
        max_files: config.max_workspace_files,
        ..WorkspaceOptions::default()
    };
    match place {
        WorkspacePlace::Temporary => SessionWorkspaces::temporary(options),
        WorkspacePlace::Configured => SessionWorkspaces::open_root(
            &config.workspace_path,
            WorkspaceOptions {
                single: config.session.is_some(),
                ..options
            },
        ),
    }
}

/// Who guests are on the host where they are somebody else than the daemon: user and group. Only root can do that, and
/// has to: a guest that is root outside is no guest (`docs/threat-model.md`).
fn guests_apart(config: &Config) -> Option<(u32, u32)> {
    rustix::process::geteuid()
        .is_root()
        .then_some((config.guest.uid, config.guest.gid))
}
