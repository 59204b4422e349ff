//! Opens the database: alone, of a version that we know, and sound.

use std::{
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::{error::OpenError, migrate};

/// `SbxE`, so that no other program's database is taken for ours.
const APPLICATION_ID: i64 = 0x5362_7845;
/// The form of the tables below, and of what is in them: `stored-form.txt`, which the tests compare. Whoever changes it
/// raises this, and brings the earlier ones along in `migrate`.
pub(crate) const VERSION: i64 = 2;

/// The name of the database in its directory.
const DATABASE: &str = "executions.db";
const LOCK: &str = "lock";

/// The WAL is cut to this size once it has been written back.
const MAX_IDLE_WAL: i64 = 64 << 20;

/// Pages of log that make the writer bring it back itself, as it commits: 64 MiB. It gets there only where the thread that does
/// so beside it cannot keep up, as under a load without a pause, in which the log never comes to an end.
const MAX_LOG_PAGES: i64 = 16 << 10;

/// `number` orders by acceptance, `ended` by ending. `status` is `pending` until it is final; `report` is 0 where none
/// waits, 1 where one does, 2 where it was refused, 3 where the execution cannot be read. `kept_at` is the store's own time. What a guest can make large stands
/// apart, so that lists and sweeps read little.
const TABLES: &str = "
    CREATE TABLE executions (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        session TEXT NOT NULL,
        fingerprint BLOB NOT NULL,
        accepted_at INTEGER NOT NULL,
        started_at INTEGER,
        completed_at INTEGER,
        status TEXT NOT NULL,
        ended INTEGER,
        kept_at INTEGER,
        bytes INTEGER NOT NULL,
        report INTEGER NOT NULL DEFAULT 0,
        refusal TEXT
    ) STRICT;
    CREATE INDEX by_session ON executions (session, number);
    CREATE INDEX unfinished ON executions (number) WHERE ended IS NULL;
    CREATE INDEX waiting ON executions (ended) WHERE report = 1;
    CREATE INDEX settled ON executions (ended) WHERE ended IS NOT NULL AND report <> 1;
    CREATE TABLE results (
        number INTEGER PRIMARY KEY,
        facts TEXT NOT NULL,
        value TEXT,
        stdout BLOB NOT NULL,
        stderr BLOB NOT NULL
    ) STRICT;
    CREATE TABLE notes (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
";

/// Large results, oldest first: few, however many others there are (see `rows::large_bytes`). An index is no part of what a
/// version promises: it is added to databases that earlier daemons have made, and those keep it up to date.
const LARGE: &str = "
    CREATE INDEX IF NOT EXISTS large ON executions (ended, bytes)
    WHERE ended IS NOT NULL AND report <> 1 AND bytes > 1048576;
";

/// An open database.
pub(crate) struct Opened {
    pub writer: Connection,
    /// `None`: everything goes through the writer.
    pub reader: Option<Connection>,
    /// `None`: there is no log.
    pub checkpointer: Option<Connection>,
    /// Held as long as the database is used.
    pub lock: Option<File>,
}

/// Opens the database in a directory, which is made where it does not exist and is nobody else's to read.
pub(crate) fn in_directory(directory: &Path) -> Result<Opened, OpenError> {
    let of_directory = |source| OpenError::Directory {
        path: directory.to_owned(),
        source,
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(of_directory)?;
    let lock = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(directory.join(LOCK))
        .map_err(of_directory)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(OpenError::InUse {
                path: directory.to_owned(),
            });
        }
        Err(TryLockError::Error(source)) => return Err(of_directory(source)),
    }
    let database = Database {
        path: directory.join(DATABASE),
    };
    // SQLite makes its files with the permissions of the first one, less the umask: so that one is made here.
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&database.path)
        .map_err(of_directory)?;
    let mut writer = database.open()?;
    database.prepare(&mut writer, true)?;
    let reader = database.open()?;
    database.doing("set up", reader.pragma_update(None, "query_only", true))?;
    Ok(Opened {
        writer,
        reader: Some(reader),
        checkpointer: Some(database.open()?),
        lock: Some(lock),
    })
}

/// A database that is gone with its process.
pub(crate) fn in_memory() -> Result<Opened, OpenError> {
    let database = Database {
        path: ":memory:".into(),
    };
    let mut writer = database.doing("open", Connection::open_in_memory())?;
    database.prepare(&mut writer, false)?;
    Ok(Opened {
        writer,
        reader: None,
        checkpointer: None,
        lock: None,
    })
}

struct Database {
    path: PathBuf,
}

impl Database {
    fn doing<T>(&self, step: &'static str, done: rusqlite::Result<T>) -> Result<T, OpenError> {
        done.map_err(|source| match source.sqlite_error_code() {
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
                self.damaged(source.to_string())
            }
            _ => OpenError::Database {
                step,
                path: self.path.clone(),
                source,
            },
        })
    }

    fn damaged(&self, detail: String) -> OpenError {
        OpenError::Damaged {
            path: self.path.clone(),
            detail,
        }
    }

    fn open(&self) -> Result<Connection, OpenError> {
        // Each connection has one thread, which needs no mutex of SQLite's.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = self.doing("open", Connection::open_with_flags(&self.path, flags))?;
        // Of ours, only a checkpoint can be in the way of another one, and not for long.
        self.doing("set up", connection.busy_timeout(Duration::from_secs(5)))?;
        Ok(connection)
    }

    /// Sets up the connection that writes, and the tables where there are none or those of an earlier version.
    fn prepare(&self, connection: &mut Connection, on_disk: bool) -> Result<(), OpenError> {
        let set = |name: &str, value: &dyn rusqlite::ToSql| {
            self.doing("set up", connection.pragma_update(None, name, value))
        };
        // Only heeded where there is no table yet.
        set("auto_vacuum", &"INCREMENTAL")?;
        if on_disk {
            let mode: String = self.doing(
                "set up",
                connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)),
            )?;
            if mode != "wal" {
                return Err(OpenError::NoWriteAheadLog {
                    path: self.path.clone(),
                });
            }
        }
        // A commit is one write to the WAL, which outlives the process; docs/adr/0006 says what a power loss costs.
        set("synchronous", &"NORMAL")?;
        set("journal_size_limit", &MAX_IDLE_WAL)?;
        set("wal_autocheckpoint", &MAX_LOG_PAGES)?;
        // A page that does not look right is an error, not a guess.
        set("cell_size_check", &true)?;
        set("trusted_schema", &false)?;

        let application = self.number(connection, "application_id")?;
        let version = self.number(connection, "user_version")?;
        if (application, version) == (0, 0) && self.is_empty(connection)? {
            return self.create(connection);
        }
        if application != APPLICATION_ID || version < 1 {
            return Err(OpenError::Foreign {
                path: self.path.clone(),
            });
        }
        if version > VERSION {
            return Err(OpenError::Newer {
                path: self.path.clone(),
                found: version,
                known: VERSION,
            });
        }
        self.check(connection)?;
        if version == 1 {
            self.doing("bring to this version", migrate::from_1(connection))?;
            tracing::info!(
                path = %self.path.display(),
                from = version,
                to = VERSION,
                "executions that an earlier version has kept are brought to this one; the earlier one cannot open them any more"
            );
        }
        self.doing("add an index to", connection.execute_batch(LARGE))
    }

    fn number(&self, connection: &Connection, pragma: &str) -> Result<i64, OpenError> {
        let read = connection.pragma_query_value(None, pragma, |row| row.get(0));
        self.doing("read", read)
    }

    fn is_empty(&self, connection: &Connection) -> Result<bool, OpenError> {
        let tables: i64 = self.doing(
            "read",
            connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)),
        )?;
        Ok(tables == 0)
    }

    /// All in one transaction: whoever is killed here finds nothing, or everything.
    fn create(&self, connection: &Connection) -> Result<(), OpenError> {
        let script = format!(
            "BEGIN IMMEDIATE; {TABLES} {LARGE} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION}; COMMIT;"
        );
        self.doing("create tables in", connection.execute_batch(&script))
    }

    /// Looks at every page: a second for a GiB that is in memory, and worth it, since nobody looks later.
    fn check(&self, connection: &Connection) -> Result<(), OpenError> {
        let found: String = self.doing(
            "check",
            connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)),
        )?;
        if found == "ok" {
            Ok(())
        } else {
            Err(self.damaged(found.lines().next().unwrap_or_default().to_owned()))
        }
    }
}
