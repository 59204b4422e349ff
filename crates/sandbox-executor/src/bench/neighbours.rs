//! What a guest at its limits costs the runs of somebody else.

use std::{net::SocketAddr, time::Duration};

use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinHandle, time::sleep};

use super::{
    Failure,
    client::Client,
    plan::{Plan, Subject},
    stats::{Latency, Samples},
};

/// Most samples in a round: beside nobody, and beside each of the greedy guests, in turns.
const SAMPLES_A_ROUND: usize = 75;
/// How long a greedy guest has before somebody beside it counts. It is at its limits long before.
const HEAD_START: Duration = Duration::from_millis(500);
/// Between samples: whoever sends as fast as it can is no modest neighbour.
const PAUSE: Duration = Duration::from_millis(5);
/// A greedy guest is ended after this, and comes again.
const TURN_SECONDS: u64 = 2;

/// A guest that takes what it can get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Greedy {
    /// Which limit it is at.
    limit: &'static str,
    /// What `metrics.limits_hit` calls that.
    reported: &'static str,
    code: &'static str,
}

/// In shell, which is everywhere: what is measured is the kernel's work and ours, not an interpreter's.
const GREEDY: [Greedy; 3] = [
    Greedy {
        limit: "memory",
        reported: "memory",
        // A shell that is killed at the limit, and the next one.
        code: "while :; do (all=x; while :; do all=$all$all; done); done 2>/dev/null",
    },
    Greedy {
        limit: "processes",
        reported: "pids",
        // As many as are allowed, and all of them spin.
        code: "while :; do (while :; do :; done) & done 2>/dev/null",
    },
    Greedy {
        limit: "output",
        reported: "output",
        code: "while :; do head -c 1000000 /dev/zero; done",
    },
];

impl Greedy {
    fn request(self, number: usize) -> Value {
        json!({
            "execution_id": format!("bench-greedy-{}-{number}", self.limit),
            "session_id": "bench-greedy",
            "language": "shell",
            "code": self.code,
            "timeout": TURN_SECONDS,
            "limits": {"max_memory_mb": 64, "max_processes": 32, "max_output_bytes": 1 << 20},
        })
    }
}

/// One greedy guest, and what its neighbour's runs took.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Neighbour {
    pub limit: &'static str,
    /// With nobody beside it.
    pub alone: Latency,
    pub beside: Latency,
    /// Whether it was at its limit, as far as its answers say: without control groups, some are not counted.
    pub at_limit: bool,
}

/// Runs of one client alone, and beside each greedy guest, in turns.
pub(super) async fn neighbours(
    address: SocketAddr,
    subject: &Subject,
    plan: &Plan,
) -> Result<Vec<Neighbour>, Failure> {
    let mut client = Client::connect(address).await?;
    let rounds = plan.samples.div_ceil(SAMPLES_A_ROUND);
    let each = plan.samples.div_ceil(rounds);
    let mut alone = Vec::new();
    let mut beside = GREEDY.map(|_| (Vec::new(), false));
    let mut number = 0;
    for _ in 0..rounds {
        some(&mut client, subject, each, &mut alone).await?;
        for (greedy, (times, at_limit)) in GREEDY.into_iter().zip(&mut beside) {
            let (stop, guest) = begin(address, greedy, number).await?;
            number += 1_000_000;
            sleep(HEAD_START).await;
            some(&mut client, subject, each, times).await?;
            drop(stop);
            *at_limit |= guest.await??;
        }
    }
    let nothing = "no sample of a neighbour";
    let alone = Samples::new(alone).ok_or(nothing)?.latency();
    let mut found = Vec::new();
    for (greedy, (times, at_limit)) in GREEDY.into_iter().zip(beside) {
        found.push(Neighbour {
            limit: greedy.limit,
            alone,
            beside: Samples::new(times).ok_or(nothing)?.latency(),
            at_limit,
        });
    }
    Ok(found)
}

async fn some(
    client: &mut Client,
    subject: &Subject,
    samples: usize,
    times: &mut Vec<Duration>,
) -> Result<(), Failure> {
    for _ in 0..samples {
        times.push(client.must_run(subject).await?.1);
        sleep(PAUSE).await;
    }
    Ok(())
}

/// Has a greedy guest run again and again, until the sender is dropped and the last one has ended. Whether one of them was at
/// its limit is what comes of it.
async fn begin(
    address: SocketAddr,
    greedy: Greedy,
    first: usize,
) -> Result<(watch::Sender<()>, JoinHandle<Result<bool, Failure>>), Failure> {
    let (stop, stopped) = watch::channel(());
    let mut client = Client::connect(address).await?;
    let guest = tokio::spawn(async move {
        let mut at_limit = false;
        for number in first.. {
            if stopped.has_changed().is_err() {
                break;
            }
            let answer = client.post(&greedy.request(number)).await?;
            if answer["status"] == "completed" || answer["status"] == "failed" {
                return Err(format!("a guest is less greedy than it should be: {answer}").into());
            }
            let hit = answer["metrics"]["limits_hit"].as_array();
            at_limit |= hit.is_some_and(|hit| hit.iter().any(|limit| limit == greedy.reported));
        }
        Ok(at_limit)
    });
    Ok((stop, guest))
}
