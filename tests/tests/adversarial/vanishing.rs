//! Clients that vanish, at every stage of what they wanted: by hanging up, and by a reset.

use serde_json::json;

use super::{
    support::{
        alive,
        daemon::{alive_becomes, marker, request_with},
        eventually,
        raw::Raw,
    },
    watched::{EXECUTE, Watched, posted},
};

/// How often at each stage, in both ways in turn.
const TIMES: usize = 6;

/// A request, and how much of the answer is read before its client is gone.
struct Stage {
    request: Vec<u8>,
    /// Bytes of the answer that are waited for; 0: none.
    read: usize,
}

impl Stage {
    fn new(request: impl Into<Vec<u8>>, read: usize) -> Self {
        Self {
            request: request.into(),
            read,
        }
    }

    async fn vanish(&self, watched: &Watched, by_reset: bool) {
        let mut connection = Raw::to(&watched.daemon).await;
        connection.send(&self.request).await;
        if self.read > 0 {
            assert!(connection.more().await);
        }
        if by_reset {
            connection.reset();
        }
    }
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

fn put(path: &str, length: usize, body: &str) -> String {
    format!("PUT {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}")
}

#[tokio::test]
async fn whoever_vanishes_leaves_nothing_behind() {
    const LARGE: usize = 8 << 20;
    // Few places, so that some vanish while they wait for one.
    let mut watched = Watched::with(&[("MAX_CONCURRENT_EXECUTIONS", "2")]).await;
    let mut connection = Raw::to(&watched.daemon).await;
    let large = put("/sessions/benign/files/large", LARGE, &"x".repeat(LARGE));
    connection.send(large.as_bytes()).await;
    assert_eq!(connection.answer().await.unwrap().status, 201);
    drop(connection);

    let marker = marker();
    let run = |code: &str| {
        let body = request_with("shell", code, json!({"env_vars": {"MARKER": marker}}));
        posted(&body.to_string())
    };
    let with = |request: Vec<u8>, header: &str| {
        let text = String::from_utf8(request).unwrap();
        text.replacen("\r\n", &format!("\r\n{header}\r\n"), 1)
    };
    for time in 0..TIMES {
        let sleeps = "(setsid sleep $MARKER &); sleep $MARKER";
        let prints = format!("head -c {LARGE} /dev/zero | tr '\\0' x");
        let whole = run("true");
        let stages = [
            Stage::new("", 0),
            Stage::new(&whole[..20], 0),
            Stage::new(EXECUTE, 0),
            Stage::new(&whole[..whole.len() - 1], 0),
            Stage::new(
                format!("{EXECUTE}Transfer-Encoding: chunked\r\n\r\n5\r\n{{\"co"),
                0,
            ),
            Stage::new(
                format!("{EXECUTE}Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFF\r\n{{"),
                0,
            ),
            // Running, or waiting for its turn.
            Stage::new(run(sleeps), 0),
            Stage::new(run(sleeps), 0),
            Stage::new(run(sleeps), 0),
            Stage::new(run("true"), 0),
            // While the answer is sent.
            Stage::new(run(&prints), 1),
            Stage::new(with(run(&prints), "Accept: text/event-stream"), 1),
            Stage::new(get("/sessions/benign/files/large"), 1),
            Stage::new(get("/sessions/benign/files?archive=tar"), 1),
            Stage::new(get("/sessions/benign/files?archive=zip"), 1),
            Stage::new(get("/info").repeat(100), 1),
            // In the middle of an upload.
            Stage::new(
                put("/sessions/benign/files/half", LARGE, &"x".repeat(LARGE / 2)),
                0,
            ),
            Stage::new(
                put(
                    "/sessions/benign/files?archive=tar",
                    LARGE,
                    &"\0".repeat(LARGE / 2),
                ),
                0,
            ),
        ];
        for stage in &stages {
            stage.vanish(&watched, time % 2 == 1).await;
        }
        if time == 1 {
            // Each stage once in both ways: the large answers that are made need their room, and it is kept.
            watched.remember_memory().await;
        }
    }
    // Control: a guest that sleeps can be found, as long as somebody waits for it.
    let mut waiting = Raw::to(&watched.daemon).await;
    waiting.send(&run("sleep $MARKER")).await;
    alive_becomes(&marker, 1).await;
    drop(waiting);
    eventually("every guest is gone", || alive(&marker).is_empty()).await;
    watched.is_as_before().await;

    let own = watched
        .daemon
        .workspaces()
        .join(".sandbox-executor/staging");
    for process in std::fs::read_dir(own).unwrap() {
        let staged = std::fs::read_dir(process.unwrap().path()).unwrap();
        assert_eq!(staged.count(), 0, "uploads that nobody finishes");
    }
    assert!(!watched.daemon.workspaces().join("benign/half").exists());
}
