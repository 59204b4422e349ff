//! A store that forgets everything with its process: for one run without a server, for tests, and for programs that keep
//! results themselves.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use executor_domain::{Execution, ExecutionId, Status};
use tokio::time::Instant;

use crate::{Cursor, ExecutionStore, Fingerprint, Kept, Page, Query, StoreError, Summary};

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

/// Keeps executions in memory, bounded in age, number and bytes. Reports nothing to anybody: it has no outbox.
#[derive(Debug)]
pub struct MemoryStore {
    retention: Retention,
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    entries: HashMap<ExecutionId, Entry>,
    /// In the order of acceptance.
    order: BTreeMap<u64, ExecutionId>,
    /// Ended executions, oldest first. One that was forgotten may still be in here, under a number that nobody has.
    ended: VecDeque<(Instant, u64)>,
    result_bytes: usize,
    next: u64,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    kept: Kept,
    /// Bytes that the result takes; 0 while there is none.
    bytes: usize,
}

impl MemoryStore {
    /// An empty store.
    pub fn new(retention: Retention) -> Self {
        Self {
            retention,
            book: Mutex::default(),
        }
    }

    /// The book, without what is too old.
    fn book(&self) -> MutexGuard<'_, Book> {
        // Nothing in here panics half-way through a change.
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        book.expire(&self.retention);
        book
    }
}

impl Book {
    fn remove(&mut self, id: &ExecutionId) {
        if let Some(entry) = self.entries.remove(id) {
            self.order.remove(&entry.number);
            self.result_bytes -= entry.bytes;
        }
    }

    /// Forgets what is too old or too much, oldest first. Each result is looked at once in its life.
    fn expire(&mut self, retention: &Retention) {
        let now = Instant::now();
        while let Some((ended_at, _)) = self.ended.front() {
            let keep = now.duration_since(*ended_at) < retention.ttl
                && self.ended.len() <= retention.max_results
                && self.result_bytes <= retention.max_bytes;
            if keep {
                break;
            }
            if let Some((_, number)) = self.ended.pop_front()
                && let Some(id) = self.order.get(&number).cloned()
            {
                self.remove(&id);
            }
        }
    }
}

#[async_trait]
impl ExecutionStore for MemoryStore {
    fn may_know(&self, id: &ExecutionId) -> bool {
        self.book().entries.contains_key(id)
    }

    async fn accept(
        &self,
        execution: &Execution,
        fingerprint: Fingerprint,
    ) -> Result<(), StoreError> {
        let mut book = self.book();
        if book.entries.contains_key(execution.id()) {
            return Err(misused("keep an execution", "its id is taken"));
        }
        let number = book.next;
        book.next += 1;
        book.order.insert(number, execution.id().clone());
        let kept = Kept {
            execution: execution.clone(),
            fingerprint,
        };
        let entry = Entry {
            number,
            kept,
            bytes: 0,
        };
        book.entries.insert(execution.id().clone(), entry);
        Ok(())
    }

    async fn finish(&self, execution: &Execution) -> Result<(), StoreError> {
        let mut guard = self.book();
        let book = &mut *guard;
        let Some(entry) = book.entries.get_mut(execution.id()) else {
            return Err(misused("keep a result", "its execution is not kept"));
        };
        book.result_bytes -= entry.bytes;
        entry.bytes = size_of(execution);
        entry.kept.execution = execution.clone();
        book.result_bytes += entry.bytes;
        book.ended.push_back((Instant::now(), entry.number));
        book.expire(&self.retention);
        Ok(())
    }

    async fn forget(&self, id: &ExecutionId) -> Result<(), StoreError> {
        self.book().remove(id);
        Ok(())
    }

    async fn find(&self, id: &ExecutionId) -> Result<Option<Kept>, StoreError> {
        Ok(self.book().entries.get(id).map(|entry| entry.kept.clone()))
    }

    async fn list(&self, query: Query) -> Result<Page, StoreError> {
        let book = self.book();
        let before = query.before.map_or(u64::MAX, Cursor::number);
        let mut page = Page::default();
        let mut last = None;
        for (number, id) in book.order.range(..before).rev() {
            let Some(entry) = book.entries.get(id) else {
                continue;
            };
            let execution = &entry.kept.execution;
            let of_session = query
                .session
                .as_ref()
                .is_none_or(|s| s == execution.session());
            let of_status = query.status.is_none_or(|status| match status {
                Status::Pending => !execution.status().is_final(),
                other => other == execution.status(),
            });
            if !of_session || !of_status {
                continue;
            }
            if page.items.len() == query.limit {
                page.next = last.map(Cursor::new);
                break;
            }
            page.items.push(Summary::from(execution));
            last = Some(*number);
        }
        Ok(page)
    }

    async fn unfinished(&self) -> Result<Vec<Execution>, StoreError> {
        let book = self.book();
        let executions = book.order.values().filter_map(|id| book.entries.get(id));
        Ok(executions
            .map(|entry| &entry.kept.execution)
            .filter(|execution| !execution.status().is_final())
            .cloned()
            .collect())
    }

    async fn check(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn close(&self) {}
}

fn misused(step: &'static str, why: &'static str) -> StoreError {
    StoreError::Failed {
        step,
        source: why.into(),
    }
}

/// Roughly how many bytes a result takes in memory: what a guest can make large, and a flat sum for the rest.
fn size_of(execution: &Execution) -> usize {
    use executor_domain::{Ending, State};

    const FLAT: usize = 1024;
    let State::Finished {
        outcome, artifacts, ..
    } = execution.state()
    else {
        return FLAT;
    };
    let files: usize = artifacts
        .files
        .iter()
        .map(|file| {
            size_of_val(file) + file.path.len() + file.mime_type.len() + file.checksum.len()
        })
        .sum();
    let skipped: usize = artifacts
        .skipped
        .iter()
        .map(|line| size_of_val(line) + line.len())
        .sum();
    let ending = match &outcome.ending {
        Ending::Completed { return_value } => return_value.as_str().len(),
        Ending::Failed { error, .. } => {
            error.message.len() + error.stack_trace.iter().map(String::len).sum::<usize>()
        }
        _ => 0,
    };
    // Capacity: what is reserved is taken as well.
    let output = outcome.stdout.bytes.capacity() + outcome.stderr.bytes.capacity();
    FLAT + ending + output + files + skipped
}

#[cfg(test)]
mod tests {
    use executor_domain::{
        Artifacts, CapturedOutput, Ending, Outcome, SessionId, Start, Timestamp, Usage,
    };

    use super::*;

    fn execution(n: usize, session: &str) -> Execution {
        Execution::accept(
            ExecutionId::parse(&format!("e{n}")).unwrap(),
            SessionId::parse(session).unwrap(),
            Timestamp::from_unix_micros(0),
        )
    }

    async fn keep(store: &MemoryStore, n: usize, output: usize) -> Execution {
        let mut execution = execution(n, "s");
        let fingerprint = Fingerprint::new([1; 32]);
        store.accept(&execution, fingerprint).await.unwrap();
        let outcome = Outcome {
            ending: Ending::Cancelled,
            stdout: CapturedOutput {
                bytes: vec![b'x'; output],
                truncated_bytes: 0,
            },
            stderr: CapturedOutput::default(),
            usage: Usage::default(),
            start: Start::Cold,
            limits_hit: Vec::new(),
        };
        execution
            .finish(
                Timestamp::from_unix_micros(1),
                outcome,
                Artifacts::default(),
            )
            .unwrap();
        store.finish(&execution).await.unwrap();
        execution
    }

    #[tokio::test(start_paused = true)]
    async fn results_are_forgotten_after_their_time() {
        let store = MemoryStore::new(Retention {
            ttl: Duration::from_secs(10),
            ..Retention::default()
        });
        let kept = keep(&store, 1, 0).await;
        tokio::time::advance(Duration::from_secs(9)).await;
        let found = store.find(kept.id()).await.unwrap().unwrap();
        assert_eq!(found.execution, kept);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!store.may_know(kept.id()));
        assert_eq!(store.find(kept.id()).await.unwrap(), None);
    }

    #[tokio::test]
    async fn the_oldest_results_go_first_by_count_and_by_bytes() {
        let store = MemoryStore::new(Retention {
            max_results: 2,
            max_bytes: 4096,
            ..Retention::default()
        });
        let mut kept = Vec::new();
        for n in 1..=3 {
            kept.push(keep(&store, n, 10).await);
        }
        assert!(!store.may_know(kept[0].id()));
        assert!(store.may_know(kept[2].id()));

        let large = keep(&store, 4, 3000).await;
        assert!(!store.may_know(kept[2].id()));
        assert!(store.may_know(large.id()));
    }

    #[tokio::test]
    async fn what_has_not_ended_is_never_forgotten_of_itself() {
        let store = MemoryStore::new(Retention {
            ttl: Duration::ZERO,
            max_results: 0,
            max_bytes: 0,
        });
        let pending = execution(1, "s");
        let fingerprint = Fingerprint::new([1; 32]);
        store.accept(&pending, fingerprint).await.unwrap();
        assert!(store.may_know(pending.id()));
        assert_eq!(
            store.unfinished().await.unwrap(),
            std::slice::from_ref(&pending)
        );
        assert!(store.accept(&pending, fingerprint).await.is_err());
        store.forget(pending.id()).await.unwrap();
        assert!(!store.may_know(pending.id()));
    }

    #[tokio::test]
    async fn pages_hold_everything_once_newest_first() {
        let store = MemoryStore::new(Retention::default());
        for n in 0..5 {
            keep(&store, n, 0).await;
        }
        let other = execution(9, "other");
        store
            .accept(&other, Fingerprint::new([2; 32]))
            .await
            .unwrap();
        let mut query = Query {
            session: Some(SessionId::parse("s").unwrap()),
            status: None,
            before: None,
            limit: 2,
        };
        let mut seen = Vec::new();
        loop {
            let page = store.list(query.clone()).await.unwrap();
            seen.extend(page.items.into_iter().map(|item| item.id.to_string()));
            let Some(next) = page.next else { break };
            query.before = Some(next);
        }
        assert_eq!(seen, ["e4", "e3", "e2", "e1", "e0"]);

        let pending = Query {
            session: None,
            status: Some(Status::Pending),
            before: None,
            limit: 5,
        };
        let page = store.list(pending).await.unwrap();
        assert_eq!((page.items.len(), &page.items[0].id), (1, other.id()));
    }
}
