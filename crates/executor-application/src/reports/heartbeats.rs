//! Says of every execution that runs that it still does.

use std::{collections::HashSet, sync::Arc, time::Duration};

use executor_domain::ExecutionId;
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use crate::{Clock, ControlPlane, Report, Running, running::RunNumber};

/// Heartbeats on their way at the same time.
const PARALLEL: usize = 16;

/// Sends a heartbeat for each execution that runs, every interval from its start.
///
/// Each has one on its way at most, the wait for a place included: while that lasts, its next ones are left out, since they
/// would say the same. So a control plane that is slow gets fewer of them, and of each run in turn, not a queue.
pub(crate) struct Heartbeats {
    control_plane: Arc<dyn ControlPlane>,
    clock: Arc<dyn Clock>,
    running: Running,
    interval: Duration,
    places: Arc<Semaphore>,
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
        }
    }

    /// Goes on for ever. Dropping the future stops all of it.
    pub(crate) async fn run(self) {
        let mut beats = JoinSet::new();
        // At most one is on its way for each run.
        let mut busy = HashSet::new();
        loop {
            let (due, next) = self.running.due(self.interval);
            for (number, id) in due {
                if busy.insert(number) {
                    beats.spawn(self.beat(number, id));
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

    fn beat(&self, number: RunNumber, id: ExecutionId) -> impl Future<Output = RunNumber> + use<> {
        let control_plane = Arc::clone(&self.control_plane);
        let clock = Arc::clone(&self.clock);
        let running = self.running.clone();
        let places = Arc::clone(&self.places);
        let interval = self.interval;
        async move {
            // In order of arrival, so that none starves. Nobody closes the semaphore.
            let _place = places.acquire().await;
            // It may have ended while the beat waited for a place.
            if running.has(number) {
                let report = Report::Heartbeat {
                    id,
                    at: clock.now(),
                };
                let sent = timeout(interval, control_plane.deliver(&report)).await;
                tracing::debug!(?sent, "heartbeat");
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
