//! Starts launchers, from one thread that lives as long as the sandbox.

use std::{
    fs::File,
    io::{self, Seek, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, mpsc},
    thread,
};

use rustix::{
    fs::{MemfdFlags, SealFlags},
    process::{Pid, Signal},
};
use tokio::sync::oneshot;

use super::watchdog::{Watchdog, Watched};
use crate::supervisor::Streams;

/// A stage that was started, in a process group of its own. On drop the group is killed, and the stage reaped.
#[derive(Debug)]
pub(super) struct Started {
    child: Child,
    /// Let go before the child is reaped: its number, and its group's, is its own until then.
    watched: Option<Watched>,
    is_reaped: bool,
}

impl Started {
    /// Its number, which is its group's as well.
    pub(super) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Kills its group, unless it is reaped: then nobody is left.
    pub(super) fn kill(&self) {
        if !self.is_reaped {
            // Fails only where nobody is left.
            let _ = rustix::process::kill_process_group(self.pid(), Signal::KILL);
        }
    }

    /// Reaps it once it has ended.
    pub(super) fn reap(&mut self) {
        self.watched = None;
        self.is_reaped = matches!(self.child.try_wait(), Ok(Some(_)));
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if self.is_reaped {
            return;
        }
        self.kill();
        self.watched = None;
        // Dead in a moment: neither a stage nor bubblewrap hangs in the kernel.
        let _ = self.child.wait();
    }
}

/// One launcher to start, and where to say how that went.
struct Order {
    stage: &'static str,
    streams: Streams,
    /// Its standard output, where bubblewrap says what it has made.
    info: OwnedFd,
    reply: oneshot::Sender<io::Result<Started>>,
}

/// Starts launchers.
///
/// From a thread of its own, for two reasons. A launcher dies with the *thread* that started it (prctl(2),
/// `PR_SET_PDEATHSIG`), so that thread must not be one of tokio's, which come and go. And starting a process blocks.
#[derive(Debug)]
pub(super) struct Spawner {
    orders: mpsc::Sender<Order>,
}

impl Spawner {
    /// A spawner of this program. The program is copied into sealed memory first: what runs is what was there at the
    /// start, whether or not the file is replaced meanwhile; users who cannot reach the file can run it; and no guest
    /// can write to it through `/proc` (as in CVE-2019-5736).
    pub(super) fn new(program: &Path) -> io::Result<Self> {
        let program = Arc::new(sealed_copy(program)?);
        let watchdog = Arc::new(Watchdog::start(Arc::clone(&program))?);
        let (orders, inbox) = mpsc::channel::<Order>();
        thread::Builder::new()
            .name("spawner".into())
            .spawn(move || {
                while let Ok(order) = inbox.recv() {
                    let Order {
                        stage,
                        streams,
                        info,
                        reply,
                    } = order;
                    // Dropped where whoever ordered it has gone.
                    let _ = reply.send(start(&program, &watchdog, stage, streams, info));
                }
            })?;
        Ok(Self { orders })
    }

    /// Starts a stage, mostly a launcher.
    pub(super) async fn spawn(
        &self,
        stage: &'static str,
        streams: Streams,
        info: OwnedFd,
    ) -> io::Result<Started> {
        let gone = || io::Error::other("the spawner thread is gone");
        let (reply, answer) = oneshot::channel();
        self.orders
            .send(Order {
                stage,
                streams,
                info,
                reply,
            })
            .map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

fn start(
    program: &File,
    watchdog: &Arc<Watchdog>,
    stage: &str,
    streams: Streams,
    info: OwnedFd,
) -> io::Result<Started> {
    let child = command(program, stage)
        .stdin(Stdio::from(streams.control))
        .stdout(Stdio::from(info))
        .stderr(Stdio::from(streams.complaints))
        .spawn()?;
    let mut started = Started {
        child,
        watched: None,
        is_reaped: false,
    };
    started.watched = Some(watchdog.watch(started.pid())?);
    Ok(started)
}

/// How to start a stage of this program. In a process group of its own: what a launcher starts can be killed by the group
/// until the sandbox has a pid of its own, and a Ctrl-C at a terminal is for the daemon alone.
pub(super) fn command(program: &File, stage: &str) -> Command {
    let mut command = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
    command.arg(stage).env_clear().process_group(0);
    command
}

/// A program or library in sealed memory, which nobody can write to.
pub(crate) fn sealed_copy(program: &Path) -> io::Result<File> {
    let mut source = File::open(program)?;
    let sealable = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Since Linux 6.3 memory must be asked for as executable where the administrator says so (vm.memfd_noexec).
    let copy = rustix::fs::memfd_create("sandbox-executor", sealable | MemfdFlags::EXEC)
        .or_else(|_| rustix::fs::memfd_create("sandbox-executor", sealable))?;
    let mut copy = File::from(copy);
    io::copy(&mut source, &mut copy)?;
    copy.flush()?;
    copy.rewind()?;
    rustix::fs::fcntl_add_seals(
        &copy,
        SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL,
    )?;
    Ok(copy)
}
