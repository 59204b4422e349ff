//! How the processes of a sandbox come about under bubblewrap: launcher, bubblewrap, init.

use std::{io, os::fd::OwnedFd, process};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixStream, unix::pipe},
};

use super::{process::BwrapProcesses, spawner::Spawner};
use crate::{
    stage::{
        self,
        wire::{self, InitSpec, LaunchSpec},
    },
    supervisor::{self, Doing, Plan, Streams, SuperviseError, socket},
};

/// Most that bubblewrap says of what it has made.
const MAX_INFO: u64 = 8 << 10;

/// A sandbox to build with bubblewrap.
pub(super) struct BwrapPlan<'a> {
    pub(super) spawner: &'a Spawner,
    pub(super) launch: LaunchSpec,
    pub(super) init: InitSpec,
    /// Where bubblewrap says what it has made, once it is started.
    pub(super) info: Option<pipe::Receiver>,
}

impl Plan for BwrapPlan<'_> {
    type Processes = BwrapProcesses;

    fn pipe_owner(&self) -> Option<(u32, u32)> {
        self.launch.run_as
    }

    async fn start(&mut self, streams: Streams) -> Result<BwrapProcesses, SuperviseError> {
        let (info, their_info) = supervisor::pipe().doing("make the pipes and sockets of a run")?;
        self.info = Some(info);
        let launcher = self
            .spawner
            .spawn(stage::LAUNCHER, streams, their_info)
            .await;
        BwrapProcesses::new(launcher.doing("start the launcher")?).doing("watch the launcher")
    }

    async fn instruct(
        &mut self,
        control: &mut UnixStream,
        processes: &mut BwrapProcesses,
        descriptors: Vec<OwnedFd>,
    ) -> io::Result<()> {
        self.launch.parent = process::id();
        let launch = wire::encode(&self.launch)?;
        let init = wire::encode(&self.init)?;
        control.write_all(&launch).await?;
        let info = self.info.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let pid = pid_of_init(info).await?;
        processes.watch_init(pid)?;
        // Only now does the init get an order, so it cannot have ended before it was being watched.
        socket::send_descriptors(control, &descriptors).await?;
        drop(descriptors);
        control.write_all(&init).await
    }
}

/// Reads from bubblewrap which process the init is.
async fn pid_of_init(info: pipe::Receiver) -> io::Result<i32> {
    #[derive(serde::Deserialize)]
    struct Info {
        #[serde(rename = "child-pid")]
        child_pid: i32,
    }
    let mut text = Vec::new();
    let mut info = info.take(MAX_INFO);
    while !text.ends_with(b"}") && !text.ends_with(b"}\n") {
        if info.read_buf(&mut text).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(serde_json::from_slice::<Info>(&text)?.child_pid)
}
