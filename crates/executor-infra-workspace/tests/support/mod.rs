//! What the suites share.
#![allow(dead_code, reason = "each suite uses a part")]

use std::{
    fs,
    os::unix::fs::{MetadataExt, symlink},
    path::Path,
    time::{Duration, Instant},
};

use executor_application::{Workspace, Workspaces};
use executor_domain::SessionId;
use executor_infra_workspace::{Owner, ScanLimits, SessionWorkspaces, WorkspaceOptions};
use tempfile::TempDir;

/// Whether the suite runs as root. Both ways are tested: what root can do and nobody else is asserted either way.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The guests' user, where the suite may give files away.
pub(crate) fn owner() -> Option<Owner> {
    is_root().then_some(Owner {
        uid: 64_064,
        gid: 64_065,
    })
}

/// The uid that guests have on the host.
pub(crate) fn guest() -> u32 {
    owner().map_or(rustix::process::geteuid().as_raw(), |owner| owner.uid)
}

/// Waits until something is true, for as long as a hanging machine may take.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Replaces `file` and `directory` by links to their namesakes outside, and by themselves again.
pub(crate) fn swap(workspace: &Path, outside: &Path) {
    let at = |name: &str| workspace.join(name);
    symlink(outside.join("file"), at(".link")).unwrap();
    fs::rename(at(".link"), at("file")).unwrap();
    fs::write(at(".file"), "hello").unwrap();
    fs::rename(at(".file"), at("file")).unwrap();

    fs::rename(at("directory"), at(".directory")).unwrap();
    symlink(outside, at("directory")).unwrap();
    fs::remove_file(at("directory")).unwrap();
    fs::rename(at(".directory"), at("directory")).unwrap();
}

pub(crate) fn session(id: &str) -> SessionId {
    SessionId::parse(id).unwrap()
}

/// A root of its own and the session `s`, scanned within `scan`.
pub(crate) struct Place {
    root: TempDir,
    pub(crate) workspaces: SessionWorkspaces,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self::within(ScanLimits::default())
    }

    pub(crate) fn within(scan: ScanLimits) -> Self {
        Self::with(WorkspaceOptions {
            scan,
            ..WorkspaceOptions::default()
        })
    }

    pub(crate) fn within_files(max_files: u64) -> Self {
        Self::with(WorkspaceOptions {
            max_files,
            ..WorkspaceOptions::default()
        })
    }

    fn with(options: WorkspaceOptions) -> Self {
        let root = tempfile::tempdir().unwrap();
        let options = WorkspaceOptions {
            owner: owner(),
            ..options
        };
        let workspaces = SessionWorkspaces::open_root(&root.path().join("ws"), options).unwrap();
        Self { root, workspaces }
    }

    /// Begins a run of the session `s`.
    pub(crate) async fn run(&self) -> Box<dyn Workspace> {
        self.workspaces.open(&session("s")).await.unwrap()
    }

    /// A directory beside the root, where no guest has any business.
    pub(crate) fn outside(&self) -> &Path {
        self.root.path()
    }

    /// Waits until the file system's clock has moved on. Kernels before 6.13 do not tell apart what happens in one tick
    /// of theirs, and then the scanner rather reports too much.
    pub(crate) fn next_tick(&self) {
        self.wait(0);
    }

    /// Waits until what was changed here by nobody whom the scanner knows was changed well before.
    pub(crate) fn well_after(&self) {
        self.wait(25_000_000);
    }

    fn wait(&self, nanoseconds: i64) {
        let probe = self.root.path().join("tick");
        let touched = || {
            fs::write(&probe, "x").unwrap();
            let metadata = fs::metadata(&probe).unwrap();
            metadata.ctime() * 1_000_000_000 + metadata.ctime_nsec()
        };
        let first = touched();
        while touched() <= first + nanoseconds {}
    }
}
