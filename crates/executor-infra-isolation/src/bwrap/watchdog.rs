//! The watchdog (`stage/watchdog.rs`), as the daemon holds it.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Read},
    mem,
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::{Child, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::{
    net::SendFlags,
    process::{Pid, WaitId, WaitIdOptions},
};

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

    /// Has it watch a group. Where it has ended, or does not listen, another one takes its place. For one caller at a time.
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
        let told = {
            let mut state = self.state();
            state.groups.insert(group);
            state.process.tell(&Group::Watch(group))
        };
        let Err(error) = told else {
            return Ok(());
        };
        tracing::warn!(%error, "the watchdog does not listen; another one takes its place");
        // Not under the lock, which is taken wherever a run ends.
        let mut process = Process::start(&self.program)?;
        let mut state = self.state();
        for group in &state.groups {
            process.tell(&Group::Watch(*group))?;
        }
        let old = mem::replace(&mut state.process, process);
        drop(state);
        drop(old);
        Ok(())
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
        // Where it does not listen it is not up to date from here on, which whoever is to be watched next sees to.
        let _ = state.process.tell(&Group::Forget(self.group));
    }
}

/// The process. Killed on drop, and reaped: by then it watches nobody, or another one does.
#[derive(Debug)]
struct Process {
    child: Child,
    control: UnixStream,
    /// Whether it was told everything. One that was stopped and goes on knows groups that are long gone.
    is_up_to_date: bool,
}

impl Process {
    fn start(program: &File) -> io::Result<Self> {
        let (control, theirs) = UnixStream::pair()?;
        let child = command(program, stage::WATCHDOG)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut process = Self {
            child,
            control,
            is_up_to_date: true,
        };
        process.control.set_read_timeout(Some(READY_LIMIT))?;
        if let Err(error) = process.control.read_exact(&mut [0]) {
            let said = process.complaint().unwrap_or_else(|| error.to_string());
            return Err(io::Error::other(format!(
                "the watchdog is not ready: {said}"
            )));
        }
        process.child.stderr = None;
        Ok(process)
    }

    /// What it has said of why it ended, if it has.
    fn complaint(&mut self) -> Option<String> {
        let _ = self.child.kill();
        let mut said = String::new();
        self.child.stderr.take()?.read_to_string(&mut said).ok()?;
        (!said.is_empty()).then(|| said.trim_end().to_owned())
    }

    /// Tells it something, if it is not stopped. Once this has failed it always does.
    fn tell(&mut self, group: &Group) -> io::Result<()> {
        if !mem::replace(&mut self.is_up_to_date, false) {
            return Err(io::Error::other("it has missed something"));
        }
        let options = WaitIdOptions::EXITED
            | WaitIdOptions::STOPPED
            | WaitIdOptions::NOHANG
            | WaitIdOptions::NOWAIT;
        let child = WaitId::Pid(Pid::from_child(&self.child));
        if rustix::process::waitid(child, options)?.is_some() {
            return Err(io::Error::other("it has ended or is stopped"));
        }
        let frame = wire::encode(group)?;
        // Whoever stops it does not stop the daemon.
        let flags = SendFlags::DONTWAIT | wire::NO_SIGNAL;
        self.is_up_to_date = rustix::net::send(&self.control, &frame, flags)? == frame.len();
        if self.is_up_to_date {
            Ok(())
        } else {
            Err(io::ErrorKind::WriteZero.into())
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
