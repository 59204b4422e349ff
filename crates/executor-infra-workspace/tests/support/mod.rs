//! What the suites share.
#![allow(dead_code, reason = "each suite uses a part")]

use std::{fs, os::unix::fs::MetadataExt, path::Path};

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
        let root = tempfile::tempdir().unwrap();
        let options = WorkspaceOptions {
            owner: owner(),
            scan,
            ..WorkspaceOptions::default()
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
        let probe = self.root.path().join("tick");
        let touched = || {
            fs::write(&probe, "x").unwrap();
            let metadata = fs::metadata(&probe).unwrap();
            (metadata.ctime(), metadata.ctime_nsec())
        };
        let first = touched();
        while touched() <= first {}
    }
}
