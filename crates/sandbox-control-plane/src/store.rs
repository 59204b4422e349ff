//! What was reported, in one SQLite file.

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use executor_domain::ExecutionId;
use rusqlite::{Connection, OptionalExtension as _, Row, named_params, params};

use crate::report::{Exited, Outcome, Ready};

/// The shape of the file; another number is another shape.
const VERSION: i64 = 1;

/// Rows of each table that are kept; the oldest go first.
const MAX_ROWS: i64 = 100_000;

/// How much of an output a list shows, in characters.
const HEAD: usize = 500;

/// How long a statement waits for whoever else has the file open.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

const SCHEMA: &str = "
    CREATE TABLE containers (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        container_id TEXT NOT NULL UNIQUE,
        pod_name TEXT,
        executor_port INTEGER NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('ready', 'exited')),
        ready_at TEXT,
        exited_at TEXT,
        exit_code INTEGER,
        exit_reason TEXT
    ) STRICT;
    CREATE TABLE executions (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        execution_id TEXT NOT NULL UNIQUE,
        status TEXT NOT NULL CHECK (status IN ('running', 'lost', 'success', 'failed', 'timeout', 'crashed')),
        heartbeats INTEGER NOT NULL DEFAULT 0,
        -- Milliseconds since 1970 by the clock of this side.
        first_seen INTEGER NOT NULL,
        last_heartbeat INTEGER,
        ended INTEGER,
        exit_code INTEGER,
        execution_time REAL,
        artifacts INTEGER,
        stdout_head TEXT,
        stderr_head TEXT,
        -- The report as it came.
        result TEXT
    ) STRICT;
    CREATE INDEX running ON executions (last_heartbeat) WHERE status = 'running';
";

/// Why the store could not do its part.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file is of another program, or of another version of this one.
    #[error("the database is not one of this version's (it says {found})")]
    Version {
        /// The version that the file names.
        found: i64,
    },
    /// SQLite failed in this step.
    #[error("failed to {step}")]
    Failed {
        /// What we were doing.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: rusqlite::Error,
    },
}

fn failed(step: &'static str) -> impl FnOnce(rusqlite::Error) -> StoreError {
    move |source| StoreError::Failed { step, source }
}

/// A time by the clock of this side: milliseconds since 1970.
pub(crate) type Millis = i64;

/// What was reported. Cheap to clone: clones share everything. Every call blocks on the disk.
#[derive(Debug, Clone)]
pub struct Store {
    connection: Arc<Mutex<Connection>>,
}

/// An execution in a list.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ExecutionRow {
    pub(crate) number: i64,
    pub(crate) id: String,
    pub(crate) status: String,
    pub(crate) heartbeats: i64,
    pub(crate) first_seen: Millis,
    pub(crate) last_heartbeat: Option<Millis>,
    pub(crate) ended: Option<Millis>,
    pub(crate) exit_code: Option<i64>,
    pub(crate) execution_time: Option<f64>,
    pub(crate) artifacts: Option<i64>,
    pub(crate) stdout_head: Option<String>,
    pub(crate) stderr_head: Option<String>,
}

/// A container in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ContainerRow {
    pub(crate) number: i64,
    pub(crate) id: String,
    pub(crate) pod_name: Option<String>,
    pub(crate) executor_port: i64,
    pub(crate) state: String,
    pub(crate) ready_at: Option<String>,
    pub(crate) exited_at: Option<String>,
    pub(crate) exit_code: Option<i64>,
    pub(crate) exit_reason: Option<String>,
}

/// Which part of a list: at most `limit`, newest first, from below the number `before`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) limit: u32,
    pub(crate) before: Option<i64>,
}

impl Store {
    /// Opens the file, and makes it where it does not exist. Executions that were running get `now` as their last heartbeat:
    /// while nobody listened, none could arrive.
    pub fn open(path: &Path, now: Millis) -> Result<Self, StoreError> {
        Self::prepare(
            Connection::open(path).map_err(failed("open the database"))?,
            now,
        )
    }

    /// A store that is gone with the process.
    pub fn in_memory() -> Result<Self, StoreError> {
        let connection =
            Connection::open_in_memory().map_err(failed("open a database in memory"))?;
        Self::prepare(connection, 0)
    }

    fn prepare(mut connection: Connection, now: Millis) -> Result<Self, StoreError> {
        connection
            .busy_timeout(BUSY_TIMEOUT)
            .map_err(failed("set the database's time-out"))?;
        // NORMAL: what was answered survives this process; a power cut may take the last moments.
        connection
            .execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;")
            .map_err(failed("set the database's mode"))?;
        let step = "prepare the database's tables";
        let transaction = connection.transaction().map_err(failed(step))?;
        let found: i64 = transaction
            .query_row("PRAGMA user_version", [], |row| row.get(0))
            .map_err(failed(step))?;
        let tables: i64 = transaction
            .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
            .map_err(failed(step))?;
        match (found, tables) {
            (VERSION, _) => {}
            (0, 0) => {
                transaction.execute_batch(SCHEMA).map_err(failed(step))?;
                transaction
                    .pragma_update(None, "user_version", VERSION)
                    .map_err(failed(step))?;
            }
            _ => return Err(StoreError::Version { found }),
        }
        transaction
            .execute(
                "UPDATE executions SET last_heartbeat = ?1 WHERE status = 'running'",
                [now],
            )
            .map_err(failed(step))?;
        transaction.commit().map_err(failed(step))?;
        Ok(Self {
            connection: Arc::new(Mutex::new(connection)),
        })
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        // A transaction that a panic left open was rolled back when it was dropped.
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A container is ready, for the first time or again.
    pub(crate) fn ready(&self, report: &Ready) -> Result<(), StoreError> {
        let connection = self.connection();
        connection
            .execute(
                "INSERT INTO containers (container_id, pod_name, executor_port, state, ready_at)
                 VALUES (:id, :pod, :port, 'ready', :at)
                 ON CONFLICT (container_id) DO UPDATE SET pod_name = :pod, executor_port = :port, state = 'ready',
                    ready_at = :at, exited_at = NULL, exit_code = NULL, exit_reason = NULL",
                named_params! {
                    ":id": report.container_id,
                    ":pod": report.pod_name,
                    ":port": report.executor_port,
                    ":at": report.ready_at,
                },
            )
            .map_err(failed("note that a container is ready"))?;
        forget_old(&connection, "containers")
    }

    /// A container has stopped, whether or not it was ever heard of.
    pub(crate) fn exited(&self, report: &Exited) -> Result<(), StoreError> {
        let connection = self.connection();
        connection
            .execute(
                "INSERT INTO containers
                    (container_id, pod_name, executor_port, state, exited_at, exit_code, exit_reason)
                 VALUES (:id, :pod, :port, 'exited', :at, :code, :reason)
                 ON CONFLICT (container_id) DO UPDATE SET pod_name = :pod, executor_port = :port, state = 'exited',
                    exited_at = :at, exit_code = :code, exit_reason = :reason",
                named_params! {
                    ":id": report.container_id,
                    ":pod": report.pod_name,
                    ":port": report.executor_port,
                    ":at": report.exited_at,
                    ":code": report.exit_code,
                    ":reason": report.exit_reason.as_str(),
                },
            )
            .map_err(failed("note that a container has exited"))?;
        forget_old(&connection, "containers")
    }

    /// An execution runs. One that has ended stays as it is: a heartbeat can be late.
    pub(crate) fn heartbeat(&self, id: &ExecutionId, now: Millis) -> Result<(), StoreError> {
        let connection = self.connection();
        connection
            .execute(
                "INSERT INTO executions (execution_id, status, heartbeats, first_seen, last_heartbeat)
                 VALUES (:id, 'running', 1, :now, :now)
                 ON CONFLICT (execution_id) DO UPDATE SET status = 'running', heartbeats = heartbeats + 1,
                    last_heartbeat = :now WHERE status IN ('running', 'lost')",
                named_params! {":id": id.as_str(), ":now": now},
            )
            .map_err(failed("note a heartbeat"))?;
        forget_old(&connection, "executions")
    }

    /// An execution has ended. Whether this is news: the first result stays, whatever comes after it.
    pub(crate) fn result(
        &self,
        id: &ExecutionId,
        outcome: &Outcome,
        body: &str,
        now: Millis,
    ) -> Result<bool, StoreError> {
        let connection = self.connection();
        let changed = connection
            .execute(
                "INSERT INTO executions (execution_id, status, first_seen, ended, exit_code, execution_time, artifacts,
                    stdout_head, stderr_head, result)
                 VALUES (:id, :status, :now, :now, :code, :time, :artifacts, :stdout, :stderr, :body)
                 ON CONFLICT (execution_id) DO UPDATE SET status = :status, ended = :now, exit_code = :code,
                    execution_time = :time, artifacts = :artifacts, stdout_head = :stdout, stderr_head = :stderr,
                    result = :body WHERE result IS NULL",
                named_params! {
                    ":id": id.as_str(),
                    ":status": outcome.status.as_str(),
                    ":now": now,
                    ":code": outcome.exit_code,
                    ":time": outcome.execution_time,
                    ":artifacts": i64::try_from(outcome.artifacts.len()).unwrap_or(i64::MAX),
                    ":stdout": head(&outcome.stdout),
                    ":stderr": head(&outcome.stderr),
                    ":body": body,
                },
            )
            .map_err(failed("keep a result"))?;
        forget_old(&connection, "executions")?;
        Ok(changed > 0)
    }

    /// Marks those lost whose last heartbeat was before `since`. How many there were.
    pub(crate) fn lose(&self, since: Millis) -> Result<usize, StoreError> {
        self.connection()
            .execute(
                "UPDATE executions SET status = 'lost' WHERE status = 'running' AND last_heartbeat < ?1",
                [since],
            )
            .map_err(failed("mark lost executions"))
    }

    /// Executions, newest first.
    pub(crate) fn executions(&self, page: Page) -> Result<Vec<ExecutionRow>, StoreError> {
        let connection = self.connection();
        let mut statement = connection
            .prepare(
                "SELECT number, execution_id, status, heartbeats, first_seen, last_heartbeat, ended, exit_code,
                    execution_time, artifacts, stdout_head, stderr_head
                 FROM executions WHERE number < ?1 ORDER BY number DESC LIMIT ?2",
            )
            .map_err(failed("list executions"))?;
        statement
            .query_map(
                params![page.before.unwrap_or(i64::MAX), page.limit],
                execution,
            )
            .and_then(Iterator::collect)
            .map_err(failed("list executions"))
    }

    /// One execution, and its result as it came, where there is one.
    pub(crate) fn execution(
        &self,
        id: &ExecutionId,
    ) -> Result<Option<(ExecutionRow, Option<String>)>, StoreError> {
        self.connection()
            .query_row(
                "SELECT number, execution_id, status, heartbeats, first_seen, last_heartbeat, ended, exit_code,
                    execution_time, artifacts, stdout_head, stderr_head, result
                 FROM executions WHERE execution_id = ?1",
                [id.as_str()],
                |row| Ok((execution(row)?, row.get(12)?)),
            )
            .optional()
            .map_err(failed("find an execution"))
    }

    /// Containers, newest first.
    pub(crate) fn containers(&self, page: Page) -> Result<Vec<ContainerRow>, StoreError> {
        let connection = self.connection();
        let mut statement = connection
            .prepare(
                "SELECT number, container_id, pod_name, executor_port, state, ready_at, exited_at, exit_code, exit_reason
                 FROM containers WHERE number < ?1 ORDER BY number DESC LIMIT ?2",
            )
            .map_err(failed("list containers"))?;
        let row = |row: &Row<'_>| {
            Ok(ContainerRow {
                number: row.get(0)?,
                id: row.get(1)?,
                pod_name: row.get(2)?,
                executor_port: row.get(3)?,
                state: row.get(4)?,
                ready_at: row.get(5)?,
                exited_at: row.get(6)?,
                exit_code: row.get(7)?,
                exit_reason: row.get(8)?,
            })
        };
        statement
            .query_map(params![page.before.unwrap_or(i64::MAX), page.limit], row)
            .and_then(Iterator::collect)
            .map_err(failed("list containers"))
    }

    /// Whether the file can be written to.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        self.connection()
            .execute_batch("BEGIN IMMEDIATE; ROLLBACK")
            .map_err(failed("write to the database"))
    }
}

fn execution(row: &Row<'_>) -> rusqlite::Result<ExecutionRow> {
    Ok(ExecutionRow {
        number: row.get(0)?,
        id: row.get(1)?,
        status: row.get(2)?,
        heartbeats: row.get(3)?,
        first_seen: row.get(4)?,
        last_heartbeat: row.get(5)?,
        ended: row.get(6)?,
        exit_code: row.get(7)?,
        execution_time: row.get(8)?,
        artifacts: row.get(9)?,
        stdout_head: row.get(10)?,
        stderr_head: row.get(11)?,
    })
}

/// Removes what is beyond the bound. Numbers are given once and in order, so the newest one says how many there are at most.
fn forget_old(connection: &Connection, table: &'static str) -> Result<(), StoreError> {
    connection
        .execute(
            &format!(
                "DELETE FROM {table} WHERE number <= (SELECT max(number) FROM {table}) - {MAX_ROWS}"
            ),
            [],
        )
        .map(drop)
        .map_err(failed("forget old reports"))
}

/// The beginning of an output.
fn head(text: &str) -> &str {
    text.char_indices()
        .nth(HEAD)
        .map_or(text, |(end, _)| &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Page = Page {
        limit: 100,
        before: None,
    };

    fn id(name: &str) -> ExecutionId {
        ExecutionId::parse(name).unwrap()
    }

    fn outcome(status: &str) -> (Outcome, String) {
        let body = format!(
            r#"{{"status":"{status}","stdout":"out","stderr":"","exit_code":0,"execution_time":0.5,
                "return_value":null,"metrics":{{"duration_ms":500}},"artifacts":["a"]}}"#
        );
        (serde_json::from_str(&body).unwrap(), body)
    }

    fn status(store: &Store, name: &str) -> String {
        store.execution(&id(name)).unwrap().unwrap().0.status
    }

    #[test]
    fn an_execution_is_lost_without_heartbeats_found_again_and_ends_once() {
        let store = Store::in_memory().unwrap();
        store.heartbeat(&id("e"), 1000).unwrap();
        assert_eq!(store.lose(1000).unwrap(), 0);
        assert_eq!(store.lose(1001).unwrap(), 1);
        assert_eq!(status(&store, "e"), "lost");
        store.heartbeat(&id("e"), 2000).unwrap();
        assert_eq!(status(&store, "e"), "running");
        store.lose(9000).unwrap();

        let (success, body) = outcome("success");
        assert!(store.result(&id("e"), &success, &body, 9000).unwrap());
        let (crashed, other) = outcome("crashed");
        assert!(!store.result(&id("e"), &crashed, &other, 9001).unwrap());
        store.heartbeat(&id("e"), 9002).unwrap();
        assert_eq!(store.lose(i64::MAX).unwrap(), 0);
        let (row, result) = store.execution(&id("e")).unwrap().unwrap();
        assert_eq!((row.status.as_str(), row.ended), ("success", Some(9000)));
        assert_eq!(result.unwrap(), body);
    }

    #[test]
    fn only_what_was_seen_running_can_be_lost() {
        let store = Store::in_memory().unwrap();
        let (failed, body) = outcome("failed");
        store.result(&id("e"), &failed, &body, 0).unwrap();
        assert_eq!(store.lose(i64::MAX).unwrap(), 0);
    }

    #[test]
    fn a_restart_keeps_everything_and_loses_nobody_for_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("db");
        let store = Store::open(&path, 0).unwrap();
        store.heartbeat(&id("e"), 1000).unwrap();
        drop(store);
        let store = Store::open(&path, 60_000).unwrap();
        assert_eq!(store.lose(60_000).unwrap(), 0);
        assert_eq!(store.lose(60_001).unwrap(), 1);
        drop(store);

        let foreign = Connection::open(&path).unwrap();
        foreign.pragma_update(None, "user_version", 7).unwrap();
        drop(foreign);
        assert!(matches!(
            Store::open(&path, 0),
            Err(StoreError::Version { found: 7 })
        ));
        let other = directory.path().join("other");
        let foreign = Connection::open(&other).unwrap();
        foreign.execute_batch("CREATE TABLE t (a)").unwrap();
        drop(foreign);
        assert!(matches!(
            Store::open(&other, 0),
            Err(StoreError::Version { found: 0 })
        ));
    }

    #[test]
    fn a_container_that_comes_back_is_ready_again() {
        let store = Store::in_memory().unwrap();
        let ready: Ready = serde_json::from_str(
            r#"{"container_id":"c","pod_name":null,"executor_port":8080,"ready_at":"t1"}"#,
        )
        .unwrap();
        let exited: Exited = serde_json::from_str(
            r#"{"container_id":"c","executor_port":8080,"exit_code":143,"exit_reason":"sigterm"}"#,
        )
        .unwrap();
        store.ready(&ready).unwrap();
        store.exited(&exited).unwrap();
        let row = store.containers(ALL).unwrap().remove(0);
        assert_eq!((row.state.as_str(), row.exit_code), ("exited", Some(143)));
        store.ready(&ready).unwrap();
        let rows = store.containers(ALL).unwrap();
        assert_eq!(rows.len(), 1);
        assert_eq!((rows[0].state.as_str(), rows[0].exit_code), ("ready", None));
    }

    #[test]
    fn lists_are_newest_first_in_pages_without_gaps() {
        let store = Store::in_memory().unwrap();
        for n in 0..7 {
            store.heartbeat(&id(&format!("e{n}")), n).unwrap();
        }
        let mut before = None;
        let mut seen = Vec::new();
        loop {
            let rows = store.executions(Page { limit: 3, before }).unwrap();
            let Some(last) = rows.last() else { break };
            before = Some(last.number);
            seen.extend(rows.into_iter().map(|row| row.id));
        }
        assert_eq!(seen, ["e6", "e5", "e4", "e3", "e2", "e1", "e0"]);
    }

    #[test]
    fn the_head_of_an_output_ends_at_a_character() {
        assert_eq!(head("☃"), "☃");
        assert_eq!(head(&"☃".repeat(HEAD + 1)), "☃".repeat(HEAD));
    }
}
