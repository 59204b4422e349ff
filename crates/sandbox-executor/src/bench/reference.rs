//! What runs are compared with: Bubblewrap and the bare interpreter, the same that the daemon starts, without a daemon,
//! limits, a filter, a cgroup or a program.

use std::{
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use super::{Failure, plan::Subject, stats};
use crate::config::{Config, GuestUser};

/// Bubblewrap and a bare interpreter.
#[derive(Debug, Clone)]
pub(super) struct Reference {
    bwrap: Box<Path>,
    interpreter: String,
    arguments: &'static [&'static str],
    /// Whether it imports packages.
    has_packages: bool,
    /// Who guests are, where that is somebody else than we.
    user: Option<GuestUser>,
}

/// What so many at a time get done.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Saturated {
    pub parallel: usize,
    /// Runs a second.
    pub rate: f64,
}

impl Reference {
    pub(super) fn new(config: &Config, subject: &Subject, interpreter: &str) -> Self {
        Self {
            bwrap: config.bwrap_path.clone().into(),
            interpreter: interpreter.to_owned(),
            arguments: subject.bare,
            has_packages: subject.preload.is_some(),
            // As root, Bubblewrap would do less and start faster than it ever does for a guest.
            user: rustix::process::geteuid().is_root().then_some(config.guest),
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&*self.bwrap);
        command
            .args(["--unshare-all", "--ro-bind", "/usr", "/usr"])
            .args(["--symlink", "usr/bin", "/bin"])
            .args(["--symlink", "usr/lib", "/lib"])
            .args(["--symlink", "usr/lib64", "/lib64"]);
        if self.has_packages {
            // Where Debian says which BLAS there is, without which numpy is not imported.
            command.args(["--ro-bind-try", "/etc/alternatives", "/etc/alternatives"]);
        }
        command
            .args(["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"])
            .args(["--die-with-parent", &self.interpreter])
            .args(self.arguments)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if let Some(user) = self.user {
            // The child changes its ids before it executes Bubblewrap, so that no program of ours is in the measured time.
            command.uid(user.uid).gid(user.gid);
        }
        command
    }

    /// Whether the interpreter can do this at all: import packages, for instance.
    pub(super) fn is_possible(&self) -> bool {
        self.command().status().is_ok_and(|status| status.success())
    }

    /// Runs it, from before the fork until it is reaped. Blocks.
    pub(super) fn run(&self) -> Result<Duration, Failure> {
        let mut command = self.command();
        let begin = Instant::now();
        let status = command.status()?;
        let took = begin.elapsed();
        if status.success() {
            Ok(took)
        } else {
            Err(format!("{command:?}: {status}").into())
        }
    }

    /// The most that this machine gets done, whatever number at a time that takes. Blocks.
    pub(super) fn saturate(&self, cores: usize, time: Duration) -> Result<Saturated, Failure> {
        let mut best = Saturated {
            parallel: 0,
            rate: 0.0,
        };
        for parallel in [cores, 2 * cores, 4 * cores] {
            let rate = self.rate_of(parallel, time)?;
            if rate > best.rate {
                best = Saturated { parallel, rate };
            }
        }
        Ok(best)
    }

    fn rate_of(&self, parallel: usize, time: Duration) -> Result<f64, Failure> {
        let stop = AtomicBool::new(false);
        let begin = Instant::now();
        let done = thread::scope(|scope| {
            let runners: Vec<_> = (0..parallel)
                .map(|_| {
                    scope.spawn(|| {
                        let mut done = 0;
                        while !stop.load(Ordering::Relaxed) {
                            self.run()?;
                            done += 1;
                        }
                        Ok::<usize, Failure>(done)
                    })
                })
                .collect();
            thread::sleep(time);
            stop.store(true, Ordering::Relaxed);
            runners
                .into_iter()
                .map(|runner| match runner.join() {
                    Ok(done) => done,
                    Err(_) => Err("a thread of the bench panicked".into()),
                })
                .sum::<Result<usize, Failure>>()
        })?;
        // Up to the last one's end: what is begun counts, and so does the time that it takes.
        Ok(stats::rate(done, begin.elapsed()))
    }
}
