//! What nobody who runs code should notice: that a control plane is away or slow, and that output travels through a daemon. And
//! what a control plane should notice: that heartbeats come in time, also of a hundred runs.
//!
//! Daemons that differ in their control plane alone serve the same bursts of runs in turns, so that a busy moment of the
//! machine hits all of them; the table shows ratios to the one that has none. A second one that has none shows how much of a
//! ratio is chance. `docs/performance.md` has the figures.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench reports by printing, and gives up where a test would"
)]

#[allow(dead_code, reason = "a bench needs a part of it")]
#[path = "../tests/control_plane/plane.rs"]
mod plane;
#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use nix::time::{ClockId, clock_gettime};
use plane::{Listening, Manners, Plane, Request};
use serde_json::json;
use support::daemon::{Daemon, request, request_with};

/// Callers at the same time.
const CALLERS: usize = 4;
/// Runs of each caller in a burst.
const RUNS: usize = 10;
/// Bursts of each daemon, unless the variable `BURSTS` says so.
const BURSTS: usize = 40;
/// How far a ratio may be from 1.
const PROMISED: f64 = 0.05;

/// Lines whose way to the reader is measured.
const LINES: usize = 300;
/// Most that a line may take from the guest's flush to the reader.
const FIRST_BYTE: Duration = Duration::from_millis(20);

/// Runs at the same time whose heartbeats are timed, how long each takes, and how far apart its heartbeats are to be: this many
/// seconds, give or take one.
const BEATING: usize = 100;
const BEATS_FOR: &str = "sleep 30";
const INTERVAL: f64 = 5.0;
const TOLERATED: f64 = 1.0;

/// A daemon, and how it did.
struct Subject {
    name: &'static str,
    daemon: Daemon,
    /// Kept alive as long as the daemon.
    _plane: Option<Listening>,
    bursts: Vec<Duration>,
    runs: Vec<Duration>,
}

impl Subject {
    fn new(name: &'static str, url: &str, plane: Option<Listening>) -> Self {
        Self {
            name,
            daemon: Daemon::with(&[("CONTROL_PLANE_URL", url), ("LOG_LEVEL", "error")]),
            _plane: plane,
            bursts: Vec::new(),
            runs: Vec::new(),
        }
    }

    async fn with_plane(name: &'static str, manners: Manners) -> Self {
        let plane = Plane::new(manners).listen().await;
        Self::new(name, &plane.url(), Some(plane))
    }

    async fn burst(&mut self) {
        let begin = Instant::now();
        let daemon = &self.daemon;
        let callers = (0..CALLERS).map(|_| async move {
            let mut took = Vec::new();
            for _ in 0..RUNS {
                let run = request("shell", ":");
                let begin = Instant::now();
                daemon.execute(&run).await.completed();
                took.push(begin.elapsed());
            }
            took
        });
        self.runs.extend(join_all(callers).await.concat());
        self.bursts.push(begin.elapsed());
    }

    fn forget(&mut self) {
        self.bursts.clear();
        self.runs.clear();
    }
}

fn percentile(samples: &[Duration], percent: usize) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    sorted[(sorted.len() - 1) * percent / 100].as_secs_f64() * 1e3
}

const fn verdict(kept: bool) -> &'static str {
    if kept { "kept" } else { "NOT KEPT" }
}

/// The median of the ratios of bursts that were neighbours in time.
fn throughput(subject: &Subject, reference: &Subject) -> f64 {
    let pairs = reference.bursts.iter().zip(&subject.bursts);
    let mut ratios: Vec<_> = pairs
        .map(|(reference, subject)| reference.as_secs_f64() / subject.as_secs_f64())
        .collect();
    ratios.sort_unstable_by(f64::total_cmp);
    ratios[ratios.len() / 2]
}

async fn compare() {
    // A port that was free a moment ago.
    let nobody = Plane::new(Manners::Good).listen().await.url();
    let mut subjects = [
        Subject::new("none", "none", None),
        Subject::new("none, again", "none", None),
        Subject::with_plane("good", Manners::Good).await,
        Subject::new("down", &nobody, None),
        Subject::with_plane("slow (1 s)", Manners::Slow(Duration::from_secs(1))).await,
        Subject::with_plane("hangs", Manners::Hangs).await,
    ];
    let bursts = std::env::var("BURSTS").map_or(BURSTS, |bursts| bursts.parse().unwrap());
    for burst in 0..=bursts {
        for turn in 0..subjects.len() {
            // Nobody is always the first.
            let index = (turn + burst) % subjects.len();
            subjects[index].burst().await;
        }
        if burst == 0 {
            // It has found files and code not yet in caches.
            subjects.iter_mut().for_each(Subject::forget);
        }
    }
    let [reference, others @ ..] = &subjects;
    println!(
        "{} runs of each, {CALLERS} at the same time; ratios to a daemon without a control plane (p50 {:.2} ms, p99 {:.2} ms)\n",
        reference.runs.len(),
        percentile(&reference.runs, 50),
        percentile(&reference.runs, 99),
    );
    println!(
        "control plane        p50      p99   throughput   promised within {PROMISED}, p99 and throughput"
    );
    for subject in others {
        let ratio =
            |percent| percentile(&subject.runs, percent) / percentile(&reference.runs, percent);
        let throughput = throughput(subject, reference);
        let is_kept = ratio(99) <= 1.0 + PROMISED && throughput >= 1.0 - PROMISED;
        println!(
            "{:15} {:8.3} {:8.3} {throughput:12.3}   {}",
            subject.name,
            ratio(50),
            ratio(99),
            verdict(is_kept),
        );
    }
}

/// A program that says when it says it, on a clock that all processes of this host share.
fn clock() -> String {
    format!(
        "import time\nfor _ in range({LINES}):\n    \
             print(time.clock_gettime_ns(time.CLOCK_MONOTONIC), flush=True)\n    time.sleep(0.005)\n"
    )
}

/// How long a line that says when it was written has been on its way.
fn age(line: &str) -> Duration {
    let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap());
    now.saturating_sub(Duration::from_nanos(line.trim().parse().unwrap()))
}

/// Lines of a guest, as events over HTTP.
async fn streamed() -> Vec<Duration> {
    let daemon = Daemon::start();
    let run = request_with("python", &clock(), json!({"mode": "script"}));
    let answer = daemon.post(&run).header("accept", "text/event-stream");
    let mut answer = answer.send().await.unwrap();
    let mut text = String::new();
    let mut ages = Vec::new();
    while let Some(piece) = answer.chunk().await.unwrap() {
        text.push_str(std::str::from_utf8(&piece).unwrap());
        while let Some((event, rest)) = text.split_once("\n\n") {
            let data = event.lines().find_map(|line| line.strip_prefix("data: "));
            let data: serde_json::Value = serde_json::from_str(data.unwrap_or("{}")).unwrap();
            if event.starts_with("event: stdout") {
                ages.extend(data["text"].as_str().unwrap().lines().map(age));
            }
            let rest = rest.to_owned();
            text = rest;
        }
    }
    assert_eq!(ages.len(), LINES);
    ages
}

/// Lines of the same program through a pipe and nothing else.
fn piped() -> Vec<Duration> {
    let mut child = Command::new("python3")
        .args(["-c", &clock()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let ages: Vec<_> = lines.map(|line| age(&line.unwrap())).collect();
    assert!(child.wait().unwrap().success());
    assert_eq!(ages.len(), LINES);
    ages
}

/// Seconds from each heartbeat of a run to its next one, of many runs that are on at the same time.
async fn heartbeats() -> Vec<f64> {
    let plane = Plane::new(Manners::Good).listen().await;
    let daemon = Daemon::with(&[("CONTROL_PLANE_URL", &plane.url())]);
    let runs: Vec<_> = (0..BEATING).map(|_| request("shell", BEATS_FOR)).collect();
    let answers: Vec<_> = runs.iter().map(|run| daemon.spawn(run)).collect();
    for answer in answers {
        answer.await.unwrap().completed();
    }
    let mut pauses = Vec::new();
    for run in &runs {
        let id = run["execution_id"].as_str().unwrap();
        let beats = plane.plane.taken(&format!("/executions/{id}/heartbeat"));
        let times: Vec<_> = beats.iter().map(Request::second_of_day).collect();
        // The first comes an interval after the start: five fit, or six where the machine is slow to start so many.
        assert!(times.len() >= 5, "{times:?}");
        pauses.extend(
            times
                .windows(2)
                .map(|pair| (pair[1] - pair[0]).rem_euclid(86_400.0)),
        );
    }
    pauses.sort_unstable_by(f64::total_cmp);
    pauses
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    compare().await;

    let piped = tokio::task::spawn_blocking(piped).await.unwrap();
    let streamed = streamed().await;
    println!("\nfrom a guest's flush to its reader, {LINES} lines   p50, ms   p99, ms");
    for (name, ages) in [("events over HTTP", &streamed), ("a pipe", &piped)] {
        println!(
            "{name:49} {:9.3} {:9.3}",
            percentile(ages, 50),
            percentile(ages, 99)
        );
    }
    let is_kept = percentile(&streamed, 99) <= FIRST_BYTE.as_secs_f64() * 1e3;
    println!("promised: at most {FIRST_BYTE:?} {}", verdict(is_kept));

    let pauses = heartbeats().await;
    let (shortest, longest) = (pauses[0], pauses[pauses.len() - 1]);
    let is_kept = shortest >= INTERVAL - TOLERATED && longest <= INTERVAL + TOLERATED;
    println!(
        "\nbetween heartbeats of {BEATING} runs at the same time: {shortest:.2} to {longest:.2} s\n\
         promised: {INTERVAL} s, give or take {TOLERATED} {}",
        verdict(is_kept)
    );
}
