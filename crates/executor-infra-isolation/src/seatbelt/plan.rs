//! How the processes of a run come about under Seatbelt: the keeper, who starts the rest.

use std::{io, os::fd::OwnedFd, path::Path, process::Stdio, time::Duration};

use tokio::{
    io::AsyncWriteExt,
    net::UnixStream,
    process::{Child, Command},
    task,
};

use crate::{
    stage::{
        self,
        tree::Tree,
        wire::{self, KeeperSpec},
    },
    supervisor::{Doing, Plan, Processes, Streams, SuperviseError, socket},
};

/// How long a keeper that has reported may take to end.
const END_LIMIT: Duration = Duration::from_secs(1);
/// How long killed processes may take to die, the sweep of a keeper's guests included.
const DEATH_LIMIT: Duration = Duration::from_secs(30);

/// One run under Seatbelt.
pub(super) struct KeeperPlan<'a> {
    /// A program whose `main` calls [`stage::dispatch`] first.
    pub(super) stages: &'a Path,
    pub(super) spec: KeeperSpec,
}

impl Plan for KeeperPlan<'_> {
    type Processes = Keeper;

    async fn start(&mut self, streams: Streams) -> Result<Keeper, SuperviseError> {
        // Not killed on drop: a keeper whose daemon hangs up ends its guest, and then itself.
        Command::new(self.stages)
            .arg(stage::KEEPER)
            .env_clear()
            .stdin(Stdio::from(streams.control))
            .stdout(Stdio::null())
            .stderr(Stdio::from(streams.complaints))
            .spawn()
            .and_then(Keeper::new)
            .doing("start the keeper")
    }

    async fn instruct(
        &mut self,
        control: &mut UnixStream,
        _keeper: &mut Keeper,
        descriptors: Vec<OwnedFd>,
    ) -> io::Result<()> {
        socket::send_descriptors(control, &descriptors).await?;
        drop(descriptors);
        control.write_all(&wire::encode(&self.spec)?).await
    }
}

/// The keeper of a run. Once it has ended of itself, every process of the guest is dead.
pub(super) struct Keeper {
    child: Child,
    /// Its number, and that of the session that it leads.
    pid: i32,
}

impl Keeper {
    fn new(child: Child) -> io::Result<Self> {
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        let pid = pid.ok_or_else(|| io::Error::other("no process id"))?;
        Ok(Self { child, pid })
    }
}

impl Processes for Keeper {
    fn kill(&mut self) {
        // It fails only where there is nobody left.
        let _ = self.child.start_kill();
    }

    async fn bury(&mut self, ends_by_itself: bool) -> Result<(), SuperviseError> {
        if ends_by_itself
            && let Ok(Ok(_)) = tokio::time::timeout(END_LIMIT, self.child.wait()).await
        {
            return Ok(());
        }
        // It has not done its work to the end, so that is done here. Killed and not yet reaped, it keeps the number by
        // which its session is known.
        self.kill();
        let leader = self.pid;
        let sweep = task::spawn_blocking(move || Tree::led_by(leader).sweep());
        let swept = tokio::time::timeout(DEATH_LIMIT, sweep).await;
        let dead = tokio::time::timeout(DEATH_LIMIT, self.child.wait()).await;
        match (swept, dead) {
            (Ok(Ok(Ok(()))), Ok(Ok(_))) => Ok(()),
            _ => Err(SuperviseError::Unkillable),
        }
    }
}
