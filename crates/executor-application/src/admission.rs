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
    /// Bytes of requests that may run and wait: each can be large, and there can be many.
    pub request_bytes: usize,
}

impl Default for Capacity {
    /// 100 running, 1000 waiting, 256 MiB.
    fn default() -> Self {
        Self {
            running: 100,
            queued: 1000,
            request_bytes: 256 << 20,
        }
    }
}

/// What bytes are counted in: a semaphore has fewer permits than a machine has bytes.
const UNIT: usize = 1024;

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
    /// Room for requests, in KiB.
    room: Arc<Semaphore>,
}

/// A place among those who run or wait. Given back on drop.
#[derive(Debug)]
pub(crate) struct Place {
    slots: Arc<Semaphore>,
    _place: OwnedSemaphorePermit,
    _room: OwnedSemaphorePermit,
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
            room: Arc::new(Semaphore::new(capacity.request_bytes.div_ceil(UNIT))),
        }
    }

    /// Takes a place for a request of so many bytes, or says at once why there is none. One that is larger than all the
    /// room takes all of it.
    pub(crate) fn enter(&self, bytes: usize) -> Result<Place, Refusal> {
        let refusal = |error| match error {
            TryAcquireError::NoPermits => Refusal::Full,
            TryAcquireError::Closed => Refusal::Closed,
        };
        let place = Arc::clone(&self.places)
            .try_acquire_owned()
            .map_err(refusal)?;
        let wanted = bytes
            .div_ceil(UNIT)
            .min(self.capacity.request_bytes.div_ceil(UNIT));
        let room = Arc::clone(&self.room)
            .try_acquire_many_owned(u32::try_from(wanted).unwrap_or(u32::MAX))
            .map_err(refusal)?;
        Ok(Place {
            slots: Arc::clone(&self.slots),
            _place: place,
            _room: room,
        })
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

    /// Executions that wait for a slot now. Two counters are read one after the other: what moves in between can be
    /// counted on either side.
    pub(crate) fn waiting(&self) -> usize {
        let places = self
            .capacity
            .running
            .max(1)
            .saturating_add(self.capacity.queued);
        places
            .saturating_sub(self.places.available_permits())
            .saturating_sub(self.running())
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
            ..Capacity::default()
        });
        let first = admission.enter(0).unwrap().slot().await;
        let _second = admission.enter(0).unwrap().slot().await;
        let waiting = admission.enter(0).unwrap();
        assert_eq!((admission.running(), admission.waiting()), (2, 1));
        assert_eq!(admission.enter(0).unwrap_err(), Refusal::Full);

        drop(first);
        let _third = waiting.slot().await;
        assert_eq!((admission.running(), admission.waiting()), (2, 0));
        assert!(admission.enter(0).is_ok());
    }

    #[tokio::test]
    async fn closing_lets_those_inside_finish() {
        let admission = Admission::new(Capacity {
            running: 1,
            queued: 1,
            ..Capacity::default()
        });
        let place = admission.enter(0).unwrap();
        admission.close();
        assert_eq!(admission.enter(0).unwrap_err(), Refusal::Closed);
        place.slot().await;
    }

    #[test]
    fn large_requests_take_room_from_each_other() {
        let admission = Admission::new(Capacity {
            request_bytes: 10 << 10,
            ..Capacity::default()
        });
        let large = admission.enter(8 << 10).unwrap();
        assert_eq!(admission.enter((2 << 10) + 1).unwrap_err(), Refusal::Full);
        assert!(admission.enter(2 << 10).is_ok());
        drop(large);
        let larger_than_all = admission.enter(1 << 30).unwrap();
        assert_eq!(admission.enter(1).unwrap_err(), Refusal::Full);
        drop(larger_than_all);
        assert!(admission.enter(1).is_ok());
    }

    #[test]
    fn says_when_to_come_back_within_reason() {
        let admission = Admission::new(Capacity::default());
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
