//! A slot: a sandbox that was made ahead of its job, for one job.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use executor_domain::ResourceLimit;
use executor_guest::protocol::{self, JobSpec};
use tokio::{
    net::{UnixStream, unix::pipe},
    sync::Notify,
};

use super::zygote::Zygote;
use crate::{
    bwrap::process::BwrapProcesses,
    cgroup::RunCgroup,
    supervisor::{Guest, Sandbox, socket::send_with},
};

/// A guest between all walls that waits for its job. Dies when it is dropped.
pub(crate) struct Slot {
    pub(super) sandbox: Sandbox<BwrapProcesses>,
    pub(super) stdout: pipe::Receiver,
    pub(super) stderr: pipe::Receiver,
    pub(super) channel: UnixStream,
    /// Its cgroup, with the limits below.
    pub(crate) cgroup: Option<RunCgroup>,
    /// What it may use as it is.
    pub(crate) limits: ResourceLimit,
    /// Its parent, which must live as long: slots die with it.
    pub(super) zygote: Arc<Zygote>,
    /// Has it replaced when the run is over, where that can wait.
    pub(super) replacement: Option<Replacement>,
}

/// What has to outlive the guest of a slot.
pub(crate) struct Lease {
    _zygote: Arc<Zygote>,
    _replacement: Option<Replacement>,
}

/// When dropped, the pool looks whether it has enough slots.
///
/// Making one takes as much processor time as a short run or more, so a pool that has others leaves the processors to the
/// run that took one.
pub(crate) struct Replacement(pub(super) Arc<Notify>);

impl Drop for Replacement {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

/// What lets a slot go.
pub(crate) struct Release {
    /// What its init is told.
    pub job: JobSpec,
    /// The session's directory, as a mount without a place.
    pub workspace: Option<OwnedFd>,
    /// Standard input; `None`: empty.
    pub stdin: Option<OwnedFd>,
}

impl Slot {
    /// Whether it is still there.
    pub(crate) fn is_alive(&self) -> bool {
        !self.sandbox.processes.has_ended()
    }

    /// Hands it its job, but for what the guest itself is told on its channel. The lease is to be held until the guest is
    /// dead.
    pub(crate) async fn release(
        self,
        release: Release,
    ) -> io::Result<(Guest<BwrapProcesses>, Lease)> {
        let frame = protocol::encode(&release.job)?;
        let descriptors: Vec<_> = [&release.workspace, &release.stdin]
            .into_iter()
            .flatten()
            .map(AsFd::as_fd)
            .collect();
        send_with(&self.sandbox.control, &frame, &descriptors).await?;
        let guest = Guest {
            sandbox: self.sandbox,
            inspection: None,
            stdout: self.stdout,
            stderr: self.stderr,
            channel: Some(self.channel),
        };
        let lease = Lease {
            _zygote: self.zygote,
            _replacement: self.replacement,
        };
        Ok((guest, lease))
    }
}
