//! One cgroup per run: limits for its whole process tree, exact accounting, and a kill that nobody
//! escapes.
//!
//! cgroup v2 is preferred, v1 (memory, pids, cpuacct, cpu) is supported, and where neither can be
//! written [`Support::why`] says what is in the way. Nothing is assumed from version numbers:
//! [`Cgroups::detect`] makes a cgroup, sets its limits, moves a process in, kills it there and
//! removes the cgroup again.
//!
//! All of them are in one more, which bounds what all runs together take ([`Bounds`]): so many as may run at the same time could
//! else use up the host.
//!
//! The daemon makes its cgroups below its own one (or a configured parent) and leaves every
//! existing cgroup alone, with one exception on v2: a cgroup with processes of its own cannot hand
//! controllers to its children, so a daemon that is alone in its cgroup moves itself into a leaf
//! below it, and switches the controllers on for the children.
//!
//! All calls here block for as long as a few small system calls take, except where a longer bound
//! is named.

mod detect;
mod files;
mod layout;
mod names;
mod parse;
mod run;
mod together;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use layout::Directories;

pub use self::{
    run::RunCgroup,
    together::{Bounds, Wished},
};
pub use crate::usage::Usage;

/// A generation of the cgroup interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// A hierarchy per controller.
    V1,
    /// The unified hierarchy.
    V2,
}

/// What cgroups can do on this host, as tried at the start of the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Support {
    /// The interface in use; `None` if run cgroups cannot be made at all.
    pub version: Option<Version>,
    /// The memory of a run (with swap) can be limited and measured.
    pub memory: bool,
    /// The number of processes and threads of a run can be limited.
    pub pids: bool,
    /// The CPU time of a run is known exactly, with that of descendants nobody waited for.
    pub cpu_accounting: bool,
    /// Bounds of all runs together; `None` where they could not be set.
    pub together: Option<Bounds>,
    /// Why something above, or the CPU weight, is missing, for an operator to read; `None` if
    /// nothing is.
    pub why: Option<String>,
}

/// Limits of one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CgroupLimits {
    /// Bytes of memory of all processes together: anonymous, page cache, kernel; none of it in
    /// swap.
    pub memory_bytes: u64,
    /// Processes and threads alive at one time, with the sandbox's own (bubblewrap and its init).
    pub pids_max: u64,
    /// CPU share under contention as in cgroup v2: 1 to 10,000, where 100 is the default.
    pub cpu_weight: Option<u16>,
}

/// What failed while managing a cgroup.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CgroupError {
    /// There are no cgroups to use; see [`Support::why`].
    #[error("cgroups are not available: {0}")]
    Unavailable(String),
    /// A directory could not be made.
    #[error("cannot create the cgroup {}", path.display())]
    Create {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A control file refused its value, or could not be opened.
    #[error("cannot set {} to {value}", path.display())]
    Configure {
        /// The control file.
        path: PathBuf,
        /// What was to be written.
        value: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The process that the trial at the start needs could not be started.
    #[error("cannot start a process to try cgroups with")]
    Trial(#[source] io::Error),
    /// A process could not be moved into the cgroup.
    #[error("cannot move a process into the cgroup by {}", path.display())]
    Enter {
        /// The file that was written to (`cgroup.procs` or, on v1, `tasks`).
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The processes could not be listed or signalled.
    #[error("cannot kill the processes of the cgroup {}", path.display())]
    Kill {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Processes survived SIGKILL for longer than they should, as those in uninterruptible I/O do.
    #[error("processes are left in the cgroup {}", path.display())]
    StillAlive {
        /// The directory.
        path: PathBuf,
    },
    /// A directory could not be removed. It will be tried again when later cgroups are created.
    #[error("cannot remove the cgroup {}", path.display())]
    Remove {
        /// The directory.
        path: PathBuf,
        /// Why; `EBUSY` means that processes are left.
        #[source]
        source: io::Error,
    },
}

/// The cgroups of this daemon. Make one at the start and share it.
#[derive(Debug)]
pub struct Cgroups {
    support: Support,
    base: Directories,
    leftovers: Leftovers,
}

impl Cgroups {
    /// Finds out what works, by trying it, and removes empty cgroups that a killed daemon left
    /// behind.
    ///
    /// `parent` is where to make cgroups instead of below the daemon's own one: a directory below a
    /// cgroup mount point, or a path as in `/proc/self/cgroup`. On v1 the same path is used for
    /// each controller. `wished` are bounds for all runs together.
    ///
    /// Never fails: what does not work is in [`support`](Self::support). Blocks for some
    /// milliseconds.
    pub fn detect(parent: Option<&Path>, wished: Wished) -> Self {
        let (support, base) = detect::detect(parent);
        let mut cgroups = Self {
            support,
            base,
            leftovers: Leftovers::default(),
        };
        if let Some(version) = cgroups.support.version {
            cgroups.bound(version, wished);
        }
        cgroups
    }

    /// Puts all runs into one cgroup with bounds, where that can be.
    fn bound(&mut self, version: Version, wished: Wished) {
        let bounds = Bounds::of_host(wished, &self.base, version);
        match together::make(&self.base, version, &bounds, &self.leftovers) {
            Ok(below) => {
                self.base = below;
                self.support.together = Some(bounds);
            }
            Err(error) => {
                let why = format!("all runs together have no bound: {}", detect::chain(&error));
                let before = self.support.why.take();
                let both = before.map_or_else(|| why.clone(), |before| format!("{before}; {why}"));
                self.support.why = Some(both);
            }
        }
    }

    /// What works here.
    pub fn support(&self) -> &Support {
        &self.support
    }

    /// Makes an empty cgroup with these limits. `label` is for people who look at the host: it
    /// becomes a part of the directory's name, shortened and stripped of unusual characters, and
    /// need not be unique.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Unavailable`] without support, else the step that failed. Whatever had been
    /// made is removed again.
    pub fn create(&self, label: &str, limits: &CgroupLimits) -> Result<RunCgroup, CgroupError> {
        let Some(version) = self.support.version else {
            let why = self.support.why.clone().unwrap_or_default();
            return Err(CgroupError::Unavailable(why));
        };
        self.leftovers.retry();
        RunCgroup::create(
            version,
            &self.base.join(&names::run(label)),
            limits,
            &self.leftovers,
        )
    }
}

/// Directories that could not be removed yet because processes were still dying in them. Without a
/// second attempt a long-lived daemon would slowly fill the kernel with dead cgroups.
#[derive(Debug, Clone, Default)]
struct Leftovers(Arc<Mutex<LastChance>>);

impl Leftovers {
    /// Attempts per created cgroup, so that many stuck ones cannot make a new one slow.
    const RETRIES: usize = 16;

    fn add(&self, path: PathBuf) {
        self.lock().paths.push(path);
    }

    /// A directory that others are in, and that goes when they have gone.
    fn add_parent(&self, path: PathBuf) {
        self.lock().parents.push(path);
    }

    fn retry(&self) {
        let paths = &mut self.lock().paths;
        let tried = paths.len().min(Self::RETRIES);
        let still_busy: Vec<_> = paths
            .drain(..tried)
            .filter(|path| run::remove_directory(path).is_err())
            .collect();
        paths.extend(still_busy);
    }

    fn lock(&self) -> MutexGuard<'_, LastChance> {
        // Every state of a list of paths is a valid one, also after a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Nobody will create another cgroup, so this is the last time to try: what dies after the daemon's
/// last run would stay until a later daemon starts in the same place. Waits at most 200 ms in all.
#[derive(Debug, Default)]
struct LastChance {
    paths: Vec<PathBuf>,
    parents: Vec<PathBuf>,
}

impl Drop for LastChance {
    fn drop(&mut self) {
        let mut attempts = 0;
        for path in self.paths.iter().chain(&self.parents) {
            if let Err(error) = run::remove_when_empty(path, &mut attempts) {
                tracing::warn!(path = %path.display(), %error, "a cgroup stays behind");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_could_not_be_removed_is_tried_again_until_it_can() {
        let root = tempfile::tempdir().unwrap();
        let busy = root.path().join("busy");
        let content = busy.join("content");
        fs::create_dir_all(&content).unwrap();
        let leftovers = Leftovers::default();
        leftovers.add(root.path().join("gone"));
        leftovers.add(busy.clone());

        leftovers.retry();
        assert!(busy.exists());
        assert_eq!(leftovers.lock().paths.len(), 1);

        fs::remove_dir(&content).unwrap();
        leftovers.retry();
        assert!(!busy.exists());
        assert!(leftovers.lock().paths.is_empty());
    }
    #[test]
    fn the_last_owner_tries_once_more() {
        let root = tempfile::tempdir().unwrap();
        let late = root.path().join("parent/late");
        fs::create_dir_all(&late).unwrap();
        let leftovers = Leftovers::default();
        let shared = leftovers.clone();
        leftovers.add_parent(root.path().join("parent"));
        leftovers.add(late.clone());

        drop(leftovers);
        assert!(late.exists());
        drop(shared);
        assert!(!late.exists());
        assert!(!root.path().join("parent").exists());
    }
}
