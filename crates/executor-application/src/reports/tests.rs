use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use executor_domain::{
    Artifacts, CapturedOutput, Ending, Execution, ExecutionId, JsonText, Outcome, SessionId, Start,
    Timestamp, Usage,
};
use tokio::time::{advance, sleep};

use super::*;
use crate::{
    OutboxLevels, PortError, StoreError,
    fake::{MemoryOutbox, StoppedClock},
};

/// An execution that has ended and printed this.
pub(crate) fn ended(id: &str, stdout: &str) -> Execution {
    let mut execution = running(id);
    let outcome = Outcome {
        ending: Ending::Completed {
            return_value: JsonText::null(),
        },
        stdout: CapturedOutput {
            bytes: stdout.into(),
            truncated_bytes: 0,
        },
        stderr: CapturedOutput::default(),
        usage: Usage::default(),
        start: Start::Cold,
        limits_hit: Vec::new(),
    };
    let at = Timestamp::from_unix_micros(0);
    execution.finish(at, outcome, Artifacts::default()).unwrap();
    execution
}

/// An execution whose guest runs.
pub(crate) fn running(id: &str) -> Execution {
    let at = Timestamp::from_unix_micros(0);
    let id = ExecutionId::parse(id).unwrap();
    let mut execution = Execution::accept(id, SessionId::parse("s").unwrap(), at);
    execution.start(at).unwrap();
    execution
}

fn retry() -> Delivery {
    Delivery::Retry {
        after: None,
        reason: "away".into(),
    }
}

type Judge = Box<dyn Fn(&str, usize) -> Delivery + Send + Sync>;

/// A control plane that answers as it is told to, and remembers who came when.
struct Plane {
    started: Instant,
    takes: Duration,
    /// From the name of a report, and how often it has come before.
    judge: Judge,
    calls: Mutex<Vec<(String, Duration)>>,
    busy: AtomicUsize,
    busiest: AtomicUsize,
}

impl Plane {
    fn new(judge: impl Fn(&str, usize) -> Delivery + Send + Sync + 'static) -> Arc<Self> {
        Self::slow(Duration::ZERO, judge)
    }

    fn slow(
        takes: Duration,
        judge: impl Fn(&str, usize) -> Delivery + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            started: Instant::now(),
            takes,
            judge: Box::new(judge),
            calls: Mutex::default(),
            busy: AtomicUsize::new(0),
            busiest: AtomicUsize::new(0),
        })
    }

    /// Who came, in order.
    fn names(&self) -> Vec<String> {
        let calls = self.calls.lock().unwrap();
        calls.iter().map(|(name, _)| name.clone()).collect()
    }

    /// When this one came.
    fn times(&self, name: &str) -> Vec<Duration> {
        let calls = self.calls.lock().unwrap();
        let of = calls.iter().filter(|(called, _)| called == name);
        of.map(|(_, at)| *at).collect()
    }

    fn count(&self) -> usize {
        self.calls.lock().unwrap().len()
    }
}

fn name_of(report: &Report) -> String {
    match report {
        Report::Ready { port, .. } => format!("ready {port}"),
        Report::Heartbeat { execution, .. } => format!("beat {}", execution.id()),
        Report::Result(execution) => execution.id().to_string(),
        Report::Exited {
            exit_code, reason, ..
        } => format!("exited {exit_code} {reason:?}"),
    }
}

#[async_trait]
impl ControlPlane for Plane {
    async fn deliver(&self, report: &Report) -> Delivery {
        let busy = self.busy.fetch_add(1, Ordering::SeqCst) + 1;
        self.busiest.fetch_max(busy, Ordering::SeqCst);
        let name = name_of(report);
        let before = self.times(&name).len();
        self.calls
            .lock()
            .unwrap()
            .push((name.clone(), self.started.elapsed()));
        sleep(self.takes).await;
        self.busy.fetch_sub(1, Ordering::SeqCst);
        (self.judge)(&name, before)
    }
}

fn start(plane: &Arc<Plane>, outbox: &Arc<MemoryOutbox>, running: &Running) -> Reports {
    let ports = ReportPorts {
        control_plane: Arc::clone(plane) as Arc<_>,
        outbox: Arc::clone(outbox) as Arc<_>,
        clock: Arc::new(StoppedClock),
    };
    Reports::start(ports, running.clone(), ReportOptions::default())
}

fn outbox_of(ids: impl IntoIterator<Item = String>) -> Arc<MemoryOutbox> {
    let outbox = MemoryOutbox::default();
    for id in ids {
        outbox.put(ended(&id, ""));
    }
    Arc::new(outbox)
}

/// Lets this much of tokio's time pass, while every other task goes as far as it can.
async fn pass(time: Duration) {
    sleep(time).await;
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn what_an_earlier_life_left_and_what_comes_is_delivered_in_order() {
    let plane = Plane::new(|_, _| Delivery::Delivered);
    let outbox = outbox_of((0..10).map(|n| format!("old-{n}")));
    let _reports = start(&plane, &outbox, &Running::default());
    pass(SECOND).await;
    outbox.put(ended("new", ""));
    pass(SECOND).await;
    let expected: Vec<_> = (0..10)
        .map(|n| format!("old-{n}"))
        .chain(["new".into()])
        .collect();
    assert_eq!(plane.names(), expected);
    assert_eq!(outbox.levels().undelivered, 0);
}

#[tokio::test(start_paused = true)]
async fn a_control_plane_that_is_away_for_hours_costs_little_and_gets_everything() {
    let back = Instant::now() + Duration::from_secs(3 * 3600);
    let plane = Plane::new(move |_, _| {
        if Instant::now() < back {
            retry()
        } else {
            Delivery::Delivered
        }
    });
    let outbox = outbox_of([]);
    let _reports = start(&plane, &outbox, &Running::default());
    for n in 0..3000 {
        outbox.put(ended(&format!("e{n}"), ""));
        pass(Duration::from_millis(3_500)).await;
    }
    // At most one attempt in eight seconds, and a few at the start.
    assert!(plane.count() < 3 * 3600 / 8 + 20, "{}", plane.count());
    assert!(plane.count() > 3 * 3600 / 12 - 20, "{}", plane.count());
    assert_eq!(outbox.levels().undelivered, 3000);
    pass((back - Instant::now()) + Duration::from_secs(13)).await;
    assert_eq!(outbox.levels().undelivered, 0);
    // Once each since it was back.
    let delivered = plane.calls.lock().unwrap();
    let since = back - plane.started;
    let names: BTreeMap<_, usize> = delivered.iter().filter(|(_, at)| *at >= since).fold(
        BTreeMap::new(),
        |mut names, (name, _)| {
            *names.entry(name).or_default() += 1;
            names
        },
    );
    assert_eq!(names.len(), 3000);
    assert!(names.values().all(|times| *times == 1), "{names:?}");
}

#[tokio::test(start_paused = true)]
async fn a_result_that_always_fails_rests_longer_and_longer_and_blocks_nobody() {
    let plane = Plane::new(|name, _| match name {
        "bad" => retry(),
        _ => Delivery::Delivered,
    });
    let outbox = outbox_of(["bad".into()]);
    let _reports = start(&plane, &outbox, &Running::default());
    for n in 0..100 {
        outbox.put(ended(&format!("good-{n}"), ""));
        pass(Duration::from_millis(500)).await;
        assert_eq!(outbox.levels().undelivered, 1, "good-{n} was held up");
    }
    let times = plane.times("bad");
    let pauses: Vec<_> = times
        .windows(2)
        .map(|pair| pair[1].abs_diff(pair[0]))
        .collect();
    for (pause, expected) in pauses.iter().zip([1, 2, 4, 8, 10, 10]) {
        let range = expected * SECOND * 4 / 5..=expected * SECOND * 6 / 5 + SECOND / 100;
        assert!(range.contains(pause), "{pauses:?}");
    }
    assert!(pauses.len() >= 6, "{pauses:?}");
}

#[tokio::test(start_paused = true)]
async fn many_that_always_fail_hold_nobody_up_for_long() {
    let plane = Plane::new(|name, _| {
        if name.starts_with("bad") {
            retry()
        } else {
            Delivery::Delivered
        }
    });
    let outbox = outbox_of((0..20).map(|n| format!("bad-{n}")));
    let _reports = start(&plane, &outbox, &Running::default());
    // Long enough for the control plane to count as away.
    pass(60 * SECOND).await;
    outbox.put(ended("good", ""));
    let came = Instant::now();
    while plane.times("good").is_empty() {
        pass(SECOND).await;
        // Each attempt to find out takes another one: twenty of them, ten seconds apart.
        assert!(came.elapsed() < 250 * SECOND, "{:?}", plane.names());
    }
    // From then on each has a time of its own, and the next good one goes at once.
    outbox.put(ended("next", ""));
    pass(2 * SECOND).await;
    assert_eq!(plane.times("next").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_is_not_tried_again_and_the_others_are() {
    let plane = Plane::new(|name, before| match (name, before) {
        ("bad", _) => Delivery::Refused {
            reason: "400".into(),
        },
        ("late", 0) => retry(),
        _ => Delivery::Delivered,
    });
    let outbox = outbox_of(["bad", "late", "good"].map(String::from));
    let _reports = start(&plane, &outbox, &Running::default());
    pass(3600 * SECOND).await;
    assert_eq!(plane.times("bad").len(), 1);
    assert_eq!(plane.times("late").len(), 2);
    assert_eq!(
        (outbox.levels().undelivered, outbox.levels().refused),
        (0, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn who_asks_to_be_left_alone_is() {
    let plane = Plane::new(|_, before| match before {
        0 => Delivery::Retry {
            after: Some(60 * SECOND),
            reason: "429".into(),
        },
        _ => Delivery::Delivered,
    });
    let outbox = outbox_of(["a".into()]);
    let _reports = start(&plane, &outbox, &Running::default());
    pass(59 * SECOND).await;
    assert_eq!(plane.count(), 1);
    pass(15 * SECOND).await;
    assert_eq!(plane.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn few_travel_at_the_same_time_and_large_ones_alone() {
    let plane = Plane::slow(SECOND, |_, _| Delivery::Delivered);
    let outbox = outbox_of((0..40).map(|n| format!("e{n}")));
    let _reports = start(&plane, &outbox, &Running::default());
    pass(11 * SECOND).await;
    assert_eq!(outbox.levels().undelivered, 0);
    assert_eq!(plane.busiest.load(Ordering::SeqCst), 4);

    let plane = Plane::slow(SECOND, |_, _| Delivery::Delivered);
    let outbox = Arc::new(MemoryOutbox::new(100, usize::MAX));
    let large = "x".repeat(20 << 20);
    for n in 0..4 {
        outbox.put(ended(&format!("e{n}"), &large));
    }
    let _reports = start(&plane, &outbox, &Running::default());
    pass(5 * SECOND).await;
    assert_eq!(outbox.levels().undelivered, 0);
    assert_eq!(plane.busiest.load(Ordering::SeqCst), 1);
}

/// An outbox whose store fails for a while.
struct Sick {
    inner: MemoryOutbox,
    well_from: Instant,
}

impl Sick {
    fn check(&self) -> Result<(), StoreError> {
        if Instant::now() < self.well_from {
            Err(StoreError::Damaged(PortError::from("sick")))
        } else {
            Ok(())
        }
    }
}

#[async_trait]
impl Outbox for Sick {
    async fn undelivered(
        &self,
        after: Option<ExecutionId>,
        limit: usize,
    ) -> Result<Vec<Execution>, StoreError> {
        // Reads work in the first half of the time, so that what is delivered then cannot be noted.
        if Instant::now() + 30 * SECOND < self.well_from {
            self.inner.undelivered(after, limit).await
        } else {
            self.check()?;
            self.inner.undelivered(after, limit).await
        }
    }

    async fn delivered(&self, id: &ExecutionId) -> Result<(), StoreError> {
        self.check()?;
        self.inner.delivered(id).await
    }

    async fn refused(&self, id: &ExecutionId, reason: &str) -> Result<(), StoreError> {
        self.inner.refused(id, reason).await
    }

    async fn changed(&self) {
        self.inner.changed().await;
    }

    fn levels(&self) -> OutboxLevels {
        self.inner.levels()
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_is_asked_again_in_its_time() {
    let plane = Plane::new(|_, _| Delivery::Delivered);
    let outbox = Arc::new(Sick {
        inner: MemoryOutbox::default(),
        well_from: Instant::now() + 60 * SECOND,
    });
    outbox.inner.put(ended("a", ""));
    let ports = ReportPorts {
        control_plane: Arc::clone(&plane) as Arc<_>,
        outbox: Arc::clone(&outbox) as Arc<_>,
        clock: Arc::new(StoppedClock),
    };
    let _reports = Reports::start(ports, Running::default(), ReportOptions::default());
    pass(72 * SECOND).await;
    assert_eq!(outbox.levels().undelivered, 0);
    // Delivered more than once, since that could not be noted, and no more often than a failure is.
    assert!((2..10).contains(&plane.count()), "{:?}", plane.names());
}

#[tokio::test(start_paused = true)]
async fn at_the_end_everything_is_tried_once_more_and_the_end_is_told() {
    let plane = Plane::new(|name, before| match (name, before) {
        ("bad", _) | ("resting", 0) => retry(),
        _ => Delivery::Delivered,
    });
    let outbox = outbox_of(["bad", "resting", "good"].map(String::from));
    let mut reports = start(&plane, &outbox, &Running::default());
    reports.announce(8080);
    pass(SECOND / 10).await;
    outbox.put(ended("last", ""));
    let deadline = Instant::now() + 10 * SECOND;
    reports.finish(143, ExitReason::Terminated, deadline).await;
    assert_eq!(plane.names().last().unwrap(), "exited 143 Terminated");
    assert_eq!(plane.times("resting").len(), 2);
    assert_eq!(plane.times("bad").len(), 2);
    assert_eq!(plane.times("last").len(), 1);
    assert_eq!(outbox.levels().undelivered, 1);
    assert!(
        Instant::now() < deadline - 9 * SECOND,
        "it waited for nobody"
    );
}

#[tokio::test(start_paused = true)]
async fn at_the_end_a_control_plane_that_is_away_is_not_waited_for() {
    let plane = Plane::new(|_, _| retry());
    let outbox = outbox_of((0..100).map(|n| format!("e{n}")));
    let mut reports = start(&plane, &outbox, &Running::default());
    reports.announce(1);
    pass(60 * SECOND).await;
    let before = plane.count();
    let begun = Instant::now();
    reports
        .finish(0, ExitReason::Normal, begun + 10 * SECOND)
        .await;
    // One to find out, one to say goodbye, and a person who pressed Ctrl-C has not waited.
    assert_eq!(plane.count() - before, 2, "{:?}", plane.names());
    assert!(begun.elapsed() < SECOND / 2);
    assert_eq!(outbox.levels().undelivered, 100);
}

#[tokio::test(start_paused = true)]
async fn at_the_end_a_control_plane_that_hangs_costs_the_time_left_and_no_more() {
    let plane = Plane::slow(3600 * SECOND, |_, _| Delivery::Delivered);
    let outbox = outbox_of((0..9).map(|n| format!("e{n}")));
    let mut reports = start(&plane, &outbox, &Running::default());
    reports.announce(1);
    pass(SECOND).await;
    let begun = Instant::now();
    reports
        .finish(143, ExitReason::Terminated, begun + 5 * SECOND)
        .await;
    assert_eq!(begun.elapsed(), 5 * SECOND + FAREWELL);
    assert_eq!(outbox.levels().undelivered, 9);
}

#[tokio::test(start_paused = true)]
async fn ready_is_told_until_it_is_heard_and_not_again() {
    let plane = Plane::new(|_, before| match before {
        0..7 => retry(),
        _ => Delivery::Delivered,
    });
    let mut reports = start(&plane, &outbox_of([]), &Running::default());
    reports.announce(8080);
    pass(3600 * SECOND).await;
    let times = plane.times("ready 8080");
    assert_eq!(times.len(), 8);
    let whole = *times.last().unwrap();
    let expected = (1 + 2 + 4 + 8 + 10 + 10 + 10) * SECOND;
    assert!(
        (expected * 4 / 5..expected * 6 / 5 + SECOND).contains(&whole),
        "{times:?}"
    );

    let refusing = Plane::new(|_, _| Delivery::Refused {
        reason: "404".into(),
    });
    let mut reports = start(&refusing, &outbox_of([]), &Running::default());
    reports.announce(8080);
    pass(3600 * SECOND).await;
    assert_eq!(refusing.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_hundred_runs_beat_every_five_seconds_until_they_end() {
    // Far from instant: 100 beats of 16 at the same time take 0.7 s.
    let plane = Plane::slow(Duration::from_millis(100), |_, _| Delivery::Delivered);
    let list = Running::default();
    let _reports = start(&plane, &outbox_of([]), &list);
    let runs: Vec<_> = (0..100)
        .map(|n| list.enter(&running(&format!("e{n}"))))
        .collect();
    pass(31 * SECOND).await;
    drop(runs);
    for n in 0..100 {
        let times = plane.times(&format!("beat e{n}"));
        assert_eq!(times.len(), 6, "e{n}: {times:?}");
        for (beat, time) in times.iter().enumerate() {
            let due = 5 * SECOND * (u32::try_from(beat).unwrap() + 1);
            assert!((due..due + SECOND).contains(time), "e{n}: {times:?}");
        }
    }
    assert!(plane.busiest.load(Ordering::SeqCst) <= 16);
    let before = plane.count();
    pass(60 * SECOND).await;
    assert_eq!(plane.count(), before, "somebody beats that has ended");
}

#[tokio::test(start_paused = true)]
async fn a_slow_control_plane_gets_fewer_beats_of_each_in_turn_and_no_queue_of_them() {
    // Sixteen every three seconds, where a hundred every five are due.
    let plane = Plane::slow(3 * SECOND, |_, _| Delivery::Delivered);
    let list = Running::default();
    let _reports = start(&plane, &outbox_of([]), &list);
    let mut runs: Vec<_> = (0..100)
        .map(|n| list.enter(&running(&format!("e{n}"))))
        .collect();
    pass(605 * SECOND).await;
    for n in 0..100 {
        let times = plane.times(&format!("beat e{n}"));
        for pair in times.windows(2) {
            // All others have their turn before, and then it waits for its time.
            let pause = pair[1].abs_diff(pair[0]);
            assert!(pause <= 26 * SECOND, "e{n}: {times:?}");
        }
        assert!(times.len() >= 24, "e{n}: {times:?}");
    }
    assert_eq!(plane.busiest.load(Ordering::SeqCst), 16);

    // The others have ended: had the first ten a queue, it would come now.
    let since = plane.started.elapsed();
    runs.truncate(10);
    pass(60 * SECOND).await;
    for n in 0..10 {
        let mut times = plane.times(&format!("beat e{n}"));
        times.retain(|time| *time > since);
        for pair in times.windows(2) {
            assert!(pair[1].abs_diff(pair[0]) >= 3 * SECOND, "e{n}: {times:?}");
        }
    }
    drop(runs);
    let before = plane.count();
    pass(600 * SECOND).await;
    assert_eq!(plane.count(), before, "beats were queued");
}

#[tokio::test(start_paused = true)]
async fn a_control_plane_that_hangs_costs_each_beat_an_interval_and_no_run_two_of_them() {
    let plane = Plane::slow(3600 * SECOND, |_, _| Delivery::Delivered);
    let list = Running::default();
    let _reports = start(&plane, &outbox_of([]), &list);
    let _run = list.enter(&running("e"));
    pass(61 * SECOND).await;
    let times = plane.times("beat e");
    assert!((6..=12).contains(&times.len()), "{times:?}");
    let pauses = times.windows(2).map(|pair| pair[1].abs_diff(pair[0]));
    assert!(
        pauses.into_iter().all(|pause| pause >= 5 * SECOND),
        "{times:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_control_plane_that_is_away_gets_one_beat_an_interval_however_many_run() {
    let back = 3600 * SECOND;
    let since = Instant::now();
    let plane = Plane::new(move |_, _| {
        if since.elapsed() < back {
            retry()
        } else {
            Delivery::Delivered
        }
    });
    let list = Running::default();
    let _reports = start(&plane, &outbox_of([]), &list);
    let _runs: Vec<_> = (0..100)
        .map(|n| list.enter(&running(&format!("e{n}"))))
        .collect();
    pass(back).await;
    // Those that were on their way when it turned out, and then one at a time.
    let attempts = plane.count();
    assert!((700..760).contains(&attempts), "{attempts}");

    // All of them are heard again within three times their interval, before anybody takes them for lost.
    pass(15 * SECOND).await;
    for n in 0..100 {
        let times = plane.times(&format!("beat e{n}"));
        assert!(times.last() > Some(&back), "e{n}: {times:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn dropped_it_does_nothing_more() {
    let plane = Plane::new(|_, _| retry());
    let list = Running::default();
    let _run = list.enter(&running("e"));
    let mut reports = start(&plane, &outbox_of(["a".into()]), &list);
    reports.announce(1);
    pass(SECOND / 2).await;
    drop(reports);
    let before = plane.count();
    advance(3600 * SECOND).await;
    pass(3600 * SECOND).await;
    assert_eq!(plane.count(), before);
}
