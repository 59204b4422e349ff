//! One directory, looked at: which of its entries are of any interest to a scan.

use std::{
    borrow::Cow,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
};

use rustix::{
    fs::{AtFlags, FileType, statat},
    io::Errno,
};

use super::{
    Deadline,
    shared_out::in_two,
    skipped::{Reason, cannot, kind_in_words},
};
use crate::{
    beneath,
    metadata::{FileTime, Metadata},
    names,
    seen::Recent,
};

/// Entries of a directory that are looked at first. More are in memory at once only where somebody takes them in at once.
const FIRST: usize = 256;
/// Entries that are looked at after these, between two looks at the clock.
const CHUNK: usize = 4096;
/// From so many entries on, another thread takes half of them: to start one takes as long as to look at 50.
const WORTH_SHARING: usize = 512;

/// What everybody who looks must know. Several threads may look at the same time.
pub(super) struct Glance<'a> {
    pub(super) workspace: BorrowedFd<'a>,
    pub(super) since: FileTime,
    pub(super) recent: &'a Recent,
    pub(super) deadline: Deadline,
    /// How many entries were looked at, by all.
    pub(super) entries: &'a AtomicUsize,
    pub(super) max_entries: usize,
}

/// What some entries of a directory are, without those that did not change.
#[derive(Default)]
pub(super) struct Seen {
    /// By name.
    pub(super) entries: Vec<(Vec<u8>, What)>,
    /// Why it, or the rest of it, cannot be read.
    pub(super) unreadable: Option<Reason>,
    /// The bound that was reached: nothing more is to be looked at.
    pub(super) bound: Option<Reason>,
    /// There may be more entries.
    pub(super) rest: Option<Rest>,
}

/// A directory that is not at its end.
pub(super) struct Rest {
    directory: OwnedFd,
    entries: Box<dyn Iterator<Item = rustix::io::Result<beneath::Entry>> + Send>,
}

pub(super) enum What {
    /// A directory, to be looked at in its turn.
    Directory,
    /// A regular file that changed.
    Changed(Metadata),
    /// Something that is no artifact, with a word about it.
    LeftOut(Cow<'static, str>),
}

impl Glance<'_> {
    /// Looks at the first entries of a directory; the empty path is the workspace.
    pub(super) fn directory(&self, path: &str) -> Seen {
        let opened = beneath::open_directory(self.workspace, Path::new(path))
            .and_then(|directory| Ok((beneath::entries(directory.as_fd())?, directory)));
        match opened {
            Ok((entries, directory)) => {
                let entries = Box::new(entries);
                self.some(Rest { directory, entries }, FIRST)
            }
            Err(error) => Seen {
                unreadable: Some(cannot("be opened", error)),
                ..Seen::default()
            },
        }
    }

    /// Looks at further ones.
    pub(super) fn more(&self, rest: Rest) -> Seen {
        self.some(rest, CHUNK)
    }

    fn some(&self, mut rest: Rest, count: usize) -> Seen {
        let mut seen = Seen {
            bound: self.deadline.check().err(),
            ..Seen::default()
        };
        let mut some = Vec::new();
        while seen.bound.is_none() && some.len() < count {
            match rest.entries.next() {
                None => break,
                Some(Err(error)) => {
                    seen.unreadable = Some(cannot("be listed", error));
                    break;
                }
                Some(Ok(_)) if self.entries.fetch_add(1, Ordering::Relaxed) >= self.max_entries => {
                    seen.bound = Some(format!("more than {} entries", self.max_entries));
                }
                Some(Ok(entry)) => some.push(entry),
            }
        }
        let look = |entry: &beneath::Entry| self.entry(rest.directory.as_fd(), entry);
        let found = in_two(&some, WORTH_SHARING, &look);
        let named = some.iter().zip(found).filter_map(|(entry, what)| {
            what.map(|what| (entry.file_name().to_bytes().to_owned(), what))
        });
        seen.entries.extend(named);
        seen.rest = (some.len() == count).then_some(rest);
        seen
    }

    /// Looks at one entry. `None`: of no interest.
    fn entry(&self, directory: BorrowedFd<'_>, entry: &beneath::Entry) -> Option<What> {
        if names::is_excluded(entry.file_name().to_bytes()) {
            return None;
        }
        if entry.file_type() == FileType::Directory {
            return Some(What::Directory);
        }
        let metadata = match statat(directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Metadata::from(stat),
            // Gone, which is nothing to report.
            Err(Errno::NOENT) => return None,
            Err(error) => return Some(What::LeftOut(cannot("be looked at", error).into())),
        };
        match metadata.kind {
            // A file system that does not tell the type in its directories (readdir(3), DT_UNKNOWN) tells it now.
            FileType::Directory => Some(What::Directory),
            _ if !self.recent.is_changed(&metadata, self.since) => None,
            FileType::RegularFile => Some(What::Changed(metadata)),
            other => Some(What::LeftOut(kind_in_words(other).into())),
        }
    }
}
