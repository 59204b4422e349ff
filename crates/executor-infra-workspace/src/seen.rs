//! What files looked like when a run began, as far as time stamps alone cannot tell.
//!
//! A file whose ctime is well before the run was not changed by it, and one whose ctime is after the run began was. In
//! between lies a tick of the kernel's clock: two changes within one may get the same stamp, and nobody promises that what
//! is stamped on two processors at once is stamped in order. There, a stamp is not believed. A file that was changed
//! so shortly before the run is unchanged only if somebody of us has looked at it since, and it is the very same.
//! Rather a file too much is reported than one too few.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use executor_domain::SessionId;

use crate::metadata::{FileTime, Metadata};

/// Longer than a tick of any kernel (1 to 10 ms).
const TICK: Duration = Duration::from_millis(20);

/// Files that are remembered for one session. Of more, the others count as changed if a run begins within a tick.
const MAX_FILES: usize = 1_000;

/// Sessions that files are remembered of. They are forgotten with the next look after a tick.
const MAX_SESSIONS: usize = 1_000;

/// What was looked at shortly after it was changed, by session.
#[derive(Debug, Default)]
pub(crate) struct Seen(Mutex<HashMap<SessionId, Files>>);

/// Files by what they are, whatever their names.
type Files = HashMap<(u64, u64), Metadata>;

/// The files of one session, for one scan.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    known: Files,
    found: Files,
}

impl Recent {
    /// Whether this file was changed since then.
    pub(crate) fn is_changed(&self, file: &Metadata, since: FileTime) -> bool {
        if file.changed >= since {
            return true;
        }
        file.changed >= since.earlier_by(TICK) && self.known.get(&file.identity) != Some(file)
    }

    /// Takes note of a file.
    pub(crate) fn note(&mut self, file: &Metadata) {
        if self.found.len() < MAX_FILES || self.found.contains_key(&file.identity) {
            self.found.insert(file.identity, *file);
        }
    }
}

impl Seen {
    /// What is remembered of a session.
    pub(crate) fn of(&self, session: &SessionId) -> Recent {
        Recent {
            known: self.lock().get(session).cloned().unwrap_or_default(),
            found: Files::new(),
        }
    }

    /// Remembers what a scan has noted, as far as it was changed within a tick before `now`.
    pub(crate) fn remember(&self, session: &SessionId, recent: Recent, now: FileTime) {
        let young = |file: &Metadata| file.changed >= now.earlier_by(TICK);
        let mut seen = self.lock();
        let files = seen.entry(session.clone()).or_default();
        files.extend(recent.found);
        files.retain(|_, file| young(file));
        if files.is_empty() {
            seen.remove(session);
        } else if seen.len() > MAX_SESSIONS {
            seen.retain(|_, files| files.values().any(young));
        }
    }

    /// Remembers files that came from outside of a run.
    pub(crate) fn brought(&self, session: &SessionId, files: impl IntoIterator<Item = Metadata>) {
        let mut recent = Recent::default();
        let mut latest = None;
        for file in files {
            latest = latest.max(Some(file.changed));
            recent.note(&file);
        }
        if let Some(latest) = latest {
            self.remember(session, recent, latest);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionId, Files>> {
        // Nothing in here panics half-way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::FileType;

    use super::*;

    fn file(inode: u64, millis: i64, size: u64) -> Metadata {
        Metadata::example(
            FileType::RegularFile,
            (1, inode),
            size,
            FileTime::new(0, millis * 1_000_000),
        )
    }

    #[test]
    fn within_a_tick_only_the_very_same_file_is_unchanged() {
        let session = SessionId::parse("s").unwrap();
        let since = FileTime::new(1, 0);
        let seen = Seen::default();
        seen.brought(&session, [file(1, 990, 5), file(2, 990, 5)]);
        let recent = seen.of(&session);
        for (file, changed, why) in [
            (file(1, 990, 5), false, "looked at, and the same"),
            (file(2, 990, 6), true, "of another size"),
            (file(2, 991, 5), true, "changed since"),
            (file(3, 990, 5), true, "never looked at"),
            (file(3, 979, 5), false, "well before"),
            (file(1, 1000, 5), true, "since then"),
        ] {
            assert_eq!(recent.is_changed(&file, since), changed, "{why}");
        }
        let other = SessionId::parse("other").unwrap();
        assert!(seen.of(&other).is_changed(&file(1, 990, 5), since));
    }

    #[test]
    fn what_is_old_is_forgotten() {
        let session = SessionId::parse("s").unwrap();
        let seen = Seen::default();
        seen.brought(&session, [file(1, 100, 5)]);
        assert_eq!(seen.lock().len(), 1);
        seen.remember(&session, Recent::default(), FileTime::new(1, 0));
        assert_eq!(seen.lock().len(), 0);
    }
}
