//! A run ends when its workspace becomes too large.

use std::{future::poll_fn, pin::Pin, task::Poll};

use executor_domain::{Ending, GuestError, LimitHit, Outcome, Reason};
use tokio_util::sync::CancellationToken;

use super::never_ran;
use crate::{Job, Overflow, Sandbox, SandboxError, Workspace};

/// Runs a guest until it ends or its workspace overflows. One whose workspace is too large already is not started.
pub(super) async fn run_within(
    sandbox: &dyn Sandbox,
    workspace: &dyn Workspace,
    job: Job,
    cancelled: CancellationToken,
) -> Result<Outcome, SandboxError> {
    let overflows = workspace.overflows(job.limits.workspace_bytes());
    // A token below the caller's: an overflow ends this run and nothing else.
    let stop = cancelled.child_token();
    let run = sandbox.run(job, stop.clone());
    tokio::pin!(overflows, run);
    // The overflow first: as long as the run has not been polled, it has not begun.
    if let Some(overflow) = at_once(overflows.as_mut()).await {
        return Ok(overflown(never_ran(), overflow));
    }
    let overflow = tokio::select! {
        biased;
        outcome = &mut run => return outcome,
        overflow = &mut overflows => overflow,
    };
    stop.cancel();
    let outcome = run.await?;
    // Whoever cancels it, cancels it: that its workspace was too large as well is no news. And a guest that had ended
    // by then has ended by itself.
    if outcome.ending != Ending::Cancelled || cancelled.is_cancelled() {
        return Ok(outcome);
    }
    Ok(overflown(outcome, overflow))
}

/// What a future has to say at once, if anything.
async fn at_once<T>(mut future: Pin<&mut impl Future<Output = T>>) -> Option<T> {
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(ready) => Poll::Ready(Some(ready)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

fn overflown(mut outcome: Outcome, overflow: Overflow) -> Outcome {
    let message = match overflow {
        Overflow::Bytes { used, allowed } => {
            format!("The workspace takes {used} bytes on the disk, and may take {allowed}")
        }
        Overflow::Files { used, allowed } => {
            format!("The workspace has {used} files and directories, and may have {allowed}")
        }
        Overflow::Depth { allowed } => {
            format!("The workspace has more than {allowed} directories within one another")
        }
        Overflow::Disk { available } => {
            format!("The disk of the workspace is nearly full: {available} bytes are left")
        }
    };
    outcome.ending = Ending::Failed {
        exit_code: NO_EXIT_CODE,
        error: GuestError::new("WorkspaceFull", message, Reason::WorkspaceQuota),
    };
    outcome.limits_hit.push(LimitHit::Workspace);
    outcome
}

/// What stands for the exit code of a process that was killed.
const NO_EXIT_CODE: i32 = -1;
