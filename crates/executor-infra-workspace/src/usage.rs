//! How much a workspace takes: one walk over everything in it, hidden or not.

use std::{
    collections::HashSet,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use executor_application::Overflow;
use rustix::{
    fs::{AtFlags, FileType, Stat, statat},
    io::{Errno, Result},
};

use crate::beneath;

/// Directories within directories. Deeper ones have no path that a program could open in one step, and each level takes
/// a descriptor here.
pub(crate) const MAX_DEPTH: usize = 128;

/// What `st_blocks` counts in (stat(2)).
const BLOCK_BYTES: u64 = 512;

/// How much a workspace takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Bytes on the disk: what is written, not what a sparse file claims.
    pub(crate) bytes: u64,
    /// Files and directories, links and all.
    pub(crate) files: u64,
    /// Whether there are directories that were too deep to look into.
    pub(crate) too_deep: bool,
    /// Whether everything was counted that is not too deep.
    pub(crate) complete: bool,
}

/// How much a workspace may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Allowance {
    /// Bytes on the disk.
    pub(crate) bytes: u64,
    /// Files and directories.
    pub(crate) files: u64,
}

impl Allowance {
    /// `max_bytes` of content, and what the file system needs to keep it: it counts in blocks, and its own notes.
    pub(crate) const fn new(max_bytes: u64, max_files: u64) -> Self {
        Self {
            bytes: max_bytes + max_bytes / 256 + (64 << 10),
            files: max_files,
        }
    }

    /// What there is too much of, if anything.
    pub(crate) fn exceeded_by(&self, usage: &Usage) -> Option<Overflow> {
        if usage.too_deep {
            Some(Overflow::Depth { allowed: MAX_DEPTH })
        } else if usage.bytes > self.bytes {
            Some(Overflow::Bytes {
                used: usage.bytes,
                allowed: self.bytes,
            })
        } else if usage.files > self.files {
            Some(Overflow::Files {
                used: usage.files,
                allowed: self.files,
            })
        } else {
            None
        }
    }
}

/// Walks over a workspace, and stops where it has counted more than `max_files`. Follows no link and opens nothing but
/// directories. Blocks: about a microsecond for each file.
///
/// What a guest removes or moves meanwhile may be counted or not; what it adds behind our back, the next walk counts.
pub(crate) fn measure(workspace: BorrowedFd<'_>, max_files: u64) -> Result<Usage> {
    let mut usage = Usage {
        complete: true,
        ..Usage::default()
    };
    // Names of a file with several are one file. Bounded like all the rest, by `max_files`.
    let mut seen = HashSet::new();
    let mut open = vec![Level::open(None, workspace, 1)?];
    while let Some(level) = open.last_mut() {
        let depth = level.depth;
        let Some(entry) = level.entries.next() else {
            open.pop();
            continue;
        };
        let Ok(entry) = entry else {
            open.pop();
            continue;
        };
        usage.files += 1;
        if usage.files > max_files {
            usage.complete = false;
            break;
        }
        let directory = level.directory(workspace);
        let Ok(stat) = statat(directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) else {
            // Gone.
            continue;
        };
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if is_directory || has_one_name(&stat) || seen.insert(identity(&stat)) {
            usage.bytes = usage.bytes.saturating_add(disk_bytes(&stat));
        }
        if !is_directory {
            continue;
        }
        if depth > MAX_DEPTH {
            usage.too_deep = true;
            continue;
        }
        let below = beneath::open_own_directory(directory, beneath::as_path(&entry))
            .and_then(|opened| Level::open(Some(opened), workspace, depth + 1));
        match below {
            Ok(level) => open.push(level),
            // Gone, or something else by now.
            Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(usage)
}

/// A directory that is being walked over.
struct Level {
    /// `None`: the workspace itself.
    opened: Option<OwnedFd>,
    /// How many directories are open with this one.
    depth: usize,
    entries: Box<dyn Iterator<Item = Result<beneath::Entry>>>,
}

impl Level {
    fn open(opened: Option<OwnedFd>, workspace: BorrowedFd<'_>, depth: usize) -> Result<Self> {
        let entries = beneath::entries(opened.as_ref().map_or(workspace, AsFd::as_fd))?;
        Ok(Self {
            opened,
            depth,
            entries: Box::new(entries),
        })
    }

    fn directory<'a>(&'a self, workspace: BorrowedFd<'a>) -> BorrowedFd<'a> {
        self.opened.as_ref().map_or(workspace, AsFd::as_fd)
    }
}

fn has_one_name(stat: &Stat) -> bool {
    stat.st_nlink <= 1
}

#[allow(
    clippy::unnecessary_cast,
    clippy::useless_conversion,
    reason = "each platform has other types"
)]
fn identity(stat: &Stat) -> u64 {
    stat.st_ino.into()
}

/// What a file takes on the disk.
pub(crate) fn disk_bytes(stat: &Stat) -> u64 {
    u64::try_from(stat.st_blocks)
        .unwrap_or_default()
        .saturating_mul(BLOCK_BYTES)
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        os::unix::fs::symlink,
        path::Path,
    };

    use rustix::fs::{Mode, mkdirat};

    use super::*;

    fn measured(place: &Path, max_files: u64) -> Usage {
        measure(File::open(place).unwrap().as_fd(), max_files).unwrap()
    }

    #[test]
    fn everything_counts_hidden_or_not_and_a_file_with_two_names_once() {
        let place = tempfile::tempdir().unwrap();
        assert_eq!(measured(place.path(), 10).files, 0);
        fs::create_dir_all(place.path().join(".cache/deep")).unwrap();
        let empty = measured(place.path(), 10);
        fs::write(place.path().join(".cache/deep/x"), vec![1; 1 << 20]).unwrap();
        fs::hard_link(
            place.path().join(".cache/deep/x"),
            place.path().join("other"),
        )
        .unwrap();
        symlink("/usr", place.path().join("link")).unwrap();
        let full = measured(place.path(), 10);
        assert_eq!(full.files, 5);
        let grown = full.bytes - empty.bytes;
        assert!(
            (1 << 20..(1 << 20) + (64 << 10)).contains(&grown),
            "{grown}"
        );
        assert!(full.complete && !full.too_deep);
    }

    #[test]
    fn a_sparse_terabyte_takes_next_to_nothing() {
        let place = tempfile::tempdir().unwrap();
        let file = File::create(place.path().join("sparse")).unwrap();
        file.set_len(1 << 40).unwrap();
        assert!(measured(place.path(), 10).bytes < 1 << 20);
    }

    #[test]
    fn counting_stops_at_its_bound() {
        let place = tempfile::tempdir().unwrap();
        for name in 0..20 {
            fs::write(place.path().join(name.to_string()), "").unwrap();
        }
        let counted = measured(place.path(), 20);
        assert!(counted.complete && counted.files == 20);
        let counted = measured(place.path(), 19);
        assert!(!counted.complete && counted.files == 20);
        let allowance = Allowance::new(1, 19);
        assert_eq!(
            allowance.exceeded_by(&counted),
            Some(Overflow::Files {
                used: 20,
                allowed: 19
            })
        );
    }

    #[test]
    fn what_is_too_deep_is_noticed_and_no_descriptor_is_spent_on_it() {
        let place = tempfile::tempdir().unwrap();
        let mut directory = OwnedFd::from(File::open(place.path()).unwrap());
        for level in 0..=MAX_DEPTH {
            assert!(!measured(place.path(), 1000).too_deep, "{level}");
            mkdirat(&directory, "d", Mode::RWXU).unwrap();
            directory = beneath::open_directory(&directory, Path::new("d")).unwrap();
        }
        let counted = measured(place.path(), 1000);
        assert!(counted.too_deep);
        let allowance = Allowance::new(u64::MAX / 2, u64::MAX);
        assert_eq!(
            allowance.exceeded_by(&counted),
            Some(Overflow::Depth { allowed: MAX_DEPTH })
        );
    }

    #[test]
    fn directories_that_a_guest_shut_are_counted_too() {
        use std::os::unix::fs::PermissionsExt;

        let place = tempfile::tempdir().unwrap();
        let shut = place.path().join("shut");
        fs::create_dir(&shut).unwrap();
        fs::write(shut.join("file"), "x").unwrap();
        fs::set_permissions(&shut, fs::Permissions::from_mode(0o000)).unwrap();
        assert_eq!(measured(place.path(), 10).files, 2);
        fs::set_permissions(&shut, fs::Permissions::from_mode(0o700)).unwrap();
    }
}
