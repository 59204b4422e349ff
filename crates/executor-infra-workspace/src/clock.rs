//! The file system's own clock: when a run began, in the time that ctime is told in.

use std::os::fd::{AsFd, OwnedFd};

use rustix::{
    fs::{
        AtFlags, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, fstat, futimens, openat, unlinkat,
    },
    io::Result,
};

use crate::{
    metadata::{FileTime, Metadata},
    names,
};

/// A file without a name, whose only purpose is to have its time stamps renewed.
///
/// *Why ctime tells what a run changed:* the kernel sets it at every change of content or attributes, and no system
/// call sets it to anything but now. mtime is the guest's to choose.
///
/// *Why a file and not a clock:* ctime is told in ticks of the kernel's coarse clock (1–10 ms), on a network file
/// system in the server's time. A stamp that was made in the same way compares with it exactly. Before Linux 6.13, what
/// changed within the same tick but before the run counts as changed by it: rather too much than too little. Since
/// then, stamps are told apart within a tick, see [`now`](Self::now).
///
/// Not covered: a system clock that is set back while a guest runs. Its changes carry times from before its start.
#[derive(Debug)]
pub(crate) struct FileClock {
    file: OwnedFd,
}

impl FileClock {
    /// Makes the clock of the file system that `directory` is on; it must be writable.
    pub(crate) fn new(directory: impl AsFd) -> Result<Self> {
        let directory = directory.as_fd();
        let (name, file) = names::create_unused(".sandbox-executor-clock", |name| {
            openat(
                directory,
                name,
                OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::RUSR | Mode::WUSR,
            )
        })?;
        unlinkat(directory, name.as_str(), AtFlags::empty())?;
        Ok(Self { file })
    }

    /// Now. Whatever changes on this file system after this call has a ctime that is not earlier; since Linux 6.13,
    /// whatever changed before it has an earlier one.
    ///
    /// A kernel with multigrain timestamps (its `Documentation/filesystems/multigrain-ts.rst`) gives a file a stamp
    /// that differs from its last one if somebody has looked at that, and no file a stamp from before one that was given
    /// to another. So the first renewal is not earlier than any change until now, and the second one is later.
    pub(crate) fn now(&self) -> Result<FileTime> {
        self.renew()?;
        self.renew()
    }

    fn renew(&self) -> Result<FileTime> {
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_NOW,
        };
        futimens(
            &self.file,
            &Timestamps {
                last_access: now,
                last_modification: now,
            },
        )?;
        Ok(Metadata::from(fstat(&self.file)?).changed)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rustix::fs::stat;

    use super::*;

    #[test]
    fn what_happens_later_is_not_earlier() {
        let place = tempfile::tempdir().unwrap();
        let clock = FileClock::new(fs::File::open(place.path()).unwrap()).unwrap();
        for round in 0..200 {
            let file = place.path().join(round.to_string());
            let before = clock.now().unwrap();
            fs::write(&file, "x").unwrap();
            let changed = Metadata::from(stat(&file).unwrap()).changed;
            assert!(before <= changed, "{before:?} {changed:?}");
            assert!(changed <= clock.now().unwrap());
        }
    }

    #[test]
    fn the_clock_leaves_no_name_behind() {
        let place = tempfile::tempdir().unwrap();
        let _clock = FileClock::new(fs::File::open(place.path()).unwrap()).unwrap();
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    }
}
