use std::collections::BTreeMap;

use executor_domain::{Artifact, Language, LimitCeilings, State, Status};

use super::*;
use crate::{
    MockWorkspace, MockWorkspaces,
    fake::{FakeSandbox, NoWorkspaces, StoppedClock},
};

fn command(id: &str, code: &str) -> ExecuteCommand {
    ExecuteCommand {
        execution_id: ExecutionId::parse(id).unwrap(),
        session_id: SessionId::parse("session").unwrap(),
        source: Source::parse(Language::Python, None, code).unwrap(),
        event: Event::default(),
        environment: GuestEnvironment::default(),
        stdin: None,
        limits: RequestedLimits::default(),
    }
}

fn executor(options: Options) -> (ExecuteCode, Arc<FakeSandbox>) {
    let sandbox = Arc::new(FakeSandbox::default());
    let executor = ExecuteCode::new(
        Arc::clone(&sandbox) as Arc<dyn Sandbox>,
        Arc::new(NoWorkspaces),
        Arc::new(StoppedClock),
        options,
    );
    (executor, sandbox)
}

fn capacity(running: usize, queued: usize) -> Options {
    Options {
        capacity: Capacity {
            running,
            queued,
            ..Capacity::default()
        },
        ..Options::default()
    }
}

/// Polls until something is true. The tests run on one thread with paused time, so that yielding lets every other task
/// run as far as it can.
async fn until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_guest_that_returns_completes() {
    let (executor, _) = executor(Options::default());
    let execution = executor
        .execute(command("e", "echo hi\nreturn {\"a\":1}"))
        .await
        .unwrap();
    assert_eq!(execution.status(), Status::Completed);
    let outcome = execution.outcome().unwrap();
    assert_eq!(outcome.stdout.bytes, b"hi\n");
    assert!(
        matches!(&outcome.ending, Ending::Completed { return_value } if return_value.as_str() == "{\"a\":1}")
    );
    assert_eq!(executor.active(), 0);
}

#[tokio::test]
async fn a_guests_misfortune_is_a_value() {
    let (executor, _) = executor(Options::default());
    for (id, code, status) in [
        ("exit", "exit 3", Status::Failed),
        ("kill", "kill 11", Status::Crashed),
        ("hog", "hog", Status::Crashed),
        ("syntax", "gibberish", Status::Failed),
    ] {
        let execution = executor.execute(command(id, code)).await.unwrap();
        assert_eq!(execution.status(), status, "{id}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_granted_wall_time_reaches_the_sandbox() {
    let (executor, _) = executor(Options::default());
    let mut slow = command("e", "sleep 60000");
    slow.limits.timeout = Some(3);
    let execution = executor.execute(slow).await.unwrap();
    assert_eq!(execution.status(), Status::Timeout);
}

#[tokio::test]
async fn wishes_above_the_ceiling_never_reach_the_sandbox() {
    let (executor, sandbox) = executor(Options {
        policy: LimitPolicy::new(LimitCeilings {
            max_memory_mb: 64,
            ..LimitCeilings::default()
        })
        .unwrap(),
        ..Options::default()
    });
    let mut greedy = command("e", "return 1");
    greedy.limits.max_memory_mb = Some(65);
    assert!(matches!(
        executor.execute(greedy).await,
        Err(ExecuteError::Limits(refused)) if refused.len() == 1
    ));
    assert_eq!(sandbox.started(), 0);
}

#[tokio::test]
async fn the_same_request_twice_runs_once() {
    let (executor, sandbox) = executor(Options::default());
    let first = executor.execute(command("e", "return 1")).await.unwrap();
    let second = executor.execute(command("e", "return 1")).await.unwrap();
    assert_eq!(first, second);
    assert_eq!(sandbox.started(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_same_request_joins_the_one_that_runs() {
    let (executor, sandbox) = executor(Options::default());
    let first = executor
        .submit(command("e", "sleep 1000\nreturn 1"))
        .unwrap();
    until(|| sandbox.running() == 1).await;
    let second = executor
        .submit(command("e", "sleep 1000\nreturn 1"))
        .unwrap();
    let (first, second) = tokio::join!(first.finished(), second.finished());
    assert_eq!(first.unwrap(), second.unwrap());
    assert_eq!(sandbox.started(), 1);
}

#[tokio::test]
async fn another_request_under_the_same_id_is_refused() {
    let (executor, sandbox) = executor(Options::default());
    executor.execute(command("e", "return 1")).await.unwrap();
    let mut variants = vec![command("e", "return 2")];
    let mut other = command("e", "return 1");
    other.session_id = SessionId::parse("other").unwrap();
    variants.push(other);
    let mut other = command("e", "return 1");
    other.stdin = Some(String::new());
    variants.push(other);
    let mut other = command("e", "return 1");
    other.limits.timeout = Some(1);
    variants.push(other);
    let mut other = command("e", "return 1");
    let variables = BTreeMap::from([("A".to_owned(), "1".to_owned())]);
    other.environment = GuestEnvironment::parse(variables).unwrap();
    variants.push(other);
    for variant in variants {
        assert!(
            matches!(
                executor.execute(variant.clone()).await,
                Err(ExecuteError::Conflict)
            ),
            "{variant:?}"
        );
    }
    assert_eq!(sandbox.started(), 1);
}

#[tokio::test(start_paused = true)]
async fn runs_up_to_capacity_queues_and_sends_the_rest_away() {
    let (executor, sandbox) = executor(capacity(2, 1));
    let running: Vec<_> = ["a", "b", "c"]
        .map(|id| executor.submit(command(id, "sleep 1000")).unwrap())
        .into();
    until(|| sandbox.running() == 2).await;
    assert_eq!(executor.active(), 2);
    assert!(matches!(
        executor.submit(command("d", "sleep 1000")),
        Err(ExecuteError::Busy { retry_after }) if retry_after >= Duration::from_secs(1)
    ));
    // Joining a run that is known takes no place.
    assert!(executor.submit(command("a", "sleep 1000")).is_ok());

    for submission in running {
        assert_eq!(
            submission.finished().await.unwrap().status(),
            Status::Completed
        );
    }
    assert!(executor.execute(command("d", "return 1")).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_run_is_cancelled_and_forgotten() {
    let (executor, sandbox) = executor(Options {
        cancel_abandoned: true,
        ..Options::default()
    });
    let one = executor.submit(command("e", "sleep 100000")).unwrap();
    let two = executor.submit(command("e", "sleep 100000")).unwrap();
    until(|| sandbox.running() == 1).await;
    drop(one);
    tokio::task::yield_now().await;
    assert_eq!(sandbox.running(), 1, "somebody still waits");
    drop(two);
    until(|| sandbox.running() == 0).await;

    let again = executor.submit(command("e", "sleep 100000")).unwrap();
    until(|| sandbox.started() == 2).await;
    drop(again);
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_run_goes_on_where_that_is_asked_for() {
    let (executor, sandbox) = executor(Options::default());
    drop(
        executor
            .submit(command("e", "sleep 1000\nreturn 1"))
            .unwrap(),
    );
    let execution = executor
        .execute(command("e", "sleep 1000\nreturn 1"))
        .await
        .unwrap();
    assert_eq!(execution.status(), Status::Completed);
    assert_eq!(sandbox.started(), 1);
}

#[tokio::test(start_paused = true)]
async fn draining_waits_cancels_and_admits_nobody() {
    let (executor, sandbox) = executor(capacity(1, 10));
    let quick = executor
        .submit(command("quick", "sleep 1000\nreturn 1"))
        .unwrap();
    let slow = executor.submit(command("slow", "sleep 100000")).unwrap();
    let queued = executor.submit(command("queued", "return 1")).unwrap();
    until(|| sandbox.running() == 1).await;

    let (quick, slow, queued, ()) = tokio::join!(
        quick.finished(),
        slow.finished(),
        queued.finished(),
        executor.drain(Duration::from_secs(5))
    );
    assert_eq!(quick.unwrap().status(), Status::Completed);
    assert_eq!(slow.unwrap().status(), Status::Cancelled);
    let queued = queued.unwrap();
    assert_eq!(queued.status(), Status::Cancelled);
    assert!(matches!(
        queued.state(),
        State::Finished {
            started_at: None,
            ..
        }
    ));
    assert_eq!(sandbox.running(), 0);
    assert!(executor.is_draining());
    assert!(matches!(
        executor.submit(command("late", "return 1")),
        Err(ExecuteError::Draining)
    ));
}

#[tokio::test]
async fn an_executor_that_is_bound_to_a_session_serves_no_other() {
    let bound = SessionId::parse("mine").unwrap();
    let (executor, sandbox) = executor(Options {
        only_session: Some(bound.clone()),
        ..Options::default()
    });
    assert!(matches!(
        executor.execute(command("e", "return 1")).await,
        Err(ExecuteError::OtherSession { bound: named }) if named == bound
    ));
    assert_eq!(sandbox.started(), 0);
    let mine = ExecuteCommand {
        session_id: bound,
        ..command("e", "return 1")
    };
    assert!(executor.execute(mine).await.is_ok());
}

#[tokio::test]
async fn our_own_failure_is_an_error_and_leaves_the_id_free() {
    let mut broken = crate::MockSandbox::new();
    let description = FakeSandbox::default().description().clone();
    broken.expect_description().return_const(description);
    broken.expect_run().times(2).returning(|_, _| {
        Err(SandboxError::Failed {
            step: "start bubblewrap",
            source: "no such file".into(),
        })
    });
    let executor = ExecuteCode::new(
        Arc::new(broken),
        Arc::new(NoWorkspaces),
        Arc::new(StoppedClock),
        Options::default(),
    );
    for _ in 0..2 {
        assert!(matches!(
            executor.execute(command("e", "return 1")).await,
            Err(ExecuteError::Failed(failure)) if matches!(*failure, RunFailure::Sandbox(_))
        ));
    }
}

#[tokio::test]
async fn a_language_that_is_not_there_is_refused_by_name() {
    let mut bare = crate::MockSandbox::new();
    let mut description = FakeSandbox::default().description().clone();
    description
        .languages
        .retain(|l| l.language != Language::Python);
    bare.expect_description().return_const(description);
    let executor = ExecuteCode::new(
        Arc::new(bare),
        Arc::new(NoWorkspaces),
        Arc::new(StoppedClock),
        Options::default(),
    );
    assert!(matches!(
        executor.execute(command("e", "return 1")).await,
        Err(ExecuteError::LanguageUnavailable(Language::Python))
    ));
}

#[tokio::test]
async fn the_workspace_is_opened_before_the_run_and_scanned_after_it() {
    let file = Artifact {
        path: "out.txt".into(),
        size: 3,
        mime_type: "text/plain".into(),
        created_at: StoppedClock.now(),
        checksum: format!("sha256:{}", "0".repeat(64)),
    };
    let found = Artifacts {
        files: vec![file],
        skipped: Vec::new(),
    };
    let mut workspaces = MockWorkspaces::new();
    let expected = found.clone();
    workspaces.expect_open().times(1).returning(move |_| {
        let mut workspace = MockWorkspace::new();
        let found = found.clone();
        workspace.expect_path().return_const("/somewhere".into());
        workspace
            .expect_changes()
            .times(1)
            .return_once(move || Ok(found));
        workspace.expect_overflows().return_const(None);
        Ok(Box::new(workspace))
    });
    let executor = ExecuteCode::new(
        Arc::new(FakeSandbox::default()),
        Arc::new(workspaces),
        Arc::new(StoppedClock),
        Options::default(),
    );
    let execution = executor.execute(command("e", "return 1")).await.unwrap();
    assert!(
        matches!(execution.state(), State::Finished { artifacts, .. } if **artifacts == expected)
    );
}

#[tokio::test(start_paused = true)]
async fn stopping_a_session_stops_its_runs_and_no_others() {
    let (executor, sandbox) = executor(capacity(2, 2));
    let mut other = command("other", "sleep 50\nreturn 1");
    other.session_id = SessionId::parse("other").unwrap();
    let other = executor.submit(other).unwrap();
    let running = executor.submit(command("running", "sleep 100000")).unwrap();
    let waiting = executor.submit(command("waiting", "sleep 100000")).unwrap();
    until(|| sandbox.running() == 2).await;

    executor
        .stop_session(&SessionId::parse("session").unwrap())
        .await;
    for stopped in [running, waiting] {
        let ended = stopped.finished().await.unwrap();
        assert_eq!(ended.status(), Status::Cancelled);
    }
    let ended = other.finished().await.unwrap();
    assert_eq!(ended.status(), Status::Completed);
    // Whoever has nothing to stop waits for nothing.
    executor
        .stop_session(&SessionId::parse("nobody").unwrap())
        .await;
}
