//! Part of a directory, by path.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    time::Instant,
};

use executor_application::{ListQuery, Listing};
use executor_domain::WorkspacePath;
use rustix::{
    fs::{AtFlags, FileType, statat},
    io::{Errno, Result},
};

use super::{entry, find};
use crate::{ScanLimits, beneath, media_type, metadata::Metadata, names};

/// Lines about what is not shown.
const MAX_SKIPPED: usize = 100;

/// Paths of directories that are yet to be walked, in bytes.
const MAX_PENDING_BYTES: usize = 1 << 20;

/// How many entries are looked at between two looks at the clock.
const ENTRIES_PER_CLOCK_CHECK: usize = 256;

/// Lists the part of a directory that a query asks for. Each part costs a walk over the whole: no state is kept between
/// two of them, and no more than one part is held in memory. Blocks.
pub(super) fn list(
    workspace: BorrowedFd<'_>,
    query: &ListQuery,
    limits: &ScanLimits,
) -> Result<Listing> {
    let top = query.directory.as_ref().map_or("", WorkspacePath::as_str);
    let mut walk = Walk {
        workspace,
        query,
        limits,
        pending: vec![top.to_owned()],
        pending_bytes: top.len(),
        entries: 0,
        started: Instant::now(),
        found: BTreeMap::new(),
        more: false,
        skipped: Vec::new(),
        skipped_more: 0,
    };
    // Whoever asks for a directory that is not there is told so.
    beneath::open_directory(workspace, Path::new(top))?;
    while let Some(directory) = walk.pending.pop() {
        walk.pending_bytes -= directory.len();
        if let Err(why) = walk.directory(&directory) {
            walk.skipped.insert(0, format!("the rest: {why}"));
            break;
        }
    }
    Ok(walk.finish())
}

struct Walk<'a> {
    workspace: BorrowedFd<'a>,
    query: &'a ListQuery,
    limits: &'a ScanLimits,
    pending: Vec<String>,
    pending_bytes: usize,
    entries: usize,
    started: Instant,
    /// The first ones by path, after where the page begins.
    found: BTreeMap<String, Metadata>,
    more: bool,
    skipped: Vec<String>,
    skipped_more: u64,
}

impl Walk<'_> {
    /// `Err`: a bound was reached, and this one.
    fn directory(&mut self, path: &str) -> std::result::Result<(), String> {
        let opened = beneath::open_directory(self.workspace, Path::new(path))
            .and_then(|directory| Ok((beneath::entries(directory.as_fd())?, directory)));
        let (entries, directory) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.skip(path.as_bytes(), &format!("cannot be opened: {error}"));
                return Ok(());
            }
        };
        for entry in entries {
            self.entries += 1;
            if self.entries > self.limits.entries {
                return Err(format!("more than {} entries", self.limits.entries));
            }
            if self.entries.is_multiple_of(ENTRIES_PER_CLOCK_CHECK)
                && self.started.elapsed() > self.limits.time
            {
                return Err(format!("no time left of {:?}", self.limits.time));
            }
            let Ok(entry) = entry else {
                self.skip(path.as_bytes(), "cannot be listed");
                break;
            };
            self.look_at(directory.as_fd(), path, &entry);
        }
        Ok(())
    }

    fn look_at(&mut self, directory: BorrowedFd<'_>, parent: &str, entry: &beneath::Entry) {
        let name = entry.file_name().to_bytes();
        if parent.is_empty() && name == crate::state::NAME.as_bytes() {
            return;
        }
        let shown = || [parent.as_bytes(), name].join(&b"/"[..usize::from(!parent.is_empty())]);
        let found = match statat(directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Metadata::from(stat),
            Err(Errno::NOENT) => return,
            Err(error) => {
                self.skip(&shown(), &format!("cannot be looked at: {error}"));
                return;
            }
        };
        let name = match names::as_text(name) {
            Ok(name) => name,
            Err(why) => {
                self.skip(&shown(), why);
                return;
            }
        };
        let path = if parent.is_empty() {
            name.to_owned()
        } else {
            format!("{parent}/{name}")
        };
        match found.kind {
            FileType::RegularFile => {}
            FileType::Directory => {
                if self.query.recursive {
                    self.plan(&path);
                }
            }
            other => {
                self.skip(path.as_bytes(), find::oddity(other));
                return;
            }
        }
        if self
            .query
            .after
            .as_ref()
            .is_some_and(|after| path <= *after)
        {
            return;
        }
        self.found.insert(path, found);
        if self.found.len() > self.query.limit {
            self.found.pop_last();
            self.more = true;
        }
    }

    /// Plans to walk over a directory, unless everything in it comes before the part that is asked for.
    fn plan(&mut self, path: &str) {
        // What comes after `/` in the alphabet of paths: whatever is in the directory comes before this.
        let behind = format!("{path}0");
        if self
            .query
            .after
            .as_ref()
            .is_some_and(|after| behind <= *after)
        {
            return;
        }
        if path.matches('/').count() + 1 > self.limits.depth {
            let why = format!("deeper than {} directories", self.limits.depth);
            self.skip(path.as_bytes(), &why);
        } else if self.pending_bytes + path.len() > MAX_PENDING_BYTES {
            self.skip(path.as_bytes(), "too many directories");
        } else {
            self.pending_bytes += path.len();
            self.pending.push(path.to_owned());
        }
    }

    fn skip(&mut self, path: &[u8], why: &str) {
        if self.skipped.len() < MAX_SKIPPED {
            let path = if path.is_empty() { b"." } else { path };
            self.skipped
                .push(format!("{}: {why}", names::escaped(path)));
        } else {
            self.skipped_more += 1;
        }
    }

    fn finish(mut self) -> Listing {
        let mut entries = Vec::with_capacity(self.found.len());
        for (path, found) in std::mem::take(&mut self.found) {
            let mime_type = match found.kind {
                FileType::Directory => "inode/directory",
                _ => media_type::by_name(&path),
            };
            match WorkspacePath::parse(&path) {
                Ok(path) => entries.push(entry(path, &found, mime_type.to_owned())),
                Err(why) => self.skip(path.as_bytes(), &why.to_string()),
            }
        }
        if self.skipped_more > 0 {
            self.skipped.push(format!("and {} more", self.skipped_more));
        }
        Listing {
            entries,
            more: self.more,
            skipped: self.skipped,
        }
    }
}
