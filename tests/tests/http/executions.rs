//! Executions that nobody waits for: answered at once, read as they happen, cancelled, and found again.

use std::{fmt::Write as _, time::Duration};

use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::{
    runs::waits_for,
    support::{
        PATIENCE, alive,
        daemon::{Answer, Daemon, alive_becomes, appears, marker, request, request_with},
    },
};

fn id(request: &Value) -> &str {
    request["execution_id"].as_str().unwrap()
}

/// Server-sent events, as they come in.
struct Events {
    response: reqwest::Response,
    text: String,
}

impl Events {
    async fn of(request: reqwest::RequestBuilder) -> Self {
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self {
            response,
            text: String::new(),
        }
    }

    /// The next event: its name, its id and its data; `None` at the end. Comments are passed over.
    async fn next(&mut self) -> Option<(String, String, Value)> {
        loop {
            while let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| {
                    let found = event.lines().find_map(|line| line.strip_prefix(name));
                    found.map(|value| value.trim_start().to_owned())
                };
                let parsed = field("event:").map(|name| {
                    let data = serde_json::from_str(&field("data:").unwrap()).unwrap();
                    (name, field("id:").unwrap(), data)
                });
                let rest = rest.to_owned();
                self.text = rest;
                if parsed.is_some() {
                    return parsed;
                }
            }
            let piece = timeout(PATIENCE, self.response.chunk()).await.unwrap();
            self.text
                .push_str(std::str::from_utf8(&piece.unwrap()?).unwrap());
        }
    }

    async fn until(&mut self, name: &str) -> (String, Value) {
        loop {
            let (found, id, data) = self.next().await.unwrap();
            if found == name {
                return (id, data);
            }
        }
    }
}

#[tokio::test]
async fn as_the_control_plane_asks_it_is_answered_at_once_and_runs() {
    let daemon = Daemon::with(&[("ASYNC_BY_DEFAULT", "true")]);
    let request = json!({
        "execution_id": "exec_20260115_abc12345", "session_id": "sess_1", "language": "python",
        "code": "import os\ndef handler(event):\n    return {'hello': event['name'], 'a': os.environ['A']}",
        "event": {"name": "Alice"}, "timeout": 30, "env_vars": {"A": "1"},
    });
    let answer = daemon.execute(&request).await;
    assert_eq!(answer.status, 200);
    let expected = json!({"execution_id": "exec_20260115_abc12345", "status": "pending",
        "message": "Execution submitted"});
    assert_eq!(answer.body, expected);
    // It tries again where it got no answer, and that runs nothing.
    let again = daemon.execute(&request).await;
    assert_eq!(again.status, 200);
    assert_eq!(again.body["execution_id"], answer.body["execution_id"]);
    let ended = daemon.ended(id(&request)).await;
    assert_eq!(
        ended["return_value"],
        json!({"hello": "Alice", "a": "1"}),
        "{ended:#}"
    );

    // What it reads of a health check, by name and type.
    let health = daemon.health().await;
    assert_eq!(health.status, 200);
    assert_eq!(health.body["status"], "healthy");
    assert!(health.body["version"].is_string());
    assert!(health.body["uptime_seconds"].is_number());
    assert_eq!(health.body["active_executions"], 0);
}

#[tokio::test]
async fn who_does_not_wait_finds_the_result_by_its_place() {
    let daemon = Daemon::start();
    let request = request("shell", "echo done > made; echo said");
    let accepted = Answer::to(daemon.post(&request).header("prefer", "respond-async")).await;
    assert_eq!(accepted.status, 202);
    let place = accepted.headers["location"].to_str().unwrap();
    assert_eq!(place, format!("/executions/{}", id(&request)));
    let ended = daemon.ended(id(&request)).await;
    assert_eq!(ended["status"], "completed");
    assert_eq!(ended["stdout"], "said\n");
    assert_eq!(ended["artifacts"][0]["path"], "made");
    assert_eq!(daemon.execute(&request).await.completed(), ended);

    let listed = Answer::to(daemon.get("/executions?session_id=session-1&status=completed")).await;
    assert_eq!(
        listed.body["executions"][0]["execution_id"],
        request["execution_id"]
    );
}

#[tokio::test]
async fn output_comes_while_the_guest_runs() {
    let daemon = Daemon::start();
    let code = "import os, sys, time\n\
                print('one', flush=True)\n\
                while not os.path.exists('release'): time.sleep(0.01)\n\
                os.write(1, b'\\xe2\\x82'); time.sleep(0.05); os.write(1, b'\\xac\\n')\n\
                print('two', file=sys.stderr)\n";
    let request = request_with("python", code, json!({"mode": "script"}));
    let mut events = Events::of(daemon.post(&request).header("accept", "text/event-stream")).await;
    let (place, first) = events.until("stdout").await;
    assert_eq!(first["text"], "one\n");
    assert_eq!(place, "4.0");
    let live = Answer::to(daemon.get(&format!("/executions/{}", id(&request)))).await;
    assert_eq!(live.body["status"], "running");

    // Whoever lost the connection goes on from there, and gets characters whole.
    drop(events);
    let path = format!("/executions/{}/events", id(&request));
    let mut events = Events::of(daemon.get(&path).header("last-event-id", &place)).await;
    std::fs::write(daemon.file("release"), "").unwrap();
    let (mut stdout, mut stderr) = (String::new(), String::new());
    let result = loop {
        let (name, _, data) = events.next().await.unwrap();
        match name.as_str() {
            "stdout" => stdout += data["text"].as_str().unwrap(),
            "stderr" => stderr += data["text"].as_str().unwrap(),
            "status" => assert_eq!(data["status"], "running"),
            "result" => break data,
            other => panic!("{other}"),
        }
    };
    assert_eq!((stdout.as_str(), stderr.as_str()), ("€\n", "two\n"));
    assert_eq!(result, daemon.ended(id(&request)).await);
    assert_eq!(result["stdout"], "one\n€\n");
    assert!(
        events.next().await.is_none(),
        "the result is the last event"
    );
}

#[tokio::test]
async fn what_is_flushed_is_there_at_once() {
    // The guest says when it has written, and writes on when that was heard; both clocks are this host's.
    let daemon = Daemon::start();
    let code = "import os, time\n\
                for n in range(20):\n    \
                    print(time.clock_gettime_ns(time.CLOCK_MONOTONIC), flush=True)\n    \
                    while not os.path.exists(f'heard-{n}'): time.sleep(0.001)\n";
    let request = request_with("python", code, json!({"mode": "script"}));
    let mut events = Events::of(daemon.post(&request).header("accept", "text/event-stream")).await;
    let mut late = Vec::new();
    while let Some((name, _, data)) = events.next().await {
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
        let now = Duration::from(now);
        if name != "stdout" {
            continue;
        }
        let written = data["text"].as_str().unwrap().trim_end().parse().unwrap();
        late.push(now.saturating_sub(Duration::from_nanos(written)));
        let heard = format!("heard-{}", late.len() - 1);
        std::fs::write(daemon.file(&heard), "").unwrap();
    }
    late.sort();
    assert_eq!(late.len(), 20);
    // The quickest: a busy machine delays some. Each is written right after the one before has come through, so
    // whoever only looks now and then would delay all.
    assert!(late[0] < Duration::from_millis(20), "{late:?}");
}

#[tokio::test]
async fn a_reader_that_does_not_read_holds_no_guest_up() {
    let daemon = Daemon::start();
    let flood = request("shell", "head -c 9000000 /dev/zero | tr '\\0' x");
    let sleeper = daemon.post(&flood).header("accept", "text/event-stream");
    let sleeper = sleeper.send().await.unwrap();
    let ended = daemon.ended(id(&flood)).await;
    assert_eq!(ended["stdout"].as_str().unwrap().len(), 9_000_000);
    // It wakes up, and everything is there.
    let mut events = Events {
        response: sleeper,
        text: String::new(),
    };
    let mut read = 0;
    loop {
        let (name, place, data) = events.next().await.unwrap();
        match name.as_str() {
            "stdout" => read += data["text"].as_str().unwrap().len(),
            "result" => {
                assert_eq!(place, "9000000.0");
                break;
            }
            _ => {}
        }
    }
    assert_eq!(read, 9_000_000);
}

#[tokio::test]
async fn a_million_lines_come_in_order_up_to_the_cap_then_a_notice_and_the_end() {
    const LINES: usize = 1_000_000;
    const CAP: usize = 5_000_000;
    let daemon = Daemon::start();
    let code = format!("for n in range({LINES}): print(n)");
    let more = json!({"mode": "script", "limits": {"max_output_bytes": CAP}});
    let flood = request_with("python", &code, more);
    let mut written = String::new();
    for n in 0..LINES {
        writeln!(written, "{n}").unwrap();
    }

    let mut events = Events::of(daemon.post(&flood).header("accept", "text/event-stream")).await;
    let (mut text, mut names, mut places) = (String::new(), Vec::new(), Vec::new());
    while let Some((name, place, data)) = events.next().await {
        match name.as_str() {
            "stdout" => {
                text += data["text"].as_str().unwrap();
                places.push((place, text.len()));
                continue;
            }
            "truncated" => {
                assert_eq!(data, json!({"stream": "stdout", "kept_bytes": CAP}));
                assert_eq!(text.len(), CAP, "the notice came too early");
            }
            "result" => {
                assert_eq!(data["status"], "completed");
                assert_eq!(data["stdout_truncated"], true);
                assert_eq!(data["stdout_truncated_bytes"], written.len() - CAP);
            }
            _ => {}
        }
        names.push(name);
    }
    assert_eq!(names, ["status", "status", "truncated", "result"]);
    // Not with `assert_eq!`: nobody wants to read both.
    assert!(text == written[..CAP], "lines are missing or out of order");

    // Whoever lost the connection on the way gets the rest, and the notice.
    let (place, had) = &places[places.len() / 2];
    let path = format!("/executions/{}/events", id(&flood));
    let mut events = Events::of(daemon.get(&path).header("last-event-id", place)).await;
    let (mut rest, mut names) = (String::new(), Vec::new());
    while let Some((name, _, data)) = events.next().await {
        if name == "stdout" {
            rest += data["text"].as_str().unwrap();
        } else {
            names.push(name);
        }
    }
    assert_eq!(names, ["truncated", "result"]);
    assert!(rest == written[*had..CAP]);
}

#[tokio::test]
async fn what_is_cancelled_is_dead_before_the_answer() {
    let daemon = Daemon::with(&[("MAX_CONCURRENT_EXECUTIONS", "1")]);
    let marker = marker();
    let stubborn = request(
        "shell",
        &format!("trap '' TERM INT HUP; (setsid sleep {marker} &); sleep {marker}"),
    );
    let waiting = daemon.spawn(&stubborn);
    alive_becomes(&marker, 2).await;
    let queued = request("shell", "true");
    Answer::to(daemon.post(&queued).header("prefer", "respond-async")).await;

    let cancelled = Answer::to(daemon.delete(id(&queued))).await.ran();
    assert_eq!(cancelled["status"], "cancelled");
    assert_eq!(cancelled["started_at"], Value::Null);
    let cancelled = Answer::to(daemon.delete(id(&stubborn))).await.ran();
    assert_eq!(alive(&marker), [0; 0]);
    assert_eq!(cancelled["error"]["reason"], "cancelled");
    assert_eq!(waiting.await.unwrap().ran(), cancelled);
    assert_eq!(
        Answer::to(daemon.delete(id(&stubborn))).await.ran(),
        cancelled
    );
    let unknown = Answer::to(daemon.delete("never-heard-of")).await;
    unknown.refusal(404, "Executor.NotFound");
}

#[tokio::test]
async fn results_and_ids_outlive_the_daemon() {
    let mut daemon = Daemon::start();
    let done = request(
        "python",
        "def handler(event):\n    print('hi')\n    return [1.5, None]",
    );
    let failed = request("shell", "exit 3");
    let first = daemon.execute(&done).await.completed();
    let second = daemon.execute(&failed).await.ran();
    daemon.kill_and_start();
    assert_eq!(daemon.ended(id(&done)).await, first);
    assert_eq!(daemon.execute(&done).await.completed(), first);
    assert_eq!(daemon.execute(&failed).await.ran(), second);
    let mut other = done.clone();
    other["code"] = "def handler(event): pass".into();
    daemon
        .execute(&other)
        .await
        .refusal(409, "Executor.Conflict");
    let mut events = Events::of(daemon.get(&format!("/executions/{}/events", id(&done)))).await;
    assert_eq!(events.until("stdout").await.1["text"], "hi\n");
    assert_eq!(events.until("result").await.1, first);
    let listed = Answer::to(daemon.get("/executions")).await.body;
    let ids: Vec<_> = listed["executions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|execution| execution["execution_id"].clone())
        .collect();
    assert_eq!(
        ids,
        [failed["execution_id"].clone(), done["execution_id"].clone()]
    );
}

#[tokio::test]
async fn what_a_killed_daemon_held_has_crashed_and_says_so() {
    let mut daemon = Daemon::with(&[("MAX_CONCURRENT_EXECUTIONS", "1")]);
    let running = request(
        "shell",
        &format!("echo lost; touch begun; {}", waits_for("never")),
    );
    let queued = request("shell", "touch ran");
    for request in [&running, &queued] {
        let accepted = Answer::to(daemon.post(request).header("prefer", "respond-async")).await;
        assert_eq!(accepted.status, 202);
    }
    appears(&daemon.file("begun")).await;
    daemon.kill_and_start();
    for request in [&running, &queued] {
        let ended = daemon.ended(id(request)).await;
        assert_eq!(ended["status"], "crashed");
        assert_eq!(ended["error"]["reason"], "executor_lost");
        assert_eq!(ended["exit_code"], -1);
        // Asked again, it says so again, and runs nothing.
        assert_eq!(daemon.execute(request).await.ran(), ended);
        let path = format!("/executions/{}/events", id(request));
        let mut events = Events::of(daemon.get(&path).header("last-event-id", "5.0")).await;
        assert_eq!(events.until("result").await.1, ended);
    }
    assert!(!daemon.file("ran").exists());
}

#[tokio::test]
async fn without_a_place_to_keep_them_results_are_gone_with_the_daemon() {
    let mut daemon = Daemon::with(&[("STATE_PATH", "none")]);
    let request = request("shell", "true");
    daemon.execute(&request).await.completed();
    assert!(!daemon.state().exists());
    daemon.kill_and_start();
    let found = Answer::to(daemon.get(&format!("/executions/{}", id(&request)))).await;
    found.refusal(404, "Executor.NotFound");
}

#[tokio::test]
async fn old_results_go_by_themselves() {
    let daemon = Daemon::with(&[("RESULT_TTL", "1s")]);
    let request = request("shell", "true");
    daemon.execute(&request).await.completed();
    let path = format!("/executions/{}", id(&request));
    let deadline = Instant::now() + PATIENCE;
    while Answer::to(daemon.get(&path)).await.status != 404 {
        assert!(Instant::now() < deadline, "it is still there");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // The id is free again.
    daemon.execute(&request).await.completed();
}
