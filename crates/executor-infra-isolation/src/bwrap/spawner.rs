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

use rustix::fs::{MemfdFlags, SealFlags};
use tokio::sync::oneshot;

use super::watchdog::{Watchdog, Watched};
use crate::supervisor::Streams;

/// A stage that was started. It waits for its orders.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) child: Child,
    /// Its process group, as long as there can be anybody in it.
    pub(super) watched: Watched,
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
                    let started =
                        start(&program, &watchdog, order.stage, order.streams, order.info);
                    if let Err(Ok(orphan)) = order.reply.send(started) {
                        // Whoever ordered it has gone.
                        stop(orphan.child);
                    }
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
    match group_of(&child).and_then(|leader| watchdog.watch(leader)) {
        Ok(watched) => Ok(Started { child, watched }),
        Err(error) => {
            stop(child);
            Err(error)
        }
    }
}

/// Ends a stage that has not been told what to do yet, so that it has no children.
pub(super) fn stop(mut child: Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// The number of the process group that a child of ours leads.
pub(super) fn group_of(child: &Child) -> io::Result<i32> {
    i32::try_from(child.id()).map_err(io::Error::other)
}

/// A stage that is to be started from this program, in a process group of its own: what a launcher starts can be killed by the
/// group until the sandbox has a pid of its own, and a Ctrl-C at a terminal is for the daemon alone.
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
