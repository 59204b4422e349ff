//! A directory that goes away by itself.

use std::{
    fs::{self, Permissions},
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use executor_application::WorkspaceError;
use rustix::{
    fs::{Mode, OFlags, open},
    io::Errno,
};

use crate::{error::failed, names, remove::remove_tree};

/// Where temporary workspaces go, in this order. Not `TMPDIR`: it may be private to the daemon's user, and the guest's
/// user has to pass through.
const PLACES: [&str; 2] = ["/tmp", "/var/tmp"];

/// A directory of ours in a place for temporary files; removed with everything in it when the value is dropped. That
/// blocks for as long as it takes, and is not done when the process is killed.
#[derive(Debug)]
pub(crate) struct TemporaryDirectory {
    parent: OwnedFd,
    path: PathBuf,
}

impl TemporaryDirectory {
    /// Makes one, with these permissions.
    pub(crate) fn new(mode: u32) -> Result<Self, WorkspaceError> {
        let [first, second] = PLACES.map(Path::new);
        Self::new_in(first, mode).or_else(|_| Self::new_in(second, mode))
    }

    fn new_in(place: &Path, mode: u32) -> Result<Self, WorkspaceError> {
        const STEP: &str = "create a temporary workspace";
        let parent = open(
            place,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(failed(STEP, place))?;
        // mkdir(2) makes a new directory or fails: in a place that everybody may write to, nobody can have prepared it,
        // and the sticky bit keeps it ours.
        let (name, ()) = names::create_unused("sandbox-executor", |name| {
            fs::DirBuilder::new()
                .mode(0o700)
                .create(place.join(name))
                .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
        })
        .map_err(failed(STEP, place))?;
        let directory = Self {
            parent,
            path: place.join(name),
        };
        // Apart, because the umask takes away from what mkdir is asked for.
        fs::set_permissions(&directory.path, Permissions::from_mode(mode))
            .map_err(failed(STEP, &directory.path))?;
        Ok(directory)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for TemporaryDirectory {
    fn drop(&mut self) {
        let name = self.path.file_name().unwrap_or_default();
        if let Err(error) = remove_tree(&self.parent, Path::new(name)) {
            tracing::warn!(path = %self.path.display(), %error, "a temporary workspace could not be removed");
        }
    }
}
