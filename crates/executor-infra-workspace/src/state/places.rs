//! Where this process puts what is on its way into a workspace, and what is on its way out.

use std::{
    fs::File,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    sync::Arc,
    thread,
};

use rustix::{
    fs::{
        AtFlags, FlockOperation, Mode, OFlags, fchmod, flock, fstat, mkdirat, openat, renameat,
        statat, unlinkat,
    },
    io::{Errno, Result, fcntl_dupfd_cloexec},
    process::geteuid,
};

use super::{NAME, give_to, is_unlinked};
use crate::{Owner, beneath, names, remove::remove_tree};

/// Where this process puts what is on its way in, and what is on its way out.
#[derive(Debug)]
pub(super) struct Places {
    trash: OwnedFd,
    staging: OwnedFd,
    /// Where staging directories are, and the name of ours.
    staging_parent: OwnedFd,
    staging_name: String,
}

impl Places {
    pub(super) fn open(root: BorrowedFd<'_>) -> Result<Self> {
        let own = own_directory(root, NAME)?;
        let trash = own_directory(own.as_fd(), "trash")?;
        Self::with_new_staging(own.as_fd(), trash)
    }

    /// The same again, with what is left of it: uploads that are on their way stay where they are.
    pub(super) fn renewed(&self, root: BorrowedFd<'_>) -> Result<Self> {
        let own = own_directory(root, NAME)?;
        let trash = own_directory(own.as_fd(), "trash")?;
        if is_unlinked(&self.staging)? || is_unlinked(&self.staging_parent)? {
            return Self::with_new_staging(own.as_fd(), trash);
        }
        Ok(Self {
            trash,
            // A copy holds the lock as well.
            staging: fcntl_dupfd_cloexec(&self.staging, 0)?,
            staging_parent: fcntl_dupfd_cloexec(&self.staging_parent, 0)?,
            staging_name: self.staging_name.clone(),
        })
    }

    fn with_new_staging(own: BorrowedFd<'_>, trash: OwnedFd) -> Result<Self> {
        let staging_parent = own_directory(own, "staging")?;
        let (staging_name, staging) = staging_directory(staging_parent.as_fd())?;
        Ok(Self {
            trash,
            staging,
            staging_parent,
            staging_name,
        })
    }

    /// Whether one of the directories was removed.
    pub(super) fn are_gone(&self) -> bool {
        [&self.trash, &self.staging, &self.staging_parent]
            .into_iter()
            .any(|directory| is_unlinked(directory).unwrap_or(true))
    }

    /// Moves the staging directories of processes that are gone to the trash.
    pub(super) fn discard_abandoned_staging(&self) {
        let Ok(entries) = beneath::entries(self.staging_parent.as_fd()) else {
            return;
        };
        for entry in entries.filter_map(Result::ok) {
            let name = beneath::as_path(&entry);
            if name == Path::new(&self.staging_name) {
                continue;
            }
            let opened = beneath::open_directory(&self.staging_parent, name);
            let abandoned = match &opened {
                // Locked until it is moved: nobody can mistake it for its own meanwhile.
                Ok(theirs) => flock(theirs, FlockOperation::NonBlockingLockExclusive).is_ok(),
                // Nothing that we made.
                Err(_) => true,
            };
            if abandoned {
                // Where this fails, another process was faster, or the next start tries again.
                let _ = self.throw_away(self.staging_parent.as_fd(), name);
            }
        }
    }

    /// The staging directory, once more.
    pub(super) fn open_staging(&self) -> Result<OwnedFd> {
        // One that was removed opens, and takes nothing.
        if is_unlinked(&self.staging)? {
            return Err(Errno::NOENT);
        }
        beneath::open_directory(&self.staging, Path::new(""))
    }

    pub(super) fn stage_directory(&self) -> Result<(String, OwnedFd)> {
        let (name, ()) =
            names::create_unused("tree", |name| mkdirat(&self.staging, name, Mode::RWXU))?;
        let directory = beneath::open_directory(&self.staging, Path::new(&name))?;
        Ok((name, directory))
    }

    pub(super) fn stage_file(&self, owner: Option<Owner>) -> Result<(String, File)> {
        let (name, file) = names::create_unused("file", |name| {
            openat(
                &self.staging,
                name,
                OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::RUSR | Mode::WUSR,
            )
        })?;
        // Apart, because the umask takes away from what open is asked for.
        let given = fchmod(&file, Mode::from_raw_mode(0o644))
            .and_then(|()| owner.map_or(Ok(()), |owner| give_to(&file, owner)));
        if let Err(error) = given {
            let _ = unlinkat(&self.staging, name.as_str(), AtFlags::empty());
            return Err(error);
        }
        Ok((name, File::from(file)))
    }

    pub(super) fn throw_away(&self, from: BorrowedFd<'_>, name: &Path) -> Result<String> {
        let mut permissions_restored = false;
        loop {
            let there = names::random_name("trash");
            match renameat(from, name, &self.trash, there.as_str()) {
                Ok(()) => return Ok(there),
                Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR | Errno::ISDIR) => {}
                // A directory that changes its parent must be writable itself (rename(2)).
                Err(Errno::ACCESS) if !permissions_restored => {
                    beneath::restore_permissions(from, name)?;
                    permissions_restored = true;
                }
                Err(other) => return Err(other),
            }
        }
    }

    /// Removes something that was thrown away. Blocks for as long as it takes.
    pub(super) fn destroy(&self, there: &str) {
        destroy(self.trash.as_fd(), Path::new(there));
    }

    /// Removes the staging directory with everything in it. Where this fails, the next start tries again.
    pub(super) fn remove_staging(&self) {
        let (parent, name) = (self.staging_parent.as_fd(), Path::new(&self.staging_name));
        if let Ok(there) = self.throw_away(parent, name) {
            self.destroy(&there);
        }
    }

    /// Removes everything in the trash, on a thread of its own.
    pub(super) fn empty_trash(self: Arc<Self>) {
        let removed = thread::Builder::new().name("trash".into()).spawn(move || {
            let Ok(entries) = beneath::entries(self.trash.as_fd()) else {
                return;
            };
            for entry in entries.filter_map(Result::ok) {
                destroy(self.trash.as_fd(), beneath::as_path(&entry));
            }
        });
        if let Err(error) = removed {
            tracing::warn!(%error, "what an earlier process left behind is not removed");
        }
    }
}

/// Opens a directory of ours, and makes it where it is missing. What is in its place and not ours, or no directory, was
/// planted by a guest, and is removed.
pub(super) fn own_directory(parent: BorrowedFd<'_>, name: &str) -> Result<OwnedFd> {
    for _ in 0..3 {
        match mkdirat(parent, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        match beneath::open_own_directory(parent, Path::new(name)) {
            Ok(directory) if fstat(&directory)?.st_uid == geteuid().as_raw() => {
                return Ok(directory);
            }
            Ok(_) | Err(Errno::LOOP | Errno::NOTDIR | Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
        destroy(parent, Path::new(name));
    }
    Err(Errno::EXIST)
}

/// Makes a staging directory and locks it for as long as it is open.
fn staging_directory(parent: BorrowedFd<'_>) -> Result<(String, OwnedFd)> {
    loop {
        let (name, ()) = names::create_unused("of", |name| mkdirat(parent, name, Mode::RWXU))?;
        let directory = beneath::open_directory(parent, Path::new(&name))?;
        flock(&directory, FlockOperation::LockShared)?;
        // A process that started at the same time may have taken it for an abandoned one before it was locked.
        if statat(parent, name.as_str(), AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            return Ok((name, directory));
        }
    }
}

/// Removes a file or a tree.
fn destroy(parent: BorrowedFd<'_>, name: &Path) {
    let removed = match unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => remove_tree(parent, name),
        decided => decided,
    };
    match removed {
        // Another process is emptying the same trash.
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => {
            tracing::warn!(name = %names::escaped(name.as_os_str().as_encoded_bytes()), %error, "something cannot be removed");
        }
    }
}
