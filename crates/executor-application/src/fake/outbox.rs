//! An outbox without a store.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use executor_domain::{Execution, ExecutionId};
use tokio::sync::Notify;

use crate::{Outbox, OutboxLevels, StoreError, reports::size_of};

/// An outbox in memory, for tests. Bounded in count and bytes; where it is full, the oldest report goes.
#[derive(Debug)]
pub struct MemoryOutbox {
    max_reports: usize,
    max_bytes: usize,
    waiting: Mutex<Waiting>,
    came: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Oldest first.
    reports: BTreeMap<u64, Execution>,
    numbers: HashMap<ExecutionId, u64>,
    next: u64,
    bytes: usize,
    refused: u64,
    dropped: u64,
}

impl Default for MemoryOutbox {
    /// 10,000 reports and 64 MiB.
    fn default() -> Self {
        Self::new(10_000, 64 << 20)
    }
}

impl MemoryOutbox {
    /// An outbox of at most so many reports that have at most so many bytes together. One that is larger than all of it is
    /// kept alone.
    pub fn new(max_reports: usize, max_bytes: usize) -> Self {
        Self {
            max_reports: max_reports.max(1),
            max_bytes,
            waiting: Mutex::default(),
            came: Notify::new(),
        }
    }

    /// Takes in the report of an execution that has ended.
    pub fn put(&self, execution: Execution) {
        {
            let mut waiting = self.lock();
            waiting.put(execution);
            while waiting.reports.len() > self.max_reports
                || (waiting.bytes > self.max_bytes && waiting.reports.len() > 1)
            {
                waiting.drop_oldest();
            }
        }
        self.came.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing in here panics half-way through a change.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn put(&mut self, execution: Execution) {
        self.take(execution.id());
        self.bytes += size_of(&execution);
        self.numbers.insert(execution.id().clone(), self.next);
        self.reports.insert(self.next, execution);
        self.next += 1;
    }

    fn take(&mut self, id: &ExecutionId) -> bool {
        let number = self.numbers.remove(id);
        let report = number.and_then(|number| self.reports.remove(&number));
        self.bytes -= report.as_ref().map_or(0, size_of);
        report.is_some()
    }

    fn drop_oldest(&mut self) {
        if let Some((_, oldest)) = self.reports.pop_first() {
            self.numbers.remove(oldest.id());
            self.bytes -= size_of(&oldest);
            self.dropped += 1;
        }
    }
}

#[async_trait]
impl Outbox for MemoryOutbox {
    async fn undelivered(
        &self,
        after: Option<ExecutionId>,
        limit: usize,
    ) -> Result<Vec<Execution>, StoreError> {
        let waiting = self.lock();
        let after = after.and_then(|id| waiting.numbers.get(&id).copied());
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let reports = waiting.reports.range((from, Bound::Unbounded));
        Ok(reports
            .take(limit)
            .map(|(_, execution)| execution.clone())
            .collect())
    }

    async fn delivered(&self, id: &ExecutionId) -> Result<(), StoreError> {
        self.lock().take(id);
        Ok(())
    }

    /// Counts it.
    async fn refused(&self, id: &ExecutionId, _reason: &str) -> Result<(), StoreError> {
        let mut waiting = self.lock();
        if waiting.take(id) {
            waiting.refused += 1;
        }
        Ok(())
    }

    async fn changed(&self) {
        self.came.notified().await;
    }

    fn levels(&self) -> OutboxLevels {
        let waiting = self.lock();
        OutboxLevels {
            undelivered: waiting.reports.len() as u64,
            refused: waiting.refused,
            dropped: waiting.dropped,
            unreadable: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reports::tests::ended;

    async fn names(outbox: &MemoryOutbox, after: Option<&str>, limit: usize) -> Vec<String> {
        let after = after.map(|id| ExecutionId::parse(id).unwrap());
        let reports = outbox.undelivered(after, limit).await.unwrap();
        reports
            .iter()
            .map(|report| report.id().to_string())
            .collect()
    }

    #[tokio::test]
    async fn reports_come_oldest_first_and_from_the_start_after_one_that_is_gone() {
        let outbox = MemoryOutbox::default();
        for id in ["c", "a", "b"] {
            outbox.put(ended(id, ""));
        }
        assert_eq!(names(&outbox, None, 2).await, ["c", "a"]);
        assert_eq!(names(&outbox, Some("a"), 2).await, ["b"]);
        outbox
            .delivered(&ExecutionId::parse("c").unwrap())
            .await
            .unwrap();
        assert_eq!(names(&outbox, Some("c"), 9).await, ["a", "b"]);
        assert_eq!(outbox.levels().undelivered, 2);
    }

    #[tokio::test]
    async fn the_oldest_goes_at_the_cap_and_not_before() {
        let by_count = MemoryOutbox::new(2, usize::MAX);
        let by_bytes = MemoryOutbox::new(9, 2 * size_of(&ended("x", "12")));
        for outbox in [by_count, by_bytes] {
            outbox.put(ended("a", "12"));
            outbox.put(ended("b", "12"));
            assert_eq!(names(&outbox, None, 9).await, ["a", "b"]);
            outbox.put(ended("c", "1"));
            assert_eq!(names(&outbox, None, 9).await, ["b", "c"]);
            outbox.put(ended("c", "12"));
            assert_eq!(names(&outbox, None, 9).await, ["b", "c"]);
        }
    }

    #[tokio::test]
    async fn what_is_refused_is_not_tried_again() {
        let outbox = MemoryOutbox::default();
        outbox.put(ended("a", ""));
        let id = ExecutionId::parse("a").unwrap();
        outbox.refused(&id, "why").await.unwrap();
        outbox.refused(&id, "why").await.unwrap();
        assert_eq!(
            (outbox.levels().undelivered, outbox.levels().refused),
            (0, 1)
        );
    }
}
