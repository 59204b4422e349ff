//! Nothing that was accepted is lost, whenever the daemon is killed: each execution ends with one result, here and at the
//! control plane.

use std::{collections::BTreeMap, time::Duration};

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
