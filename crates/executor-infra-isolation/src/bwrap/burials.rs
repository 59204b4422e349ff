//! What is left of a sandbox when its guest is dead: stages of ours on their way out, and an empty cgroup.
//!
//! Taking a slot's namespaces and mounts apart takes the kernel as long as many a run takes, and nobody has to wait for it: no
//! process of the guest's is left, and its init does nothing any more but end.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::process::BwrapProcesses;
use crate::{cgroup::RunCgroup, supervisor::Processes, warm::slot::Lease};

/// Most sandboxes that come down by themselves. Whoever comes then waits for its own, so that runs never end faster than what
/// they leave behind.
const MOST: usize = 64;

/// Sees sandboxes down.
#[derive(Debug)]
pub(super) struct Burials(Arc<Semaphore>);

/// A sandbox whose guest is dead.
pub(super) struct Remains {
    pub(super) processes: BwrapProcesses,
    pub(super) cgroup: Option<RunCgroup>,
    /// Where it was a slot.
    pub(super) _lease: Option<Lease>,
}

impl Burials {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(MOST)))
    }

    /// Sees a sandbox down: in a task of its own, unless there are too many. Must be called inside a tokio runtime; what is not
    /// down when that ends is killed.
    pub(super) async fn take(&self, remains: Remains) {
        match Arc::clone(&self.0).try_acquire_owned() {
            Ok(permit) => {
                tokio::spawn(async move {
                    remains.bury().await;
                    drop(permit);
                });
            }
            Err(_) => remains.bury().await,
        }
    }
}

impl Remains {
    /// Waits until nothing is left.
    pub(super) async fn bury(mut self) {
        if let Err(error) = self.processes.bury(true).await {
            tracing::error!(
                error = executor_application::chain(&error),
                "a sandbox does not come down"
            );
        }
        let Some(mut cgroup) = self.cgroup else {
            return;
        };
        if !cgroup.try_remove() {
            // Somebody is still on the way out. That takes a moment, in which no worker of the runtime is to stand still.
            let removed = tokio::task::spawn_blocking(move || cgroup.remove()).await;
            if let Ok(Err(error)) = removed {
                tracing::warn!(
                    error = executor_application::chain(&error),
                    "a run's cgroup stays behind"
                );
            }
        }
    }
}
