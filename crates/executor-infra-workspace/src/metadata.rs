//! What the file system says about a file, in types that are the same on every platform.

use std::time::Duration;

use executor_domain::Timestamp;
use rustix::fs::{FileType, Stat};

/// A time stamp of the file system: nanoseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FileTime(i128);

impl FileTime {
    const EPOCH: Self = Self(0);

    pub(crate) fn new(seconds: i64, nanoseconds: i64) -> Self {
        Self(i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds))
    }

    /// This much earlier.
    pub(crate) fn earlier_by(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub_unsigned(duration.as_nanos()))
    }
}

/// What a scan needs to know of a directory entry. Two equal values mean that nothing happened to the file in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Metadata {
    /// Regular file, link, …
    pub(crate) kind: FileType,
    /// File system and inode: which file this is, whatever its name.
    pub(crate) identity: (u64, u64),
    /// How many names it has.
    pub(crate) links: u64,
    /// Length in bytes.
    pub(crate) size: u64,
    /// ctime: the last change of content or attributes, as the kernel saw it.
    pub(crate) changed: FileTime,
    /// mtime: the last change of the content, as the guest likes to have it.
    modified: FileTime,
}

impl Metadata {
    /// When the content was last changed. A guest sets mtime to what it likes (utimensat(2)), so a time that cannot be
    /// true is replaced by the nearest that can: after 1970, and no later than ctime.
    pub(crate) fn content_changed_at(&self) -> Timestamp {
        let FileTime(nanoseconds) = self.modified.min(self.changed).max(FileTime::EPOCH);
        Timestamp::from_unix_micros(i64::try_from(nanoseconds / 1_000).unwrap_or(i64::MAX))
    }
}

impl Metadata {
    /// Tells this state of this file from every other one, as far as the file system's time stamps do: since Linux
    /// 6.13, two changes that somebody looked in between at have different ones.
    pub(crate) fn etag(&self) -> String {
        let FileTime(changed) = self.changed;
        format!("{:x}-{:x}-{changed:x}", self.identity.1, self.size)
    }
}

#[cfg(test)]
impl Metadata {
    /// A file with one name.
    pub(crate) fn example(
        kind: FileType,
        identity: (u64, u64),
        size: u64,
        changed: FileTime,
    ) -> Self {
        Self {
            kind,
            identity,
            links: 1,
            size,
            changed,
            modified: changed,
        }
    }
}

impl From<Stat> for Metadata {
    // One platform's i64 is the next one's u32; each conversion is useless or infallible somewhere.
    #[allow(
        clippy::useless_conversion,
        clippy::unnecessary_fallible_conversions,
        clippy::cast_lossless
    )]
    fn from(stat: Stat) -> Self {
        Self {
            kind: FileType::from_raw_mode(stat.st_mode),
            identity: (
                u64::try_from(stat.st_dev).unwrap_or_default(),
                stat.st_ino.into(),
            ),
            links: stat.st_nlink.into(),
            size: u64::try_from(stat.st_size).unwrap_or_default(),
            changed: FileTime::new(
                stat.st_ctime,
                i64::try_from(stat.st_ctime_nsec).unwrap_or_default(),
            ),
            modified: FileTime::new(
                stat.st_mtime,
                i64::try_from(stat.st_mtime_nsec).unwrap_or_default(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_cannot_be_true_is_not_reported() {
        let at = |seconds| FileTime::new(seconds, 5_999);
        let reported = |modified| {
            Metadata {
                kind: FileType::RegularFile,
                identity: (1, 1),
                links: 1,
                size: 0,
                changed: at(1_000),
                modified,
            }
            .content_changed_at()
            .unix_micros()
        };
        assert_eq!(reported(at(900)), 900_000_005);
        assert_eq!(reported(at(i64::MAX)), 1_000_000_005);
        assert_eq!(reported(at(-5)), 0);
    }
}
