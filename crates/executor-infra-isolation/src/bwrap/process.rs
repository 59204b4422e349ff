//! The processes of one run, as the daemon holds them: bubblewrap by its parenthood, the init by a descriptor.

use std::{io, os::fd::OwnedFd, time::Duration};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    process::{Pid, PidfdFlags, Signal},
};
use tokio::io::{Interest, unix::AsyncFd};

use super::spawner::Started;
use crate::supervisor::{Processes, SuperviseError};

/// How long the sandbox may take to come down by itself once the guest is dead.
const COME_DOWN_LIMIT: Duration = Duration::from_secs(1);
/// How long killed processes may take to die. Only one that hangs in the kernel takes longer than a moment.
const DEATH_LIMIT: Duration = Duration::from_secs(30);

/// The processes of one run. Killed on drop, and reaped.
pub(crate) struct BwrapProcesses {
    /// The launcher, which becomes bubblewrap. A slot has none: its parent is a zygote, which the kernel reaps for.
    outer: Option<Outer>,
    /// The init: pid 1 of the sandbox. The kernel kills every process in there before it lets it go, so that its end is
    /// everybody's (`pid_namespaces(7)`).
    init_handle: Option<AsyncFd<OwnedFd>>,
}

/// A child of the daemon.
struct Outer {
    started: Started,
    handle: AsyncFd<OwnedFd>,
}

impl BwrapProcesses {
    pub(super) fn new(started: Started) -> io::Result<Self> {
        let handle = handle(started.pid())?;
        Ok(Self {
            outer: Some(Outer { started, handle }),
            init_handle: None,
        })
    }

    /// The processes of a slot, of whose init this is the handle.
    pub(crate) fn of_slot(init: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            outer: None,
            init_handle: Some(watch(init)?),
        })
    }

    /// Whether the init has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.init_handle.as_ref().is_some_and(|init| {
            let mut source = [PollFd::new(init.get_ref(), PollFlags::IN)];
            let at_once = Timespec::default();
            matches!(rustix::event::poll(&mut source, Some(&at_once)), Ok(1..))
        })
    }

    /// Holds on to the init. It must be alive: it waits for its order.
    pub(super) fn watch_init(&mut self, pid: i32) -> io::Result<()> {
        let pid = Pid::from_raw(pid).ok_or_else(|| io::Error::other("no such process"))?;
        self.init_handle = Some(handle(pid)?);
        Ok(())
    }

    /// Cancel safe.
    async fn dead(&mut self) {
        // A handle becomes readable when its process ends (pidfd_open(2)).
        if let Some(init) = &self.init_handle {
            let _ = init.readable().await;
        }
        if let Some(outer) = &mut self.outer {
            let _ = outer.handle.readable().await;
            outer.started.reap();
        }
    }
}

impl Processes for BwrapProcesses {
    /// The init by its descriptor, which cannot mean another process; the rest by their process group, which
    /// bubblewrap's child leaves only once it is tied to bubblewrap's life.
    fn kill(&mut self) {
        if let Some(init) = &self.init_handle {
            // Both fail only where there is nobody left.
            let _ = rustix::process::pidfd_send_signal(init, Signal::KILL);
        }
        if let Some(outer) = &self.outer {
            outer.started.kill();
        }
    }

    async fn bury(&mut self, ends_by_itself: bool) -> Result<(), SuperviseError> {
        if ends_by_itself
            && tokio::time::timeout(COME_DOWN_LIMIT, self.dead())
                .await
                .is_ok()
        {
            return Ok(());
        }
        self.kill();
        tokio::time::timeout(DEATH_LIMIT, self.dead())
            .await
            .map_err(|_| SuperviseError::Unkillable)
    }
}

impl Drop for BwrapProcesses {
    fn drop(&mut self) {
        self.kill();
    }
}

fn handle(pid: Pid) -> io::Result<AsyncFd<OwnedFd>> {
    watch(rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK)?)
}

#[expect(
    deprecated,
    reason = "unsound for types that lie about their descriptor; its successor is unsafe, and an OwnedFd does not lie"
)]
fn watch(handle: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(handle, Interest::READABLE)
}
