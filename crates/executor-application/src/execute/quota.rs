//! A run ends when its workspace becomes too large.

use std::{future::poll_fn, pin::Pin, task::Poll};

use executor_domain::{Ending, GuestError, LimitHit, Outcome, Reason};
use tokio_util::sync::CancellationToken;

use super::nothing_known;
use crate::{Job, Overflow, Sandbox, SandboxError, Workspace};

/// Runs a guest until it ends or its workspace overflows. One whose workspace is too large already is not started.
pub(super) async fn run_within(
    sandbox: &dyn Sandbox,
    workspace: &dyn Workspace,
    job: Job,
    cancelled: CancellationToken,
) -> Result<Outcome, SandboxError> {
    let max_bytes = job.limits.workspace_bytes();
    let overflows = async {
        match workspace.overflows(max_bytes).await {
            Some(overflow) => overflow,
            None => std::future::pending().await,
        }
    };
    // A token below the caller's: an overflow ends this run and nothing else.
    let stop = cancelled.child_token();
    let run = sandbox.run(job, stop.clone());
    tokio::pin!(overflows, run);
    // The overflow first: as long as the run has not been polled, it has not begun.
    if let Some(overflow) = at_once(overflows.as_mut()).await {
        return Ok(overflown(nothing_known(Ending::Cancelled), overflow));
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

#[cfg(test)]
mod tests {
    use std::{path::Path, time::Duration};

    use async_trait::async_trait;
    use executor_domain::{
        Artifacts, Event, ExecutionId, GuestEnvironment, Language, LimitPolicy, RequestedLimits,
        SessionId, Source, Status,
    };

    use super::*;
    use crate::{WorkspaceError, fake::FakeSandbox};

    /// Overflows after a while.
    struct Overflowing(Duration);

    #[async_trait]
    impl Workspace for Overflowing {
        fn path(&self) -> &Path {
            Path::new("/nonexistent")
        }

        async fn changes(&self) -> Result<Artifacts, WorkspaceError> {
            Ok(Artifacts::default())
        }

        async fn overflows(&self, max_bytes: u64) -> Option<Overflow> {
            if !self.0.is_zero() {
                tokio::time::sleep(self.0).await;
            }
            Some(Overflow::Bytes {
                used: max_bytes + 1,
                allowed: max_bytes,
            })
        }
    }

    fn job(code: &str) -> Job {
        Job {
            execution_id: ExecutionId::parse("e").unwrap(),
            session_id: SessionId::parse("s").unwrap(),
            source: Source::parse(Language::Python, None, code).unwrap(),
            event: Event::default(),
            environment: GuestEnvironment::default(),
            stdin: None,
            limits: LimitPolicy::default()
                .grant(&RequestedLimits::default())
                .unwrap(),
            workspace: "/nonexistent".into(),
            listener: crate::Listener::none(),
        }
    }

    async fn run(code: &str, after: u64, cancel: CancellationToken) -> (Outcome, usize) {
        let sandbox = FakeSandbox::default();
        let workspace = Overflowing(Duration::from_millis(after));
        let outcome = run_within(&sandbox, &workspace, job(code), cancel)
            .await
            .unwrap();
        assert_eq!(sandbox.running(), 0);
        (outcome, sandbox.started())
    }

    fn reason(outcome: &Outcome) -> Option<Reason> {
        outcome.ending.error().map(|error| error.reason)
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_whose_workspace_overflows_is_ended_and_says_so() {
        let (outcome, _) = run("echo a\nsleep 1000", 10, CancellationToken::new()).await;
        assert_eq!(reason(&outcome), Some(Reason::WorkspaceQuota));
        assert_eq!(outcome.limits_hit, [LimitHit::Workspace]);
        assert_eq!(outcome.ending.exit_code(), -1);
        assert!(
            outcome
                .ending
                .error()
                .unwrap()
                .message
                .contains("1073741824"),
            "{outcome:?}"
        );
        let mut execution = executor_domain::Execution::accept(
            ExecutionId::parse("e").unwrap(),
            SessionId::parse("s").unwrap(),
            executor_domain::Timestamp::from_unix_micros(0),
        );
        let now = executor_domain::Timestamp::from_unix_micros(0);
        execution.start(now).unwrap();
        execution
            .finish(now, outcome, Artifacts::default())
            .unwrap();
        assert_eq!(execution.status(), Status::Failed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_in_an_overfull_workspace_is_not_started() {
        let (outcome, started) = run("return 1", 0, CancellationToken::new()).await;
        assert_eq!(started, 0);
        assert_eq!(reason(&outcome), Some(Reason::WorkspaceQuota));
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_that_ends_before_its_workspace_overflows_has_ended_well() {
        let (outcome, _) = run("sleep 9\nreturn 1", 10, CancellationToken::new()).await;
        assert_eq!(reason(&outcome), None);
        assert!(outcome.limits_hit.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_run_is_cancelled() {
        let cancel = CancellationToken::new();
        let later = cancel.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(5)).await;
            later.cancel();
        });
        let (outcome, _) = run("sleep 1000", 10, cancel.clone()).await;
        assert_eq!(reason(&outcome), Some(Reason::Cancelled));
        assert!(cancel.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn an_overflow_cancels_nothing_beyond_its_run() {
        let cancel = CancellationToken::new();
        run("sleep 1000", 10, cancel.clone()).await;
        assert!(!cancel.is_cancelled());
    }
}
