mod events;

use std::collections::BTreeMap;

use executor_domain::{
    Artifact, Event, GuestEnvironment, Language, LimitCeilings, Reason, RequestedLimits, Source,
    State, Status,
};

use super::*;
use crate::{
    Cursor, Fingerprint, MockExecutionStore, MockWorkspace, MockWorkspaces,
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
        trace_parent: None,
    }
}

fn id(name: &str) -> ExecutionId {
    ExecutionId::parse(name).unwrap()
}

fn reason(execution: &Execution) -> Option<Reason> {
    let outcome = execution.outcome()?;
    outcome.ending.error().map(|error| error.reason)
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
        .await
        .unwrap();
    until(|| sandbox.running() == 1).await;
    let second = executor
        .submit(command("e", "sleep 1000\nreturn 1"))
        .await
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
    let mut running = Vec::new();
    for id in ["a", "b", "c"] {
        let submission = executor.submit(command(id, "sleep 1000")).await;
        running.push(submission.unwrap());
    }
    until(|| sandbox.running() == 2).await;
    assert_eq!(executor.active(), 2);
    assert!(matches!(
        executor.submit(command("d", "sleep 1000")).await,
        Err(ExecuteError::Busy { retry_after }) if retry_after >= Duration::from_secs(1)
    ));
    // Joining a run that is known takes no place.
    assert!(executor.submit(command("a", "sleep 1000")).await.is_ok());

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
    let one = executor.submit(command("e", "sleep 100000")).await.unwrap();
    let two = executor.submit(command("e", "sleep 100000")).await.unwrap();
    until(|| sandbox.running() == 1).await;
    drop(one);
    tokio::task::yield_now().await;
    assert_eq!(sandbox.running(), 1, "somebody still waits");
    drop(two);
    until(|| sandbox.running() == 0).await;

    let again = executor.submit(command("e", "sleep 100000")).await.unwrap();
    until(|| sandbox.started() == 2).await;
    drop(again);
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_run_goes_on_where_that_is_asked_for() {
    let (executor, sandbox) = executor(Options::default());
    drop(
        executor
            .submit(command("e", "sleep 1000\nreturn 1"))
            .await
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
async fn draining_waits_kills_and_admits_nobody() {
    let (executor, sandbox) = executor(capacity(1, 10));
    let quick = executor
        .submit(command("quick", "sleep 1000\nreturn 1"))
        .await
        .unwrap();
    let slow = executor
        .submit(command("slow", "sleep 100000"))
        .await
        .unwrap();
    let queued = executor
        .submit(command("queued", "return 1"))
        .await
        .unwrap();
    until(|| sandbox.running() == 1).await;

    let (quick, slow, queued, ()) = tokio::join!(
        quick.finished(),
        slow.finished(),
        queued.finished(),
        executor.drain(Duration::from_secs(5))
    );
    assert_eq!(quick.unwrap().status(), Status::Completed);
    assert_eq!(reason(&slow.unwrap()), Some(Reason::ExecutorLost));
    let queued = queued.unwrap();
    assert_eq!(reason(&queued), Some(Reason::ExecutorLost));
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
        executor.submit(command("late", "return 1")).await,
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
        url: None,
    };
    let found = Artifacts {
        files: vec![file],
        ..Artifacts::default()
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
async fn what_is_kept_goes_on_without_anybody_and_is_found_by_its_id() {
    let (executor, sandbox) = executor(Options {
        cancel_abandoned: true,
        ..Options::default()
    });
    let submission = executor
        .submit(command("e", "sleep 1000\nreturn 1"))
        .await
        .unwrap();
    let accepted = submission.keep().await.unwrap();
    assert!(!accepted.status().is_final());
    drop(submission);
    until(|| sandbox.running() == 1).await;
    let found = executor.find(&id("e")).await.unwrap().unwrap();
    assert_eq!(found.status(), Status::Running);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let found = executor.find(&id("e")).await.unwrap().unwrap();
    assert_eq!(found.status(), Status::Completed);
    assert!(executor.find(&id("other")).await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_run_is_dead_and_keeps_its_result() {
    let (executor, sandbox) = executor(capacity(1, 10));
    let running = executor.submit(command("running", "sleep 100000")).await;
    let running = running.unwrap();
    let queued = executor.submit(command("queued", "return 1")).await;
    let queued = queued.unwrap();
    until(|| sandbox.running() == 1).await;

    let execution = executor.cancel(&id("queued")).await.unwrap().unwrap();
    assert_eq!(execution.status(), Status::Cancelled);
    let execution = executor.cancel(&id("running")).await.unwrap().unwrap();
    assert_eq!(execution.status(), Status::Cancelled);
    assert_eq!(sandbox.running(), 0);
    assert_eq!(sandbox.started(), 1);
    // Whoever waited gets the same.
    assert_eq!(running.finished().await.unwrap(), execution);
    assert_eq!(queued.finished().await.unwrap().status(), Status::Cancelled);
    // Again, and after the end, nothing changes.
    assert_eq!(
        executor.cancel(&id("running")).await.unwrap(),
        Some(execution)
    );
    assert_eq!(executor.cancel(&id("other")).await.unwrap(), None);
    executor.execute(command("done", "return 1")).await.unwrap();
    let done = executor.cancel(&id("done")).await.unwrap().unwrap();
    assert_eq!(done.status(), Status::Completed);
}

#[tokio::test(start_paused = true)]
async fn lists_name_everybody_with_what_is_known_now() {
    let (executor, sandbox) = executor(capacity(1, 10));
    executor.execute(command("done", "exit 3")).await.unwrap();
    let mut waiting = Vec::new();
    for name in ["running", "queued"] {
        let submission = executor.submit(command(name, "sleep 1000")).await.unwrap();
        submission.keep().await.unwrap();
        waiting.push(submission);
    }
    until(|| sandbox.running() == 1).await;
    let list = async |status, before, limit| {
        let query = Query {
            session: None,
            status,
            before,
            limit,
        };
        let page = executor.list(query).await.unwrap();
        let ids: Vec<_> = page.items.iter().map(|item| item.id.to_string()).collect();
        (ids, page.next)
    };
    let (all, next) = list(None, None, 10).await;
    assert_eq!((all.join(" "), next), ("queued running done".into(), None));
    for (status, name) in [
        (Status::Running, "running"),
        (Status::Pending, "queued"),
        (Status::Failed, "done"),
    ] {
        assert_eq!(list(Some(status), None, 1).await.0, [name], "{status:?}");
    }
    let (first, next) = list(None, None, 2).await;
    assert_eq!(first, ["queued", "running"]);
    assert_eq!(list(None, next, 2).await, (vec!["done".to_owned()], None));
    assert_eq!(list(None, Some(Cursor::new(0)), 2).await.0, [""; 0]);
}

/// A store that knows nothing, and does what the test says.
fn store() -> MockExecutionStore {
    let mut store = MockExecutionStore::new();
    store.expect_may_know().return_const(false);
    store
}

fn on_store(store: MockExecutionStore) -> (ExecuteCode, Arc<FakeSandbox>) {
    let sandbox = Arc::new(FakeSandbox::default());
    let executor = ExecuteCode::with_store(
        Arc::clone(&sandbox) as Arc<dyn Sandbox>,
        Arc::new(NoWorkspaces),
        Arc::new(StoppedClock),
        Arc::new(store),
        Options::default(),
    );
    (executor, sandbox)
}

fn full() -> StoreError {
    StoreError::Full("no space left".into())
}

fn is_full(error: &ExecuteError) -> bool {
    matches!(error, ExecuteError::Failed(failure) if matches!(**failure, RunFailure::Store(StoreError::Full(_))))
}

#[tokio::test(start_paused = true)]
async fn without_a_record_of_its_acceptance_no_run_goes_on() {
    let mut store = store();
    store.expect_accept().returning(|_, _| Err(full()));
    store.expect_forget().returning(|_| Ok(()));
    let (executor, sandbox) = on_store(store);
    let begun = tokio::time::Instant::now();
    let waiting = executor.execute(command("a", "sleep 100000")).await;
    assert!(is_full(&waiting.unwrap_err()));
    assert_eq!(
        begun.elapsed(),
        Duration::ZERO,
        "it does not wait for the guest"
    );
    let submission = executor.submit(command("b", "sleep 100000")).await.unwrap();
    assert!(is_full(&submission.keep().await.unwrap_err()));
    assert_eq!(sandbox.running(), 0);
    assert_eq!(executor.active(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_result_that_cannot_be_kept_is_not_answered() {
    let mut store = store();
    store.expect_accept().returning(|_, _| Ok(()));
    store.expect_finish().returning(|_| Err(full()));
    // Who waited may try again under the same id; who was promised a result keeps an id that has none.
    let waited = id("e");
    store.expect_forget().times(1).returning(move |forgotten| {
        assert_eq!(*forgotten, waited);
        Ok(())
    });
    let (executor, _) = on_store(store);
    let answer = executor.execute(command("e", "return 1")).await;
    assert!(is_full(&answer.unwrap_err()));
    let submission = executor
        .submit(command("promised", "sleep 1000"))
        .await
        .unwrap();
    submission.keep().await.unwrap();
    assert!(is_full(&submission.finished().await.unwrap_err()));
}

#[tokio::test]
async fn a_run_is_answered_after_its_result_is_kept() {
    let (kept, mut finished) = tokio::sync::mpsc::unbounded_channel();
    let mut store = store();
    store.expect_accept().times(1).returning(|_, _| Ok(()));
    store.expect_finish().times(1).returning(move |execution| {
        kept.send(execution.clone()).unwrap();
        Ok(())
    });
    let (executor, _) = on_store(store);
    let answered = executor.execute(command("e", "return 1")).await.unwrap();
    assert_eq!(finished.try_recv().unwrap(), answered);
}

#[tokio::test]
async fn what_nobody_carries_any_more_has_crashed() {
    let accepted = Execution::accept(
        id("e"),
        SessionId::parse("session").unwrap(),
        StoppedClock.now(),
    );
    let fingerprint = command("e", "return 1").fingerprint();
    let mut store = MockExecutionStore::new();
    store.expect_may_know().return_const(true);
    store.expect_find().returning(move |_| {
        Ok(Some(crate::Kept {
            execution: accepted.clone(),
            fingerprint,
        }))
    });
    let (executor, sandbox) = on_store(store);
    let found = executor.find(&id("e")).await.unwrap().unwrap();
    assert_eq!(reason(&found), Some(Reason::ExecutorLost));
    let again = executor.execute(command("e", "return 1")).await.unwrap();
    assert_eq!(reason(&again), Some(Reason::ExecutorLost));
    let other = executor.execute(command("e", "return 2")).await;
    assert!(matches!(other, Err(ExecuteError::Conflict)));
    assert_eq!(sandbox.started(), 0);
}

#[tokio::test]
async fn what_an_earlier_process_left_unfinished_ends_as_lost() {
    let store = Arc::new(MemoryStore::new(Retention::default()));
    let accepted = Execution::accept(
        id("e"),
        SessionId::parse("session").unwrap(),
        StoppedClock.now(),
    );
    let fingerprint = Fingerprint::new([7; 32]);
    store.accept(&accepted, fingerprint).await.unwrap();
    let executor = ExecuteCode::with_store(
        Arc::new(FakeSandbox::default()),
        Arc::new(NoWorkspaces),
        Arc::new(StoppedClock),
        Arc::clone(&store) as Arc<dyn ExecutionStore>,
        Options::default(),
    );
    assert_eq!(executor.recover().await.unwrap(), 1);
    assert_eq!(executor.recover().await.unwrap(), 0);
    let kept = store.find(&id("e")).await.unwrap().unwrap();
    assert_eq!(reason(&kept.execution), Some(Reason::ExecutorLost));
}

#[tokio::test]
async fn a_kept_run_that_we_fail_has_crashed_and_its_caller_can_see_it() {
    let mut broken = crate::MockSandbox::new();
    let description = FakeSandbox::default().description().clone();
    broken.expect_description().return_const(description);
    broken.expect_run().returning(|_, _| {
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
    let submission = executor.submit(command("e", "return 1")).await.unwrap();
    submission.keep().await.unwrap();
    let ended = submission.finished().await.unwrap();
    assert_eq!(reason(&ended), Some(Reason::ExecutorLost));
    assert_eq!(executor.find(&id("e")).await.unwrap(), Some(ended));
}

#[tokio::test(start_paused = true)]
async fn who_reports_sees_what_runs_and_not_what_waits() {
    let (executor, sandbox) = executor(capacity(1, 1));
    let running = executor.running();
    let first = executor.submit(command("a", "sleep 1000")).await.unwrap();
    let second = executor.submit(command("b", "exit 3")).await.unwrap();
    until(|| sandbox.running() == 1).await;
    assert_eq!(running.count(), 1);
    first.finished().await.unwrap();
    second.finished().await.unwrap();
    assert_eq!(running.count(), 0);
}

/// Remembers what it is told, in order.
#[derive(Default)]
struct Scribe(std::sync::Mutex<Vec<String>>);

impl Scribe {
    fn note(&self, line: String) {
        self.0.lock().unwrap().push(line);
    }

    fn heard(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl crate::Telemetry for Scribe {
    fn execution_ended(&self, ended: &crate::EndedRun<'_>) {
        self.note(format!(
            "{} {} waited {:?} sandboxed {:?}",
            ended.language,
            ended.execution.status().as_str(),
            ended.waited,
            ended.sandboxed,
        ));
    }

    fn execution_failed(&self, language: Language, failure: &RunFailure) {
        self.note(format!("{language} {failure}"));
    }

    fn request_answered(&self, _: &crate::AnsweredRequest<'_>) {}

    fn text(&self, _: &Levels, _: crate::TextFormat) -> String {
        String::new()
    }
}

fn listened(options: Options) -> (Options, Arc<Scribe>) {
    let listener = Arc::new(Scribe::default());
    let instruments = Instruments {
        telemetry: Arc::clone(&listener) as Arc<_>,
        ..Instruments::default()
    };
    let options = Options {
        instruments,
        ..options
    };
    (options, listener)
}

/// What a caller is not told to have worked has not been counted as if it had, alone.
#[tokio::test]
async fn who_counts_is_told_of_a_result_that_could_not_be_kept() {
    let mut store = store();
    store.expect_accept().returning(|_, _| Ok(()));
    store.expect_finish().returning(|_| Err(full()));
    store.expect_forget().returning(|_| Ok(()));
    let (options, listener) = listened(Options::default());
    let executor = ExecuteCode::with_store(
        Arc::new(FakeSandbox::default()),
        Arc::new(NoWorkspaces),
        Arc::new(StoppedClock),
        Arc::new(store),
        options,
    );
    let answer = executor.execute(command("e", "return 1")).await;
    assert!(is_full(&answer.unwrap_err()));
    let heard = listener.heard();
    assert_eq!(heard.len(), 2, "{heard:?}");
    assert_eq!(heard[1], "python the store failed");
}

#[tokio::test]
async fn levels_show_how_it_stands_with_reports() {
    let (silent, _) = executor(Options::default());
    assert_eq!(silent.levels().outbox, None);
    let mut outbox = crate::MockOutbox::new();
    let levels = crate::OutboxLevels {
        undelivered: 7,
        refused: 2,
        dropped: 1,
        unreadable: 0,
    };
    outbox.expect_levels().return_const(levels);
    let instruments = Instruments {
        outbox: Some(Arc::new(outbox)),
        ..Instruments::default()
    };
    let (reporting, _) = executor(Options {
        instruments,
        ..Options::default()
    });
    assert_eq!(reporting.levels().outbox, Some(levels));
}

#[tokio::test(start_paused = true)]
async fn who_counts_is_told_of_every_end_before_the_caller() {
    let (options, listener) = listened(capacity(1, 1));
    let (executor, _) = executor(options);
    let first = executor
        .submit(command("first", "sleep 2000"))
        .await
        .unwrap();
    let second = executor
        .submit(command("second", "sleep 10\nexit 3"))
        .await
        .unwrap();
    assert_eq!(listener.heard(), [""; 0]);
    first.finished().await.unwrap();
    assert_eq!(listener.heard().len(), 1);
    second.finished().await.unwrap();
    assert_eq!(
        listener.heard(),
        [
            "python completed waited 0ns sandboxed Some(2s)",
            "python failed waited 2s sandboxed Some(10ms)",
        ]
    );
    // A result that is remembered was counted once.
    executor
        .execute(command("second", "sleep 10\nexit 3"))
        .await
        .unwrap();
    assert_eq!(listener.heard().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn who_counts_is_told_of_what_never_ran_and_of_what_we_failed() {
    let (options, listener) = listened(capacity(1, 1));
    let (executor, _) = executor(options);
    let _first = executor
        .submit(command("first", "sleep 2000"))
        .await
        .unwrap();
    let second = executor.submit(command("second", "exit 3")).await.unwrap();
    tokio::task::yield_now().await;
    executor.drain(Duration::ZERO).await;
    second.finished().await.unwrap();
    let heard = listener.heard();
    assert!(
        heard.contains(&"python crashed waited 0ns sandboxed None".to_owned()),
        "{heard:?}"
    );

    let (options, listener) = listened(Options::default());
    let mut broken = crate::MockSandbox::new();
    let description = FakeSandbox::default().description().clone();
    broken.expect_description().return_const(description);
    broken.expect_run().returning(|_, _| {
        Err(SandboxError::Failed {
            step: "open the door",
            source: "no key".into(),
        })
    });
    let executor = ExecuteCode::new(
        Arc::new(broken),
        Arc::new(NoWorkspaces),
        Arc::new(StoppedClock),
        options,
    );
    executor.execute(command("e", "")).await.unwrap_err();
    assert_eq!(listener.heard(), ["python the sandbox failed"]);
}

#[tokio::test(start_paused = true)]
async fn levels_are_what_runs_and_waits() {
    let (executor, sandbox) = executor(capacity(2, 3));
    let mut submissions = Vec::new();
    for id in ["a", "b", "c"] {
        submissions.push(executor.submit(command(id, "sleep 1000")).await.unwrap());
    }
    while sandbox.running() < 2 {
        tokio::task::yield_now().await;
    }
    let levels = executor.levels();
    assert_eq!((levels.running, levels.waiting), (2, 1));
    assert_eq!((levels.max_running, levels.max_waiting), (2, 3));
    for submission in submissions {
        submission.finished().await.unwrap();
    }
}

const CALLER: &str = "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01";

#[tokio::test]
async fn an_execution_names_the_step_of_a_trace_that_it_is() {
    let caller = executor_domain::TraceParent::parse(CALLER).unwrap();
    let traced = |id: &str| ExecuteCommand {
        trace_parent: Some(caller),
        ..command(id, "return 1")
    };

    // Where no span is exported, what is reported hangs below the caller's own step.
    let (plain, sandbox) = executor(Options::default());
    let execution = plain.execute(traced("e")).await.unwrap();
    assert_eq!(execution.trace_parent(), Some(caller));
    // The same request in another trace is the same request.
    plain.execute(command("e", "return 1")).await.unwrap();
    assert_eq!(sandbox.started(), 1);

    let own = executor_domain::TraceParent::new(caller.trace_id(), 7, 1).unwrap();
    let mut links = crate::MockTraces::new();
    links.expect_name_of().return_const(Some(own));
    let instruments = Instruments {
        traces: Arc::new(links),
        ..Instruments::default()
    };
    let (exporting, _) = executor(Options {
        instruments,
        ..Options::default()
    });
    let execution = exporting.execute(traced("e")).await.unwrap();
    assert_eq!(execution.trace_parent(), Some(own));
}

#[tokio::test(start_paused = true)]
async fn stopping_a_session_stops_its_runs_and_no_others() {
    let (executor, sandbox) = executor(capacity(2, 2));
    let mut other = command("other", "sleep 50\nreturn 1");
    other.session_id = SessionId::parse("other").unwrap();
    let other = executor.submit(other).await.unwrap();
    let running = executor.submit(command("running", "sleep 100000")).await;
    let waiting = executor.submit(command("waiting", "sleep 100000")).await;
    until(|| sandbox.running() == 2).await;

    executor
        .stop_session(&SessionId::parse("session").unwrap())
        .await;
    for stopped in [running, waiting] {
        let ended = stopped.unwrap().finished().await.unwrap();
        assert_eq!(ended.status(), Status::Cancelled);
    }
    let ended = other.finished().await.unwrap();
    assert_eq!(ended.status(), Status::Completed);
    // Whoever has nothing to stop waits for nothing.
    executor
        .stop_session(&SessionId::parse("nobody").unwrap())
        .await;
}
