//! The adapter for macOS: on Linux around a stand-in for sandbox-exec, on macOS around the real one.

use std::collections::BTreeSet;
#[cfg(target_os = "linux")]
use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

#[cfg(target_os = "linux")]
use executor_infra_isolation::seatbelt::StartError;
use executor_infra_isolation::seatbelt::{SeatbeltConfig, SeatbeltSandbox};

#[cfg(target_os = "linux")]
use super::{built, daemon::passable_directory};
use super::{executable, limits};

/// `wall | test | why`, one a line.
const KNOWN: &str = include_str!("../../fixtures/known-gaps-seatbelt.txt");

/// Walls that are missing, and the tests that ask for less because of it.
pub(crate) fn known_gaps() -> BTreeSet<(&'static str, &'static str)> {
    KNOWN
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let columns: Vec<_> = line.split('|').map(str::trim).collect();
            let [wall, test, why] = columns[..] else {
                panic!("not wall, test and why: {line}");
            };
            assert!(!why.is_empty(), "a gap without a reason: {line}");
            (wall, test)
        })
        .collect()
}

/// Notes that a test asks for less because of a gap, which must be a known one.
#[track_caller]
pub(crate) fn gap(wall: &str, test: &str) {
    assert!(
        known_gaps().contains(&(wall, test)),
        "not a known gap: {wall} | {test}"
    );
}

/// A stand-in that can be started by whoever guests are on the host. Removed on drop.
#[cfg(target_os = "linux")]
pub(crate) struct StandIn(tempfile::TempDir);

#[cfg(target_os = "linux")]
impl StandIn {
    pub(crate) fn new() -> Self {
        let directory = passable_directory();
        let source = built(
            "stand-in-sandbox-exec",
            env!("CARGO_BIN_EXE_stand-in-sandbox-exec"),
        );
        // By another process: were it this one that writes, a process that another test starts meanwhile would hold the
        // copy open for writing for a moment, and nobody could execute it (execve(2), ETXTBSY).
        let copied = Command::new("/bin/cp")
            .arg(source)
            .arg(directory.path().join("sandbox-exec"))
            .status();
        assert!(copied.unwrap().success());
        let stand_in = Self(directory);
        let calls = stand_in.calls_path();
        fs::write(&calls, "").unwrap();
        fs::set_permissions(&calls, Permissions::from_mode(0o666)).unwrap();
        stand_in
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.0.path().join("sandbox-exec")
    }

    /// The same stand-in by a name that tells it to leave a wall out.
    pub(crate) fn without(&self, wall: &str) -> PathBuf {
        let path = self.0.path().join(format!("sandbox-exec-without-{wall}"));
        fs::hard_link(self.path(), &path).unwrap();
        path
    }

    fn calls_path(&self) -> PathBuf {
        self.0.path().join("calls")
    }

    /// What it was called with, each time.
    pub(crate) fn calls(&self) -> Vec<Vec<String>> {
        let calls = fs::read_to_string(self.calls_path()).unwrap();
        let calls = calls
            .lines()
            .map(|line| serde_json::from_str(line).unwrap());
        calls.collect()
    }
}

#[cfg(target_os = "linux")]
pub(crate) fn config(tool: &Path) -> SeatbeltConfig {
    SeatbeltConfig {
        tool: tool.to_owned(),
        ..SeatbeltConfig::new(executable(), limits(|_| {}))
    }
}

#[cfg(target_os = "linux")]
pub(crate) async fn start(tool: &Path) -> Result<SeatbeltSandbox, StartError> {
    SeatbeltSandbox::start(config(tool)).await
}

/// The sandbox as it is on macOS, but for the system calls.
#[cfg(target_os = "linux")]
pub(crate) async fn seatbelt() -> (StandIn, SeatbeltSandbox) {
    let stand_in = StandIn::new();
    let sandbox = start(&stand_in.path())
        .await
        .unwrap_or_else(|error| panic!("no sandbox on this host: {error:?}"));
    (stand_in, sandbox)
}

/// The sandbox as it is.
#[cfg(not(target_os = "linux"))]
pub(crate) async fn seatbelt() -> ((), SeatbeltSandbox) {
    let config = SeatbeltConfig::new(executable(), limits(|_| {}));
    let sandbox = SeatbeltSandbox::start(config)
        .await
        .unwrap_or_else(|error| panic!("no sandbox on this host: {error:?}"));
    ((), sandbox)
}
