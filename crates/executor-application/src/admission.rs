//! Who may run, who may wait, and who is sent away.

use std::{sync::Arc, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

/// How many executions may run and wait at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Guests that run at the same time; at least 1.
    pub running: usize,
    /// Executions that may wait for a slot.
    pub queued: usize,
}

/// Why nobody is admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// All running and waiting slots are taken.
    Full,
    /// No more are admitted, ever.
    Closed,
}

/// Hands out places. A place is taken at once or refused; a slot is waited for, in order of arrival.
#[derive(Debug)]
pub(crate) struct Admission {
    capacity: Capacity,
    places: Arc<Semaphore>,
    slots: Arc<Semaphore>,
}

/// A place among those who run or wait. Given back on drop.
#[derive(Debug)]
pub(crate) struct Place {
    slots: Arc<Semaphore>,
    _place: OwnedSemaphorePermit,
}

/// A slot to run in. Given back on drop.
#[derive(Debug)]
pub(crate) struct Slot {
    _slot: OwnedSemaphorePermit,
    _place: Place,
}

impl Admission {
    pub(crate) fn new(capacity: Capacity) -> Self {
        let running = capacity.running.max(1);
        Self {
            capacity,
            places: Arc::new(Semaphore::new(running.saturating_add(capacity.queued))),
            slots: Arc::new(Semaphore::new(running)),
        }
    }

    /// Takes a place, or says at once why there is none.
    pub(crate) fn enter(&self) -> Result<Place, Refusal> {
        match Arc::clone(&self.places).try_acquire_owned() {
            Ok(permit) => Ok(Place {
                slots: Arc::clone(&self.slots),
                _place: permit,
            }),
            Err(TryAcquireError::NoPermits) => Err(Refusal::Full),
            Err(TryAcquireError::Closed) => Err(Refusal::Closed),
        }
    }

    /// Admits nobody from now on. Who has a place keeps it.
    pub(crate) fn close(&self) {
        self.places.close();
    }

    /// How many are admitted.
    pub(crate) const fn capacity(&self) -> Capacity {
        self.capacity
    }

    /// Guests that run now.
    pub(crate) fn running(&self) -> usize {
        self.capacity
            .running
            .max(1)
            .saturating_sub(self.slots.available_permits())
    }

    /// When somebody who was sent away should come back: the time in which the queue drains once if every run takes
    /// `typical`. At least a second, since clients count in seconds, and at most a minute.
    pub(crate) fn retry_after(&self, typical: Duration) -> Duration {
        let running = self.capacity.running.max(1);
        let rounds = self.capacity.queued.div_ceil(running).max(1);
        typical
            .saturating_mul(u32::try_from(rounds).unwrap_or(u32::MAX))
            .clamp(Duration::from_secs(1), Duration::from_secs(60))
    }
}

impl Place {
    /// Waits for a slot. Cancel safe: dropping the future gives up the place in the queue.
    pub(crate) async fn slot(self) -> Slot {
        let permit = Arc::clone(&self.slots).acquire_owned().await;
        match permit {
            Ok(slot) => Slot {
                _slot: slot,
                _place: self,
            },
            // Nobody closes the slots' semaphore: only admission is closed, and who has a place runs.
            Err(_) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn admits_up_to_capacity_and_not_one_more() {
        let admission = Admission::new(Capacity {
            running: 2,
            queued: 1,
        });
        let first = admission.enter().unwrap().slot().await;
        let _second = admission.enter().unwrap().slot().await;
        let waiting = admission.enter().unwrap();
        assert_eq!(admission.running(), 2);
        assert_eq!(admission.enter().unwrap_err(), Refusal::Full);

        drop(first);
        let _third = waiting.slot().await;
        assert_eq!(admission.running(), 2);
        assert!(admission.enter().is_ok());
    }

    #[tokio::test]
    async fn closing_lets_those_inside_finish() {
        let admission = Admission::new(Capacity {
            running: 1,
            queued: 1,
        });
        let place = admission.enter().unwrap();
        admission.close();
        assert_eq!(admission.enter().unwrap_err(), Refusal::Closed);
        place.slot().await;
    }

    #[test]
    fn says_when_to_come_back_within_reason() {
        let admission = Admission::new(Capacity {
            running: 100,
            queued: 1000,
        });
        assert_eq!(
            admission.retry_after(Duration::from_millis(1)),
            Duration::from_secs(1)
        );
        assert_eq!(
            admission.retry_after(Duration::from_millis(500)),
            Duration::from_secs(5)
        );
        assert_eq!(
            admission.retry_after(Duration::from_secs(3600)),
            Duration::from_secs(60)
        );
    }
}
