//! Nothing that was accepted is lost, whenever the daemon is killed or told to stop: each execution ends with one result, here
//! and at the control plane.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use nix::sys::signal::Signal;
use reqwest::StatusCode;
use serde_json::Value;
use tokio::task::JoinSet;

use super::{
    plane::{Manners, Plane},
    support::{
        daemon::{Daemon, request},
        eventually,
    },
};

const RUNS: usize = 200;
/// Requests on their way at the same time.
const AT_ONCE: usize = 8;

/// The numbers after a seed (a linear congruential generator; Knuth, TAOCP 2, 3.3.4): the same on every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// Sends a request that wants to be answered at once. Whether it was accepted; `false`: nobody answered.
async fn submit(daemon: &Daemon, request: &Value) -> bool {
    let sent = daemon
        .post(request)
        .header("prefer", "respond-async")
        .send();
    match sent.await {
        Ok(response) => {
            assert_eq!(response.status(), 202, "{:?}", response.text().await);
            true
        }
        Err(_) => false,
    }
}

/// Every execution reached the control plane, with the result that it has here. One that was on its way when the daemon was
/// killed may have come twice; an idempotent receiver then sees the same twice.
async fn all_are_delivered(plane: &Plane, daemon: &Daemon, requests: &[Value]) {
    let id_of = |request: &Value| request["execution_id"].as_str().unwrap().to_owned();
    let mut delivered = BTreeMap::<String, Vec<Value>>::new();
    eventually("every result is delivered", || {
        delivered.clear();
        for result in plane.taken("/result") {
            let id = result.path.split('/').rev().nth(1).unwrap();
            let of_id = delivered.entry(id.to_owned()).or_default();
            of_id.push(result.body);
        }
        requests
            .iter()
            .all(|request| delivered.contains_key(&id_of(request)))
    })
    .await;
    assert_eq!(delivered.len(), requests.len(), "results of strangers");
    for request in requests {
        let id = id_of(request);
        let ended = daemon.ended(&id).await;
        for result in &delivered[&id] {
            let status = match ended["status"].as_str().unwrap() {
                "completed" => "success",
                _ => "crashed",
            };
            assert_eq!(result["status"], status, "{id}");
            assert_eq!(result["stdout"], ended["stdout"], "{id}");
            assert_eq!(*result, delivered[&id][0], "{id}: two different results");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_accepted_execution_ends_with_a_result_however_often_the_daemon_is_killed() {
    let mut numbers = Numbers(20_260_115);
    let plane = Plane::new(Manners::Good).listen().await;
    let mut daemon = Daemon::with(&[("CONTROL_PLANE_URL", &plane.url())]);
    let mut pending: Vec<Value> = (0..RUNS)
        .map(|n| request("shell", &format!("echo run-{n} >> ran; echo {n}")))
        .collect();
    let all = pending.clone();
    // What was answered 202 the first time that it was sent.
    let mut accepted_at_once = BTreeMap::new();
    let mut asked = std::collections::BTreeSet::new();
    let mut kills = 0;
    while !pending.is_empty() {
        // Up to so many are sent, and so long after the last one the daemon is killed.
        let burst = 1 + usize::try_from(numbers.below(40)).unwrap();
        let pause = Duration::from_micros(numbers.below(30_000));
        let mut unanswered = Vec::new();
        let now: Vec<_> = pending.drain(..burst.min(pending.len())).collect();
        for requests in now.chunks(AT_ONCE) {
            let mut sent = JoinSet::new();
            for request in requests {
                let post = daemon.post(request).header("prefer", "respond-async");
                let request = request.clone();
                sent.spawn(async move { (request, post.send().await) });
            }
            // In the last batch some are still on their way.
            let is_last = requests.as_ptr_range().end == now.as_ptr_range().end;
            if is_last {
                tokio::time::sleep(pause).await;
                daemon.kill_and_start();
                kills += 1;
            }
            while let Some(done) = sent.join_next().await {
                let (request, answer) = done.unwrap();
                let id = request["execution_id"].as_str().unwrap().to_owned();
                let is_first = asked.insert(id.clone());
                match answer {
                    Ok(response) => {
                        assert_eq!(response.status(), 202, "{:?}", response.text().await);
                        if is_first {
                            accepted_at_once.insert(id, request);
                        }
                    }
                    Err(_) => unanswered.push(request),
                }
            }
        }
        pending.extend(unanswered);
    }

    let mut statuses = BTreeMap::<String, usize>::new();
    let ran = std::fs::read_to_string(daemon.file("ran")).unwrap();
    for (n, request) in all.iter().enumerate() {
        let id = request["execution_id"].as_str().unwrap();
        let ended = daemon.ended(id).await;
        let times = ran
            .lines()
            .filter(|line| *line == format!("run-{n}"))
            .count();
        let status = ended["status"].as_str().unwrap();
        *statuses.entry(status.to_owned()).or_default() += 1;
        match status {
            "completed" => {
                assert_eq!(ended["stdout"], format!("{n}\n"));
                assert!(times >= 1, "{id} has a result and did not run");
            }
            _ => assert_eq!(ended["error"]["reason"], "executor_lost", "{ended:#}"),
        }
        // Whoever was told 202 at once has run once at most.
        if accepted_at_once.contains_key(id) {
            assert!(times <= 1, "{id} ran {times} times");
        }
        // And so it stays.
        assert!(submit(&daemon, request).await);
        assert_eq!(daemon.ended(id).await, ended);
    }
    assert!(kills >= 5, "{kills}");
    all_are_delivered(&plane.plane, &daemon, &all).await;
    // How many of each there are depends on how fast this machine is just then; that none is missing does not.
    let ended: usize = statuses.values().sum();
    assert_eq!(ended, all.len(), "{statuses:?}");
}

/// What became of a caller's requests.
#[derive(Default)]
struct Caller {
    /// Those that the daemon took on.
    accepted: Vec<Value>,
    /// Those that it refused, because it stops.
    refused: usize,
    /// Those that nobody answered: taken on or not.
    unanswered: Vec<Value>,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_under_load_loses_no_accepted_execution() {
    let plane = Plane::new(Manners::Good).listen().await;
    let mut daemon = Daemon::with(&[
        ("CONTROL_PLANE_URL", &plane.url()),
        ("MAX_CONCURRENT_EXECUTIONS", "4"),
        ("SHUTDOWN_GRACE", "10m"),
    ]);
    let accepted_so_far = Arc::new(AtomicUsize::new(0));
    let mut callers = JoinSet::new();
    for caller in 0..AT_ONCE {
        let requests: Vec<_> = (0..RUNS)
            .map(|n| format!("{caller}-{n}"))
            .map(|name| request("shell", &format!("sleep 0.1; echo {name} | tee -a ran")))
            .map(|request| {
                // Every other one waits for its answer.
                let post = daemon.post(&request);
                let post = match caller % 2 {
                    0 => post.header("prefer", "respond-async"),
                    _ => post,
                };
                (request, post)
            })
            .collect();
        let accepted_so_far = Arc::clone(&accepted_so_far);
        callers.spawn(async move {
            let mut told = Caller::default();
            // One after the other, until there is nobody to ask.
            for (request, post) in requests {
                let Ok(answer) = post.send().await else {
                    told.unanswered.push(request);
                    break;
                };
                match answer.status() {
                    StatusCode::ACCEPTED | StatusCode::OK => {
                        told.accepted.push(request);
                        accepted_so_far.fetch_add(1, Ordering::Relaxed);
                    }
                    StatusCode::SERVICE_UNAVAILABLE => {
                        told.refused += 1;
                        break;
                    }
                    // All places are taken.
                    status => assert_eq!(status, StatusCode::TOO_MANY_REQUESTS),
                }
            }
            told
        });
    }
    eventually("it has much to do", || {
        accepted_so_far.load(Ordering::Relaxed) >= 3 * AT_ONCE
    })
    .await;
    daemon.signal(Signal::SIGTERM);
    let mut all = Caller::default();
    while let Some(told) = callers.join_next().await {
        let told = told.unwrap();
        all.accepted.extend(told.accepted);
        all.refused += told.refused;
        all.unanswered.extend(told.unanswered);
    }
    assert_eq!(daemon.exit().await.code(), Some(143));
    // It was under load until it refused more.
    assert!(all.refused > 0, "{} unanswered", all.unanswered.len());

    // The next one delivers what its predecessor had no time for, and remembers everything.
    daemon.start_again();
    for request in all.unanswered {
        let id = request["execution_id"].as_str().unwrap();
        let found = daemon.get(&format!("/executions/{id}")).send();
        if found.await.unwrap().status() == StatusCode::OK {
            all.accepted.push(request);
        }
    }
    all_are_delivered(&plane.plane, &daemon, &all.accepted).await;
    let mut printed = Vec::new();
    for request in &all.accepted {
        let ended = daemon
            .ended(request["execution_id"].as_str().unwrap())
            .await;
        assert_eq!(ended["status"], "completed", "{ended:#}");
        printed.push(ended["stdout"].as_str().unwrap().trim().to_owned());
    }
    // Each has run, and once, and nobody else has.
    let ran = std::fs::read_to_string(daemon.file("ran")).unwrap();
    let mut ran: Vec<_> = ran.lines().collect();
    ran.sort_unstable();
    printed.sort_unstable();
    assert_eq!(ran, printed);
}
