//! The file system's own clock: when a run began, in the time that ctime is told in.

use std::{
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

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
/// After the system clock was set back, files from before have stamps of the future, and count as changed by every run
/// until it has caught up.
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

    /// Begins a run: now, on this clock and on one that nobody can set.
    pub(crate) fn mark(&self) -> Result<Mark> {
        let stamp = self.now()?;
        Ok(Mark {
            stamp,
            // Read after the stamp, and before the one in `since`: the time between can only be too short.
            taken: Instant::now(),
        })
    }

    /// From when on a change belongs to the run that began at `mark`.
    pub(crate) fn since(&self, mark: &Mark) -> Result<FileTime> {
        let elapsed = mark.taken.elapsed();
        Ok(mark.on_clock(self.now()?, elapsed))
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

/// When a run began.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark {
    stamp: FileTime,
    taken: Instant,
}

impl Mark {
    /// The mark in the time of a clock that says `now` when at least `elapsed` has passed since. That is the stamp,
    /// unless the clock was set back in between: then changes of the run may have stamps from before its own.
    fn on_clock(&self, now: FileTime, elapsed: Duration) -> FileTime {
        self.stamp.min(now.earlier_by(elapsed))
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

    #[test]
    fn a_clock_that_is_set_back_hides_nothing() {
        let second = |seconds| FileTime::new(seconds, 0);
        let mark = Mark {
            stamp: second(1_000),
            taken: Instant::now(),
        };
        let ten = Duration::from_secs(10);
        assert_eq!(mark.on_clock(second(1_010), ten), second(1_000));
        assert_eq!(mark.on_clock(second(5_000), ten), second(1_000));
        assert_eq!(mark.on_clock(second(1_003), ten), second(993));
        assert_eq!(mark.on_clock(second(500), ten), second(490));
    }
}
