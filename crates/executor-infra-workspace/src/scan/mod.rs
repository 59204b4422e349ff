//! What a run left behind: one walk over the workspace, and a checksum of each file that changed.

mod content;
mod glance;
mod shared_out;
mod skipped;

use std::{
    collections::{BTreeMap, HashMap},
    os::fd::BorrowedFd,
    sync::atomic::AtomicUsize,
    time::{Duration, Instant},
};

use executor_domain::{Artifact, Artifacts};
use rustix::{
    fs::{AtFlags, FileType, Mode, fchmod, statat},
    io::Errno,
};

use self::{
    content::Contents,
    glance::{Glance, Rest, Seen, What},
    shared_out::in_two,
    skipped::{Reason, Skipped},
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

/// Directories that are looked at together. What is found in them at first is in memory at once.
const BATCH: usize = 64;
/// From so many directories on, another thread takes half of them.
const WORTH_SHARING: usize = 16;

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
    /// How many were looked at.
    entries: AtomicUsize,
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
            entries: AtomicUsize::new(0),
            changed: BTreeMap::new(),
            too_many: 0,
            hard_links: HashMap::new(),
            skipped: Skipped::default(),
        }
    }

    /// Looks at every entry. `Err`: a bound was reached, and this one.
    fn walk(&mut self) -> Result<(), Reason> {
        while !self.pending.is_empty() {
            let next = self.pending.len().saturating_sub(BATCH);
            let directories = self.pending.split_off(next);
            let look = |directory: &String| self.glance().directory(directory);
            let seen = in_two(&directories, WORTH_SHARING, &look);
            for (directory, mut seen) in directories.iter().zip(seen) {
                self.pending_bytes -= directory.len();
                while let Some(rest) = self.take(directory, seen)? {
                    seen = self.glance().more(rest);
                }
            }
        }
        Ok(())
    }

    fn glance(&self) -> Glance<'_> {
        Glance {
            workspace: self.workspace,
            since: self.since,
            recent: self.recent,
            deadline: self.deadline,
            entries: &self.entries,
            max_entries: self.limits.entries,
        }
    }

    /// Takes in what was seen in a directory, and returns the rest of it.
    fn take(&mut self, parent: &str, seen: Seen) -> Result<Option<Rest>, Reason> {
        if let Some(why) = seen.unreadable {
            self.skipped.path(parent.as_bytes(), &why);
        }
        for (name, what) in seen.entries {
            if let What::Changed(metadata) = &what {
                self.recent.note(metadata);
                if metadata.links > 1 {
                    *self.hard_links.entry(metadata.identity).or_default() += 1;
                }
            }
            let shown =
                || [parent.as_bytes(), &name].join(&b"/"[..usize::from(!parent.is_empty())]);
            let what = match what {
                What::LeftOut(why) => {
                    self.skipped.path(&shown(), &why);
                    continue;
                }
                wanted => wanted,
            };
            let name = match names::as_text(&name) {
                Ok(name) => name,
                Err(why) => {
                    self.skipped.path(&shown(), why);
                    continue;
                }
            };
            let path = if parent.is_empty() {
                name.to_owned()
            } else {
                format!("{parent}/{name}")
            };
            match what {
                What::Changed(metadata) => self.remember(path, metadata),
                _ => self.plan_to_walk(path),
            }
        }
        match seen.bound {
            Some(why) => Err(why),
            None => Ok(seen.rest),
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
    use std::{fs::File, os::fd::AsFd};

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
