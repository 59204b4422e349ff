//! Keeps slots ready: makes them off the path of requests, as many as are asked for, and replaces zygotes.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use executor_application::{WarmPool, chain};
use executor_domain::{Language, ResourceLimit, Start};
use executor_guest::protocol::Fork;
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    slot::{Replacement, Slot},
    zygote::{Recipe, Zygote, ZygoteError},
};
use crate::bwrap::engine::Engine;

/// A zygote's children share its hash seed and the layout of its memory: what one guest learns of them, a later one could
/// use. So a zygote makes way for a new one after this many slots,
const MAX_FORKS: u64 = 10_000;
/// and at this age.
const MAX_AGE: Duration = Duration::from_secs(60 * 60);
/// How long nobody may have been left without a slot before one less is kept ready.
const CALM: Duration = Duration::from_secs(10);
/// How long to wait before the next attempt at a zygote, at first and at most.
const RETRY: Duration = Duration::from_secs(1);
const MAX_RETRY: Duration = Duration::from_secs(60);

/// Slots of one language.
#[derive(Debug)]
pub(crate) struct Pool {
    shared: Arc<Shared>,
    _until_dropped: DropGuard,
}

#[derive(Debug)]
struct Shared {
    engine: Arc<Engine>,
    recipe: Recipe,
    state: Mutex<State>,
    /// Runs that found no slot ready and wait for one of their own.
    on_demand: AtomicUsize,
    changed: Arc<Notify>,
}

struct State {
    zygote: Option<Arc<Zygote>>,
    ready: VecDeque<Slot>,
    making: usize,
    target: Target,
    /// Why there is no zygote.
    trouble: Option<String>,
    served: Served,
}

impl State {
    /// Whether there are enough slots for now, so that whoever runs is not to be disturbed.
    fn can_wait(&self) -> bool {
        self.ready.len() * 2 >= self.target.slots
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("ready", &self.ready.len())
            .field("making", &self.making)
            .field("target", &self.target)
            .field("trouble", &self.trouble)
            .finish_non_exhaustive()
    }
}

/// Between how many and how many slots are kept ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub min: usize,
    pub max: usize,
}

/// How runs were started so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Served {
    /// From a slot that was ready.
    pub warm: u64,
    /// From one that was made for the run.
    pub forked: u64,
    /// Not at all: the run had to start cold.
    pub missed: u64,
}

impl Pool {
    /// A pool whose first zygote has been tried. Must be called inside a tokio runtime.
    pub(crate) fn start(
        engine: Arc<Engine>,
        recipe: Recipe,
        zygote: Arc<Zygote>,
        sizes: Sizes,
        cpus: usize,
    ) -> Self {
        let shared = Arc::new(Shared {
            engine,
            recipe,
            state: Mutex::new(State {
                zygote: Some(zygote),
                ready: VecDeque::new(),
                making: 0,
                target: Target::new(sizes, Instant::now()),
                trouble: None,
                served: Served::default(),
            }),
            on_demand: AtomicUsize::new(0),
            changed: Arc::new(Notify::new()),
        });
        let cancel = CancellationToken::new();
        let keeper = keep(
            Arc::downgrade(&shared),
            Arc::clone(&shared.changed),
            cpus.max(1),
            cancel.clone(),
        );
        tokio::spawn(keeper);
        Self {
            shared,
            _until_dropped: cancel.drop_guard(),
        }
    }

    pub(crate) fn language(&self) -> Language {
        self.shared.recipe.language
    }

    /// What its slots may use until a job says otherwise.
    pub(crate) fn limits(&self) -> &ResourceLimit {
        &self.shared.recipe.limits
    }

    /// A slot that is ready, or one that is made now; `None`: neither is to be had, the run has to start cold.
    pub(crate) async fn take(&self) -> Option<(Slot, Start)> {
        let shared = &self.shared;
        let zygote = {
            let mut state = shared.state();
            while let Some(mut slot) = state.ready.pop_front() {
                if slot.is_alive() {
                    state.served.warm += 1;
                    if state.can_wait() {
                        slot.replacement = Some(Replacement(Arc::clone(&shared.changed)));
                    } else {
                        shared.changed.notify_one();
                    }
                    return Some((slot, Start::Warm));
                }
            }
            state.target.missed(Instant::now());
            state.zygote.clone()
        };
        shared.changed.notify_one();
        let made = match zygote {
            Some(zygote) => {
                shared.on_demand.fetch_add(1, Ordering::Relaxed);
                let made = shared.fork(&zygote, Fork::Awaited).await;
                shared.on_demand.fetch_sub(1, Ordering::Relaxed);
                shared.changed.notify_one();
                made
            }
            None => None,
        };
        let mut state = shared.state();
        match &made {
            Some(_) => state.served.forked += 1,
            None => state.served.missed += 1,
        }
        made.map(|slot| (slot, Start::Forked))
    }

    /// How it is now.
    pub(crate) fn state(&self) -> WarmPool {
        let state = self.shared.state();
        WarmPool {
            language: self.language(),
            ready: state.ready.len(),
            target: state.target.slots,
            max: state.target.sizes.max,
            warm: state.served.warm,
            forked: state.served.forked,
            cold: state.served.missed,
            trouble: state.trouble.clone(),
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while it was held leaves a state that is as true as any.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a slot. A zygote that cannot is dismissed.
    async fn fork(&self, zygote: &Arc<Zygote>, fork: Fork) -> Option<Slot> {
        match zygote.fork(&self.engine, &self.recipe.limits, fork).await {
            Ok((slot, _)) => Some(slot),
            Err(error) => {
                self.report(&error);
                let mut state = self.state();
                if state
                    .zygote
                    .as_ref()
                    .is_some_and(|current| Arc::ptr_eq(current, zygote))
                {
                    state.zygote = None;
                    state.trouble = Some(chain(&error));
                }
                None
            }
        }
    }

    fn report(&self, error: &ZygoteError) {
        let language = self.recipe.language.as_str();
        tracing::warn!(language, error = chain(error), "runs start cold for now");
    }

    /// Makes sure of a zygote that is neither gone nor old. Whether there is one.
    async fn renew(&self) -> bool {
        let current = self.state().zygote.clone();
        if let Some(zygote) = &current
            && zygote.forks() < MAX_FORKS
            && zygote.age() < MAX_AGE
        {
            return true;
        }
        match Zygote::start(&self.engine, &self.recipe).await {
            Ok(zygote) => {
                let mut state = self.state();
                state.zygote = Some(Arc::new(zygote));
                state.trouble = None;
                true
            }
            Err(error) => {
                self.report(&error);
                let mut state = self.state();
                state.trouble = Some(chain(&error));
                // An old one is better than none.
                state.zygote.is_some()
            }
        }
    }

    /// Starts to make slots where some are missing; never where a run waits for its own.
    fn fill(self: &Arc<Self>, at_once: usize) {
        loop {
            let zygote = {
                let mut state = self.state();
                let enough = state.ready.len() + state.making >= state.target.slots;
                let busy = state.making >= at_once || self.on_demand.load(Ordering::Relaxed) > 0;
                let Some(zygote) = state.zygote.clone() else {
                    return;
                };
                if enough || busy {
                    return;
                }
                state.making += 1;
                zygote
            };
            let shared = Arc::clone(self);
            tokio::spawn(async move {
                let made = shared.fork(&zygote, Fork::Ahead).await;
                let mut state = shared.state();
                state.making -= 1;
                state.ready.extend(made);
                drop(state);
                shared.changed.notify_one();
            });
        }
    }

    /// Lets go of what is too much.
    fn shrink(&self) {
        let surplus: Vec<_> = {
            let mut state = self.state();
            state.target.calm(Instant::now());
            let keep = state.target.slots.min(state.ready.len());
            // The youngest: the oldest are next to be used.
            state.ready.split_off(keep).into()
        };
        // Outside of the lock: each is a process to kill.
        drop(surplus);
    }
}

/// Keeps a pool filled until it is dropped.
async fn keep(pool: Weak<Shared>, changed: Arc<Notify>, at_once: usize, cancel: CancellationToken) {
    let mut retry = RETRY;
    loop {
        let Some(shared) = pool.upgrade() else {
            return;
        };
        let pause = tokio::select! {
            () = cancel.cancelled() => return,
            has_zygote = shared.renew() => {
                if has_zygote {
                    retry = RETRY;
                    shared.fill(at_once);
                    shared.shrink();
                    None
                } else {
                    let pause = retry;
                    retry = (retry * 2).min(MAX_RETRY);
                    Some(pause)
                }
            }
        };
        drop(shared);
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(pause.unwrap_or(CALM)) => {}
            () = changed.notified(), if pause.is_none() => {}
        }
    }
}

/// How many slots to keep ready: half more whenever somebody found none, one less after a while of calm.
#[derive(Debug, Clone, Copy)]
struct Target {
    sizes: Sizes,
    slots: usize,
    changed: Instant,
}

impl Target {
    fn new(sizes: Sizes, now: Instant) -> Self {
        Self {
            sizes,
            slots: sizes.min,
            changed: now,
        }
    }

    fn missed(&mut self, now: Instant) {
        let more = (self.slots / 2).max(1);
        self.slots = (self.slots + more).min(self.sizes.max);
        self.changed = now;
    }

    fn calm(&mut self, now: Instant) {
        if now.duration_since(self.changed) >= CALM && self.slots > self.sizes.min {
            self.slots -= 1;
            self.changed = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_follows_the_load_between_its_bounds() {
        let start = Instant::now();
        let mut target = Target::new(Sizes { min: 2, max: 8 }, start);
        let mut seen = Vec::new();
        for _ in 0..6 {
            target.missed(start);
            seen.push(target.slots);
        }
        assert_eq!(seen, [3, 4, 6, 8, 8, 8]);
        target.calm(start);
        assert_eq!(target.slots, 8);
        let mut now = start;
        for _ in 0..20 {
            now += CALM;
            target.calm(now);
        }
        assert_eq!(target.slots, 2);
    }

    #[test]
    fn a_pool_of_none_stays_empty() {
        let mut target = Target::new(Sizes { min: 0, max: 0 }, Instant::now());
        target.missed(Instant::now());
        assert_eq!(target.slots, 0);
    }
}
