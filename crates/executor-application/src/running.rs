//! Which executions have a guest that runs now, and when each is to be reported next.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use executor_domain::Execution;
use tokio::{sync::Notify, time::Instant};

/// The executions that run now. Cheap to clone: clones share everything.
///
/// It is a list of its own, apart from the ledger, so that whoever reports on runs never takes a lock that a request
/// waits for.
#[derive(Debug, Clone, Default)]
pub struct Running {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    list: Mutex<List>,
    came: Notify,
}

#[derive(Debug, Default)]
struct List {
    /// By number, not by name: an abandoned run may still be dying when the same id runs anew.
    runs: BTreeMap<u64, Entry>,
    next: u64,
}

#[derive(Debug)]
struct Entry {
    execution: Execution,
    since: Instant,
    /// Beats that were due so far, sent or not.
    beats: u32,
}

/// Names one entry of the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct RunNumber(u64);

/// Keeps an execution on the list. It leaves on drop.
#[derive(Debug)]
pub(crate) struct Runs {
    shared: Arc<Shared>,
    number: RunNumber,
}

impl Drop for Runs {
    fn drop(&mut self) {
        self.shared.list().runs.remove(&self.number.0);
    }
}

impl Running {
    /// The guest of this execution runs from now on, until what comes back is dropped.
    pub(crate) fn enter(&self, execution: &Execution) -> Runs {
        let number = {
            let mut list = self.shared.list();
            let number = list.next;
            list.next += 1;
            let entry = Entry {
                execution: execution.clone(),
                since: Instant::now(),
                beats: 0,
            };
            list.runs.insert(number, entry);
            RunNumber(number)
        };
        self.shared.came.notify_one();
        Runs {
            shared: Arc::clone(&self.shared),
            number,
        }
    }

    /// Those whose next beat is due, one every `interval` after the start of each, and when the next one will be.
    /// Beats that were missed are not made up for.
    pub(crate) fn due(&self, interval: Duration) -> (Vec<(RunNumber, Execution)>, Option<Instant>) {
        let now = Instant::now();
        let mut due = Vec::new();
        let mut next: Option<Instant> = None;
        for (number, entry) in &mut self.shared.list().runs {
            let elapsed = now.duration_since(entry.since);
            let beats = beats_in(elapsed, interval);
            if beats > entry.beats {
                entry.beats = beats;
                due.push((RunNumber(*number), entry.execution.clone()));
            }
            let then = entry.since + interval.saturating_mul(entry.beats.saturating_add(1));
            next = Some(next.map_or(then, |next| next.min(then)));
        }
        (due, next)
    }

    /// Whether this one is still on the list.
    pub(crate) fn has(&self, number: RunNumber) -> bool {
        self.shared.list().runs.contains_key(&number.0)
    }

    /// Waits until another one has come. Cancel safe; may wake for one that has gone again.
    pub(crate) async fn came(&self) {
        self.shared.came.notified().await;
    }

    /// How many run.
    pub fn count(&self) -> usize {
        self.shared.list().runs.len()
    }
}

impl Shared {
    fn list(&self) -> MutexGuard<'_, List> {
        // Nothing in here panics half-way through a change.
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whole intervals in a time.
fn beats_in(elapsed: Duration, interval: Duration) -> u32 {
    let interval = interval.as_nanos().max(1);
    u32::try_from(elapsed.as_nanos() / interval).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reports::tests::running as execution;

    const INTERVAL: Duration = Duration::from_secs(5);

    fn names(due: &[(RunNumber, Execution)]) -> Vec<&str> {
        let ids = due.iter().map(|(_, execution)| execution.id().as_str());
        ids.collect()
    }

    #[tokio::test(start_paused = true)]
    async fn each_beats_in_its_own_time_and_leaves_with_its_run() {
        let running = Running::default();
        let first = running.enter(&execution("a"));
        assert_eq!(running.due(INTERVAL).0, []);
        tokio::time::advance(Duration::from_secs(2)).await;
        let _second = running.enter(&execution("b"));
        tokio::time::advance(Duration::from_secs(3)).await;
        let (due, next) = running.due(INTERVAL);
        assert_eq!(names(&due), ["a"]);
        assert_eq!(next, Some(Instant::now() + Duration::from_secs(2)));
        assert_eq!(running.due(INTERVAL).0, []);

        drop(first);
        tokio::time::advance(Duration::from_secs(60)).await;
        let (due, next) = running.due(INTERVAL);
        assert_eq!(names(&due), ["b"], "a missed beat was made up for");
        // It started 63 s ago.
        assert_eq!(next, Some(Instant::now() + Duration::from_secs(2)));
        assert_eq!(running.count(), 1);
    }

    #[tokio::test]
    async fn of_two_runs_under_one_id_each_leaves_for_itself() {
        let running = Running::default();
        let dying = running.enter(&execution("a"));
        let _anew = running.enter(&execution("a"));
        drop(dying);
        assert_eq!(running.count(), 1);
    }

    #[tokio::test]
    async fn who_waits_hears_of_one_that_came_before() {
        let running = Running::default();
        let _run = running.enter(&execution("a"));
        running.came().await;
    }
}
