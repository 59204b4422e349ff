//! The thread that writes. What waits when it comes round is committed together, so that under load a commit costs many
//! runs what it costs one.

use std::{
    fs::File,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::{Notify, OwnedSemaphorePermit};

use crate::{
    age::StoreTime,
    checkpoint::Checkpoints,
    error::Cause,
    known::Known,
    queue::{Answer, Order, Write},
    rows::{self, Effect, SetAside, Totals},
    store::StoreOptions,
};

/// Most writes in one transaction.
const MAX_BATCH: usize = 256;
/// Least that a check writes.
pub(crate) const TRIAL_BYTES: usize = 512;
/// Most that a check writes, however much was not to be written.
const MAX_TRIAL_BYTES: usize = 32 << 20;
/// Most bytes in one transaction, and one write more.
const MAX_BATCH_BYTES: usize = 32 << 20;

/// What the writer tells those who do not want to ask the database.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// Ids that may be kept.
    pub known: Known,
    /// A report has come in.
    pub changed: Notify,
    /// Reports that wait.
    pub backlog: AtomicU64,
    /// Reports that were refused for good, since the store was opened.
    pub refused: AtomicU64,
    /// Reports that were given up undelivered, since the store was opened.
    pub dropped: AtomicU64,
    /// Reports of executions that cannot be read, since the store was opened.
    pub unreadable: AtomicU64,
    /// Transactions that were committed for writes.
    pub commits: AtomicU64,
}

pub(crate) struct Writer {
    pub(crate) connection: Connection,
    /// `None`: there is no log.
    pub(crate) checkpoints: Option<Checkpoints>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) options: StoreOptions,
    pub(crate) time: StoreTime,
    pub(crate) totals: Totals,
    /// How much a check has to write: as much as could not be written the last time. A disk that is all but full still
    /// has room for less.
    pub(crate) unwritten: usize,
    /// Held until the end.
    pub(crate) _lock: Option<File>,
}

/// A write and who waits for it.
type Waiting = (Write, Answer, OwnedSemaphorePermit);

impl Writer {
    /// Writes until it is told to close, or nobody can tell it anything any more.
    pub(crate) fn run(mut self, queue: &Receiver<Order>) {
        let tick = self.options.tick();
        let mut tend_at = Instant::now() + tick;
        let closed = loop {
            // However much there is to write.
            if Instant::now() >= tend_at {
                self.remember();
                let is_more = self.tend();
                tend_at = Instant::now() + if is_more { Duration::ZERO } else { tick };
            }
            let patience = tend_at.saturating_duration_since(Instant::now());
            let mut next = match queue.recv_timeout(patience) {
                Ok(order) => Some(order),
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => break None,
            };
            let mut batch = Vec::new();
            let mut bytes = 0;
            let mut last = None;
            while let Some(order) = next {
                match order {
                    Order::Write(write, answer, room) => {
                        bytes += write.bytes();
                        batch.push((write, answer, room));
                    }
                    other => {
                        last = Some(other);
                        break;
                    }
                }
                let full = batch.len() >= MAX_BATCH || bytes >= MAX_BATCH_BYTES;
                next = if full { None } else { queue.try_recv().ok() };
            }
            if !batch.is_empty() {
                let writes = batch.len();
                self.write(batch);
                if let Some(checkpoints) = &mut self.checkpoints {
                    checkpoints.wrote(writes, bytes);
                }
                if self.is_over_the_cap() {
                    tend_at = Instant::now();
                }
            }
            match last {
                Some(Order::Read(read, _room)) => read(&self.connection),
                #[cfg(test)]
                Some(Order::Tend(answer)) => {
                    self.remember();
                    while self.tend() {}
                    let _ = answer.send(());
                }
                Some(Order::Close(answer)) => break Some(answer),
                Some(Order::Write(..)) | None => {}
            }
        };
        self.remember();
        if let Some(checkpoints) = self.checkpoints.take() {
            checkpoints.end();
        }
        // Whoever opens it next finds one file, and no log to go through.
        if let Err(error) = pragma(&self.connection, "wal_checkpoint(TRUNCATE)") {
            tracing::debug!(%error, "the store's log stays behind");
        }
        drop(self);
        if let Some(answer) = closed {
            let _ = answer.send(());
        }
    }

    /// Commits writes together, and tells who waits.
    fn write(&mut self, batch: Vec<Waiting>) {
        let writes: Vec<&Write> = batch.iter().map(|(write, ..)| write).collect();
        let together = self.commit(&writes);
        let alone = batch.len() == 1;
        for (write, answer, _room) in batch {
            let committed = match &together {
                Ok(()) => Ok(()),
                Err(cause) if alone => Err(cause.clone()),
                // One of them may be at fault: each by itself.
                Err(_) => self.commit(&[&write]),
            };
            self.learn(&write, committed.is_ok());
            let answered = committed.map_err(|cause| {
                let error = cause.while_doing(write.step());
                tracing::error!(
                    error = executor_application::chain(&error),
                    "the store failed"
                );
                error
            });
            // Whoever has gone is not told.
            let _ = answer.send(answered);
        }
    }

    /// Learns from a write how much a check has to write.
    fn learn(&mut self, write: &Write, was_written: bool) {
        let bytes = match write {
            Write::Check => {
                if let Err(error) = rows::end_trial(&self.connection) {
                    tracing::debug!(%error, "a trial stays until the next one");
                }
                self.unwritten
            }
            other => other.bytes(),
        };
        if !was_written {
            self.unwritten = self.unwritten.max(bytes.min(MAX_TRIAL_BYTES));
        } else if bytes >= self.unwritten {
            self.unwritten = TRIAL_BYTES;
        }
    }

    /// One transaction: all of it, or nothing.
    fn commit(&mut self, writes: &[&Write]) -> Result<(), Cause> {
        let mut ended = self.totals.ended;
        let kept_at = self.time.now();
        let is_reported = self.options.reports;
        let mut committed = || -> rusqlite::Result<Effect> {
            let transaction = self
                .connection
                .transaction_with_behavior(TransactionBehavior::Immediate)?;
            let mut sum = Effect::default();
            for write in writes {
                sum.add(match write {
                    Write::Accept(execution, fingerprint) => {
                        rows::accept(&transaction, execution, fingerprint)?
                    }
                    Write::Finish(result) => {
                        ended += 1;
                        rows::finish(&transaction, result, ended, kept_at, is_reported)?
                    }
                    Write::Forget(id) => rows::forget(&transaction, id)?,
                    Write::Delivered(id) => rows::delivered(&transaction, id)?,
                    Write::Refused(id, reason) => rows::refused(&transaction, id, reason)?,
                    Write::SetAside(unreadable) => {
                        ended += 1;
                        rows::set_aside(&transaction, unreadable, ended, kept_at, is_reported)?
                    }
                    Write::Check => rows::begin_trial(&transaction, self.unwritten)?,
                });
            }
            transaction.commit()?;
            Ok(sum)
        };
        let effect = committed().map_err(Cause::new)?;
        self.totals.ended = ended;
        self.shared.commits.fetch_add(1, Ordering::Relaxed);
        self.note(&effect);
        for write in writes {
            if let Write::Accept(execution, _) = write {
                // Once more: an older execution of this id may have gone, and have taken the mark along.
                self.shared.known.add(execution.id().as_str());
            }
        }
        Ok(())
    }

    /// Brings what is counted in memory up to date with what was committed.
    pub(crate) fn note(&mut self, effect: &Effect) {
        self.totals.bytes += effect.bytes;
        self.totals.waiting += effect.waiting;
        let waiting = u64::try_from(self.totals.waiting).unwrap_or(0);
        self.shared.backlog.store(waiting, Ordering::Relaxed);
        self.shared
            .refused
            .fetch_add(effect.refused, Ordering::Relaxed);
        if effect.arrived {
            self.shared.changed.notify_one();
        }
        for id in &effect.forgotten {
            self.shared.known.remove(id);
        }
        for set_aside in &effect.set_aside {
            self.tell(set_aside);
        }
    }

    /// An execution is set aside once, so that this is said once.
    fn tell(&self, set_aside: &SetAside) {
        if set_aside.was_to_be_reported {
            self.shared.unreadable.fetch_add(1, Ordering::Relaxed);
        }
        tracing::error!(
            execution_id = ?set_aside.id,
            number = set_aside.number,
            why = set_aside.why,
            never_reported = set_aside.was_to_be_reported,
            "what is kept of an execution cannot be read: it is set aside for RESULT_TTL, and everything else goes on; \
             docs/troubleshooting.md says how to look at it"
        );
    }

    /// Remembers the store's time, so that what is kept goes on ageing at the next start.
    fn remember(&mut self) {
        let remembered =
            rows::remember(&self.connection, self.time.to_remember(), self.totals.ended);
        if let Err(error) = remembered {
            tracing::warn!(%error, "the store cannot remember the time");
        }
    }
}

/// Carries a pragma out that may answer with rows.
pub(crate) fn pragma(connection: &Connection, text: &str) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(&format!("PRAGMA {text}"))?;
    let mut rows = statement.query([])?;
    while rows.next()?.is_some() {}
    Ok(())
}

impl Effect {
    fn add(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.waiting += other.waiting;
        self.arrived |= other.arrived;
        self.refused += other.refused;
        self.set_aside.extend(other.set_aside);
        self.forgotten.extend(other.forgotten);
    }
}
