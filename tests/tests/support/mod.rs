//! What the suites share.

#![allow(dead_code, reason = "each suite uses a part of this")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "this is how a test fails"
)]

pub(crate) mod daemon;
pub(crate) mod holdings;
pub(crate) mod raw;
pub(crate) mod seatbelt;
pub(crate) mod tls;

use std::{env, path::PathBuf, time::Duration};

use executor_application::{CancellationToken, Job, Listener, Sandbox};
use executor_domain::{
    Event, ExecutionId, GuestEnvironment, JsonText, Language, LimitPolicy, Mode, Outcome,
    RequestedLimits, ResourceLimit, SessionId, Source,
};
#[cfg(target_os = "linux")]
use executor_infra_isolation::{BwrapConfig, BwrapSandbox, WarmOptions};

/// The daemon's executable.
pub(crate) fn executable() -> PathBuf {
    built(
        "sandbox-executor-under-test",
        env!("CARGO_BIN_EXE_sandbox-executor-under-test"),
    )
}

/// Where an executable of ours is. CI runs the suites away from the checkout and says where it has put it.
fn built(name: &str, by_cargo: &str) -> PathBuf {
    match env::var_os("SANDBOX_EXECUTOR_BIN_DIR") {
        Some(directory) => PathBuf::from(directory).join(name),
        None => by_cargo.into(),
    }
}

/// The documented default limits, with these wishes.
pub(crate) fn limits(wish: impl FnOnce(&mut RequestedLimits)) -> ResourceLimit {
    let mut requested = RequestedLimits::default();
    wish(&mut requested);
    LimitPolicy::default().grant(&requested).unwrap()
}

/// The real sandbox, as this user and this host can have it.
#[cfg(target_os = "linux")]
pub(crate) async fn bwrap() -> BwrapSandbox {
    let config = BwrapConfig {
        stages: executable(),
        ..BwrapConfig::new(limits(|_| {}))
    };
    start(config).await
}

/// Starts it. Where cgroups are to be expected (the virtual machine says so, `tests/vm/prepare.bash`), it has them: on other hosts,
/// tests accept that there are none.
#[cfg(target_os = "linux")]
async fn start(config: BwrapConfig) -> BwrapSandbox {
    use executor_application::WallState;

    let sandbox = BwrapSandbox::start(config)
        .await
        .unwrap_or_else(|error| panic!("no sandbox on this host: {error:?}"));
    if env::var_os("SANDBOX_EXECUTOR_EXPECT_CGROUP").is_some() {
        let walls = &sandbox.description().walls;
        let of_cgroups = walls.iter().filter(|wall| wall.name.starts_with("cgroup_"));
        let states: Vec<_> = of_cgroups.map(|wall| &wall.state).collect();
        let stand = |state: &&WallState| matches!(state, WallState::On(_));
        assert!(!states.is_empty() && states.iter().all(stand), "{walls:?}");
    }
    sandbox
}

/// The same, with every language warm that can be, and these packages of Python imported.
#[cfg(target_os = "linux")]
pub(crate) async fn preloaded_bwrap(packages: &[&str]) -> BwrapSandbox {
    bwrap_with_packages(packages, &[]).await
}

/// The same, with packages of Python and of Node loaded.
#[cfg(target_os = "linux")]
pub(crate) async fn bwrap_with_packages(python: &[&str], node: &[&str]) -> BwrapSandbox {
    let names = |packages: &[&str]| packages.iter().map(|name| (*name).to_owned()).collect();
    let config = BwrapConfig {
        stages: executable(),
        // Always as many, so that what the daemon holds can be compared.
        warm: WarmOptions {
            min_slots: 4,
            max_slots: 4,
            python_preload: names(python),
            node_preload: names(node),
            ..WarmOptions::default()
        },
        ..BwrapConfig::new(limits(|_| {}))
    };
    start(config).await
}

/// The same, with every language warm that can be.
#[cfg(target_os = "linux")]
pub(crate) async fn warm_bwrap() -> BwrapSandbox {
    let sandbox = preloaded_bwrap(&[]).await;
    for pool in sandbox.warm_pools() {
        let supported = WarmOptions::SUPPORTED.contains(&pool.language);
        assert_eq!(pool.trouble.is_none(), supported, "{pool:?}");
    }
    sandbox
}

/// A workspace that guests can write to, whoever they are on the host. Removed on drop.
pub(crate) struct Workspace(tempfile::TempDir);

impl Workspace {
    pub(crate) fn new() -> Self {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let everybody = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(directory.path(), everybody).unwrap();
        Self(directory)
    }

    pub(crate) fn path(&self) -> &std::path::Path {
        self.0.path()
    }
}

/// A job with default limits and a timeout that no test waits for.
pub(crate) fn job(language: Language, code: &str, workspace: &Workspace) -> Job {
    Job {
        execution_id: ExecutionId::parse("execution-1").unwrap(),
        session_id: SessionId::parse("session-1").unwrap(),
        source: Source::parse(language, None, code).unwrap(),
        event: Event::default(),
        environment: GuestEnvironment::default(),
        stdin: None,
        limits: limits(|wish| wish.timeout = Some(120)),
        workspace: workspace.path().to_owned(),
        listener: Listener::none(),
    }
}

/// The same, entered as a script.
pub(crate) fn script(language: Language, code: &str, workspace: &Workspace) -> Job {
    Job {
        source: Source::parse(language, Some(Mode::Script), code).unwrap(),
        ..job(language, code, workspace)
    }
}

/// An event from JSON text.
pub(crate) fn event(json: &str) -> Event {
    Event::new(JsonText::parse(json.to_owned()).unwrap()).unwrap()
}

/// Runs a job that nobody cancels.
pub(crate) async fn run(sandbox: &dyn Sandbox, job: Job) -> Outcome {
    sandbox.run(job, CancellationToken::new()).await.unwrap()
}

/// Standard output as text.
pub(crate) fn stdout(outcome: &Outcome) -> String {
    String::from_utf8_lossy(&outcome.stdout.bytes).into_owned()
}

/// Standard error as text.
pub(crate) fn stderr(outcome: &Outcome) -> String {
    String::from_utf8_lossy(&outcome.stderr.bytes).into_owned()
}

/// Processes on this host, zombies and inits of sandboxes aside, whose command line or environment has this marker, or who
/// have the directory of this name mounted: as far as this user may see. A guest that was forked from a warm interpreter shows
/// neither argument nor variable to the outside.
pub(crate) fn alive(marker: &str) -> Vec<u32> {
    let own = std::process::id();
    let directory = marker.rsplit('/').next().unwrap_or(marker);
    let holds = |pid: &u32, file: &str, what: &str| {
        std::fs::read(format!("/proc/{pid}/{file}"))
            .is_ok_and(|text| text.windows(what.len()).any(|part| part == what.as_bytes()))
    };
    let has_marker = |pid: &u32| {
        holds(pid, "cmdline", marker)
            || holds(pid, "environ", marker)
            || (holds(pid, "mountinfo", directory) && !is_init(*pid))
    };
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != own)
        .filter(has_marker)
        .collect()
}

/// Processes whose parent this one is, the dead that it has not buried included.
pub(crate) fn children_of(parent: u32) -> Vec<u32> {
    let line = format!("PPid:\t{parent}");
    let is_child = |pid: &u32| {
        std::fs::read_to_string(format!("/proc/{pid}/status"))
            .is_ok_and(|status| status.lines().any(|found| found == line))
    };
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .filter(is_child)
        .collect()
}

/// Whether a process is the first one of its namespace.
fn is_init(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    line.is_some_and(|line| line.split_whitespace().next_back() == Some("1"))
}

/// How long a hanging machine may take. Not a measure of time: whoever waits so long fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// How long to leave the processor to others before looking again.
const PAUSE: Duration = Duration::from_millis(5);

/// Waits until something is true, for as long as a hanging machine may take. Where the condition never comes true, the
/// test fails.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(PAUSE).await;
    }
}
