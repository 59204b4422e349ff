//! What a daemon holds, so that a test can say that it holds no more than before.

use std::{fs, path::Path, time::Duration};

use tokio::time::Instant;

use super::{PATIENCE, children_of, daemon::Daemon};

/// How much more memory a daemon may have resident: what the allocator may keep, and results of the last second.
pub(crate) const MAX_GROWTH_KIB: u64 = 50 << 10;

/// What the daemon holds and what it may leave on the host.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Holdings {
    pub(crate) descriptors: usize,
    children: Vec<String>,
    cgroups: usize,
    mounts: Vec<String>,
}

impl Holdings {
    pub(crate) fn of(daemon: &Daemon) -> Self {
        let pid = daemon.pid();
        Self {
            descriptors: fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count(),
            children: names(children_of(pid)),
            cgroups: cgroups_of_runs(pid),
            mounts: mounts(daemon),
        }
    }
}

/// What is mounted of the daemon's own directory, or by its name. Others mount on this host as well.
fn mounts(daemon: &Daemon) -> Vec<String> {
    let workspaces = daemon.workspaces();
    // A name that no other directory has, wherever its file system is mounted.
    let own = workspaces.parent().and_then(Path::file_name).unwrap();
    let own = own.to_str().unwrap();
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", daemon.pid())).unwrap();
    let ours = mounts
        .lines()
        .filter(|line| line.contains(own) || line.contains("sandbox-executor"));
    ours.map(str::to_owned).collect()
}

/// What processes are called.
fn names(pids: Vec<u32>) -> Vec<String> {
    let name = |pid| fs::read_to_string(format!("/proc/{pid}/comm")).ok();
    pids.into_iter().filter_map(name).collect()
}

/// Directories that the daemon has made for runs: their name has its pid.
fn cgroups_of_runs(pid: u32) -> usize {
    fn look(directory: &Path, part: &str) -> usize {
        let mut found = 0;
        // Cgroups come and go while we look.
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with("sandbox-executor-") && name.contains(part) {
                found += 1;
            }
            found += look(&entry.path(), part);
        }
        found
    }
    look(Path::new("/sys/fs/cgroup"), &format!("-{pid}-run-"))
}

/// A number from `/proc/PID/status` (proc(5)).
pub(crate) fn status(daemon: &Daemon, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// What the daemon holds once its slots are made and nothing changes for a second.
pub(crate) async fn at_rest(daemon: &Daemon) -> Holdings {
    let mut last = Holdings::of(daemon);
    let mut since = Instant::now();
    while since.elapsed() < Duration::from_secs(1) {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let now = Holdings::of(daemon);
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
    last
}

/// Waits until the daemon holds what it held before, or for so long that it never will. Connections that broke off
/// linger for a while, and abandoned guests are about to die.
pub(crate) async fn settles(daemon: &Daemon, before: &Holdings) -> Holdings {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let holdings = Holdings::of(daemon);
        if holdings == *before || Instant::now() > deadline {
            return holdings;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
