//! Makes the sandbox ready and proves that it holds, by real runs of our own, before anybody may use it.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use executor_application::{
    CancellationToken, LanguageSupport, Listener, Sandbox, SandboxDescription, Wall, WallState,
};
use executor_domain::{Language, ResourceLimit};
use rustix::fs::Access;
use thiserror::Error;

use super::{
    BwrapConfig, BwrapSandbox, argv,
    engine::{Engine, Program, Run},
    remedy,
    runtime::{Runtime, words},
    walls::{self, GuestIdentity},
    warm::Warm,
};
use crate::{
    cgroup::Cgroups,
    guest::{
        interpreter::{GUEST_ENVIRONMENT, Interpreter, SEARCH_DIRECTORIES, parse_version},
        runner::{self, Bootstrap},
    },
    stage::wire::Exit,
    supervisor::{SuperviseError, Supervisor},
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

    let mut runtimes = Vec::new();
    for interpreter in interpreters {
        runtimes.push(ready(&engine, interpreter, &limits).await?);
    }

    let description = SandboxDescription {
        isolation: "bubblewrap",
        platform: "Linux",
        tool_version,
        walls: walls::describe(identity, engine.cgroups.support()),
        languages: runtimes
            .iter()
            .map(|runtime| LanguageSupport {
                language: runtime.language(),
                interpreter: runtime.interpreter.path().display().to_string(),
                version: runtime.version.clone(),
            })
            .collect(),
    };
    for Wall { name, state } in &description.walls {
        if let WallState::Off(why) = state {
            tracing::warn!(wall = name, %why, "a wall is weaker on this host");
        }
    }
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
        match Interpreter::find(language, visible) {
            Ok(interpreter) => interpreters.push(interpreter),
            Err(missing) => tracing::warn!(%missing, "a language is not available"),
        }
    }
    if interpreters.is_empty() {
        return Err(StartError::NoInterpreter);
    }
    let targets: Vec<_> = interpreters.iter().map(Interpreter::target).collect();
    let failed = |step| move |source| StartError::System { step, source };
    let engine = Engine {
        supervisor: Supervisor::new(&config.stages).map_err(failed("copy the launcher"))?,
        cgroups: Cgroups::detect(config.cgroup_parent.as_deref()),
        system: argv::system_paths(&targets).map_err(failed("look at the host's system"))?,
        bwrap: config.bwrap.clone(),
        run_as,
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

/// Where a path leads, if it is something that can be executed.
fn visible(path: &Path) -> Option<PathBuf> {
    let target = path.canonicalize().ok()?;
    rustix::fs::access(&target, Access::EXEC_OK).ok()?;
    Some(target)
}

/// An option of Node that saves a sixth of its start: V8 then keeps the hash seed of its snapshot. A caller's data could
/// be made to collide in a guest's tables, at the cost of that guest's own CPU time, which is limited.
const FASTER_NODE: &str = "--no-rehash-snapshot";

/// Makes an interpreter ready, and looks at the walls from inside with it.
async fn ready(
    engine: &Engine,
    interpreter: Interpreter,
    limits: &ResourceLimit,
) -> Result<Runtime, StartError> {
    let version = version(engine, &interpreter, limits).await?;
    let mut options = Vec::new();
    if interpreter.language() == Language::JavaScript {
        let mut argv = words(interpreter.version_command());
        argv.insert(1, FASTER_NODE.into());
        let tried = ours(engine, argv, String::new(), limits).await?;
        // V8's options come and go with its versions, and Node refuses to start with one that it does not know.
        if succeeded(&interpreter, tried).is_ok() {
            options.push(FASTER_NODE.into());
        }
    }
    let bootstrap = match interpreter.language() {
        Language::Python => Some(compiled(engine, &interpreter, limits).await?),
        language => Bootstrap::from_source(language),
    };
    Ok(Runtime {
        interpreter,
        version,
        options,
        bootstrap: bootstrap.map(Arc::new),
    })
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
    let run = ours(
        engine,
        words(interpreter.version_command()),
        String::new(),
        limits,
    )
    .await?;
    let host = own_namespaces();
    let breaches = run
        .finished
        .inspection
        .as_ref()
        .map(|seen| walls::breaches(seen, &host, walls::LIMITS_OF_RUNS));
    match breaches {
        Some(breaches) if breaches.is_empty() => {}
        Some(breaches) => return Err(StartError::Breached(breaches)),
        None => return Err(StartError::Breached(vec!["nobody has looked".into()])),
    }
    let printed = succeeded(interpreter, run)?;
    Ok(parse_version(&String::from_utf8_lossy(&printed))
        .unwrap_or("unknown")
        .to_owned())
}

/// Has Python compile its runner, so that no run has to.
async fn compiled(
    engine: &Engine,
    interpreter: &Interpreter,
    limits: &ResourceLimit,
) -> Result<Bootstrap, StartError> {
    let argv = [
        &interpreter.path().to_string_lossy(),
        "-I",
        "-c",
        runner::PYTHON_COMPILE_PROGRAM,
    ]
    .map(str::to_owned);
    let run = ours(
        engine,
        argv.into(),
        runner::python_source().to_owned(),
        limits,
    )
    .await?;
    let output = succeeded(interpreter, run)?;
    Bootstrap::from_compiler_output(output).map_err(|error| StartError::Interpreter {
        interpreter: interpreter.path().display().to_string(),
        said: error.to_string(),
    })
}

/// Runs a program of ours, and looks at the walls from inside.
async fn ours(
    engine: &Engine,
    argv: Vec<String>,
    stdin: String,
    limits: &ResourceLimit,
) -> Result<Run, StartError> {
    let environment = GUEST_ENVIRONMENT.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let program = Program {
        argv,
        environment: environment.into(),
        files: Vec::new(),
        stdin,
        job: None,
        inspect: true,
        listener: Listener::none(),
    };
    Ok(engine
        .run(program, limits, None, &CancellationToken::new())
        .await?)
}

/// What a program of ours wrote, where it ended well.
fn succeeded(interpreter: &Interpreter, run: Run) -> Result<Vec<u8>, StartError> {
    match run.finished.ended {
        Some(ended) if ended.how == Exit::Code(0) => Ok(run.finished.stdout.bytes),
        ended => Err(StartError::Interpreter {
            interpreter: interpreter.path().display().to_string(),
            said: format!(
                "{:?}: {}",
                ended.map(|ended| ended.how),
                String::from_utf8_lossy(&run.finished.stderr.bytes).trim()
            ),
        }),
    }
}

/// One thing that was tried, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What was tried.
    pub name: String,
    /// Whether it holds.
    pub passed: bool,
    /// Whether the executor can do without.
    pub essential: bool,
    /// What was found; where it does not hold, why, and what to do.
    pub detail: String,
}

/// Tries everything that the sandbox needs and says what works: for `doctor`. Takes about a tenth of a second.
pub async fn examine(config: BwrapConfig) -> Vec<Check> {
    let started = BwrapSandbox::start(config).await;
    let sandbox = match started {
        Ok(sandbox) => sandbox,
        Err(error) => {
            let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
            return vec![Check {
                name: "sandbox".into(),
                passed: false,
                essential: true,
                detail: format!("{error}{}", source.unwrap_or_default()),
            }];
        }
    };
    let warm = sandbox.warm_pools();
    let description = sandbox.description;
    let tool = Check {
        name: description.isolation.into(),
        passed: true,
        essential: true,
        detail: description.tool_version,
    };
    let languages = Language::ALL.into_iter().map(|language| {
        let found = description
            .languages
            .iter()
            .find(|found| found.language == language);
        Check {
            name: language.as_str().into(),
            passed: found.is_some(),
            essential: false,
            detail: match found {
                Some(found) => format!("{} {}", found.interpreter, found.version),
                None => format!(
                    "no interpreter in {}. Remedy: install it there",
                    SEARCH_DIRECTORIES.join(", ")
                ),
            },
        }
    });
    let walls = description.walls.iter().map(|wall| match &wall.state {
        WallState::On(how) => Check {
            name: wall.name.into(),
            passed: true,
            essential: true,
            detail: how.clone(),
        },
        WallState::Off(why) => Check {
            name: wall.name.into(),
            passed: false,
            essential: false,
            detail: why.clone(),
        },
    });
    let warm = warm.into_iter().map(|pool| Check {
        name: format!("warm_start_{}", pool.language),
        passed: pool.trouble.is_none(),
        essential: false,
        detail: match pool.trouble {
            None => format!("at most {} sandboxes wait for jobs", pool.max),
            Some(why) => format!("runs start cold: {why}"),
        },
    });
    std::iter::once(tool)
        .chain(languages)
        .chain(warm)
        .chain(walls)
        .collect()
}
