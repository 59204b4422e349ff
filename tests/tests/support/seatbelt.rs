//! The adapter for macOS, on Linux, around a stand-in for sandbox-exec.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use executor_infra_isolation::seatbelt::{SeatbeltConfig, SeatbeltSandbox, StartError};

use super::{built, daemon::passable_directory, executable, limits};

/// A stand-in that can be started by whoever guests are on the host. Removed on drop.
pub(crate) struct StandIn(tempfile::TempDir);

impl StandIn {
    pub(crate) fn new() -> Self {
        let directory = passable_directory();
        let source = built(
            "stand-in-sandbox-exec",
            env!("CARGO_BIN_EXE_stand-in-sandbox-exec"),
        );
        fs::copy(source, directory.path().join("sandbox-exec")).unwrap();
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

pub(crate) fn config(tool: &Path) -> SeatbeltConfig {
    SeatbeltConfig {
        tool: tool.to_owned(),
        ..SeatbeltConfig::new(executable(), limits(|_| {}))
    }
}

pub(crate) async fn start(tool: &Path) -> Result<SeatbeltSandbox, StartError> {
    SeatbeltSandbox::start(config(tool)).await
}

/// The sandbox as it is on macOS, but for the system calls.
pub(crate) async fn seatbelt() -> (StandIn, SeatbeltSandbox) {
    let stand_in = StandIn::new();
    let sandbox = start(&stand_in.path())
        .await
        .unwrap_or_else(|error| panic!("no sandbox on this host: {error:?}"));
    (stand_in, sandbox)
}
