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
//! following a link, and holds the guest's own files. What it removes is made again when it is needed.

mod places;

use std::{
    fs::File,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustix::{
    fs::{
        AtFlags, FileType, FlockOperation, Gid, Mode, OFlags, Timestamps, UTIME_NOW, UTIME_OMIT,
        Uid, fchown, flock, fstat, futimens, openat, statat, unlinkat,
    },
    io::{Errno, Result},
};

use self::places::{Places, own_directory};
use crate::{Owner, beneath, metadata::Metadata};

/// The directory's name, which no session can have.
pub(crate) const NAME: &str = ".sandbox-executor";

/// The daemon's own directory within the root.
#[derive(Debug)]
pub(crate) struct State {
    root: OwnedFd,
    records: OwnedFd,
    places: Mutex<Arc<Places>>,
}

impl State {
    /// Opens the directory, makes what is missing of it, and begins to take away what killed processes left behind: on
    /// a thread of its own, since that may be much.
    pub(crate) fn open(root: BorrowedFd<'_>) -> Result<Self> {
        let own = own_directory(root, NAME)?;
        let state = Self {
            root: beneath::open_directory(root, Path::new(""))?,
            records: own_directory(own.as_fd(), "sessions")?,
            places: Mutex::new(Arc::new(Places::open(root)?)),
        };
        let places = state.places();
        places.discard_abandoned_staging();
        places.empty_trash();
        Ok(state)
    }

    fn places(&self) -> Arc<Places> {
        Arc::clone(&self.lock_places())
    }

    fn lock_places(&self) -> MutexGuard<'_, Arc<Places>> {
        // There is nothing in it that could be half-changed.
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something in our directories, and once more in new ones where they are gone: where the root is a workspace
    /// and the daemon runs as the guest's own user, the guest can remove them.
    fn in_places<T>(&self, work: impl Fn(&Places) -> Result<T>) -> Result<T> {
        let places = self.places();
        match work(&places) {
            Err(Errno::NOENT) if places.are_gone() => {}
            decided => return decided,
        }
        let renewed = {
            let mut current = self.lock_places();
            // Unless somebody else was faster.
            if Arc::ptr_eq(&current, &places) {
                *current = Arc::new(places.renewed(self.root.as_fd())?);
            }
            Arc::clone(&current)
        };
        work(&renewed)
    }

    /// Where this process prepares what is to come into a workspace.
    pub(crate) fn staging(&self) -> Result<OwnedFd> {
        self.in_places(Places::open_staging)
    }

    /// Makes an empty file in the staging directory, for the guests' user.
    pub(crate) fn stage_file(&self, owner: Option<Owner>) -> Result<(String, File)> {
        self.in_places(|places| places.stage_file(owner))
    }

    /// Makes an empty directory in the staging directory.
    pub(crate) fn stage_directory(&self) -> Result<(String, OwnedFd)> {
        self.in_places(Places::stage_directory)
    }

    /// Moves something to the trash, which is atomic. Returns its name there.
    pub(crate) fn throw_away(&self, from: BorrowedFd<'_>, name: &Path) -> Result<String> {
        self.in_places(|places| places.throw_away(from, name))
    }

    /// Removes what was moved to the trash. Blocks for as long as it takes.
    pub(crate) fn destroy(&self, there: &str) {
        self.places().destroy(there);
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
        // Uploads are gone by now.
        self.places().remove_staging();
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

pub(crate) fn give_to(file: impl AsFd, owner: Owner) -> Result<()> {
    fchown(
        file,
        Some(Uid::from_raw(owner.uid)),
        Some(Gid::from_raw(owner.gid)),
    )
}
