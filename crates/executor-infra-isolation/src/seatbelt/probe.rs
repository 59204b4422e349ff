//! Makes the sandbox ready and proves that it holds, by real runs of our own, before anybody may use it.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    sync::atomic::AtomicU64,
};

use executor_application::{CancellationToken, Listener, SandboxDescription};
use executor_domain::{Language, ResourceLimit};
use thiserror::Error;

use super::{
    SeatbeltConfig, SeatbeltSandbox,
    area::Area,
    engine::Engine,
    remedy,
    walls::{self, Target},
};
use crate::{
    check::{self, Check},
    guest::interpreter::Interpreter,
    ready::{Refusal, Trial, executable, ready},
    runtime::{Program, Runtime},
    stage::wire::{Exit, SmallFile},
    supervisor::{Finished, SuperviseError, Supervisor},
};

/// Why there is no sandbox on this host, and what to do about it.
#[derive(Debug, Error)]
pub enum StartError {
    /// sandbox-exec is not there.
    #[error("sandbox-exec is not at {}. Remedy: it is part of macOS; where a later macOS has none, run the daemon in a Linux virtual machine", .0.display())]
    NoTool(PathBuf),
    /// Guests would be root on the host.
    #[error(
        "guests must not be root on the host. Remedy: run the daemon as an ordinary user, or set GUEST_UID and GUEST_GID to ids that nobody else has"
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
    /// A sandbox cannot be made here.
    #[error("a sandbox cannot be made on this host: {0}")]
    Sandbox(String),
    /// A sandbox was made, and walls are missing.
    #[error("a sandbox was made, but it does not hold: {}", .0.join("; "))]
    Breached(Vec<String>),
    /// There is no shell, with which the walls are tried.
    #[error("no shell was found in {0}, and without one the walls cannot be tried")]
    NoShell(String),
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
        Self::Interpreter {
            interpreter,
            said: remedy::explain(&said),
        }
    }
}

pub(super) async fn start(config: SeatbeltConfig) -> Result<SeatbeltSandbox, StartError> {
    let limits = config.limits;
    let searched = config.layout.search.join(", ");
    let prepared = tokio::task::spawn_blocking(move || prepare(&config));
    let (engine, interpreters) = prepared.await.map_err(|panicked| StartError::System {
        step: "look at the host",
        source: io::Error::other(panicked),
    })??;

    let tool_version = tool_version(
        &engine.tool,
        tokio::fs::read_to_string(SYSTEM_VERSION)
            .await
            .ok()
            .as_deref(),
    );
    let mut sandbox = SeatbeltSandbox {
        description: SandboxDescription {
            isolation: "seatbelt",
            platform: platform(),
            tool_version,
            walls: walls::describe(
                engine.run_as.map(|(user, _)| user),
                rustix::process::geteuid().as_raw(),
            ),
            languages: Vec::new(),
        },
        engine: Arc::new(engine),
        runtimes: Vec::new(),
        limits,
        searched,
        refused: Vec::new(),
    };
    // The walls first: no interpreter is started for anything else before they stand.
    let (shells, others): (Vec<_>, Vec<_>) = interpreters
        .into_iter()
        .partition(|found| found.language() == Language::Shell);
    let shell = shells
        .into_iter()
        .next()
        .ok_or_else(|| StartError::NoShell(sandbox.searched.clone()))?;
    try_walls(&sandbox.engine, &shell, &limits).await?;
    let trial = Ours {
        engine: &sandbox.engine,
        limits: &limits,
    };
    let mut runtimes: Vec<Runtime> = Vec::new();
    let mut refused = Vec::new();
    for interpreter in others {
        let language = interpreter.language();
        match ready(&trial, interpreter).await {
            Ok(runtime) => runtimes.push(runtime),
            // Interpreters of a Mac are its owner's affair, and the profile may be too narrow for one of them: the others
            // are as good as before.
            Err(error @ StartError::Interpreter { .. }) => {
                tracing::warn!(%language, %error, "a language is not available");
                refused.push((language, error.to_string()));
            }
            Err(error) => return Err(error),
        }
    }
    runtimes.push(ready(&trial, shell).await?);
    sandbox.refused = refused;
    sandbox.description.languages = check::languages(&runtimes);
    sandbox.runtimes = runtimes;
    check::warn_of_missing(&sandbox.description.walls);
    Ok(sandbox)
}

/// Where macOS says which one it is (`sw_vers(1)`).
const SYSTEM_VERSION: &str = "/System/Library/CoreServices/SystemVersion.plist";

/// sandbox-exec tells no version; it changes with the system that it is part of.
fn tool_version(tool: &Path, system: Option<&str>) -> String {
    let version = system.and_then(|plist| {
        let after = plist.split_once("<key>ProductVersion</key>")?.1;
        let value = after.trim_start().strip_prefix("<string>")?;
        Some(value.split_once("</string>")?.0)
    });
    match version {
        Some(version) => format!("{} of macOS {version}", tool.display()),
        None => tool.display().to_string(),
    }
}

/// The kernel's name for what we run on.
const fn platform() -> &'static str {
    if cfg!(target_vendor = "apple") {
        "Darwin"
    } else {
        "Linux"
    }
}

/// Looks at the host. Blocks.
fn prepare(config: &SeatbeltConfig) -> Result<(Engine, Vec<Interpreter>), StartError> {
    if executable(&config.tool).is_none() {
        return Err(StartError::NoTool(config.tool.clone()));
    }
    let run_as = run_as(config)?;
    let mut interpreters = Vec::new();
    for language in Language::ALL {
        let (search, roots) = (config.layout.search, config.layout.roots());
        match Interpreter::find_in(search, &roots, language, executable) {
            Ok(interpreter) => interpreters.push(interpreter),
            Err(missing) => tracing::warn!(%missing, "a language is not available"),
        }
    }
    let failed = |step| move |source| StartError::System { step, source };
    // Where they really are: the kernel compares with that. What is not there needs no rule.
    let needed = config.layout.needed(&interpreters);
    let software = needed
        .iter()
        .filter_map(|path| path.canonicalize().ok())
        .map(|path| path.into_os_string().into_string())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| io::Error::other("a path is not UTF-8"))
        .map_err(failed("look at the host's interpreters"))?;
    let areas = Area::root(run_as.is_some()).map_err(failed("make a directory for runs"))?;
    let engine = Engine {
        supervisor: Supervisor::new(),
        tool: config.tool.clone(),
        stages: config.stages.clone(),
        layout: config.layout,
        software,
        run_as,
        areas: Arc::new(areas),
        next: AtomicU64::new(1),
    };
    Ok((engine, interpreters))
}

/// Who guests are on the host, where that is not the daemon.
fn run_as(config: &SeatbeltConfig) -> Result<Option<(u32, u32)>, StartError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    match config.guest_user {
        (0, _) | (_, 0) => Err(StartError::GuestIsRoot),
        guest => Ok(Some(guest)),
    }
}

/// Tries every wall from inside.
pub(super) async fn try_walls(
    engine: &Engine,
    shell: &Interpreter,
    limits: &ResourceLimit,
) -> Result<(), StartError> {
    let failed = |source| StartError::System {
        step: "prepare the trial of the walls",
        source,
    };
    let target = Target::new(engine.area().await?).map_err(failed)?;
    let area = engine.area().await?;
    let surroundings = engine.surroundings(&area)?;
    let mut environment = surroundings.environment;
    environment.extend(target.environment().map_err(failed)?);
    let program = Program {
        argv: [shell.path(), Path::new(&surroundings.script)]
            .map(|path| path.to_string_lossy().into_owned())
            .into(),
        environment,
        files: vec![SmallFile {
            path: surroundings.script,
            text: walls::probe().to_owned(),
        }],
        stdin: String::new(),
        job: None,
        listener: Listener::none(),
    };
    let run = engine
        .run(area, program, limits, None, &CancellationToken::new())
        .await?;
    let printed = String::from_utf8_lossy(&run.stdout.bytes).into_owned();
    if run.ended.map(|ended| ended.how) != Some(Exit::Code(0)) || printed.is_empty() {
        let said = String::from_utf8_lossy(&run.stderr.bytes);
        let said = format!("{:?}: {}", run.ended.map(|ended| ended.how), said.trim());
        return Err(StartError::Sandbox(remedy::explain(&said)));
    }
    match walls::breaches(&printed) {
        breaches if breaches.is_empty() => Ok(()),
        breaches => Err(StartError::Breached(breaches)),
    }
}

/// Runs programs of ours.
struct Ours<'a> {
    engine: &'a Engine,
    limits: &'a ResourceLimit,
}

impl Trial for Ours<'_> {
    type Error = StartError;

    async fn run(&self, argv: Vec<String>, stdin: String) -> Result<Finished, StartError> {
        let area = self.engine.area().await?;
        let program = Program {
            argv,
            environment: self.engine.surroundings(&area)?.environment,
            files: Vec::new(),
            stdin,
            job: None,
            listener: Listener::none(),
        };
        let nobody = CancellationToken::new();
        Ok(self
            .engine
            .run(area, program, self.limits, None, &nobody)
            .await?)
    }
}

/// Tries everything that the sandbox needs and says what works: for `doctor`. Takes some tenths of a second.
pub async fn examine(config: SeatbeltConfig) -> Vec<Check> {
    match SeatbeltSandbox::start(config).await {
        Ok(sandbox) => check::of(sandbox.description, &sandbox.searched, &sandbox.refused),
        Err(error) => check::no_sandbox(&error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tools_version_is_that_of_its_system() {
        let tool = Path::new("/usr/bin/sandbox-exec");
        let plist = "<dict>\n\t<key>ProductName</key>\n\t<string>macOS</string>\n\t\
                     <key>ProductVersion</key>\n\t<string>15.5</string>\n</dict>";
        assert_eq!(
            tool_version(tool, Some(plist)),
            "/usr/bin/sandbox-exec of macOS 15.5"
        );
        for none in [None, Some(""), Some("<key>ProductVersion</key>")] {
            assert_eq!(tool_version(tool, none), "/usr/bin/sandbox-exec");
        }
    }
}
