//! What a run left behind: one walk over the workspace, and a checksum of each file that changed.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    time::{Duration, Instant},
};

use executor_domain::{Artifact, Artifacts};
use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, fchmod, fstat, statat},
    io::Errno,
};
use sha2::{Digest, Sha256};

use crate::{
    beneath,
    media_type::{HEAD_BYTES, media_type},
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
    /// Time for all of it.
    pub time: Duration,
}

impl Default for ScanLimits {
    /// 1000 files, 100,000 entries, 32 levels, 100 MiB each, 500 MiB in all, 5 seconds.
    fn default() -> Self {
        Self {
            files: 1_000,
            entries: 100_000,
            depth: 32,
            file_bytes: 100 << 20,
            total_bytes: 500 << 20,
            time: Duration::from_secs(5),
        }
    }
}

/// Lines about what was left out.
const MAX_SKIPPED: usize = 100;

/// Paths of directories that are yet to be walked, in bytes. 32 levels of 255 bytes a path and 100,000 of them would be
/// 800 MB in all; ordinary trees need some kilobytes.
const MAX_PENDING_BYTES: usize = 1 << 20;

/// How many entries are looked at between two looks at the clock.
const ENTRIES_PER_CLOCK_CHECK: usize = 256;

/// How much is read at a time, and between two looks at the clock.
const CHUNK_BYTES: usize = 64 * 1024;

const CHANGED_MEANWHILE: &str = "changed while it was read";

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
    }
}

/// Why a thing was left out, for a person.
type Reason = String;

struct Scan<'a> {
    workspace: BorrowedFd<'a>,
    since: FileTime,
    recent: &'a mut Recent,
    limits: &'a ScanLimits,
    started: Instant,
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
            started: Instant::now(),
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
                self.check_time()?;
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
        let mut bytes_left = self.limits.total_bytes;
        let mut chunk = vec![0; CHUNK_BYTES];
        for (path, found) in std::mem::take(&mut self.changed) {
            match self.read_file(&path, &found, bytes_left, &mut chunk) {
                Ok(artifact) => {
                    bytes_left -= artifact.size;
                    files.push(artifact);
                }
                Err(why) => self.skipped.path(path.as_bytes(), &why),
            }
        }
        files
    }

    /// Reads one file. `found` is what the walk saw under this name.
    fn read_file(
        &self,
        path: &str,
        found: &Metadata,
        bytes_left: u64,
        chunk: &mut [u8],
    ) -> Result<Artifact, Reason> {
        // A guest can link to nothing but what it reaches through the mount of its own workspace: link(2) refuses to
        // cross mounts, even of one file system. So a hard link gives away nothing; all the same, content that also has
        // a name where we did not look is not provably the workspace's, and Seatbelt has no mounts to rely on.
        if found.links > 1 && self.hard_links.get(&found.identity) != Some(&found.links) {
            return Err("a hard link whose other names are not all among the scanned files".into());
        }
        if found.size > self.limits.file_bytes {
            return Err(format!(
                "{} bytes: files of more than {} are not read",
                found.size, self.limits.file_bytes
            ));
        }
        if found.size > bytes_left {
            return Err(format!(
                "{} bytes: more than {} in all are not read",
                found.size, self.limits.total_bytes
            ));
        }
        self.check_time()?;
        // Not blocking: by now, the name may be a FIFO's, whose opening waits for a writer (fifo(7)). Or a terminal's,
        // which must not become ours.
        let file = beneath::open(
            self.workspace,
            Path::new(path),
            OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY,
        )
        .map(File::from)
        .map_err(|error| match error {
            Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::NXIO => CHANGED_MEANWHILE.into(),
            error => cannot("be read", error),
        })?;
        let metadata = || fstat(&file).map(Metadata::from);
        if metadata() != Ok(*found) {
            return Err(CHANGED_MEANWHILE.into());
        }
        let (digest, head) = self.digest(&file, found.size, chunk)?;
        if metadata() != Ok(*found) {
            return Err(CHANGED_MEANWHILE.into());
        }
        Ok(Artifact {
            mime_type: media_type(path, &head, head.len() as u64 == found.size),
            path: path.to_owned(),
            size: found.size,
            created_at: found.content_changed_at(),
            checksum: format!("sha256:{digest}"),
        })
    }

    /// SHA-256, in hexadecimal, and the beginning of a file that must have `size` bytes. A file that grows while it is
    /// read keeps nobody here: no more than `size` bytes are asked for.
    fn digest(
        &self,
        file: &File,
        size: u64,
        chunk: &mut [u8],
    ) -> Result<(String, Vec<u8>), Reason> {
        let mut source = file.take(size);
        let mut hash = Sha256::new();
        let mut head = Vec::new();
        let mut total = 0;
        loop {
            self.check_time()?;
            let bytes = match source.read(chunk) {
                Ok(0) => break,
                Ok(count) => &chunk[..count],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(cannot("be read", error)),
            };
            let wanted = HEAD_BYTES.saturating_sub(head.len()).min(bytes.len());
            head.extend_from_slice(&bytes[..wanted]);
            hash.update(bytes);
            total += bytes.len() as u64;
        }
        if total != size {
            return Err(CHANGED_MEANWHILE.into());
        }
        let mut digest = String::with_capacity(64);
        for byte in hash.finalize() {
            // Writing to a String cannot fail.
            let _ = write!(digest, "{byte:02x}");
        }
        Ok((digest, head))
    }

    fn check_time(&self) -> Result<(), Reason> {
        if self.started.elapsed() < self.limits.time {
            Ok(())
        } else {
            Err(format!("no time left of {:?}", self.limits.time))
        }
    }
}

/// What was left out, so far.
#[derive(Default)]
struct Skipped {
    /// About bounds that were reached: there are two of these at most.
    notes: Vec<String>,
    /// About single paths.
    lines: Vec<String>,
    /// How many paths have no line any more.
    more: u64,
}

impl Skipped {
    fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    fn path(&mut self, path: &[u8], why: &str) {
        if self.lines.len() < MAX_SKIPPED {
            let path = if path.is_empty() { b"." } else { path };
            self.lines.push(format!("{}: {why}", names::escaped(path)));
        } else {
            self.more += 1;
        }
    }

    fn into_lines(self) -> Vec<String> {
        let mut lines = self.notes;
        lines.extend(self.lines);
        if self.more > 0 {
            lines.push(format!("and {} more", self.more));
        }
        lines
    }
}

fn cannot(what: &str, error: impl Into<io::Error>) -> Reason {
    format!("cannot {what}: {}", error.into())
}

fn kind_in_words(kind: FileType) -> &'static str {
    match kind {
        FileType::Symlink => "a symbolic link, not followed",
        FileType::Fifo => "a FIFO, not read",
        FileType::Socket => "a socket, not read",
        FileType::BlockDevice | FileType::CharacterDevice => "a device, not read",
        _ => "no regular file, not read",
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink, process::Command, sync::mpsc};

    use super::*;

    /// Reads `name` after a walk has found a regular file of that name and `swap` has replaced it.
    fn read_after(swap: impl FnOnce(&Path)) -> Result<Artifact, Reason> {
        let place = tempfile::tempdir().unwrap();
        let name = place.path().join("name");
        fs::write(&name, "inside").unwrap();
        fs::write(place.path().join("other"), "secret").unwrap();
        let found = Metadata::from(rustix::fs::stat(&name).unwrap());
        swap(&name);

        let workspace = File::open(place.path()).unwrap();
        let (answer, answered) = mpsc::channel();
        std::thread::spawn(move || {
            let (limits, mut recent) = (ScanLimits::default(), Recent::default());
            let scan = Scan::new(workspace.as_fd(), found.changed, &limits, &mut recent);
            let read = scan.read_file("name", &found, u64::MAX, &mut [0; 16]);
            answer.send(read).unwrap();
        });
        answered
            .recv_timeout(Duration::from_secs(30))
            .expect("nothing blocks")
    }

    #[test]
    fn what_was_found_is_what_is_read() {
        type Swap = fn(&Path);

        assert_eq!(read_after(|_| {}).unwrap().size, 6);
        let swaps: [(&str, Swap); 5] = [
            ("a link", |name| {
                fs::remove_file(name).unwrap();
                symlink("other", name).unwrap();
            }),
            ("a FIFO", |name| {
                fs::remove_file(name).unwrap();
                let made = Command::new("mkfifo").arg(name).status();
                assert!(made.unwrap().success());
            }),
            ("another file", |name| {
                fs::rename(name.with_file_name("other"), name).unwrap();
            }),
            ("a directory", |name| {
                fs::remove_file(name).unwrap();
                fs::create_dir(name).unwrap();
            }),
            ("nothing", |name| fs::remove_file(name).unwrap()),
        ];
        for (what, swap) in swaps {
            let read = read_after(swap);
            assert_eq!(read, Err(CHANGED_MEANWHILE.to_owned()), "{what}");
        }
    }

    #[test]
    fn a_file_whose_size_changes_has_no_checksum() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("file"), "12345").unwrap();
        let workspace = File::open(place.path()).unwrap();
        let (limits, mut recent) = (ScanLimits::default(), Recent::default());
        let scan = Scan::new(workspace.as_fd(), FileTime::new(0, 0), &limits, &mut recent);
        let digest = |size| {
            let file = File::open(place.path().join("file")).unwrap();
            scan.digest(&file, size, &mut [0; 2])
        };
        assert_eq!(digest(5).unwrap().1, b"12345");
        assert_eq!(digest(6), Err(CHANGED_MEANWHILE.to_owned()));
    }

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
        assert!(scan.skipped.lines[0].ends_with("too many directories"));
    }
}
