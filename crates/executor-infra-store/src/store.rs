//! The store, as the application sees it.

use std::{
    fmt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::Receiver,
    },
    thread,
    time::Duration,
};

use async_trait::async_trait;
use executor_application::{
    ExecutionStore, Fingerprint, Kept, Outbox, OutboxLevels, Page, Query, StoreError,
};
use executor_domain::{Execution, ExecutionId};
use rusqlite::Connection;

use crate::{
    age::{self, Clocks, StoreTime},
    checkpoint::Checkpoints,
    codec,
    error::OpenError,
    open::{self, Opened},
    queue::{Order, Queue, Write},
    rows::{self, Met},
    writer::{Shared, TRIAL_BYTES, Writer},
};

/// Longest reason that is kept of a refused report, in bytes.
const MAX_REASON: usize = 1024;
/// Most bytes of output that the outbox hands out at once, and one execution more.
const MAX_HANDED_OUT: usize = 16 << 20;
/// How often the store looks for what is too old, at least.
const MAX_TICK: Duration = Duration::from_secs(60);

/// What is configurable about the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreOptions {
    /// How long a result is kept after its end. One whose report waits is kept for longer.
    pub ttl: Duration,
    /// Most bytes that are kept. The file is somewhat larger, and so is its log.
    pub max_bytes: u64,
    /// Whether results are reported: each comes into the outbox.
    pub reports: bool,
}

impl Default for StoreOptions {
    /// A day, 1 GiB, and no reports.
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(24 * 3600),
            max_bytes: 1 << 30,
            reports: false,
        }
    }
}

impl StoreOptions {
    pub(crate) fn cap(&self) -> i64 {
        i64::try_from(self.max_bytes).unwrap_or(i64::MAX)
    }

    pub(crate) fn ttl_seconds(&self) -> i64 {
        i64::try_from(self.ttl.as_secs()).unwrap_or(i64::MAX)
    }

    pub(crate) fn tick(&self) -> Duration {
        (self.ttl / 10).clamp(Duration::from_secs(1), MAX_TICK)
    }
}

/// Keeps executions and their reports in one SQLite database. What it has acknowledged outlives the process, however that
/// ends.
pub struct SqliteStore {
    writes: Queue,
    reads: Queue,
    shared: Arc<Shared>,
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore")
            .field("outbox", &self.levels())
            .finish_non_exhaustive()
    }
}

impl SqliteStore {
    /// Opens the store in a directory of its own, which is made where it does not exist. One process at a time.
    ///
    /// Blocks; with a GiB in it for a second or so, since all of it is checked.
    pub fn open(directory: &Path, options: StoreOptions) -> Result<Self, OpenError> {
        Self::start(
            open::in_directory(directory)?,
            directory,
            options,
            age::host(),
        )
    }

    /// A store that is gone with its process.
    pub fn in_memory(options: StoreOptions) -> Result<Self, OpenError> {
        Self::start(
            open::in_memory()?,
            Path::new(":memory:"),
            options,
            age::host(),
        )
    }

    pub(crate) fn start(
        opened: Opened,
        path: &Path,
        options: StoreOptions,
        clocks: Clocks,
    ) -> Result<Self, OpenError> {
        let shared = Arc::new(Shared::default());
        let (totals, remembered) =
            load(&opened.writer, &shared).map_err(|source| OpenError::Database {
                step: "read",
                path: path.to_owned(),
                source,
            })?;
        let waiting = u64::try_from(totals.waiting).unwrap_or(0);
        shared.backlog.store(waiting, Ordering::Relaxed);
        if waiting > 0 {
            shared.changed.notify_one();
        }
        let checkpoints = opened.checkpointer.map(Checkpoints::start).transpose();
        let writer = Writer {
            connection: opened.writer,
            checkpoints: checkpoints.map_err(OpenError::Thread)?,
            shared: Arc::clone(&shared),
            options,
            time: StoreTime::open(clocks, remembered, options.ttl),
            totals,
            unwritten: TRIAL_BYTES,
            _lock: opened.lock,
        };
        let (orders, queue) = Queue::new();
        thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run(&queue))
            .map_err(OpenError::Thread)?;
        let reads = match opened.reader {
            None => orders.clone(),
            Some(reader) => {
                let (reads, queue) = Queue::new();
                thread::Builder::new()
                    .name("store-reader".into())
                    .spawn(move || read(reader, &queue))
                    .map_err(OpenError::Thread)?;
                reads
            }
        };
        Ok(Self {
            writes: orders,
            reads,
            shared,
        })
    }

    /// Sets aside what cannot be read, for whoever looks into the database, and goes on with the rest.
    async fn set_aside<T>(&self, met: Met<T>) -> T {
        for unreadable in met.unreadable {
            // Where it cannot even be written the writer has said so, and it is passed over again the next time.
            let _ = self.writes.write(Write::SetAside(unreadable)).await;
        }
        met.found
    }

    #[cfg(test)]
    pub(crate) fn commits(&self) -> u64 {
        self.shared.commits.load(Ordering::Relaxed)
    }

    #[cfg(test)]
    pub(crate) const fn writes(&self) -> &Queue {
        &self.writes
    }
}

fn load(
    connection: &Connection,
    shared: &Shared,
) -> rusqlite::Result<(rows::Totals, Option<age::Remembered>)> {
    rows::each_id(connection, |id| shared.known.add(id))?;
    Ok((rows::totals(connection)?, rows::remembered(connection)?))
}

/// The thread that reads.
fn read(connection: Connection, queue: &Receiver<Order>) {
    while let Ok(order) = queue.recv() {
        match order {
            Order::Read(read, _room) => read(&connection),
            Order::Close(answer) => {
                drop(connection);
                let _ = answer.send(());
                return;
            }
            // Nobody sends these here.
            Order::Write(..) => {}
            #[cfg(test)]
            Order::Tend(_) => {}
        }
    }
}

#[async_trait]
impl ExecutionStore for SqliteStore {
    fn may_know(&self, id: &ExecutionId) -> bool {
        self.shared.known.may_hold(id.as_str())
    }

    async fn accept(
        &self,
        execution: &Execution,
        fingerprint: Fingerprint,
    ) -> Result<(), StoreError> {
        // Before it is written: whoever is told "no" must be right. After a failure it stays, and costs a read.
        self.shared.known.add(execution.id().as_str());
        self.writes
            .write(Write::Accept(execution.clone(), fingerprint))
            .await
    }

    async fn finish(&self, execution: &Execution) -> Result<(), StoreError> {
        const STEP: &str = "put a result into columns";
        let encoded = match codec::encode(execution) {
            Some(Ok(encoded)) => encoded,
            Some(Err(error)) => {
                return Err(StoreError::Failed {
                    step: STEP,
                    source: error.into(),
                });
            }
            None => {
                return Err(StoreError::Failed {
                    step: STEP,
                    source: "the execution has not ended".into(),
                });
            }
        };
        self.writes.write(Write::Finish(Box::new(encoded))).await
    }

    async fn forget(&self, id: &ExecutionId) -> Result<(), StoreError> {
        self.writes.write(Write::Forget(id.clone())).await
    }

    async fn find(&self, id: &ExecutionId) -> Result<Option<Kept>, StoreError> {
        let id = id.clone();
        let met = self
            .reads
            .read("read an execution", move |connection| {
                rows::find(connection, &id)
            })
            .await?;
        let why = met.unreadable.first().map(|found| found.why.clone());
        let found = self.set_aside(met).await;
        match why {
            Some(why) => Err(StoreError::Unreadable(why.into())),
            None => Ok(found),
        }
    }

    async fn list(&self, query: Query) -> Result<Page, StoreError> {
        let met = self
            .reads
            .read("list executions", move |connection| {
                rows::list(connection, &query)
            })
            .await?;
        Ok(self.set_aside(met).await)
    }

    async fn unfinished(&self) -> Result<Vec<Execution>, StoreError> {
        let met = self.reads.read("list executions", rows::unfinished).await?;
        Ok(self.set_aside(met).await)
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.writes.write(Write::Check).await
    }

    async fn close(&self) {
        self.reads.close().await;
        self.writes.close().await;
    }
}

#[async_trait]
impl Outbox for SqliteStore {
    async fn undelivered(
        &self,
        after: Option<ExecutionId>,
        limit: usize,
    ) -> Result<Vec<Execution>, StoreError> {
        let met = self
            .reads
            .read("read the outbox", move |connection| {
                rows::undelivered(connection, after.as_ref(), limit, MAX_HANDED_OUT)
            })
            .await?;
        Ok(self.set_aside(met).await)
    }

    async fn delivered(&self, id: &ExecutionId) -> Result<(), StoreError> {
        self.writes.write(Write::Delivered(id.clone())).await
    }

    async fn refused(&self, id: &ExecutionId, reason: &str) -> Result<(), StoreError> {
        let mut reason = reason.to_owned();
        reason.truncate(reason.floor_char_boundary(MAX_REASON));
        self.writes.write(Write::Refused(id.clone(), reason)).await
    }

    async fn changed(&self) {
        self.shared.changed.notified().await;
    }

    fn levels(&self) -> OutboxLevels {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        OutboxLevels {
            undelivered: read(&self.shared.backlog),
            refused: read(&self.shared.refused),
            dropped: read(&self.shared.dropped),
            unreadable: read(&self.shared.unreadable),
        }
    }
}
