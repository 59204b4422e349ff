//! Makes the sandbox ready and proves that it holds, by real runs of our own, before anybody may use it.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use executor_application::{CancellationToken, Listener, Sandbox, SandboxDescription};
use executor_domain::{Language, ResourceLimit};
use futures_util::future::join_all;
use thiserror::Error;

use super::{
    BwrapConfig, BwrapSandbox, argv,
    burials::Burials,
    engine::{Engine, Look},
    remedy,
    spawner::Spawner,
    walls::{self, GuestIdentity},
    warm::Warm,
};
use crate::{
    cgroup::Cgroups,
    check::{self, Check},
    guest::interpreter::{Interpreter, SEARCH_DIRECTORIES},
    ready::{self, Refusal, Trial, executable, ready},
    runtime::{Program, Surroundings},
    supervisor::{Finished, SuperviseError, Supervisor},
};

/// Why there is no sandbox on this host, and what to do about it.
#[derive(Debug, Error)]
pub enum StartError {
    /// bubblewrap is not there.
    #[error("bubblewrap is not at {}. Remedy: install it (Debian, Ubuntu: `apt-get install bubblewrap`), or say where it is (BWRAP_PATH)", .0.display())]
    NoBubblewrap(PathBuf),
    /// bubblewrap is setuid: it would run as the host's root.
    #[error("{} is setuid root, which the executor refuses. Remedy: `chmod u-s {}`", .0.display(), .0.display())]
    Setuid(PathBuf),
    /// Guests would be root on the host.
    #[error(
        "guests must not be root on the host. Remedy: set GUEST_UID and GUEST_GID to ids that nobody else has"
    )]
    GuestIsRoot,
    /// Something of ours failed.
    #[error("failed to {step}")]
    System {
        /// What we were doing.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A sandbox cannot be built here.
    #[error("a sandbox cannot be built on this host: {0}")]
    Sandbox(String),
    /// A sandbox was built, and walls are missing.
    #[error("a sandbox was built, but it does not hold: {}", .0.join("; "))]
    Breached(Vec<String>),
    /// No interpreter is where guests could see it.
    #[error("no interpreter was found in {}. Remedy: install python3, nodejs or bash", SEARCH_DIRECTORIES.join(", "))]
    NoInterpreter,
    /// An interpreter does not do what we ask.
    #[error("{interpreter} does not run in the sandbox: {said}")]
    Interpreter {
        /// Which.
        interpreter: String,
        /// What it said.
        said: String,
    },
}

impl From<SuperviseError> for StartError {
    fn from(error: SuperviseError) -> Self {
        match error {
            SuperviseError::Sandbox(said) => Self::Sandbox(remedy::explain(&said)),
            SuperviseError::System { step, source } => Self::System { step, source },
            other @ (SuperviseError::TooSlow | SuperviseError::Unkillable) => {
                Self::Sandbox(other.to_string())
            }
        }
    }
}

impl From<Refusal> for StartError {
    fn from(Refusal { interpreter, said }: Refusal) -> Self {
        Self::Interpreter { interpreter, said }
    }
}

pub(super) async fn start(config: BwrapConfig) -> Result<BwrapSandbox, StartError> {
    let limits = config.limits;
    let options = config.warm.clone();
    let prepared = tokio::task::spawn_blocking(move || prepare(&config));
    let Prepared {
        engine,
        tool_version,
        identity,
        interpreters,
    } = prepared.await.map_err(|panicked| StartError::System {
        step: "look at the host",
        source: io::Error::other(panicked),
    })??;

    let ours = Ours {
        engine: &engine,
        limits: &limits,
    };
    // All at once, since each waits for processes of its own most of the time; and each to its end, as runs must be.
    let tried = join_all(interpreters.into_iter().map(|found| ready(&ours, found))).await;
    let runtimes = tried.into_iter().collect::<Result<Vec<_>, _>>()?;

    let description = SandboxDescription {
        isolation: "bubblewrap",
        platform: "Linux",
        tool_version,
        walls: walls::describe(identity, engine.cgroups.support()),
        languages: check::languages(&runtimes),
    };
    check::warn_of_missing(&description.walls);
    let engine = Arc::new(engine);
    let warm = Warm::start(&engine, &runtimes, &limits, &options).await;
    Ok(BwrapSandbox {
        engine,
        runtimes,
        warm,
        description,
        limits,
    })
}

/// What the host has.
struct Prepared {
    engine: Engine,
    tool_version: String,
    identity: GuestIdentity,
    /// At least one.
    interpreters: Vec<Interpreter>,
}

/// Looks at the host. Blocks.
fn prepare(config: &BwrapConfig) -> Result<Prepared, StartError> {
    let tool_version = tool_version(&config.bwrap)?;
    let (run_as, identity) = identity(config)?;
    let mut interpreters = Vec::new();
    for language in Language::ALL {
        match Interpreter::find(language, executable) {
            Ok(interpreter) => interpreters.push(interpreter),
            Err(missing) => tracing::warn!(%missing, "a language is not available"),
        }
    }
    if interpreters.is_empty() {
        return Err(StartError::NoInterpreter);
    }
    let targets: Vec<_> = interpreters.iter().map(Interpreter::target).collect();
    let failed = |step| move |source| StartError::System { step, source };
    // First: where runs get their cgroups below the daemon's own, the daemon must be alone in there, and the spawner starts a child.
    let cgroups = Cgroups::detect(config.cgroup_parent.as_deref(), config.together);
    let engine = Engine {
        supervisor: Supervisor::new(),
        spawner: Spawner::new(&config.stages).map_err(failed("start the watchdog"))?,
        cgroups,
        system: argv::system_paths(&targets).map_err(failed("look at the host's system"))?,
        bwrap: config.bwrap.clone(),
        run_as,
        burials: Burials::new(),
    };
    Ok(Prepared {
        engine,
        tool_version,
        identity,
        interpreters,
    })
}

/// The bit of a file's mode that makes a program run as its owner (inode(7)).
const SETUID: u32 = 0o4000;

/// What bubblewrap says of its version, once it is clear that it may be used.
fn tool_version(bwrap: &Path) -> Result<String, StartError> {
    let metadata = bwrap
        .metadata()
        .map_err(|_| StartError::NoBubblewrap(bwrap.into()))?;
    if metadata.mode() & SETUID != 0 {
        return Err(StartError::Setuid(bwrap.into()));
    }
    let output = Command::new(bwrap)
        .arg("--version")
        .env_clear()
        .output()
        .map_err(|source| StartError::System {
            step: "ask bubblewrap for its version",
            source,
        })?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Who guests are on the host.
fn identity(config: &BwrapConfig) -> Result<(Option<(u32, u32)>, GuestIdentity), StartError> {
    let daemon = rustix::process::geteuid();
    if !daemon.is_root() {
        return Ok((None, GuestIdentity::Daemons(daemon.as_raw())));
    }
    let (user, group) = config.guest_user;
    if user == 0 || group == 0 {
        return Err(StartError::GuestIsRoot);
    }
    Ok((Some((user, group)), GuestIdentity::Own(user)))
}

/// The daemon's own namespaces, by kind.
pub(super) fn own_namespaces() -> BTreeMap<String, String> {
    let link = |entry: fs::DirEntry| {
        let link = fs::read_link(entry.path()).ok()?;
        let kind = entry.file_name().into_string().ok()?;
        Some((kind, link.to_string_lossy().into_owned()))
    };
    fs::read_dir("/proc/self/ns")
        .into_iter()
        .flatten()
        .filter_map(|entry| link(entry.ok()?))
        .collect()
}

/// Asks an interpreter for its version, inside a sandbox whose walls are looked at.
pub(super) async fn version(
    engine: &Engine,
    interpreter: &Interpreter,
    limits: &ResourceLimit,
) -> Result<String, StartError> {
    ready::version(&Ours { engine, limits }, interpreter).await
}

/// Runs programs of ours, and looks at the walls from inside.
struct Ours<'a> {
    engine: &'a Engine,
    limits: &'a ResourceLimit,
}

impl Trial for Ours<'_> {
    type Error = StartError;

    async fn run(&self, argv: Vec<String>, stdin: String) -> Result<Finished, StartError> {
        let program = Program {
            argv,
            environment: Surroundings::of_bubblewrap().environment,
            files: Vec::new(),
            stdin,
            job: None,
            listener: Listener::none(),
        };
        let run = self
            .engine
            .run(
                program,
                self.limits,
                None,
                Look::First,
                &CancellationToken::new(),
            )
            .await?;
        let host = own_namespaces();
        let seen = run.finished.inspection.as_ref();
        match seen.map(|seen| walls::breaches(seen, &host, walls::LIMITS_OF_RUNS)) {
            Some(breaches) if breaches.is_empty() => Ok(run.finished),
            Some(breaches) => Err(StartError::Breached(breaches)),
            None => Err(StartError::Breached(vec!["nobody has looked".into()])),
        }
    }
}

/// Tries everything that the sandbox needs and says what works: for `doctor`. Takes some tenths of a second.
pub async fn examine(config: BwrapConfig) -> Vec<Check> {
    match BwrapSandbox::start(config).await {
        Ok(sandbox) => {
            let warm = check::warm_starts(&sandbox.warm_pools());
            let found = check::of(sandbox.description, &SEARCH_DIRECTORIES.join(", "), &[]);
            found.into_iter().chain(warm).collect()
        }
        Err(error) => check::no_sandbox(&error),
    }
}
