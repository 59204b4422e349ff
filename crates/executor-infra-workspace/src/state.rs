//! The daemon's own directory within the root: who uses which session, what is on its way in, what is on its way out.
//!
//! ```text
//! ROOT/.sandbox-executor/
//!   sessions/ID       one file for each session: its time stamp is the last use, its lock (flock(2)) says who uses it
//!   staging/RANDOM/   uploads on their way in, of one process, which holds a lock on the directory
//!   trash/RANDOM      what is being removed
//! ```
//!
//! Everything moves by rename(2), which is atomic, and on one file system. So a process that is killed leaves nothing
//! half-done: what is in `trash`, or in the staging directory of nobody, the next one that starts takes away. Several
//! processes may use one root at the same time: `sandbox-executor run --session` beside a daemon.
//!
//! No session has this name: they do not start with a dot. Where the root itself is the one workspace, the guest finds
//! this directory in there and may do with it what it likes; everything in it is reached by descriptors, without
//! following a link, and holds the guest's own files.

use std::{
    fs::File,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    sync::Arc,
    thread,
};

use rustix::{
    fs::{
        AtFlags, FileType, FlockOperation, Gid, Mode, OFlags, Timestamps, UTIME_NOW, UTIME_OMIT,
        Uid, fchmod, fchown, flock, fstat, futimens, mkdirat, openat, renameat, statat, unlinkat,
    },
    io::{Errno, Result},
    process::geteuid,
};

use crate::{Owner, beneath, metadata::Metadata, names, remove::remove_tree};

/// The directory's name, which no session can have.
pub(crate) const NAME: &str = ".sandbox-executor";

/// The daemon's own directory within the root.
#[derive(Debug)]
pub(crate) struct State {
    records: OwnedFd,
    trash: Arc<OwnedFd>,
    staging: OwnedFd,
    /// Where staging directories are, and the name of ours.
    staging_parent: OwnedFd,
    staging_name: String,
}

impl State {
    /// Opens the directory, makes what is missing of it, and begins to take away what killed processes left behind: on
    /// a thread of its own, since that may be much.
    pub(crate) fn open(root: BorrowedFd<'_>) -> Result<Self> {
        let own = own_directory(root, NAME)?;
        let records = own_directory(own.as_fd(), "sessions")?;
        let trash = Arc::new(own_directory(own.as_fd(), "trash")?);
        let staging_parent = own_directory(own.as_fd(), "staging")?;
        let (staging_name, staging) = staging_directory(staging_parent.as_fd())?;
        let state = Self {
            records,
            trash,
            staging,
            staging_parent,
            staging_name,
        };
        state.discard_abandoned_staging();
        state.empty_trash();
        Ok(state)
    }

    /// Moves the staging directories of processes that are gone to the trash.
    fn discard_abandoned_staging(&self) {
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

    fn empty_trash(&self) {
        let trash = Arc::clone(&self.trash);
        let removed = thread::Builder::new().name("trash".into()).spawn(move || {
            let Ok(entries) = beneath::entries(trash.as_fd()) else {
                return;
            };
            for entry in entries.filter_map(Result::ok) {
                destroy(trash.as_fd(), beneath::as_path(&entry));
            }
        });
        if let Err(error) = removed {
            tracing::warn!(%error, "what an earlier process left behind is not removed");
        }
    }

    /// Where this process prepares what is to come into a workspace.
    pub(crate) fn staging(&self) -> BorrowedFd<'_> {
        self.staging.as_fd()
    }

    /// Makes an empty file in the staging directory, for the guests' user.
    pub(crate) fn stage_file(&self, owner: Option<Owner>) -> Result<(String, File)> {
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

    /// Makes an empty directory in the staging directory.
    pub(crate) fn stage_directory(&self) -> Result<(String, OwnedFd)> {
        let (name, ()) =
            names::create_unused("tree", |name| mkdirat(&self.staging, name, Mode::RWXU))?;
        let directory = beneath::open_directory(&self.staging, Path::new(&name))?;
        Ok((name, directory))
    }

    /// Moves something to the trash, which is atomic. Returns its name there.
    pub(crate) fn throw_away(&self, from: BorrowedFd<'_>, name: &Path) -> Result<String> {
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

    /// Removes what was moved to the trash. Blocks for as long as it takes.
    pub(crate) fn destroy(&self, there: &str) {
        destroy(self.trash.as_fd(), Path::new(there));
    }

    /// Makes a session one that is used: by us, until the record is dropped. At once, or not at all.
    pub(crate) fn try_use(&self, session: &str) -> Result<TryUse> {
        match open_record(self.records.as_fd(), session, OFlags::empty()) {
            Err(Errno::NOENT) => Ok(TryUse::Missing),
            Err(error) => Err(error),
            Ok(file) => match flock(&file, FlockOperation::NonBlockingLockShared) {
                Err(Errno::WOULDBLOCK) => Ok(TryUse::BeingRemoved),
                Err(error) => Err(error),
                Ok(()) => Ok(match InUse::begin(file)? {
                    Some(used) => TryUse::Used(used),
                    None => TryUse::Missing,
                }),
            },
        }
    }

    /// The same for a session that may be new, or is being removed just now. Blocks for the latter, which is a matter
    /// of a few system calls.
    pub(crate) fn use_or_create(&self, session: &str) -> Result<InUse> {
        loop {
            let file = open_record(self.records.as_fd(), session, OFlags::CREATE)?;
            flock(&file, FlockOperation::LockShared)?;
            if let Some(used) = InUse::begin(file)? {
                return Ok(used);
            }
        }
    }

    /// Makes sure that nobody uses a session, until the record is dropped.
    pub(crate) fn claim(&self, session: &str) -> Result<Claim<'_>> {
        let file = open_record(self.records.as_fd(), session, OFlags::empty())?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => return Err(Errno::BUSY),
            other => other?,
        }
        if is_unlinked(&file)? {
            return Err(Errno::NOENT);
        }
        Ok(Claim {
            records: self.records.as_fd(),
            file,
        })
    }

    /// Every session that has a record, and what the file system says of that.
    pub(crate) fn sessions(&self) -> Result<Vec<(String, Metadata)>> {
        let mut sessions = Vec::new();
        for entry in beneath::entries(self.records.as_fd())? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else {
                continue;
            };
            match statat(&self.records, name, AtFlags::SYMLINK_NOFOLLOW).map(Metadata::from) {
                Ok(found) if found.kind == FileType::RegularFile => {
                    sessions.push((name.to_owned(), found));
                }
                Ok(_) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(sessions)
    }

    /// What the file system says of a session's record.
    pub(crate) fn session(&self, session: &str) -> Result<Metadata> {
        statat(&self.records, session, AtFlags::SYMLINK_NOFOLLOW).map(Metadata::from)
    }
}

impl Drop for State {
    fn drop(&mut self) {
        // Uploads are gone by now. Where this fails, the next start tries again.
        if let Ok(there) =
            self.throw_away(self.staging_parent.as_fd(), Path::new(&self.staging_name))
        {
            self.destroy(&there);
        }
    }
}

/// What became of the attempt to use a session at once.
pub(crate) enum TryUse {
    /// It is used.
    Used(InUse),
    /// Nobody has ever used it, or it was removed.
    Missing,
    /// Somebody is about to remove it.
    BeingRemoved,
}

/// A session is used as long as this lives. What it was used for last is when this was dropped.
#[derive(Debug)]
pub(crate) struct InUse(OwnedFd);

impl InUse {
    /// `None` where the record was removed before it was locked.
    fn begin(file: OwnedFd) -> Result<Option<Self>> {
        let unlinked = is_unlinked(&file)?;
        let used = Self(file);
        used.touch()?;
        Ok((!unlinked).then_some(used))
    }

    fn touch(&self) -> Result<()> {
        futimens(
            &self.0,
            &Timestamps {
                last_access: rustix::fs::Timespec {
                    tv_sec: 0,
                    tv_nsec: UTIME_OMIT,
                },
                last_modification: rustix::fs::Timespec {
                    tv_sec: 0,
                    tv_nsec: UTIME_NOW,
                },
            },
        )
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        // A time stamp that is a little too old is no harm. Unlocked in so many words, since a process that is being
        // started just now may hold a copy of the descriptor for a moment.
        let _ = self.touch();
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

/// A session that nobody uses, nor begins to use as long as this lives.
pub(crate) struct Claim<'a> {
    records: BorrowedFd<'a>,
    file: OwnedFd,
}

impl Claim<'_> {
    /// What the file system says of the record.
    pub(crate) fn metadata(&self) -> Result<Metadata> {
        fstat(&self.file).map(Metadata::from)
    }

    /// Forgets the session.
    pub(crate) fn forget(self, session: &str) -> Result<()> {
        unlinkat(self.records, session, AtFlags::empty())
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

fn open_record(records: BorrowedFd<'_>, session: &str, how: OFlags) -> Result<OwnedFd> {
    openat(
        records,
        session,
        OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | how,
        Mode::RUSR | Mode::WUSR,
    )
}

fn is_unlinked(file: &OwnedFd) -> Result<bool> {
    Ok(Metadata::from(fstat(file)?).links == 0)
}

/// Opens a directory of ours, and makes it where it is missing. What is in its place and not ours, or no directory, was
/// planted by a guest, and is removed.
fn own_directory(parent: BorrowedFd<'_>, name: &str) -> Result<OwnedFd> {
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

pub(crate) fn give_to(file: impl AsFd, owner: Owner) -> Result<()> {
    fchown(
        file,
        Some(Uid::from_raw(owner.uid)),
        Some(Gid::from_raw(owner.gid)),
    )
}
