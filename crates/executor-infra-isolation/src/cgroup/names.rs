//! Names of the directories this daemon makes.
//!
//! `sandbox-executor-<pid namespace>-<pid>-<what>`: a later daemon recognises by it what an earlier
//! one left behind. The namespace is in the name because a pid says nothing about processes of
//! another one, and two containers may share a cgroup and both be pid 1.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    process,
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::process::{Pid, test_kill_process};

const PREFIX: &str = "sandbox-executor-";
const DAEMON: &str = "daemon";
const ALL_RUNS: &str = "runs";
const LONGEST_LABEL: usize = 64;

/// A name for the cgroup of a run, different at each call.
pub(super) fn run(label: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);

    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let label: String = label
        .chars()
        .take(LONGEST_LABEL)
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .collect();
    format!("{}run-{number}-{label}", own_prefix())
}

/// A name for the cgroup that holds those of runs. Different at each call, since one process may have several.
pub(super) fn all_runs() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);

    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{}{ALL_RUNS}-{number}", own_prefix())
}

/// The name of the leaf that the daemon itself moves into.
pub(super) fn daemon() -> String {
    format!("{}{DAEMON}", own_prefix())
}

/// Whether `directory` is a leaf that a daemon moved into.
pub(super) fn is_daemon(directory: &Path) -> bool {
    directory
        .file_name()
        .and_then(|name| Owner::of(name.to_str()?))
        .is_some_and(|(_, what)| what == DAEMON)
}

/// Removes empty cgroups of dead daemons below `base`. Those that still hold processes stay: the
/// kernel refuses.
pub(super) fn remove_stale(base: &Path) {
    let Ok(entries) = fs::read_dir(base) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some((owner, what)) = name.to_str().and_then(Owner::of) else {
            continue;
        };
        if !owner.is_dead() {
            continue;
        }
        if what.starts_with(ALL_RUNS) {
            remove_stale(&entry.path());
        }
        if let Err(error) = fs::remove_dir(entry.path()) {
            tracing::debug!(path = %entry.path().display(), %error, "a stale cgroup stays");
        }
    }
}

/// The daemon that made a directory.
#[derive(Debug, PartialEq, Eq)]
struct Owner {
    pid_namespace: u64,
    pid: i32,
}

impl Owner {
    fn own() -> Self {
        Self {
            // Without /proc there are no cgroups either; 0 is no namespace's number.
            pid_namespace: fs::metadata("/proc/self/ns/pid").map_or(0, |found| found.ino()),
            pid: process::id().cast_signed(),
        }
    }

    /// The owner and the rest of the name, if the name is one of ours.
    fn of(name: &str) -> Option<(Self, &str)> {
        let mut parts = name.strip_prefix(PREFIX)?.splitn(3, '-');
        let owner = Self {
            pid_namespace: parts.next()?.parse().ok()?,
            pid: parts.next()?.parse().ok()?,
        };
        Some((owner, parts.next()?))
    }

    /// Only a process of our own pid namespace can be known to be dead. A signal 0 tells a dead
    /// process from one that belongs to somebody else, which a look into `/proc` does not where it
    /// is mounted with `hidepid`.
    fn is_dead(&self) -> bool {
        let Some(pid) = Pid::from_raw(self.pid) else {
            return false;
        };
        self.pid_namespace == Self::own().pid_namespace
            && test_kill_process(pid) == Err(rustix::io::Errno::SRCH)
    }
}

fn own_prefix() -> String {
    let Owner { pid_namespace, pid } = Owner::own();
    format!("{PREFIX}{pid_namespace}-{pid}-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_cannot_leave_the_directory_and_names_are_unique() {
        let (first, second) = (run("../../x y\n"), run("../../x y\n"));
        assert_ne!(first, second);
        assert!(first.ends_with("-______x_y_"), "{first}");
        assert!(run(&"a".repeat(10_000)).len() < 255, "a file name's limit");
        assert_eq!(Owner::of(&first).unwrap().0, Owner::own());
    }

    #[test]
    fn leaves_are_recognised() {
        assert!(is_daemon(&Path::new("/c").join(daemon())));
        assert!(!is_daemon(&Path::new("/c").join(run("daemon"))));
        assert!(!is_daemon(Path::new("/c/daemon")));
        assert!(!is_daemon(Path::new("/")));
    }

    #[test]
    fn only_what_a_dead_daemon_of_this_namespace_left_is_removed() {
        let mut child = process::Command::new("/bin/true").spawn().unwrap();
        child.wait().unwrap();
        let dead = child.id();
        let here = Owner::own().pid_namespace;
        let base = tempfile::tempdir().unwrap();
        let make = |name: String| {
            let path = base.path().join(name);
            fs::create_dir(&path).unwrap();
            path
        };
        let stale = make(format!("{PREFIX}{here}-{dead}-run-0-x"));
        let together = make(format!("{PREFIX}{here}-{dead}-runs-0"));
        fs::create_dir(together.join(format!("{PREFIX}{here}-{dead}-run-7-x"))).unwrap();
        let kept = [
            make(run("mine")),
            make(format!("{PREFIX}{}-{dead}-run-0-x", here + 1)),
            make(format!("{PREFIX}{here}-{dead}")),
            make(format!("{PREFIX}{here}-0-daemon")),
            make("system.slice".to_owned()),
        ];
        let occupied = make(format!("{PREFIX}{here}-{dead}-run-1-x"));
        fs::create_dir(occupied.join("busy")).unwrap();

        remove_stale(base.path());

        assert!(!stale.exists() && !together.exists());
        assert!(occupied.exists());
        for path in kept {
            assert!(path.exists(), "{}", path.display());
        }
    }
}
