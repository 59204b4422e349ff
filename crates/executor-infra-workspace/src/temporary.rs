//! A directory that goes away by itself.

use std::{
    fs::{self, Permissions},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::PermissionsExt,
    },
    path::{Path, PathBuf},
};

use executor_application::WorkspaceError;
use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock, fstat, mkdirat, open},
    io::Errno,
    process::geteuid,
};

use crate::{beneath, error::failed, names, remove::remove_tree};

/// Where temporary workspaces go, in this order. Not `TMPDIR`: it may be private to the daemon's user, and the guest's
/// user has to pass through.
const PLACES: [&str; 2] = ["/tmp", "/var/tmp"];

/// What the names of temporary directories begin with. Those of versions that did not lock theirs had another beginning.
const PREFIX: &str = "sandbox-executor-run";

/// A directory of ours in a place for temporary files; removed with everything in it when the value is dropped, which
/// blocks for as long as it takes. What a process leaves behind that is killed, the next one that makes a temporary
/// directory removes: as long as somebody uses one, it is locked (flock(2)).
#[derive(Debug)]
pub(crate) struct TemporaryDirectory {
    parent: OwnedFd,
    path: PathBuf,
    /// Holds the lock.
    _locked: OwnedFd,
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
        remove_abandoned(&parent);
        // mkdir(2) makes a new directory or fails: in a place that everybody may write to, nobody can have prepared it,
        // and the sticky bit keeps it ours.
        let (name, locked) = names::create_unused(PREFIX, |name| {
            mkdirat(&parent, name, Mode::RWXU)?;
            let directory = beneath::open_directory(&parent, Path::new(name))?;
            flock(&directory, FlockOperation::LockShared)?;
            // A process that started at the same time may have taken it for an abandoned one before it was locked.
            match beneath::open_directory(&parent, Path::new(name)) {
                Err(Errno::NOENT) => Err(Errno::EXIST),
                other => other.map(|_| directory),
            }
        })
        .map_err(failed(STEP, place))?;
        let directory = Self {
            parent,
            path: place.join(name),
            _locked: locked,
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

/// Removes the temporary directories of processes of our user that are gone.
fn remove_abandoned(place: &OwnedFd) {
    let Ok(entries) = beneath::entries(place.as_fd()) else {
        return;
    };
    for entry in entries.filter_map(Result::ok) {
        let is_ours = entry
            .file_name()
            .to_bytes()
            .strip_prefix(PREFIX.as_bytes())
            .and_then(|rest| rest.strip_prefix(b"-"))
            .is_some_and(|rest| rest.len() == 16 && rest.iter().all(u8::is_ascii_hexdigit));
        if !is_ours {
            continue;
        }
        let name = beneath::as_path(&entry);
        let Ok(directory) = beneath::open_directory(place, name) else {
            continue;
        };
        let abandoned = fstat(&directory).is_ok_and(|found| found.st_uid == geteuid().as_raw())
            && flock(&directory, FlockOperation::NonBlockingLockExclusive).is_ok();
        if abandoned && let Err(error) = remove_tree(place, name) {
            tracing::debug!(%error, "an abandoned temporary workspace could not be removed");
        }
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
