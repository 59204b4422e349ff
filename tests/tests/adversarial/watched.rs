//! A daemon that is looked at before and after something is done to it.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::support::{
    daemon::{Daemon, request_with},
    holdings::{Holdings, MAX_GROWTH_KIB, at_rest, settles, status},
    raw::{Raw, RawAnswer},
};

/// How long a daemon that is well takes to say so, at the fastest of a few times: others may use this host as well.
const HEALTH_WITHIN: Duration = Duration::from_secs(1);
const HEALTH_TRIES: usize = 5;

/// The head of a request for JSON to be run, but for its end and what says how long the body is.
pub(crate) const EXECUTE: &str =
    "POST /execute HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";

pub(crate) struct Watched {
    pub(crate) daemon: Daemon,
    before: Holdings,
    memory: u64,
}

impl Watched {
    pub(crate) async fn start() -> Self {
        Self::with(&[]).await
    }

    /// With these settings. Results are kept for a second: what is compared is what the daemon is, not what it remembers.
    /// There are always as many slots.
    pub(crate) async fn with(settings: &[(&str, &str)]) -> Self {
        let own = [
            ("RESULT_TTL", "1"),
            ("LOG_LEVEL", "warn"),
            ("WARM_POOL_MIN", "2"),
            ("WARM_POOL_MAX", "2"),
        ];
        let settings = [&own, settings].concat();
        let daemon = Daemon::with(&settings);
        let before = at_rest(&daemon).await;
        let mut watched = Self {
            daemon,
            before,
            memory: 0,
        };
        watched.remember_memory().await;
        watched
    }

    /// What is made once and kept is no leak: memory is compared with what it is from now on.
    pub(crate) async fn remember_memory(&mut self) {
        self.runs_as_ever().await;
        self.memory = status(&self.daemon, "VmRSS:");
    }

    /// Sends a body to be run, on a connection of its own.
    pub(crate) async fn execute(&self, body: &Value) -> RawAnswer {
        let mut connection = Raw::to(&self.daemon).await;
        connection.send(&posted(&body.to_string())).await;
        connection.answer().await.unwrap()
    }

    async fn runs_as_ever(&self) {
        let event = json!({"a": [1, "é"]});
        let run = async |language, code| -> Value {
            let more = json!({"session_id": "benign", "event": event});
            let answer = self.execute(&request_with(language, code, more)).await;
            serde_json::from_slice(&answer.body).unwrap()
        };
        let cold = run("python", "def handler(event):\n    return event").await;
        assert_eq!(cold["return_value"], event, "{cold:#}");
        let warm = run("shell", "echo \"$EVENT_JSON\"").await;
        assert_eq!(warm["stdout"], format!("{event}\n"), "{warm:#}");
        assert_ne!(warm["metrics"]["start"], "cold", "{warm:#}");
    }

    /// It is well, within a second; a benign run succeeds; it holds what it held before, and not much more memory.
    pub(crate) async fn is_as_before(&self) {
        let mut fastest = Duration::MAX;
        for _ in 0..HEALTH_TRIES {
            let begin = Instant::now();
            let mut connection = Raw::to(&self.daemon).await;
            let health = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
            connection.send(health.as_bytes()).await;
            assert_eq!(connection.answer().await.unwrap().status, 200);
            fastest = fastest.min(begin.elapsed());
        }
        assert!(fastest < HEALTH_WITHIN, "{fastest:?}");
        self.runs_as_ever().await;
        assert_eq!(settles(&self.daemon, &self.before).await, self.before);
        let memory = status(&self.daemon, "VmRSS:");
        println!("memory {} -> {memory} KiB; health {fastest:?}", self.memory);
        assert!(
            memory.saturating_sub(self.memory) < MAX_GROWTH_KIB,
            "{} -> {memory} KiB",
            self.memory
        );
    }
}

/// A piece of text for each number, one behind the other.
pub(crate) fn numbered(count: usize, piece: impl Fn(usize) -> String) -> String {
    (0..count).map(piece).collect::<Vec<_>>().concat()
}

/// A whole request that runs this body.
pub(crate) fn posted(body: &str) -> Vec<u8> {
    format!("{EXECUTE}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}
