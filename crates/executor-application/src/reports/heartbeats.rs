//! Says of every execution that runs that it still does.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use executor_domain::Execution;
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use crate::{Clock, ControlPlane, Delivery, Report, Running, running::RunNumber};

/// Heartbeats on their way at the same time.
const PARALLEL: usize = 16;

/// How many beats must fail, with none that arrives in between, until the control plane counts as away.
const FAILURES_OF_MANY: u32 = 3;

/// Sends a heartbeat for each execution that runs, every interval from its start.
///
/// Each has one on its way at most, the wait for a place included: while that lasts, its next ones are left out, since they
/// would say the same. So a control plane that is slow gets fewer of them, and of each run in turn, not a queue. One that
/// is away gets about one in an interval, however many run, until one arrives.
pub(crate) struct Heartbeats {
    control_plane: Arc<dyn ControlPlane>,
    clock: Arc<dyn Clock>,
    running: Running,
    interval: Duration,
    places: Arc<Semaphore>,
    contact: Arc<Contact>,
}

/// Whether heartbeats arrive.
#[derive(Debug, Default)]
struct Contact {
    /// Those that failed since the last one that arrived.
    failures: AtomicU32,
}

impl Contact {
    fn note(&self, has_arrived: bool) {
        if has_arrived {
            self.failures.store(0, Ordering::Relaxed);
        } else {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn is_lost(&self) -> bool {
        self.failures.load(Ordering::Relaxed) >= FAILURES_OF_MANY
    }
}

impl Heartbeats {
    pub(crate) fn new(
        control_plane: Arc<dyn ControlPlane>,
        clock: Arc<dyn Clock>,
        running: Running,
        interval: Duration,
    ) -> Self {
        Self {
            control_plane,
            clock,
            running,
            interval,
            places: Arc::new(Semaphore::new(PARALLEL)),
            contact: Arc::default(),
        }
    }

    /// Goes on for ever. Dropping the future stops all of it.
    pub(crate) async fn run(self) {
        let mut beats = JoinSet::new();
        // At most one is on its way for each run.
        let mut busy = HashSet::new();
        // Where the control plane is away, when to see next whether it is back.
        let mut next_scout = Instant::now();
        loop {
            let (due, next) = self.running.due(self.interval);
            for (number, execution) in due {
                let is_scout = self.contact.is_lost();
                if is_scout && !(busy.is_empty() && next_scout <= Instant::now()) {
                    continue;
                }
                if busy.insert(number) {
                    // Less than an interval, or the next beat of the same run would come too early by a hair.
                    next_scout = Instant::now() + self.interval / 2;
                    beats.spawn(self.beat(number, execution, is_scout));
                }
            }
            tokio::select! {
                () = self.running.came() => {}
                () = until(next) => {}
                Some(ended) = beats.join_next() => match ended {
                    Ok(number) => {
                        busy.remove(&number);
                    }
                    Err(error) => {
                        tracing::error!(%error, "a heartbeat's task failed");
                        // Whose it was is not known.
                        busy.clear();
                    }
                },
            }
        }
    }

    fn beat(
        &self,
        number: RunNumber,
        execution: Execution,
        is_scout: bool,
    ) -> impl Future<Output = RunNumber> + use<> {
        let control_plane = Arc::clone(&self.control_plane);
        let clock = Arc::clone(&self.clock);
        let running = self.running.clone();
        let places = Arc::clone(&self.places);
        let contact = Arc::clone(&self.contact);
        let interval = self.interval;
        async move {
            // In order of arrival, so that none starves. Nobody closes the semaphore.
            let _place = places.acquire().await;
            // It may have ended while the beat waited for a place, and contact may have been lost.
            if running.has(number) && (is_scout || !contact.is_lost()) {
                let report = Report::Heartbeat {
                    execution,
                    at: clock.now(),
                };
                let sent = timeout(interval, control_plane.deliver(&report)).await;
                tracing::debug!(?sent, "heartbeat");
                // One that is refused has met somebody.
                contact.note(matches!(
                    sent,
                    Ok(Delivery::Delivered | Delivery::Refused { .. })
                ));
            }
            number
        }
    }
}

/// Waits until then; for ever where there is no such time.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
