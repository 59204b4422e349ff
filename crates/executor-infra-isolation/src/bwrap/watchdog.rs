//! The watchdog (`stage/watchdog.rs`), as the daemon holds it.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::{Child, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::process::Pid;

use super::spawner::command;
use crate::stage::{
    self,
    wire::{self, Group},
};

/// How long it may take to be ready, on a machine however busy: it has next to nothing to do.
const READY_LIMIT: Duration = Duration::from_secs(30);

/// Sees to it that nothing half built outlives a daemon that is killed.
#[derive(Debug)]
pub(super) struct Watchdog {
    /// What it runs.
    program: Arc<File>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    process: Process,
    /// The process groups that it watches, by their numbers, so that another one can take its place.
    groups: BTreeSet<i32>,
}

/// A process group that the watchdog kills where the daemon dies before this is dropped.
#[derive(Debug)]
pub(super) struct Watched {
    watchdog: Arc<Watchdog>,
    group: i32,
}

impl Watchdog {
    /// Starts one of this program, and waits until it watches.
    pub(super) fn start(program: Arc<File>) -> io::Result<Self> {
        let state = State {
            process: Process::start(&program)?,
            groups: BTreeSet::new(),
        };
        Ok(Self {
            program,
            state: Mutex::new(state),
        })
    }

    /// Has it watch a group. Where it has ended, or does not listen, another one takes its place.
    pub(super) fn watch(self: &Arc<Self>, group: Pid) -> io::Result<Watched> {
        let group = group.as_raw_nonzero().get();
        let watched = Watched {
            watchdog: Arc::clone(self),
            group,
        };
        self.add(group)?;
        Ok(watched)
    }

    fn add(&self, group: i32) -> io::Result<()> {
        let mut state = self.state();
        let State { process, groups } = &mut *state;
        groups.insert(group);
        let Err(error) = process.tell(&Group::Watch(group)) else {
            return Ok(());
        };
        tracing::warn!(%error, "the watchdog does not listen; another one takes its place");
        *process = Process::start(&self.program)?;
        groups
            .iter()
            .try_for_each(|group| process.tell(&Group::Watch(*group)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in there is left half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let mut state = self.watchdog.state();
        state.groups.remove(&self.group);
        // Where it does not listen, whoever is to be watched next sees to that.
        let _ = state.process.tell(&Group::Forget(self.group));
    }
}

/// The process. Killed on drop, and reaped: by then it watches nobody, or another one does.
#[derive(Debug)]
struct Process {
    child: Child,
    control: UnixStream,
}

impl Process {
    fn start(program: &File) -> io::Result<Self> {
        let (control, theirs) = UnixStream::pair()?;
        let child = command(program, stage::WATCHDOG)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut process = Self { child, control };
        process.control.set_read_timeout(Some(READY_LIMIT))?;
        if let Err(error) = process.control.read_exact(&mut [0]) {
            return Err(process.complaint().map_or(error, io::Error::other));
        }
        process.child.stderr = None;
        // Whoever has stopped it has not stopped the daemon.
        process.control.set_nonblocking(true)?;
        Ok(process)
    }

    /// What it has said of why it ended, if it has.
    fn complaint(&mut self) -> Option<String> {
        let _ = self.child.kill();
        let mut said = String::new();
        self.child.stderr.take()?.read_to_string(&mut said).ok()?;
        (!said.is_empty()).then(|| said.trim_end().to_owned())
    }

    fn tell(&mut self, group: &Group) -> io::Result<()> {
        self.control.write_all(&wire::encode(group)?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
