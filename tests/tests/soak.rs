//! Many runs of every kind, good and hostile, and then: is the daemon as it was, and is nothing left on the host?
//!
//! `SOAK_RUNS` says how many; by default as many as continuous integration has patience for.

#![allow(clippy::unwrap_used, reason = "this is how a test fails")]

mod support;

use std::{collections::BTreeSet, env, fs, time::Duration};

use reqwest::Client;
use serde_json::{Value, json};
use support::{
    alive,
    daemon::{ALL_WARM, Answer, Daemon, marker, request_with},
    holdings::{MAX_GROWTH_KIB, at_rest, settles, status},
};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    task::JoinSet,
    time::{Instant, timeout},
};

const DEFAULT_RUNS: usize = 400;
const CONCURRENCY: usize = 16;
const SESSIONS: usize = 8;
/// Results are kept for a second: what is compared is what the daemon is, not what it remembers.
const RESULT_TTL: &str = "1";
/// Workers (4), blocking threads (64), the main thread and one for each signal's plumbing. Both caps stand in the daemon's
/// `lib.rs`.
const MAX_THREADS: u64 = 4 + 64 + 4;

/// One kind of request, and how it must end.
enum Kind {
    /// Language, code, further fields, and the status it ends with.
    Run(&'static str, &'static str, &'static str, &'static str),
    /// The client hangs up after this many milliseconds: before, while or after the guest runs, whichever it is.
    Abandoned(u64),
    /// The daemon refuses this body with 400.
    Refused(&'static str),
    /// The client promises more than it sends, and goes.
    BrokenOff,
}

const KINDS: &[Kind] = &[
    Kind::Run(
        "python",
        "def handler(event):\n    return event",
        "{}",
        "completed",
    ),
    Kind::Run(
        "javascript",
        "exports.handler = async (event) => event",
        "{}",
        "completed",
    ),
    Kind::Run(
        "shell",
        "cat > /tmp/event; wc -c < /tmp/event",
        "{}",
        "completed",
    ),
    Kind::Abandoned(3),
    // Out of time, ignoring signals, with children in sessions of their own.
    Kind::Run(
        "shell",
        "trap '' TERM INT HUP; (setsid sleep $MARKER &); setsid sleep $MARKER & sleep $MARKER",
        r#"{"timeout": 1}"#,
        "timeout",
    ),
    // Leaves daemons behind, and ends well.
    Kind::Run(
        "shell",
        "(setsid sleep $MARKER > /dev/null 2>&1 &); (setsid sleep $MARKER &)",
        "{}",
        "completed",
    ),
    Kind::Refused("{\"code\": "),
    Kind::Run(
        "python",
        "def handler(event):\n    return len(bytearray(1 << 30))",
        r#"{"limits": {"max_memory_mb": 48}}"#,
        "crashed or failed",
    ),
    // A fork bomb.
    Kind::Run(
        "shell",
        "bomb() { bomb | bomb & }; bomb 2> /dev/null; sleep $MARKER",
        r#"{"timeout": 1, "limits": {"max_processes": 24}}"#,
        "timeout",
    ),
    Kind::Run(
        "shell",
        "head -c 30000000 /dev/zero; head -c 30000000 /dev/zero >&2",
        r#"{"limits": {"max_output_bytes": 10000}}"#,
        "completed",
    ),
    Kind::Abandoned(60),
    Kind::Run("shell", "kill -SEGV $$", "{}", "crashed"),
    Kind::Refused(
        r#"{"execution_id": "../../etc", "session_id": "", "language": "cobol", "code": 1, "extra": []}"#,
    ),
    // What a scanner would follow, read or choke on; the same names each time, so that workspaces do not grow.
    Kind::Run(
        "python",
        "import os, socket\ndef handler(event):\n    \
         for name in ('link', 'loop', 'fifo', 'sock', 'sparse'):\n        \
         if os.path.lexists(name): os.unlink(name)\n    \
         os.symlink('/etc/passwd', 'link'); os.symlink('loop', 'loop'); os.mkfifo('fifo')\n    \
         socket.socket(socket.AF_UNIX).bind('sock')\n    \
         with open('sparse', 'wb') as file: file.truncate(90 << 20)\n    \
         os.makedirs('/'.join('d' * 40), exist_ok=True)",
        // One session of its own: guests of a session that do this at the same time would be in each other's way.
        r#"{"session_id": "ALONE"}"#,
        "completed",
    ),
    // Rubbish for every descriptor that it holds.
    Kind::Run(
        "python",
        "import os\ndef handler(event):\n    for fd in range(3, 64):\n        try: os.write(fd, os.urandom(4096))\n        \
         except OSError: pass",
        "{}",
        "completed or failed",
    ),
    Kind::Run(
        "javascript",
        "exports.handler = () => 'x'.repeat(9 << 20)",
        "{}",
        "failed",
    ),
    Kind::BrokenOff,
    Kind::Run(
        "javascript",
        "exports.handler = () => new Promise(() => {})",
        "{}",
        "failed",
    ),
    Kind::Abandoned(400),
    // Everything that can be filled.
    Kind::Run(
        "shell",
        "head -c 300000000 /dev/zero > /tmp/full; i=0; while : > /dev/shm/$((i++)); do :; done 2> /dev/null",
        r#"{"limits": {"max_memory_mb": 32}}"#,
        "completed or crashed or failed",
    ),
];

/// What every request needs to know.
#[derive(Clone)]
struct Target {
    address: String,
    token: String,
}

impl Kind {
    /// Sends the request and looks at the answer.
    async fn send(&self, target: &Target, number: usize) {
        // A connection of its own for each, as from many callers; some are broken on purpose.
        let client = Client::builder().no_proxy().build().unwrap();
        let post = |body: String| {
            client
                .post(format!("http://{}/execute", target.address))
                .header("content-type", "application/json")
                .body(body)
        };
        match self {
            Self::Run(language, code, more, status) => {
                let more = more.replace("ALONE", &format!("alone-{number}"));
                let body = target.run(language, code, &more, number);
                let run = Answer::to(post(body.to_string())).await.ran();
                let ended = run["status"].as_str().unwrap();
                assert!(
                    status.split(" or ").any(|status| status == ended),
                    "{code}: {run:#}"
                );
            }
            Self::Abandoned(milliseconds) => {
                let body = target.run("shell", "sleep $MARKER & sleep $MARKER", "{}", number);
                let answer = timeout(
                    Duration::from_millis(*milliseconds),
                    post(body.to_string()).send(),
                );
                assert!(answer.await.is_err(), "nobody would wait for this");
            }
            Self::Refused(body) => {
                let answer = Answer::to(post((*body).to_owned())).await;
                answer.refusal(400, "Executor.ValidationError");
            }
            Self::BrokenOff => {
                let mut stream = TcpStream::connect(&target.address).await.unwrap();
                let head = "POST /execute HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                            Content-Length: 100000\r\n\r\n{\"code\": \"";
                stream.write_all(head.as_bytes()).await.unwrap();
            }
        }
    }
}

impl Target {
    fn run(&self, language: &str, code: &str, more: &str, number: usize) -> Value {
        let mut fields = json!({
            "session_id": format!("soak-{}", number % SESSIONS),
            "env_vars": {"MARKER": self.token},
        });
        let more: Value = serde_json::from_str(more).unwrap();
        let more = more.as_object().unwrap().clone();
        fields.as_object_mut().unwrap().extend(more);
        request_with(language, code, fields)
    }
}

/// Sends so many requests, some at a time, kind after kind.
async fn soak(target: &Target, runs: usize) {
    let mut under_way = JoinSet::new();
    for number in 0..runs {
        if under_way.len() == CONCURRENCY {
            under_way.join_next().await.unwrap().unwrap();
        }
        let target = target.clone();
        under_way.spawn(async move {
            KINDS[number % KINDS.len()]
                .send(&target, number % (KINDS.len() * SESSIONS))
                .await;
        });
    }
    while let Some(ended) = under_way.join_next().await {
        ended.unwrap();
    }
}

#[tokio::test]
async fn after_many_runs_of_every_kind_nothing_is_left() {
    let runs = env::var("SOAK_RUNS").map_or(DEFAULT_RUNS, |runs| runs.parse().unwrap());
    // Always as many slots, so that what the daemon holds can be compared.
    let daemon = Daemon::with(&[
        ("RESULT_TTL", RESULT_TTL),
        ALL_WARM,
        ("WARM_POOL_MIN", "4"),
        ("WARM_POOL_MAX", "4"),
    ]);
    let target = Target {
        address: daemon.address().to_owned(),
        token: marker(),
    };

    let before = at_rest(&daemon).await;
    // One round of everything before its memory is looked at: what is made once and kept is no leak.
    soak(&target, KINDS.len()).await;
    let (memory_before, begin) = (status(&daemon, "VmRSS:"), Instant::now());

    soak(&target, runs).await;
    let took = begin.elapsed();
    let threads = status(&daemon, "Threads:");
    let after = settles(&daemon, &before).await;
    let memory_after = status(&daemon, "VmRSS:");
    println!(
        "{runs} runs in {:.1} s; descriptors {} -> {}; memory {memory_before} -> {memory_after} KiB; {threads} threads",
        took.as_secs_f64(),
        before.descriptors,
        after.descriptors,
    );

    assert_eq!(after, before);
    assert_eq!(alive(&target.token), [0; 0]);
    assert!(threads <= MAX_THREADS, "{threads} threads");
    let grown = memory_after.saturating_sub(memory_before);
    assert!(
        grown < MAX_GROWTH_KIB,
        "{memory_before} -> {memory_after} KiB"
    );

    let left: BTreeSet<_> = fs::read_dir(daemon.workspaces())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        // The daemon's own: results, and records of the sessions.
        .filter(|name| ![".state", ".sandbox-executor"].contains(&name.as_str()))
        .collect();
    let stranger = left
        .iter()
        .find(|name| !name.starts_with("soak-") && !name.starts_with("alone-"));
    assert_eq!(stranger, None, "{left:?}");
    assert!(left.len() <= 2 * SESSIONS, "{left:?}");

    // And it still does its work.
    Kind::Run(
        "python",
        "def handler(event):\n    return event",
        "{}",
        "completed",
    )
    .send(&target, 0)
    .await;
    assert_eq!(daemon.health().await.status, 200);
}
