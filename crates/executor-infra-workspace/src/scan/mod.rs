//! What a run left behind: one walk over the workspace, and a checksum of each file that changed.

mod content;
mod skipped;

use std::{
    collections::{BTreeMap, HashMap},
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    time::{Duration, Instant},
};

use executor_domain::{Artifact, Artifacts};
use rustix::{
    fs::{AtFlags, FileType, Mode, fchmod, statat},
    io::Errno,
};

use self::{
    content::Contents,
    skipped::{Reason, Skipped, cannot, kind_in_words},
};
use crate::{
    beneath,
    metadata::{FileTime, Metadata},
    names,
    seen::Recent,
};

/// What one scan may cost, whatever a guest has made. What is beyond is left out and said so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScanLimits {
    /// Files that are reported; the first ones by path.
    pub files: usize,
    /// Directory entries that are looked at. An entry costs about a microsecond.
    pub entries: usize,
    /// Directories within directories.
    pub depth: usize,
    /// Bytes of one file. A larger file is not read: a sparse terabyte costs a guest nothing.
    pub file_bytes: u64,
    /// Bytes that are read in all.
    pub total_bytes: u64,
    /// Of these, bytes that nobody has ever written: holes of sparse files, and what was only allocated. They cost a guest
    /// nothing and us as much as others.
    pub hole_bytes: u64,
    /// Time for all of it.
    pub time: Duration,
}

impl Default for ScanLimits {
    /// 1000 files, 100,000 entries, 32 levels, 100 MiB each, 500 MiB in all and 16 MiB of holes, 5 seconds.
    fn default() -> Self {
        Self {
            files: 1_000,
            entries: 100_000,
            depth: 32,
            file_bytes: 100 << 20,
            total_bytes: 500 << 20,
            hole_bytes: 16 << 20,
            time: Duration::from_secs(5),
        }
    }
}

/// Paths of directories that are yet to be walked, in bytes. 32 levels of 255 bytes a path and 100,000 of them would be
/// 800 MB in all; ordinary trees need some kilobytes.
const MAX_PENDING_BYTES: usize = 1 << 20;

/// How many entries are looked at between two looks at the clock.
const ENTRIES_PER_CLOCK_CHECK: usize = 256;

/// Whether a glance shows that nothing changed: a handful of entries, no directory among them. It costs a few
/// microseconds, less than to hand a scan to another thread, and is what most runs leave behind.
pub(crate) fn is_plainly_unchanged(
    workspace: BorrowedFd<'_>,
    since: FileTime,
    recent: &Recent,
) -> bool {
    const HANDFUL: usize = 16;
    let Ok(mut entries) = beneath::entries(workspace) else {
        return false;
    };
    let unchanged = |entry: &beneath::Entry| {
        names::is_excluded(entry.file_name().to_bytes())
            || statat(workspace, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)
                .map(Metadata::from)
                .is_ok_and(|found| {
                    found.kind != FileType::Directory && !recent.is_changed(&found, since)
                })
    };
    entries
        .by_ref()
        .take(HANDFUL)
        .all(|entry| entry.is_ok_and(|entry| unchanged(&entry)))
        && entries.next().is_none()
}

/// Regular files below `workspace` whose content or attributes changed at or after `since`, by path. Takes note of all of
/// them in `recent`.
///
/// Blocks, for `limits.time` and the one read or system call that is under way then. Never fails for what a guest has
/// done: what cannot be read is among what was skipped.
pub(crate) fn changes(
    workspace: BorrowedFd<'_>,
    since: FileTime,
    limits: &ScanLimits,
    recent: &mut Recent,
) -> Artifacts {
    if matches!(beneath::entries(workspace), Err(Errno::ACCESS)) {
        // The guest shut its own workspace, and we are the same user. Where this fails, so does the walk, and says why.
        let _ = fchmod(workspace, Mode::RWXU);
    }
    let mut scan = Scan::new(workspace, since, limits, recent);
    if let Err(why) = scan.walk() {
        scan.skipped
            .note(format!("the rest of the workspace: {why}"));
    }
    let files = scan.read_changed();
    if scan.too_many > 0 {
        scan.skipped.note(format!(
            "{} more files: more than {} are not reported",
            scan.too_many, limits.files
        ));
    }
    Artifacts {
        files,
        skipped: scan.skipped.into_lines(),
        not_uploaded: Vec::new(),
    }
}

/// Until when a scan may go on.
#[derive(Debug, Clone, Copy)]
struct Deadline {
    started: Instant,
    allowed: Duration,
}

impl Deadline {
    fn within(allowed: Duration) -> Self {
        Self {
            started: Instant::now(),
            allowed,
        }
    }

    fn check(&self) -> Result<(), Reason> {
        if self.started.elapsed() < self.allowed {
            Ok(())
        } else {
            Err(format!("no time left of {:?}", self.allowed))
        }
    }
}

struct Scan<'a> {
    workspace: BorrowedFd<'a>,
    since: FileTime,
    recent: &'a mut Recent,
    limits: &'a ScanLimits,
    deadline: Deadline,
    /// Directories to walk, the next one last; the empty path is the workspace.
    pending: Vec<String>,
    pending_bytes: usize,
    entries: usize,
    /// Regular files that changed: the first ones by path.
    changed: BTreeMap<String, Metadata>,
    /// How many did not fit in there.
    too_many: u64,
    /// How many names of each file with several names were seen.
    hard_links: HashMap<(u64, u64), u64>,
    skipped: Skipped,
}

impl<'a> Scan<'a> {
    fn new(
        workspace: BorrowedFd<'a>,
        since: FileTime,
        limits: &'a ScanLimits,
        recent: &'a mut Recent,
    ) -> Self {
        Self {
            workspace,
            since,
            recent,
            limits,
            deadline: Deadline::within(limits.time),
            pending: vec![String::new()],
            pending_bytes: 0,
            entries: 0,
            changed: BTreeMap::new(),
            too_many: 0,
            hard_links: HashMap::new(),
            skipped: Skipped::default(),
        }
    }

    /// Looks at every entry. `Err`: a bound was reached, and this one.
    fn walk(&mut self) -> Result<(), Reason> {
        while let Some(directory) = self.pending.pop() {
            self.pending_bytes -= directory.len();
            self.walk_directory(&directory)?;
        }
        Ok(())
    }

    fn walk_directory(&mut self, path: &str) -> Result<(), Reason> {
        let opened = beneath::open_directory(self.workspace, Path::new(path))
            .and_then(|directory| Ok((beneath::entries(directory.as_fd())?, directory)));
        let (entries, directory) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.skipped
                    .path(path.as_bytes(), &cannot("be opened", error));
                return Ok(());
            }
        };
        for entry in entries {
            self.entries += 1;
            if self.entries > self.limits.entries {
                return Err(format!("more than {} entries", self.limits.entries));
            }
            if self.entries.is_multiple_of(ENTRIES_PER_CLOCK_CHECK) {
                self.deadline.check()?;
            }
            match entry {
                Ok(entry) if names::is_excluded(entry.file_name().to_bytes()) => {}
                Ok(entry) => self.look_at(directory.as_fd(), path, &entry),
                Err(error) => {
                    self.skipped
                        .path(path.as_bytes(), &cannot("be listed", error));
                    break;
                }
            }
        }
        Ok(())
    }

    /// Sorts one entry: to be walked, to be read, of no interest, or left out with a word about it.
    fn look_at(&mut self, directory: BorrowedFd<'_>, parent: &str, entry: &beneath::Entry) {
        let name = entry.file_name().to_bytes();
        let shown = || [parent.as_bytes(), name].join(&b"/"[..usize::from(!parent.is_empty())]);
        let metadata = match entry.file_type() {
            FileType::Directory => None,
            _ => match statat(directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => Some(Metadata::from(stat)),
                // Gone, which is nothing to report.
                Err(Errno::NOENT) => return,
                Err(error) => {
                    self.skipped.path(&shown(), &cannot("be looked at", error));
                    return;
                }
            },
        };
        // A file system that does not tell the type in its directories (readdir(3), DT_UNKNOWN) tells it now.
        let regular = match metadata {
            None => None,
            Some(metadata) if metadata.kind == FileType::Directory => None,
            Some(metadata) if !self.recent.is_changed(&metadata, self.since) => return,
            Some(metadata) if metadata.kind != FileType::RegularFile => {
                self.skipped.path(&shown(), kind_in_words(metadata.kind));
                return;
            }
            Some(metadata) => Some(metadata),
        };
        if let Some(metadata) = regular {
            self.recent.note(&metadata);
        }
        if let Some(metadata) = regular
            && metadata.links > 1
        {
            *self.hard_links.entry(metadata.identity).or_default() += 1;
        }
        let name = match names::as_text(name) {
            Ok(name) => name,
            Err(why) => {
                self.skipped.path(&shown(), why);
                return;
            }
        };
        let path = if parent.is_empty() {
            name.to_owned()
        } else {
            format!("{parent}/{name}")
        };
        match regular {
            Some(metadata) => self.remember(path, metadata),
            None => self.plan_to_walk(path),
        }
    }

    fn remember(&mut self, path: String, metadata: Metadata) {
        self.changed.insert(path, metadata);
        if self.changed.len() > self.limits.files {
            self.changed.pop_last();
            self.too_many += 1;
        }
    }

    fn plan_to_walk(&mut self, path: String) {
        if path.matches('/').count() + 1 > self.limits.depth {
            let why = format!("deeper than {} directories", self.limits.depth);
            self.skipped.path(path.as_bytes(), &why);
        } else if self.pending_bytes + path.len() > MAX_PENDING_BYTES {
            self.skipped.path(path.as_bytes(), "too many directories");
        } else {
            self.pending_bytes += path.len();
            self.pending.push(path);
        }
    }

    /// Reads what changed, as far as the bounds allow.
    fn read_changed(&mut self) -> Vec<Artifact> {
        let mut files = Vec::new();
        let mut contents = Contents::new(self.workspace, self.limits, self.deadline);
        for (path, found) in std::mem::take(&mut self.changed) {
            let read = if self.has_names_elsewhere(&found) {
                Err("a hard link whose other names are not all among the scanned files".into())
            } else {
                contents.read(&path, &found)
            };
            match read {
                Ok(artifact) => files.push(artifact),
                Err(why) => self.skipped.path(path.as_bytes(), &why),
            }
        }
        files
    }

    /// Whether a file has names that the walk did not come across.
    ///
    /// A guest can link to nothing but what it reaches through the mount of its own workspace: link(2) refuses to cross
    /// mounts, even of one file system. So a hard link gives away nothing; all the same, content that also has a name
    /// where we did not look is not provably the workspace's, and Seatbelt has no mounts to rely on.
    fn has_names_elsewhere(&self, found: &Metadata) -> bool {
        found.links > 1 && self.hard_links.get(&found.identity) != Some(&found.links)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn paths_yet_to_be_walked_take_little_memory() {
        let place = tempfile::tempdir().unwrap();
        let workspace = File::open(place.path()).unwrap();
        let (limits, mut recent) = (ScanLimits::default(), Recent::default());
        let mut scan = Scan::new(workspace.as_fd(), FileTime::new(0, 0), &limits, &mut recent);
        for number in 0..MAX_PENDING_BYTES / 1_000 + 2 {
            scan.plan_to_walk(format!("{number:01000}"));
        }
        assert!(scan.pending.iter().map(String::len).sum::<usize>() <= MAX_PENDING_BYTES);
        assert!(scan.skipped.into_lines()[0].ends_with("too many directories"));
    }
}
