//! The watchdog (`stage/watchdog.rs`), as the daemon holds it.

use std::{
    fs::File,
    io::{self, Write},
    os::unix::net::UnixStream,
    process::{Child, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::spawner::command;
use crate::stage::{
    self,
    wire::{self, Group},
};

/// Sees to it that nothing half built outlives a daemon that is killed.
#[derive(Debug)]
pub(super) struct Watchdog {
    /// What it runs.
    program: Arc<File>,
    process: Mutex<Process>,
}

/// A process group that the watchdog kills where the daemon dies before this is dropped.
#[derive(Debug)]
pub(super) struct Watched {
    watchdog: Arc<Watchdog>,
    leader: i32,
}

impl Watchdog {
    /// Starts one from this program.
    pub(super) fn start(program: Arc<File>) -> io::Result<Self> {
        let process = Mutex::new(Process::start(&program)?);
        Ok(Self { program, process })
    }

    /// Has it watch a group, from its leader's start on. Where somebody has killed it, another one takes its place.
    pub(super) fn watch(self: &Arc<Self>, leader: i32) -> io::Result<Watched> {
        let mut process = self.process();
        let group = Group::Building(leader);
        if let Err(error) = process.tell(&group) {
            tracing::warn!(%error, "the watchdog is gone; another one is started");
            *process = Process::start(&self.program)?;
            process.tell(&group)?;
        }
        Ok(Watched {
            watchdog: Arc::clone(self),
            leader,
        })
    }

    fn process(&self) -> MutexGuard<'_, Process> {
        // Nothing in there is left half done.
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // One that is gone has forgotten the group.
        let _ = self.watchdog.process().tell(&Group::Settled(self.leader));
    }
}

/// The process. Ends with its socket, and is reaped.
#[derive(Debug)]
struct Process {
    child: Child,
    /// `None`: closed.
    control: Option<UnixStream>,
}

impl Process {
    fn start(program: &File) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let child = command(program, stage::WATCHDOG)
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self {
            child,
            control: Some(ours),
        })
    }

    /// Does not wait: there is room for thousands of groups.
    fn tell(&mut self, group: &Group) -> io::Result<()> {
        let frame = wire::encode(group)?;
        match &mut self.control {
            Some(control) => control.write_all(&frame),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.control = None;
        // It ends at once.
        let _ = self.child.wait();
    }
}
