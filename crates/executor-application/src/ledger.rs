//! Which executions are known: those that run, and for a while those that ended.
//!
//! An execution id is an idempotency key. Whoever sends the same request twice gets the first run's result; whoever
//! sends another request under a known id is told so.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use executor_domain::{Execution, ExecutionId, SessionId};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::execute::RunFailure;

/// SHA-256 of everything in a request that decides what runs.
pub(crate) type Fingerprint = [u8; 32];

/// How much of the past is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// How long a result is kept.
    pub ttl: Duration,
    /// How many results are kept at most; the oldest go first.
    pub max_results: usize,
    /// How many bytes of output and results are kept at most; the oldest go first.
    pub max_bytes: usize,
}

impl Default for Retention {
    /// A day, at most 10,000 results and 64 MiB.
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(24 * 3600),
            max_results: 10_000,
            max_bytes: 64 << 20,
        }
    }
}

/// How far a run has come, as those who wait for it see it.
#[derive(Debug, Clone)]
pub(crate) enum Progress {
    /// The execution as it is now.
    Live(Execution),
    /// We failed it.
    Failed(Arc<RunFailure>),
}

impl Progress {
    /// Whether nothing more will happen.
    pub(crate) fn is_over(&self) -> bool {
        match self {
            Self::Live(execution) => execution.status().is_final(),
            Self::Failed(_) => true,
        }
    }
}

/// One registration in the ledger. An id that is forgotten and registered again gets another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Registration(u64);

#[derive(Debug)]
struct Entry {
    registration: Registration,
    fingerprint: Fingerprint,
    progress: watch::Receiver<Progress>,
    cancel: CancellationToken,
    /// Callers who wait for the result.
    waiting: usize,
    /// Bytes that the result takes; `None` while there is none.
    result_bytes: Option<usize>,
}

#[derive(Debug, Default)]
struct Book {
    entries: HashMap<ExecutionId, Entry>,
    /// Ended executions, oldest first.
    ended: VecDeque<(Instant, ExecutionId, Registration)>,
    result_bytes: usize,
    next: u64,
}

#[derive(Debug)]
pub(crate) struct Ledger {
    retention: Retention,
    book: Mutex<Book>,
}

/// What the ledger knows of an id.
pub(crate) enum Lookup {
    /// Nothing.
    Unknown,
    /// The same request; its caller waits with the others now.
    Same(Registration, watch::Receiver<Progress>),
    /// Another request.
    Different,
}

impl Ledger {
    pub(crate) fn new(retention: Retention) -> Self {
        Self {
            retention,
            book: Mutex::default(),
        }
    }

    /// Looks an id up and, where it is unknown, registers what `admit` makes of it, all in one step: of two equal
    /// requests at the same time exactly one is admitted.
    pub(crate) fn join_or_register<E>(
        &self,
        id: &ExecutionId,
        fingerprint: Fingerprint,
        admit: impl FnOnce(Registration) -> Result<(watch::Receiver<Progress>, CancellationToken), E>,
    ) -> Result<Lookup, E> {
        let mut book = self.book();
        book.expire(&self.retention);
        if let Some(entry) = book.entries.get_mut(id) {
            if entry.fingerprint != fingerprint {
                return Ok(Lookup::Different);
            }
            entry.waiting += 1;
            return Ok(Lookup::Same(entry.registration, entry.progress.clone()));
        }
        let registration = Registration(book.next);
        let (progress, cancel) = admit(registration)?;
        book.next += 1;
        book.entries.insert(
            id.clone(),
            Entry {
                registration,
                fingerprint,
                progress,
                cancel,
                waiting: 1,
                result_bytes: None,
            },
        );
        Ok(Lookup::Unknown)
    }

    /// The run has ended with a result of so many bytes, which is kept for a while.
    pub(crate) fn ended(&self, id: &ExecutionId, registration: Registration, bytes: usize) {
        let mut book = self.book();
        let Some(entry) = book.entry(id, registration) else {
            return;
        };
        entry.result_bytes = Some(bytes);
        book.result_bytes += bytes;
        book.ended
            .push_back((Instant::now(), id.clone(), registration));
        book.expire(&self.retention);
    }

    /// The run has ended without a result: the id may be used again.
    pub(crate) fn forget(&self, id: &ExecutionId, registration: Registration) {
        self.book().remove(id, registration);
    }

    /// A caller no longer waits. Where it was the last one, and `cancel_abandoned` says so, a run that has not ended is
    /// cancelled and forgotten, so that a retry under the same id runs anew.
    pub(crate) fn leave(
        &self,
        id: &ExecutionId,
        registration: Registration,
        cancel_abandoned: bool,
    ) {
        let mut book = self.book();
        let Some(entry) = book.entry(id, registration) else {
            return;
        };
        entry.waiting = entry.waiting.saturating_sub(1);
        if entry.waiting == 0 && cancel_abandoned && entry.result_bytes.is_none() {
            entry.cancel.cancel();
            book.remove(id, registration);
        }
    }

    /// Every run of a session that has not ended: how to cancel it, and how far it has come.
    pub(crate) fn unfinished_of(
        &self,
        session: &SessionId,
    ) -> Vec<(CancellationToken, watch::Receiver<Progress>)> {
        let book = self.book();
        let unfinished = book.entries.values().filter(|entry| {
            let progress = entry.progress.borrow();
            matches!(&*progress, Progress::Live(execution) if execution.session() == session)
                && !progress.is_over()
        });
        unfinished
            .map(|entry| (entry.cancel.clone(), entry.progress.clone()))
            .collect()
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // Nothing in here panics half-way through a change.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    fn entry(&mut self, id: &ExecutionId, registration: Registration) -> Option<&mut Entry> {
        self.entries
            .get_mut(id)
            .filter(|entry| entry.registration == registration)
    }

    fn remove(&mut self, id: &ExecutionId, registration: Registration) {
        if self.entry(id, registration).is_some()
            && let Some(entry) = self.entries.remove(id)
        {
            self.result_bytes -= entry.result_bytes.unwrap_or(0);
        }
    }

    /// Forgets what is too old or too much, oldest first. Each result is looked at once in its life.
    fn expire(&mut self, retention: &Retention) {
        let now = Instant::now();
        while let Some((ended_at, _, _)) = self.ended.front() {
            let keep = now.duration_since(*ended_at) < retention.ttl
                && self.ended.len() <= retention.max_results
                && self.result_bytes <= retention.max_bytes;
            if keep {
                break;
            }
            if let Some((_, id, registration)) = self.ended.pop_front() {
                self.remove(&id, registration);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use executor_domain::Timestamp;

    use super::*;

    fn id(n: usize) -> ExecutionId {
        ExecutionId::parse(&format!("e{n}")).unwrap()
    }

    fn progress() -> watch::Receiver<Progress> {
        let session = SessionId::parse("s").unwrap();
        let accepted = Timestamp::from_unix_micros(0);
        watch::channel(Progress::Live(Execution::accept(id(0), session, accepted))).1
    }

    /// Registers an id, or says what is known of it.
    fn register(ledger: &Ledger, n: usize, print: u8) -> (Lookup, Option<Registration>) {
        let mut registered = None;
        let lookup = ledger
            .join_or_register::<()>(&id(n), [print; 32], |registration| {
                registered = Some(registration);
                Ok((progress(), CancellationToken::new()))
            })
            .unwrap();
        (lookup, registered)
    }

    #[tokio::test(start_paused = true)]
    async fn results_are_forgotten_after_their_time() {
        let ledger = Ledger::new(Retention {
            ttl: Duration::from_secs(10),
            ..Retention::default()
        });
        let first = register(&ledger, 1, 1).1.unwrap();
        ledger.ended(&id(1), first, 100);
        tokio::time::advance(Duration::from_secs(9)).await;
        assert!(matches!(register(&ledger, 1, 1).0, Lookup::Same(..)));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(matches!(register(&ledger, 1, 1).0, Lookup::Unknown));
    }

    #[tokio::test]
    async fn the_oldest_results_go_first_by_count_and_by_bytes() {
        let ledger = Ledger::new(Retention {
            max_results: 2,
            max_bytes: 100,
            ..Retention::default()
        });
        for n in 1..=3 {
            let registration = register(&ledger, n, 1).1.unwrap();
            ledger.ended(&id(n), registration, 10);
        }
        assert!(matches!(register(&ledger, 1, 1).0, Lookup::Unknown));
        assert!(matches!(register(&ledger, 3, 1).0, Lookup::Same(..)));

        let large = register(&ledger, 4, 1).1.unwrap();
        ledger.ended(&id(4), large, 95);
        assert!(matches!(register(&ledger, 3, 1).0, Lookup::Unknown));
        assert!(matches!(register(&ledger, 4, 1).0, Lookup::Same(..)));
    }

    #[tokio::test]
    async fn a_run_that_is_going_on_is_never_forgotten() {
        let ledger = Ledger::new(Retention {
            ttl: Duration::ZERO,
            max_results: 0,
            max_bytes: 0,
        });
        register(&ledger, 1, 1);
        assert!(matches!(register(&ledger, 1, 1).0, Lookup::Same(..)));
        assert!(matches!(register(&ledger, 1, 2).0, Lookup::Different));
    }

    #[tokio::test]
    async fn a_late_word_of_an_earlier_registration_changes_nothing() {
        let ledger = Ledger::new(Retention::default());
        let first = register(&ledger, 1, 1).1.unwrap();
        ledger.leave(&id(1), first, true);
        let second = register(&ledger, 1, 1).1.unwrap();
        ledger.ended(&id(1), first, 10);
        ledger.forget(&id(1), first);
        assert!(matches!(register(&ledger, 1, 1).0, Lookup::Same(known, _) if known == second));
    }
}
