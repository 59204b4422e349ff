//! Takes the results of ended executions to the control plane.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use executor_domain::{Ending, Execution, ExecutionId};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{backoff, reachable::Reachable};
use crate::{ControlPlane, Delivery, Outbox, Report, StoreError};

/// How many different results must fail, with no success in between, until it is the control plane that is away and not a
/// result that it cannot take.
const FAILURES_OF_MANY: u32 = 3;

/// How long to leave alone what has failed on our side.
const OWN_PAUSE: Duration = Duration::from_secs(1);

/// How many results may rest before walks through the outbox, which read those as well, are [kept apart](WALKS_APART).
const FEW: usize = 64;

/// How far walks are kept apart where many results rest.
const WALKS_APART: Duration = Duration::from_secs(1);

/// What the delivery of results may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeliveryBounds {
    /// Results on their way at the same time, and read ahead; at least 1.
    pub parallel: usize,
    /// Bytes of results on their way at the same time. A larger one travels alone.
    pub bytes: usize,
    /// Results that failed and whose next attempt is planned one by one. Where there are more, the control plane counts as
    /// away.
    pub resting: usize,
}

impl Default for DeliveryBounds {
    /// 4 on their way, 32 MiB of them, and 1024 that rest.
    fn default() -> Self {
        Self {
            parallel: 4,
            bytes: 32 << 20,
            resting: 1024,
        }
    }
}

/// Takes what the outbox keeps to the control plane, oldest first.
///
/// A result that fails rests for a while, and the others go on. When several fail in a row, the control plane counts as
/// away: then one result at a time, each time another one, finds out whether it is back. So neither does a result that the
/// control plane cannot take block the others, nor do ten thousand results hammer at a closed door.
pub(crate) struct Deliverer {
    control_plane: Arc<dyn ControlPlane>,
    outbox: Arc<dyn Outbox>,
    reachable: Arc<Reachable>,
    bounds: DeliveryBounds,
    attempts: JoinSet<Attempt>,
    /// Those on their way, with their sizes.
    under_way: HashMap<ExecutionId, usize>,
    resting: HashMap<ExecutionId, Rest>,
    weather: Weather,
    walk: Walk,
    /// Whether what is tried now is tried for the last time.
    last_orders: bool,
    /// Those that were tried since then.
    tried: HashSet<ExecutionId>,
}

/// How an attempt came out.
struct Attempt {
    id: ExecutionId,
    delivery: Delivery,
}

/// A result that failed and waits for its next attempt.
struct Rest {
    failures: u32,
    until: Instant,
}

/// Whether the control plane takes anything.
enum Weather {
    /// It does, or that is not known yet.
    Fair {
        /// Different results that failed since the last success.
        failures: u32,
    },
    /// It is away.
    Away {
        /// Attempts to find out that failed.
        failures: u32,
        /// When to find out again.
        until: Instant,
    },
}

/// A walk through the outbox from the oldest to the newest.
struct Walk {
    /// Since when this walk is under way; `None`: there is none.
    since: Option<Instant>,
    /// Where it is.
    after: Option<ExecutionId>,
    /// Read ahead.
    ahead: VecDeque<Execution>,
    /// Whether there is reason for another one.
    wanted: bool,
    /// When another one may start.
    not_before: Instant,
}

impl Deliverer {
    pub(crate) fn new(
        control_plane: Arc<dyn ControlPlane>,
        outbox: Arc<dyn Outbox>,
        reachable: Arc<Reachable>,
        bounds: DeliveryBounds,
    ) -> Self {
        Self {
            control_plane,
            outbox,
            reachable,
            bounds,
            attempts: JoinSet::new(),
            under_way: HashMap::new(),
            resting: HashMap::new(),
            weather: Weather::Fair { failures: 0 },
            walk: Walk {
                since: None,
                after: None,
                ahead: VecDeque::new(),
                // What an earlier life of the daemon has left.
                wanted: true,
                not_before: Instant::now(),
            },
            last_orders: false,
            tried: HashSet::new(),
        }
    }

    /// Delivers until `last_orders` is cancelled; then tries everything that is left once, and returns. Dropping the future
    /// gives up the attempts that are under way; what they carry stays in the outbox.
    pub(crate) async fn run(mut self, last_orders: CancellationToken) {
        let outbox = Arc::clone(&self.outbox);
        loop {
            self.set_out().await;
            if self.last_orders && self.is_done() {
                return;
            }
            let wake = self.next_wake();
            tokio::select! {
                () = last_orders.cancelled(), if !self.last_orders => self.begin_last_orders(),
                Some(ended) = self.attempts.join_next() => match ended {
                    Ok(attempt) => self.note(attempt).await,
                    Err(error) => {
                        tracing::error!(%error, "an attempt to deliver failed by a mistake of ours");
                        // Whose it was is not known; a walk finds it.
                        self.under_way.clear();
                        self.walk.wanted = true;
                        self.walk.not_before = Instant::now() + OWN_PAUSE;
                    }
                },
                () = outbox.changed() => self.walk.wanted = true,
                () = until(wake) => {}
            }
        }
    }

    /// Starts as many attempts as there is reason and room for.
    async fn set_out(&mut self) {
        if let Weather::Away { until, .. } = self.weather {
            if self.attempts.is_empty() && until <= Instant::now() {
                self.find_out().await;
            }
            return;
        }
        self.start_walk_if_due();
        while self.attempts.len() < self.bounds.parallel.max(1) {
            let Some(report) = self.next_report().await else {
                return;
            };
            let size = size_of(&report);
            let under_way: usize = self.under_way.values().sum();
            if under_way > 0 && under_way.saturating_add(size) > self.bounds.bytes {
                self.walk.ahead.push_front(report);
                return;
            }
            self.attempt(report, size);
        }
    }

    /// Tries one result, each time another one, to see whether the control plane is back.
    async fn find_out(&mut self) {
        for _ in 0..2 {
            match self.outbox.undelivered(self.walk.after.take(), 1).await {
                Err(error) => return self.store_failed(&error),
                Ok(found) => {
                    if let Some(report) = found.into_iter().next() {
                        self.walk.after = Some(report.id().clone());
                        let size = size_of(&report);
                        return self.attempt(report, size);
                    }
                    // Behind the newest: once more from the oldest.
                }
            }
        }
        // Nothing is left to find out with, and nothing to deliver.
        self.weather = Weather::Fair { failures: 0 };
    }

    fn attempt(&mut self, report: Execution, size: usize) {
        let id = report.id().clone();
        self.under_way.insert(id.clone(), size);
        if self.last_orders {
            self.tried.insert(id.clone());
        }
        let control_plane = Arc::clone(&self.control_plane);
        self.attempts.spawn(async move {
            let delivery = control_plane.deliver(&Report::Result(report)).await;
            Attempt { id, delivery }
        });
    }

    fn start_walk_if_due(&mut self) {
        let now = Instant::now();
        if self.walk.since.is_some() || now < self.walk.not_before {
            return;
        }
        let rested = self.resting.values().any(|rest| rest.until <= now);
        if self.walk.wanted || rested {
            self.walk.wanted = false;
            self.walk.since = Some(now);
            self.walk.after = None;
            self.walk.ahead.clear();
        }
    }

    /// The next result of this walk that may be tried now.
    async fn next_report(&mut self) -> Option<Execution> {
        let since = self.walk.since?;
        loop {
            while let Some(report) = self.walk.ahead.pop_front() {
                if self.may_try(report.id()) {
                    return Some(report);
                }
            }
            let limit = self.bounds.parallel.max(1);
            match self
                .outbox
                .undelivered(self.walk.after.clone(), limit)
                .await
            {
                Err(error) => {
                    self.store_failed(&error);
                    return None;
                }
                Ok(found) => {
                    let Some(last) = found.last() else {
                        self.end_walk(since);
                        return None;
                    };
                    self.walk.after = Some(last.id().clone());
                    self.walk.ahead = found.into();
                }
            }
        }
    }

    fn may_try(&self, id: &ExecutionId) -> bool {
        !self.under_way.contains_key(id)
            && !self.tried.contains(id)
            && self
                .resting
                .get(id)
                .is_none_or(|rest| self.last_orders || rest.until <= Instant::now())
    }

    fn end_walk(&mut self, since: Instant) {
        self.walk.since = None;
        self.walk.after = None;
        // Whoever had rested enough when the walk began was met on it, or is no longer in the outbox.
        self.resting
            .retain(|id, rest| rest.until > since || self.under_way.contains_key(id));
        if self.resting.len() > FEW {
            self.walk.not_before = since + WALKS_APART;
        }
    }

    fn store_failed(&mut self, error: &StoreError) {
        tracing::error!(
            error = crate::chain(error),
            "the outbox cannot be read; what it keeps waits"
        );
        self.walk.since = None;
        self.walk.wanted = true;
        let later = Instant::now() + OWN_PAUSE;
        self.walk.not_before = later;
        if let Weather::Away { until, .. } = &mut self.weather {
            *until = later;
        }
    }

    async fn note(&mut self, attempt: Attempt) {
        let Attempt { id, delivery } = attempt;
        self.under_way.remove(&id);
        let noted = match delivery {
            Delivery::Delivered => self.outbox.delivered(&id).await,
            Delivery::Refused { reason } => {
                tracing::error!(
                    execution_id = %id,
                    reason,
                    "the control plane refused a result for good; it is kept, and not tried again"
                );
                self.outbox.refused(&id, &reason).await
            }
            Delivery::Retry { after, reason } => return self.failed(id, after, &reason),
        };
        self.succeeded();
        match noted {
            Ok(()) => {
                self.resting.remove(&id);
            }
            // It stays in the outbox and will be delivered again, which does no harm.
            Err(error) => {
                tracing::error!(
                    execution_id = %id,
                    error = crate::chain(&error),
                    "failed to note that a result was delivered"
                );
                self.rest(id, None);
            }
        }
    }

    /// Somebody is there.
    fn succeeded(&mut self) {
        self.reachable.took();
        if matches!(self.weather, Weather::Away { .. }) {
            self.walk.since = None;
            self.walk.wanted = true;
        }
        self.weather = Weather::Fair { failures: 0 };
    }

    fn failed(&mut self, id: ExecutionId, after: Option<Duration>, reason: &str) {
        tracing::debug!(execution_id = %id, reason, "a result was not delivered");
        let known = self.resting.contains_key(&id);
        let room = known || self.resting.len() < self.bounds.resting;
        match &mut self.weather {
            Weather::Away { failures, until } => {
                *failures = failures.saturating_add(1);
                *until = Instant::now() + backoff::pause(*failures, after);
            }
            Weather::Fair { failures } => {
                if !known {
                    *failures += 1;
                    self.reachable.failed(reason);
                }
                if *failures >= FAILURES_OF_MANY || !room {
                    self.weather = Weather::Away {
                        failures: 1,
                        until: Instant::now() + backoff::pause(1, after),
                    };
                    self.walk.since = None;
                    self.walk.ahead.clear();
                }
            }
        }
        // It rests in any case: a result that failed before proves nothing of the control plane when it fails again.
        if room {
            self.rest(id, after);
        }
    }

    fn rest(&mut self, id: ExecutionId, after: Option<Duration>) {
        let rest = self.resting.entry(id).or_insert(Rest {
            failures: 0,
            until: Instant::now(),
        });
        rest.failures = rest.failures.saturating_add(1);
        rest.until = Instant::now() + backoff::pause(rest.failures, after);
    }

    /// From now on nothing rests, and everything is tried once more. Where the control plane is away, one attempt finds out
    /// whether it still is.
    fn begin_last_orders(&mut self) {
        self.last_orders = true;
        self.walk.since = None;
        self.walk.wanted = true;
        self.walk.not_before = Instant::now();
        if let Weather::Away { until, .. } = &mut self.weather {
            *until = Instant::now();
        }
    }

    /// Whether everything was tried, or trying makes no sense.
    fn is_done(&self) -> bool {
        if !self.attempts.is_empty() {
            return false;
        }
        match self.weather {
            Weather::Away { .. } => true,
            Weather::Fair { .. } => self.walk.since.is_none() && !self.walk.wanted,
        }
    }

    /// When there is something to do although nothing happens.
    fn next_wake(&self) -> Option<Instant> {
        if let Weather::Away { until, .. } = self.weather {
            // Those under way are waited for.
            return self.attempts.is_empty().then_some(until);
        }
        if self.walk.since.is_some() {
            // It goes on when an attempt comes back.
            return None;
        }
        let rested = self.resting.values().map(|rest| rest.until).min();
        let wanted = self.walk.wanted.then_some(self.walk.not_before);
        let next = match (rested, wanted) {
            (Some(rested), Some(wanted)) => rested.min(wanted),
            (one, other) => one.or(other)?,
        };
        Some(next.max(self.walk.not_before))
    }
}

/// Roughly how many bytes a report takes in memory: what a guest can make large, and a flat sum for the rest.
pub(crate) fn size_of(execution: &Execution) -> usize {
    const FLAT: usize = 1024;
    let Some(outcome) = execution.outcome() else {
        return FLAT;
    };
    let value = match &outcome.ending {
        Ending::Completed { return_value } => return_value.as_str().len(),
        _ => 0,
    };
    FLAT + value + outcome.stdout.bytes.len() + outcome.stderr.bytes.len()
}

/// Waits until then; for ever where there is no such time.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
