//! The store as the application uses it, on real files.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use executor_application::{ExecutionStore, Fingerprint, Outbox, Query, StoreError};
use executor_domain::{
    Artifact, Artifacts, CapturedOutput, Clock, CrashCause, Ending, Execution, ExecutionId,
    GuestError, JsonText, LimitHit, Outcome, Reason, SessionId, Start, Status, Timestamp,
    TraceParent, Usage,
};
use rusqlite::Connection;
use tempfile::TempDir;

use crate::{
    OpenError, SqliteStore, StoreOptions,
    age::{Clocks, Moment},
    open,
};

const PRINT: Fingerprint = Fingerprint::new([7; 32]);

fn id(name: &str) -> ExecutionId {
    ExecutionId::parse(name).unwrap()
}

fn accepted(name: &str) -> Execution {
    let session = SessionId::parse("session").unwrap();
    Execution::accept(id(name), session, Timestamp::from_unix_micros(1_000))
}

fn outcome(ending: Ending) -> Outcome {
    Outcome {
        ending,
        stdout: CapturedOutput::default(),
        stderr: CapturedOutput::default(),
        usage: Usage::default(),
        start: Start::Cold,
        limits_hit: Vec::new(),
    }
}

fn ended(mut execution: Execution, outcome: Outcome) -> Execution {
    execution.start(Timestamp::from_unix_micros(2_000)).unwrap();
    let at = Timestamp::from_unix_micros(3_000);
    execution.finish(at, outcome, Artifacts::default()).unwrap();
    execution
}

/// An execution that has written so many bytes.
fn loud(name: &str, bytes: usize) -> Execution {
    let mut outcome = outcome(Ending::Crashed(CrashCause::Memory));
    outcome.stdout.bytes = vec![b'x'; bytes];
    ended(accepted(name), outcome)
}

async fn keep(store: &SqliteStore, execution: &Execution) {
    store
        .accept(&accepted(execution.id().as_str()), PRINT)
        .await
        .unwrap();
    store.finish(execution).await.unwrap();
}

async fn found(store: &SqliteStore, name: &str) -> Option<Execution> {
    let found = store.find(&id(name)).await.unwrap();
    assert!(found.is_none() || store.may_know(&id(name)), "{name}");
    found.map(|kept| kept.execution)
}

fn reporting() -> StoreOptions {
    StoreOptions {
        reports: true,
        ..StoreOptions::default()
    }
}

fn reporting_for(seconds: u64) -> StoreOptions {
    StoreOptions {
        ttl: Duration::from_secs(seconds),
        ..reporting()
    }
}

fn open(directory: &TempDir, options: StoreOptions) -> SqliteStore {
    SqliteStore::open(directory.path(), options).unwrap()
}

fn database(directory: &TempDir) -> std::path::PathBuf {
    directory.path().join("executions.db")
}

async fn waiting(store: &SqliteStore, after: Option<&str>, limit: usize) -> Vec<String> {
    let waiting = store.undelivered(after.map(id), limit).await.unwrap();
    waiting
        .iter()
        .map(|execution| execution.id().to_string())
        .collect()
}

/// Every kind of ending, and everything else that a result can hold.
fn results() -> Vec<Execution> {
    let failed = GuestError {
        error_type: "ValueError".into(),
        message: "no \u{1f980}\0".into(),
        stack_trace: vec!["line 1".into(), String::new()],
        reason: Reason::NotSerializable,
    };
    let mut results: Vec<Execution> = [
        Ending::Completed {
            return_value: JsonText::parse(r#" {"a": [1.50, "\u0000"]} "#.into()).unwrap(),
        },
        Ending::Completed {
            return_value: JsonText::null(),
        },
        Ending::Failed {
            exit_code: -3,
            error: failed,
        },
        Ending::TimedOut {
            clock: Clock::Cpu,
            allowed: Duration::from_millis(1234),
        },
        Ending::Crashed(CrashCause::Signal(11)),
        Ending::Crashed(CrashCause::Memory),
        Ending::Crashed(CrashCause::ExecutorLost),
        Ending::Cancelled,
    ]
    .into_iter()
    .enumerate()
    .map(|(n, ending)| ended(accepted(&format!("e{n}")), outcome(ending)))
    .collect();

    let mut never_ran = accepted("never-ran");
    never_ran
        .finish(
            Timestamp::from_unix_micros(-5),
            outcome(Ending::Cancelled),
            Artifacts::default(),
        )
        .unwrap();
    results.push(never_ran);

    let mut full = accepted("full");
    full.trace(TraceParent::new(1 << 100, 7, 1).unwrap());
    full.start(Timestamp::from_unix_micros(i64::MAX)).unwrap();
    let everything = Outcome {
        stdout: CapturedOutput {
            bytes: (0..=255).collect(),
            truncated_bytes: 7,
        },
        stderr: CapturedOutput {
            bytes: b"e\0".to_vec(),
            truncated_bytes: 0,
        },
        usage: Usage {
            wall_time: Duration::from_nanos(1_234_567_891),
            cpu_time: Some(Duration::from_secs(2)),
            peak_memory_bytes: Some(1 << 62),
            io_read_bytes: None,
            io_write_bytes: Some(0),
        },
        start: Start::Warm,
        limits_hit: vec![LimitHit::ResultSize, LimitHit::Processes],
        ..outcome(Ending::Cancelled)
    };
    let artifacts = Artifacts {
        files: vec![Artifact {
            path: "a\u{202e}/b\n\".txt".into(),
            size: u64::MAX >> 1,
            mime_type: "text/plain".into(),
            created_at: Timestamp::from_unix_micros(5),
            checksum: "sha256:00".into(),
            url: Some("https://store/a".into()),
        }],
        skipped: vec!["a link".into()],
        not_uploaded: vec!["b: no time was left".into()],
    };
    full.finish(Timestamp::from_unix_micros(9), everything, artifacts)
        .unwrap();
    results.push(full);
    results
}

#[tokio::test]
async fn what_was_kept_comes_back_as_it_was_also_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory, StoreOptions::default());
    for execution in results() {
        keep(&store, &execution).await;
        let back = found(&store, execution.id().as_str()).await;
        assert_eq!(back, Some(execution));
    }
    store.accept(&accepted("pending"), PRINT).await.unwrap();
    store.close().await;

    let store = open(&directory, StoreOptions::default());
    for execution in results() {
        let back = store.find(execution.id()).await.unwrap().unwrap();
        assert_eq!((back.execution, back.fingerprint), (execution, PRINT));
    }
    assert_eq!(store.unfinished().await.unwrap(), [accepted("pending")]);
    assert_eq!(found(&store, "other").await, None);
    assert!(!store.may_know(&id("other")));
}

#[tokio::test]
async fn a_store_that_was_not_closed_has_what_it_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let kept = loud("e", 100_000);
    {
        let store = open(&directory, reporting());
        keep(&store, &kept).await;
        // As a process that is killed leaves it: the files as they are now, and no lock.
        let copy = directory.path().join("copy");
        fs::create_dir(&copy).unwrap();
        for file in ["executions.db", "executions.db-wal"] {
            fs::copy(directory.path().join(file), copy.join(file)).unwrap();
        }
    }
    let store = SqliteStore::open(&directory.path().join("copy"), reporting()).unwrap();
    assert_eq!(found(&store, "e").await, Some(kept));
    assert_eq!(waiting(&store, None, 9).await, ["e"]);
    assert_eq!(store.levels().undelivered, 1);
}

#[tokio::test]
async fn an_id_is_taken_until_it_is_forgotten() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory, StoreOptions::default());
    store.accept(&accepted("e"), PRINT).await.unwrap();
    assert!(store.accept(&accepted("e"), PRINT).await.is_err());
    store.finish(&loud("e", 1)).await.unwrap();
    assert!(store.finish(&loud("e", 1)).await.is_err(), "it ends once");
    assert!(store.finish(&loud("other", 1)).await.is_err());
    for _ in 0..2 {
        store.forget(&id("e")).await.unwrap();
        assert!(!store.may_know(&id("e")));
        assert_eq!(found(&store, "e").await, None);
    }
    keep(&store, &loud("e", 1)).await;
}

/// Keeps the writer busy until what is returned is called: what is written meanwhile is committed together.
async fn hold_writer(store: &SqliteStore) -> impl AsyncFnOnce() {
    let (release, released) = std::sync::mpsc::channel::<()>();
    let (holds, holding) = tokio::sync::oneshot::channel();
    let queue = store.writes().clone();
    let hold = tokio::spawn(async move {
        queue
            .read("hold", move |_| {
                holds.send(()).unwrap();
                released.recv().unwrap();
                Ok(())
            })
            .await
    });
    holding.await.unwrap();
    async move || {
        // Everybody has said what they want once only we are left to run.
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        release.send(()).unwrap();
        hold.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn what_comes_in_together_is_committed_together() {
    const MANY: usize = 200;
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(open(&directory, StoreOptions::default()));
    let before = store.commits();
    let release = hold_writer(&store).await;
    let mut writes = tokio::task::JoinSet::new();
    for n in 0..MANY {
        let store = Arc::clone(&store);
        writes.spawn(async move { store.accept(&accepted(&format!("e{n}")), PRINT).await });
    }
    release().await;
    while let Some(written) = writes.join_next().await {
        written.unwrap().unwrap();
    }
    assert_eq!(store.commits() - before, 1);
    assert_eq!(store.unfinished().await.unwrap().len(), MANY);
}

#[tokio::test]
async fn a_report_is_noticed_that_comes_in_while_another_one_goes() {
    let store = SqliteStore::in_memory(reporting()).unwrap();
    keep(&store, &loud("goes", 1)).await;
    store.changed().await;
    store.accept(&accepted("comes"), PRINT).await.unwrap();
    let (before, comes) = (store.commits(), loud("comes", 1));
    let goes = id("goes");
    let release = hold_writer(&store).await;
    let (finished, delivered, ()) =
        tokio::join!(store.finish(&comes), store.delivered(&goes), release());
    assert!(finished.is_ok() && delivered.is_ok());
    assert_eq!(store.commits() - before, 1);
    // It has been, before its result was acknowledged.
    tokio::time::timeout(Duration::ZERO, store.changed())
        .await
        .expect("whoever delivers is told");
}

#[tokio::test]
async fn one_bad_write_spoils_no_other_one() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory, StoreOptions::default());
    let (one, two) = (accepted("one"), accepted("two"));
    let (good, bad, also_good) = tokio::join!(
        store.accept(&one, PRINT),
        store.accept(&one, PRINT),
        store.accept(&two, PRINT)
    );
    assert!(good.is_ok() && bad.is_err() && also_good.is_ok());
    assert_eq!(store.unfinished().await.unwrap(), [one, two]);
}

#[tokio::test]
async fn the_outbox_hands_out_the_oldest_first_until_they_are_settled() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory, reporting());
    for name in ["a", "b", "c", "d"] {
        store.accept(&accepted(name), PRINT).await.unwrap();
    }
    // In the order of their endings.
    for name in ["c", "a", "d", "b"] {
        store.finish(&loud(name, 10)).await.unwrap();
    }
    store.changed().await;
    assert_eq!(store.levels().undelivered, 4);
    assert_eq!(waiting(&store, None, 2).await, ["c", "a"]);
    assert_eq!(waiting(&store, Some("a"), 9).await, ["d", "b"]);
    for _ in 0..2 {
        store.delivered(&id("a")).await.unwrap();
        store.refused(&id("d"), &"é".repeat(1000)).await.unwrap();
        let levels = store.levels();
        assert_eq!(
            (levels.undelivered, levels.refused, levels.dropped),
            (2, 1, 0)
        );
    }
    assert_eq!(waiting(&store, None, 9).await, ["c", "b"]);
    // One that is settled or gone still has a place, or none: nothing is passed over.
    assert_eq!(waiting(&store, Some("a"), 9).await, ["b"]);
    assert_eq!(waiting(&store, Some("gone"), 9).await, ["c", "b"]);
    // Refused or delivered, the result stays.
    assert!(found(&store, "a").await.is_some() && found(&store, "d").await.is_some());
    store.close().await;

    let store = open(&directory, reporting());
    assert_eq!(waiting(&store, None, 9).await, ["c", "b"]);
    // There is something to do from the start.
    store.changed().await;
    keep(&store, &loud("e", 10)).await;
    assert_eq!(waiting(&store, Some("b"), 9).await, ["e"]);
}

#[tokio::test]
async fn the_outbox_hands_out_no_more_than_fits_into_memory() {
    let store = SqliteStore::in_memory(reporting()).unwrap();
    for name in ["a", "b", "c"] {
        keep(&store, &loud(name, 9 << 20)).await;
    }
    assert_eq!(waiting(&store, None, 9).await, ["a", "b"]);
    assert_eq!(waiting(&store, Some("b"), 9).await, ["c"]);
}

#[tokio::test]
async fn where_nothing_is_reported_the_outbox_is_empty() {
    let store = SqliteStore::in_memory(StoreOptions::default()).unwrap();
    keep(&store, &loud("e", 1)).await;
    assert_eq!(store.levels().undelivered, 0);
    assert_eq!(waiting(&store, None, 9).await, [""; 0]);
}

#[tokio::test]
async fn lists_are_filtered_and_paged_newest_first() {
    let store = SqliteStore::in_memory(StoreOptions::default()).unwrap();
    for n in 0..5 {
        keep(&store, &loud(&format!("e{n}"), 1)).await;
    }
    let other = SessionId::parse("other").unwrap();
    let stranger = Execution::accept(id("s"), other.clone(), Timestamp::from_unix_micros(9));
    store.accept(&stranger, PRINT).await.unwrap();
    let all = Query {
        session: None,
        status: None,
        before: None,
        limit: 4,
    };
    let names = async |query: &Query| {
        let page = store.list(query.clone()).await.unwrap();
        let names: Vec<_> = page.items.iter().map(|item| item.id.to_string()).collect();
        (names.join(" "), page.next)
    };
    let (first, next) = names(&all).await;
    assert_eq!(first, "s e4 e3 e2");
    let rest = Query {
        before: next,
        ..all.clone()
    };
    assert_eq!(names(&rest).await, ("e1 e0".into(), None));
    let of_session = Query {
        session: Some(other),
        ..all.clone()
    };
    assert_eq!(names(&of_session).await, ("s".into(), None));
    for (status, expected) in [
        (Status::Pending, "s"),
        (Status::Crashed, "e4 e3 e2 e1"),
        (Status::Completed, ""),
    ] {
        let of_status = Query {
            status: Some(status),
            ..all.clone()
        };
        assert_eq!(names(&of_status).await.0, expected, "{status:?}");
    }
    let page = store.list(all).await.unwrap();
    assert_eq!(page.items[0], (&stranger).into());
    assert_eq!(page.items[1], (&loud("e4", 1)).into());
}

/// Clocks that a test turns.
#[derive(Clone)]
struct Hands(Arc<Mutex<Moment>>);

impl Hands {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Moment {
            steady: Duration::ZERO,
            wall: 1_000_000,
        })))
    }

    fn clocks(&self) -> Clocks {
        let moment = Arc::clone(&self.0);
        Box::new(move || *moment.lock().unwrap())
    }

    fn pass(&self, seconds: u64) {
        let mut moment = self.0.lock().unwrap();
        moment.steady += Duration::from_secs(seconds);
        moment.wall += seconds.cast_signed();
    }

    fn jump(&self, seconds: i64) {
        self.0.lock().unwrap().wall += seconds;
    }

    fn open(&self, directory: &TempDir, options: StoreOptions) -> SqliteStore {
        let opened = open::in_directory(directory.path()).unwrap();
        SqliteStore::start(opened, directory.path(), options, self.clocks()).unwrap()
    }
}

#[tokio::test]
async fn results_go_after_their_time_whatever_the_clock_says() {
    let directory = tempfile::tempdir().unwrap();
    let hands = Hands::new();
    let options = reporting_for(100);
    let store = hands.open(&directory, options);
    keep(&store, &loud("old", 1)).await;
    store.delivered(&id("old")).await.unwrap();
    keep(&store, &loud("undelivered", 1)).await;
    store.accept(&accepted("pending"), PRINT).await.unwrap();
    for jump in [1_000_000, -3_000_000] {
        hands.jump(jump);
        store.writes().tend().await;
        assert!(found(&store, "old").await.is_some(), "{jump}");
    }
    hands.pass(99);
    keep(&store, &loud("new", 1)).await;
    store.delivered(&id("new")).await.unwrap();
    store.writes().tend().await;
    assert!(found(&store, "old").await.is_some());
    hands.pass(1);
    store.writes().tend().await;
    assert_eq!(found(&store, "old").await, None);
    assert!(!store.may_know(&id("old")));
    for name in ["new", "undelivered", "pending"] {
        assert!(found(&store, name).await.is_some(), "{name}");
    }
    store.close().await;

    // Time goes on while nobody is there.
    hands.pass(50);
    let store = hands.open(&directory, options);
    store.writes().tend().await;
    assert!(found(&store, "new").await.is_some());
    store.close().await;
    hands.pass(50);
    let store = hands.open(&directory, options);
    store.writes().tend().await;
    assert_eq!(found(&store, "new").await, None);
    assert!(found(&store, "undelivered").await.is_some());
    // Once it is delivered, its time has long passed.
    store.delivered(&id("undelivered")).await.unwrap();
    store.writes().tend().await;
    assert_eq!(found(&store, "undelivered").await, None);
}

#[tokio::test]
async fn a_store_that_is_never_idle_tidies_up_nevertheless() {
    let store = SqliteStore::in_memory(StoreOptions {
        ttl: Duration::from_secs(1),
        ..StoreOptions::default()
    });
    let store = store.unwrap();
    keep(&store, &loud("old", 1)).await;
    let tidied = async {
        while store.may_know(&id("old")) {
            store.check().await.unwrap();
        }
    };
    let patience = Duration::from_secs(60);
    tokio::time::timeout(patience, tidied).await.unwrap();
}

#[tokio::test]
async fn above_the_cap_the_oldest_go_first_and_undelivered_ones_last() {
    let store = SqliteStore::in_memory(StoreOptions {
        max_bytes: 10_000,
        ..reporting()
    })
    .unwrap();
    for name in ["u1", "d1", "u2", "d2"] {
        keep(&store, &loud(name, 1_500)).await;
        if name.starts_with('d') {
            store.delivered(&id(name)).await.unwrap();
        }
    }
    store.writes().tend().await;
    assert!(found(&store, "d1").await.is_some(), "below the cap");

    keep(&store, &loud("u3", 1_500)).await;
    store.writes().tend().await;
    assert_eq!(found(&store, "d1").await, None);
    for name in ["u1", "u2", "d2", "u3"] {
        assert!(found(&store, name).await.is_some(), "{name}");
    }
    assert_eq!(store.levels().dropped, 0);

    keep(&store, &loud("u4", 4_000)).await;
    store.writes().tend().await;
    assert_eq!(found(&store, "d2").await, None);
    assert_eq!(found(&store, "u1").await, None);
    assert_eq!(store.levels().dropped, 1);
    assert_eq!(store.levels().undelivered, 3);
    assert_eq!(waiting(&store, None, 9).await, ["u2", "u3", "u4"]);

    // What was just answered stays, even where it alone is too much.
    keep(&store, &loud("huge", 20_000)).await;
    store.writes().tend().await;
    assert_eq!(waiting(&store, None, 9).await, ["huge"]);
}

#[tokio::test]
async fn a_few_huge_results_do_not_push_out_many_small_ones() {
    const MIB: usize = 1 << 20;
    let store = SqliteStore::in_memory(StoreOptions {
        max_bytes: 8 << 20,
        ..StoreOptions::default()
    })
    .unwrap();
    let kept = async |name: String| found(&store, &name).await.is_some();
    for number in 0..20 {
        keep(&store, &loud(&format!("small-{number}"), 10_000)).await;
    }
    for number in 0..10 {
        keep(&store, &loud(&format!("huge-{number}"), 3 * MIB / 2)).await;
        store.writes().tend().await;
    }
    for number in 0..20 {
        assert!(kept(format!("small-{number}")).await, "{number}");
    }
    assert!(!kept("huge-4".into()).await && kept("huge-9".into()).await);

    // Where the small ones are too many themselves, the oldest of all go.
    for number in 20..900 {
        keep(&store, &loud(&format!("small-{number}"), 10_000)).await;
    }
    store.writes().tend().await;
    assert!(!kept("small-0".into()).await && kept("small-899".into()).await);
}

#[tokio::test]
async fn the_file_shrinks_when_results_go() {
    let directory = tempfile::tempdir().unwrap();
    let hands = Hands::new();
    let options = StoreOptions {
        ttl: Duration::from_secs(1),
        ..StoreOptions::default()
    };
    let store = hands.open(&directory, options);
    keep(&store, &loud("e", 4 << 20)).await;
    store.close().await;
    let full = fs::metadata(database(&directory)).unwrap().len();
    assert!(full > 4 << 20);
    let store = hands.open(&directory, options);
    hands.pass(1);
    store.writes().tend().await;
    store.close().await;
    let empty = fs::metadata(database(&directory)).unwrap().len();
    assert!(empty < 1 << 20, "{empty}");
}

#[tokio::test]
async fn a_full_disk_is_an_error_of_its_own_and_passes() {
    let directory = tempfile::tempdir().unwrap();
    let opened = open::in_directory(directory.path()).unwrap();
    let limit = |connection: &Connection, pages: i64| {
        connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))
    };
    limit(&opened.writer, 60).unwrap();
    let options = StoreOptions::default();
    let store = SqliteStore::start(opened, directory.path(), options, crate::age::host()).unwrap();
    keep(&store, &loud("small", 10)).await;
    store.accept(&accepted("large"), PRINT).await.unwrap();
    let refused = store.finish(&loud("large", 1 << 20)).await;
    assert!(matches!(refused, Err(StoreError::Full(_))), "{refused:?}");
    // What is small still fits, and yet the store does not call itself well.
    store.accept(&accepted("tiny"), PRINT).await.unwrap();
    for _ in 0..2 {
        let unwell = store.check().await;
        assert!(matches!(unwell, Err(StoreError::Full(_))), "{unwell:?}");
    }
    // Nothing of it is there, and everything else is.
    assert_eq!(found(&store, "large").await, Some(accepted("large")));
    assert!(found(&store, "small").await.is_some());

    let raised = store.writes().read("raise the limit", move |connection| {
        limit(connection, 100_000).unwrap();
        Ok(())
    });
    raised.await.unwrap();
    store.check().await.unwrap();
    store.finish(&loud("large", 1 << 20)).await.unwrap();
    // What was tried is gone.
    let results = store.writes().read("count", |connection| {
        let count = "SELECT count(*) FROM results";
        let count: i64 = connection.query_row(count, [], |row| row.get(0)).unwrap();
        Ok(count)
    });
    assert_eq!(results.await.unwrap(), 2);
}

#[tokio::test]
async fn one_process_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory, StoreOptions::default());
    let second = SqliteStore::open(directory.path(), StoreOptions::default());
    assert!(matches!(second, Err(OpenError::InUse { .. })), "{second:?}");
    store.close().await;
    open(&directory, StoreOptions::default());
}

#[tokio::test]
async fn whoever_locks_the_database_from_outside_delays_it_and_then_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory, StoreOptions::default());
    let impatient = store.writes().read("lose patience", |connection| {
        connection.busy_timeout(Duration::from_millis(50)).unwrap();
        Ok(())
    });
    impatient.await.unwrap();
    let operator = Connection::open(database(&directory)).unwrap();
    operator.execute_batch("BEGIN IMMEDIATE").unwrap();
    let refused = store.check().await;
    assert!(
        matches!(refused, Err(StoreError::Failed { .. })),
        "{refused:?}"
    );
    assert!(store.accept(&accepted("e"), PRINT).await.is_err());
    assert_eq!(found(&store, "e").await, None, "reading goes on");
    operator.execute_batch("ROLLBACK").unwrap();
    keep(&store, &loud("e", 1)).await;
}

#[tokio::test]
async fn a_damaged_file_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory, StoreOptions::default());
    for n in 0..200 {
        keep(&store, &loud(&format!("execution-{n}"), 500)).await;
    }
    store.close().await;
    let sound = fs::read(database(&directory)).unwrap();
    let refusal = |bytes: &[u8]| {
        fs::write(database(&directory), bytes).unwrap();
        SqliteStore::open(directory.path(), StoreOptions::default())
    };
    // Positive control.
    refusal(&sound).unwrap().close().await;

    let mut no_header = sound.clone();
    no_header[..16].copy_from_slice(b"not a database!!");
    let mut scrambled = sound.clone();
    for page in scrambled.chunks_mut(4096).skip(3) {
        page[..64].fill(0xff);
    }
    let half = &sound[..sound.len() / 2];
    for bytes in [&no_header, &scrambled, half] {
        let refused = refusal(bytes);
        assert!(
            matches!(refused, Err(OpenError::Damaged { .. })),
            "{refused:?}"
        );
        assert!(refused.unwrap_err().to_string().contains("move it"));
    }
}

/// Does to an open database what decay does.
async fn damage(store: &SqliteStore, change: impl Into<String>) {
    let change = change.into();
    let changed = store.writes().read("damage", move |connection| {
        connection.execute_batch(&change).unwrap();
        Ok(())
    });
    changed.await.unwrap();
}

#[tokio::test]
async fn damage_that_shows_later_is_an_error_and_not_an_answer() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory, StoreOptions::default());
    keep(&store, &loud("e", 5)).await;
    keep(&store, &loud("sound", 5)).await;
    for change in [
        "UPDATE results SET facts = '{' WHERE number = 1",
        "UPDATE results SET facts = '{}' WHERE number = 1",
        "UPDATE results SET facts = CAST(x'ff' AS TEXT) WHERE number = 1",
        "DELETE FROM results WHERE number = 1",
        "UPDATE executions SET fingerprint = x'00' WHERE number = 1",
        "UPDATE executions SET session = '../x' WHERE number = 1",
    ] {
        damage(&store, change).await;
        let unreadable = store.find(&id("e")).await;
        assert!(
            matches!(unreadable, Err(StoreError::Unreadable(_))),
            "{change}: {unreadable:?}"
        );
        assert!(found(&store, "sound").await.is_some(), "{change}");
    }
    // The list has what can be read, and pages of it fit together.
    for n in 0..3 {
        keep(&store, &loud(&format!("new-{n}"), 5)).await;
    }
    damage(
        &store,
        "UPDATE executions SET status = 'x' WHERE id = 'new-1'",
    )
    .await;
    let mut query = Query {
        session: None,
        status: None,
        before: None,
        limit: 2,
    };
    let mut names = Vec::new();
    loop {
        let page = store.list(query.clone()).await.unwrap();
        names.extend(page.items.iter().map(|item| item.id.to_string()));
        query.before = page.next;
        if query.before.is_none() {
            break;
        }
    }
    assert_eq!(names, ["new-2", "new-0", "sound"]);
    // Nobody reports here, so no report is lost.
    assert_eq!(store.levels().unreadable, 0);
}

#[tokio::test]
async fn what_cannot_be_read_is_set_aside_and_the_outbox_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let hands = Hands::new();
    let options = reporting_for(100);
    let store = hands.open(&directory, options);
    for name in ["a", "b", "c", "d", "e"] {
        keep(&store, &loud(name, 10)).await;
    }
    damage(
        &store,
        "UPDATE results SET facts = '{' WHERE number = 1;
         UPDATE executions SET session = CAST(x'ff' AS TEXT) WHERE id = 'b';
         UPDATE executions SET id = CAST(x'fe2f' AS TEXT) WHERE id = 'd';",
    )
    .await;
    // Long after its time: it is kept for as long as a new result all the same.
    hands.pass(1000);
    // Two of those that are left, though two bad ones come first.
    assert_eq!(waiting(&store, None, 2).await, ["c", "e"]);
    assert_eq!(waiting(&store, Some("c"), 9).await, ["e"]);
    let levels = store.levels();
    assert_eq!((levels.undelivered, levels.unreadable), (2, 3));
    for _ in 0..2 {
        assert_eq!(waiting(&store, None, 9).await, ["c", "e"]);
        assert!(store.find(&id("a")).await.is_err());
    }
    assert_eq!(store.levels().unreadable, 3, "counted once");
    for name in ["c", "e"] {
        store.delivered(&id(name)).await.unwrap();
    }
    assert_eq!(store.levels().undelivered, 0);
    store.writes().tend().await;
    store.close().await;

    // Somebody can look, and sees why.
    let connection = Connection::open(database(&directory)).unwrap();
    let looked: Vec<(i64, String)> = connection
        .prepare("SELECT number, refusal FROM executions WHERE report = 3 ORDER BY number")
        .unwrap()
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    let numbers: Vec<i64> = looked.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, [1, 2, 4]);
    assert!(looked[0].1.contains("EOF while parsing"), "{looked:?}");
    drop(connection);

    // It comes up again with them, and lets them go in their time.
    let store = hands.open(&directory, options);
    assert_eq!(store.levels().undelivered, 0);
    assert_eq!(waiting(&store, None, 9).await, [""; 0]);
    hands.pass(100);
    store.writes().tend().await;
    damage(
        &store,
        "INSERT INTO notes SELECT 'left', count(*) FROM executions",
    )
    .await;
    store.close().await;
    let connection = Connection::open(database(&directory)).unwrap();
    let left: i64 = connection
        .query_row("SELECT value FROM notes WHERE name = 'left'", [], |row| {
            row.get(0)
        })
        .unwrap();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn a_pending_execution_that_cannot_be_read_is_not_in_the_way_of_the_next_start() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory, reporting());
    for name in ["bad", "good"] {
        store.accept(&accepted(name), PRINT).await.unwrap();
    }
    damage(
        &store,
        "UPDATE executions SET session = '/' WHERE id = 'bad'",
    )
    .await;
    store.close().await;
    let store = open(&directory, reporting());
    assert_eq!(store.unfinished().await.unwrap(), [accepted("good")]);
    assert_eq!(store.levels().unreadable, 1);
    assert_eq!(store.unfinished().await.unwrap(), [accepted("good")]);
    assert_eq!(store.levels().unreadable, 1);
    let unreadable = store.find(&id("bad")).await;
    assert!(matches!(unreadable, Err(StoreError::Unreadable(_))));
    assert_eq!(waiting(&store, None, 9).await, [""; 0]);
}

/// What a database holds, in words.
fn stored_form(connection: &Connection) -> String {
    let mut lines = Vec::new();
    for question in [
        "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name",
        "SELECT id || ' ' || facts FROM executions JOIN results USING (number) ORDER BY number",
    ] {
        let mut statement = connection.prepare(question).unwrap();
        let mut rows = statement.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            let text: String = row.get(0).unwrap();
            lines.push(text.split_whitespace().collect::<Vec<_>>().join(" "));
        }
    }
    // So that a reader sees what is there.
    let plain = |character: char| match character {
        ' '..='~' => character.to_string(),
        other => other.escape_unicode().to_string(),
    };
    lines
        .iter()
        .map(|line| {
            line.chars()
                .map(plain)
                .chain(["\n".into()])
                .collect::<String>()
        })
        .collect()
}

#[tokio::test]
async fn the_stored_form_belongs_to_its_version() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory, StoreOptions::default());
    for execution in results() {
        keep(&store, &execution).await;
    }
    store.close().await;
    let stored = stored_form(&Connection::open(database(&directory)).unwrap());
    let expected = format!("version {}\n{stored}", open::VERSION);
    assert_eq!(
        include_str!("stored-form.txt"),
        expected,
        "a change asks for another `open::VERSION`, and for a step in `migrate`; then write this down:\n{expected}"
    );
}

/// Makes of a database what a daemon of version 1 would have written.
fn back_to_1(directory: &TempDir, facts: &[(&str, &str)]) {
    let connection = Connection::open(database(directory)).unwrap();
    for (name, facts) in facts {
        let changed = connection
            .execute(
                "UPDATE results SET facts = ?2 WHERE number = (SELECT number FROM executions WHERE id = ?1)",
                [name, facts],
            )
            .unwrap();
        assert_eq!(changed, 1, "{name}");
    }
    connection.pragma_update(None, "user_version", 1).unwrap();
}

#[tokio::test]
async fn what_version_1_has_kept_is_brought_along() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory, reporting());
    for name in ["cut", "micros", "late", "damaged"] {
        keep(&store, &loud(name, 5)).await;
    }
    store.close().await;
    let rest = r#""peak_memory_bytes":null,"io_read_bytes":null,"io_write_bytes":null,"start":"cold","limits_hit":[],
                  "artifacts":[],"skipped":[]"#;
    let cut = format!(
        r#"{{"ending":{{"kind":"memory"}},"stdout_truncated":true,"stderr_truncated":false,"wall_nanos":7,"cpu_nanos":null,{rest}}}"#
    );
    let micros = format!(
        r#"{{"ending":{{"kind":"timed_out","clock":"cpu","allowed_micros":3}},"stdout_truncated":false,"stderr_truncated":true,
            "wall_micros":5,"cpu_micros":2,{rest}}}"#
    );
    // The last daemons of version 1 wrote what version 2 says.
    let late = format!(
        r#"{{"ending":{{"kind":"memory"}},"stdout_truncated":9,"stderr_truncated":0,"wall_nanos":8,"cpu_nanos":null,{rest}}}"#
    );
    back_to_1(
        &directory,
        &[
            ("cut", &cut),
            ("micros", &micros),
            ("late", &late),
            ("damaged", "no JSON"),
        ],
    );

    let store = open(&directory, reporting());
    let outcome = async |name: &str| {
        let execution = found(&store, name).await.unwrap();
        execution.outcome().unwrap().clone()
    };
    let (cut, late) = (outcome("cut").await, outcome("late").await);
    assert_eq!(
        (cut.stdout.truncated_bytes, cut.stderr.truncated_bytes),
        (1, 0)
    );
    assert_eq!(cut.stdout.bytes, b"xxxxx");
    assert_eq!(cut.usage.wall_time, Duration::from_nanos(7));
    assert_eq!(late.stdout.truncated_bytes, 9);
    let micros = outcome("micros").await;
    assert_eq!(micros.stderr.truncated_bytes, 1);
    assert_eq!(micros.usage.wall_time, Duration::from_micros(5));
    assert_eq!(micros.usage.cpu_time, Some(Duration::from_micros(2)));
    assert_eq!(
        micros.ending,
        Ending::TimedOut {
            clock: Clock::Cpu,
            allowed: Duration::from_micros(3)
        }
    );
    assert_eq!(waiting(&store, None, 9).await, ["cut", "micros", "late"]);
    assert_eq!(store.levels().unreadable, 1);
    store.close().await;
    let connection = Connection::open(database(&directory)).unwrap();
    let version: i64 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .unwrap();
    assert_eq!(version, open::VERSION);
}

#[tokio::test]
async fn other_versions_and_other_programs_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    open(&directory, StoreOptions::default()).close().await;
    let change = |pragma: &str, value: i64| {
        let connection = Connection::open(database(&directory)).unwrap();
        connection.pragma_update(None, pragma, value).unwrap();
    };
    let refusal = || SqliteStore::open(directory.path(), StoreOptions::default()).unwrap_err();
    let next = open::VERSION + 1;
    change("user_version", next);
    let newer = refusal();
    assert!(
        matches!(newer, OpenError::Newer { found, .. } if found == next),
        "{newer:?}"
    );
    assert!(newer.to_string().contains("use the newer program"));
    // No program of ours has ever written that.
    change("user_version", 0);
    assert!(matches!(refusal(), OpenError::Foreign { .. }));
    change("user_version", open::VERSION);
    change("application_id", 5);
    assert!(matches!(refusal(), OpenError::Foreign { .. }));
    change("application_id", 0x5362_7845);
    open(&directory, StoreOptions::default()).close().await;
}

#[tokio::test]
async fn a_place_that_cannot_be_used_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "x").unwrap();
    let refused = SqliteStore::open(&file, StoreOptions::default());
    assert!(
        matches!(refused, Err(OpenError::Directory { .. })),
        "{refused:?}"
    );
    let refused = SqliteStore::open(Path::new("/proc/nowhere"), StoreOptions::default());
    assert!(refused.unwrap_err().to_string().contains("/proc/nowhere"));
}

#[tokio::test]
async fn nobody_else_can_read_it() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("a/b");
    let store = SqliteStore::open(&place, StoreOptions::default()).unwrap();
    keep(&store, &loud("e", 1)).await;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&place), 0o700);
    let mut files = 0;
    for entry in fs::read_dir(&place).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
        files += 1;
    }
    assert_eq!(files, 4, "database, log, its index, lock");
}

#[tokio::test]
async fn after_closing_everything_is_an_error() {
    let store = SqliteStore::in_memory(StoreOptions::default()).unwrap();
    store.close().await;
    assert!(store.check().await.is_err());
    assert!(store.find(&id("e")).await.is_err());
    store.close().await;
}
