//! Random sequences of what clients do to a daemon: run, ask again, contradict, cancel, hang up, read along and stop
//! reading, bring files, remove sessions. Whatever the sequence, nothing is left behind.
//!
//! `SEQUENCES` says how many are tried; by default as many as continuous integration has patience for. They are the same
//! each time: the seed is fixed. A sequence that fails is made smaller, and shown.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "this is how a test fails")]

mod support;

use std::{env, fs, time::Duration};

use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};
use support::{
    alive,
    daemon::{ALL_WARM, Daemon, marker, request, request_with},
    eventually,
    holdings::{Holdings, at_rest, settles},
};
use tokio::time::timeout;

const DEFAULT_SEQUENCES: u32 = 6;
const MAX_STEPS: usize = 12;
/// Executions that the steps of a sequence speak of; so they meet.
const EXECUTIONS: usize = 4;
const SESSIONS: usize = 2;

/// What guests of a sequence do. Those that do not end by themselves carry the marker.
const GUESTS: [(&str, &str); 5] = [
    ("shell", "echo done; echo x >> file"),
    (
        "shell",
        "(setsid sleep $MARKER > /dev/null 2>&1 &); trap '' TERM; sleep $MARKER",
    ),
    (
        "shell",
        "i=0; while [ $i -lt 200 ]; do echo $((i += 1)); done; kill -9 $$",
    ),
    (
        "python",
        "def handler(event):\n    open('a', 'w').write('x' * 100000)\n    raise ValueError",
    ),
    (
        "python",
        "import os, time\ndef handler(event):\n    os.symlink('/etc', 'link-%d' % os.getpid())\n    time.sleep(60)",
    ),
];

/// How long a client is ready to wait before it hangs up.
const PATIENCES: [Duration; 3] = [
    Duration::from_millis(1),
    Duration::from_millis(15),
    Duration::from_millis(120),
];

/// One thing that a client does. Numbers name executions, sessions, guests and patiences.
#[derive(Debug, Clone)]
enum Step {
    /// Asks for an execution, and hangs up after a while. The same one again is joined or answered from what is kept;
    /// with another guest it is refused.
    Run(usize, usize, usize),
    /// Asks for it and wants no result yet.
    Later(usize, usize),
    /// Asks for it as a stream, and stops reading after a while.
    Stream(usize, usize, usize),
    /// Follows it, from anywhere.
    Follow(usize, usize, usize),
    Cancel(usize),
    Find(usize),
    /// Brings a file, or the half of one.
    Upload(usize, bool),
    RemoveSession(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let execution = || 0..EXECUTIONS;
    let guest = || 0..GUESTS.len();
    let patience = || 0..PATIENCES.len();
    let step = prop_oneof![
        4 => (execution(), guest(), patience()).prop_map(|(e, g, p)| Step::Run(e, g, p)),
        3 => (execution(), guest()).prop_map(|(e, g)| Step::Later(e, g)),
        2 => (execution(), guest(), patience()).prop_map(|(e, g, p)| Step::Stream(e, g, p)),
        2 => (execution(), 0_usize..300, patience()).prop_map(|(e, at, p)| Step::Follow(e, at, p)),
        3 => execution().prop_map(Step::Cancel),
        1 => execution().prop_map(Step::Find),
        1 => (0..SESSIONS, any::<bool>()).prop_map(|(s, whole)| Step::Upload(s, whole)),
        1 => (0..SESSIONS).prop_map(Step::RemoveSession),
    ];
    vec(step, 1..=MAX_STEPS)
}

/// One sequence on its way.
struct Sequence<'a> {
    daemon: &'a Daemon,
    /// Of this sequence alone: its connections end with it.
    client: Client,
    marker: String,
    ids: Vec<String>,
}

impl<'a> Sequence<'a> {
    fn new(daemon: &'a Daemon) -> Self {
        let ids = (0..EXECUTIONS).map(|_| {
            request("shell", "")["execution_id"]
                .as_str()
                .unwrap()
                .to_owned()
        });
        Self {
            daemon,
            client: Client::builder().no_proxy().build().unwrap(),
            marker: marker(),
            ids: ids.collect(),
        }
    }

    fn send(&self, method: Method, path: &str) -> RequestBuilder {
        let url = format!("http://{}{path}", self.daemon.address());
        self.client.request(method, url)
    }

    fn run(&self, execution: usize, guest: usize) -> RequestBuilder {
        let (language, code) = GUESTS[guest];
        let more = json!({
            "execution_id": self.ids[execution],
            "session_id": format!("sequence-{}", execution % SESSIONS),
            "env_vars": {"MARKER": self.marker},
            "timeout": 30,
        });
        self.send(Method::POST, "/execute")
            .json(&request_with(language, code, more))
    }

    async fn take(&self, step: &Step) {
        match step {
            Step::Run(execution, guest, patience) => {
                self.impatiently(self.run(*execution, *guest), *patience, &[200, 409])
                    .await;
            }
            Step::Later(execution, guest) => {
                let request = self
                    .run(*execution, *guest)
                    .header("prefer", "respond-async");
                is_answered(request, &[202, 409]).await;
            }
            Step::Stream(execution, guest, patience) => {
                let request = self
                    .run(*execution, *guest)
                    .header("accept", "text/event-stream");
                self.impatiently(request, *patience, &[200, 409]).await;
            }
            Step::Follow(execution, at, patience) => {
                let path = format!("/executions/{}/events", self.ids[*execution]);
                let request = self
                    .send(Method::GET, &path)
                    .header("last-event-id", format!("{at}.0"));
                self.impatiently(request, *patience, &[200, 404]).await;
            }
            Step::Cancel(execution) => {
                let path = format!("/executions/{}", self.ids[*execution]);
                is_answered(self.send(Method::DELETE, &path), &[200, 404]).await;
            }
            Step::Find(execution) => {
                let path = format!("/executions/{}", self.ids[*execution]);
                is_answered(self.send(Method::GET, &path), &[200, 404]).await;
            }
            Step::Upload(session, whole) => {
                let path = format!("/sessions/sequence-{session}/files/brought");
                let put = self.send(Method::PUT, &path);
                if *whole {
                    is_answered(put.body("x".repeat(1000)), &[200, 201]).await;
                } else {
                    let half = futures_util::stream::once(async { Ok::<_, std::io::Error>("x") });
                    let never =
                        futures_util::StreamExt::chain(half, futures_util::stream::pending());
                    let put = put.body(reqwest::Body::wrap_stream(never));
                    self.impatiently(put, 1, &[]).await;
                }
            }
            Step::RemoveSession(session) => {
                let path = format!("/sessions/sequence-{session}");
                is_answered(self.send(Method::DELETE, &path), &[200, 204, 404]).await;
            }
        }
    }

    /// Reads an answer for as long as there is patience, and hangs up.
    async fn impatiently(&self, request: RequestBuilder, patience: usize, statuses: &[u16]) {
        let _ = timeout(PATIENCES[patience], is_answered(request, statuses)).await;
    }

    async fn asked(&self, method: Method, path: &str) -> (u16, Value) {
        let answer = self.send(method, path).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    /// Whatever is under way is cancelled. Then nothing may be left but results that say so.
    async fn end(self, before: &Holdings) {
        for id in &self.ids {
            let path = format!("/executions/{id}");
            let (status, cancelled) = self.asked(Method::DELETE, &path).await;
            if status == 404 {
                continue;
            }
            assert_eq!(status, 200, "{cancelled:#}");
            let (status, found) = self.asked(Method::GET, &path).await;
            assert_eq!(status, 200, "{found:#}, and before {cancelled:#}");
            assert_eq!(found, cancelled);
            let status = found["status"].as_str().unwrap();
            assert!(!["pending", "running"].contains(&status), "{found:#}");
        }
        let (_, info) = self.asked(Method::GET, "/info").await;
        assert_eq!(info["active_executions"], 0, "{info:#}");
        for session in 0..SESSIONS {
            self.take(&Step::RemoveSession(session)).await;
        }
        let benign = self
            .send(Method::POST, "/execute")
            .json(&request("shell", "echo well"));
        let benign: Value = benign.send().await.unwrap().json().await.unwrap();
        assert_eq!(benign["stdout"], "well\n", "{benign:#}");

        let marker = self.marker.clone();
        let daemon = self.daemon;
        drop(self);
        eventually("every guest is gone", || alive(&marker).is_empty()).await;
        assert_eq!(settles(daemon, before).await, *before);
        assert_eq!(left_in(daemon), ["session-1"]);
    }
}

async fn is_answered(request: RequestBuilder, statuses: &[u16]) {
    let answer = request.send().await.unwrap();
    assert!(statuses.contains(&answer.status().as_u16()), "{answer:?}");
    // Broken off where there was no patience for more.
    let _ = answer.bytes().await;
}

/// What there is of workspaces, and of uploads and removals on their way.
fn left_in(daemon: &Daemon) -> Vec<String> {
    let names = |path: &std::path::Path| -> Vec<String> {
        let entries = fs::read_dir(path).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    };
    let root = daemon.workspaces();
    let own = root.join(".sandbox-executor");
    let mut left = names(&root);
    left.retain(|name| !name.starts_with('.'));
    left.extend(names(&own.join("trash")));
    for process in names(&own.join("staging")) {
        left.extend(names(&own.join("staging").join(process)));
    }
    left
}

#[test]
fn no_sequence_of_requests_leaves_anything_behind() {
    let cases = env::var("SEQUENCES").map_or(DEFAULT_SEQUENCES, |cases| cases.parse().unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let _entered = runtime.enter();
    // Few places, so that some wait for one, and always as many slots.
    let daemon = Daemon::with(&[
        ("MAX_CONCURRENT_EXECUTIONS", "2"),
        ALL_WARM,
        ("WARM_POOL_MIN", "2"),
        ("WARM_POOL_MAX", "2"),
    ]);
    let before = runtime.block_on(at_rest(&daemon));
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 200,
        ..Config::default()
    };
    let seed = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let outcome = TestRunner::new_with_rng(config, seed).run(&steps(), |steps| {
        runtime.block_on(async {
            let sequence = Sequence::new(&daemon);
            for step in &steps {
                sequence.take(step).await;
            }
            sequence.end(&before).await;
        });
        Ok(())
    });
    if let Err(found) = outcome {
        panic!("{found}");
    }
}
