//! Three ways to be answered, and what became of an execution.

use std::time::Duration;

use axum::body::BodyDataStream;
use executor_application::{Capacity, MockExecutionStore, StoreError};
use futures_util::StreamExt;

use super::*;

fn delete(path: &str) -> Request<Body> {
    Request::delete(path).body(Body::empty()).unwrap()
}

fn with(mut request: Request<Body>, name: &'static str, value: &str) -> Request<Body> {
    request.headers_mut().insert(name, value.parse().unwrap());
    request
}

fn later(id: &str, code: &str) -> Request<Body> {
    let request = post(program(id, code).to_string());
    with(request, "prefer", "respond-async")
}

/// One server-sent event.
#[derive(Debug, Clone, PartialEq)]
struct Sent {
    event: String,
    id: String,
    data: Value,
}

/// An answer of events, while it comes in.
struct Stream {
    body: BodyDataStream,
    text: String,
}

impl Stream {
    async fn of(api: &Api, request: Request<Body>) -> Self {
        let response = api.router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["cache-control"], "no-store");
        Self {
            body: response.into_body().into_data_stream(),
            text: String::new(),
        }
    }

    /// The next event; `None` at the end. Comments are passed over.
    async fn next(&mut self) -> Option<Sent> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let sent = (!event.starts_with(':')).then(|| {
                    let field = |name: &str| {
                        let mut lines = event.lines();
                        let prefix = format!("{name}: ");
                        let found = lines.find_map(|line| line.strip_prefix(&prefix));
                        found.unwrap_or_default().to_owned()
                    };
                    assert_eq!(event.lines().count(), 3, "{event}");
                    Sent {
                        event: field("event"),
                        id: field("id"),
                        data: serde_json::from_str(&field("data")).unwrap(),
                    }
                });
                self.text = rest.to_owned();
                match sent {
                    Some(sent) => return Some(sent),
                    None => continue,
                }
            }
            let piece = self.body.next().await?.unwrap();
            self.text.push_str(std::str::from_utf8(&piece).unwrap());
        }
    }

    async fn rest(mut self) -> Vec<Sent> {
        let mut sent = Vec::new();
        while let Some(event) = self.next().await {
            sent.push(event);
        }
        sent
    }
}

/// The text of one of the streams, put together.
fn text(sent: &[Sent], stream: &str) -> String {
    let of_stream = sent.iter().filter(|sent| sent.event == stream);
    of_stream
        .map(|sent| sent.data["text"].as_str().unwrap())
        .collect()
}

fn names(sent: &[Sent]) -> Vec<&str> {
    sent.iter().map(|sent| sent.event.as_str()).collect()
}

#[tokio::test(start_paused = true)]
async fn who_prefers_not_to_wait_finds_the_result_later() {
    let api = Api::new(
        Options {
            cancel_abandoned: true,
            ..Options::default()
        },
        ApiOptions::default(),
    );
    let answer = api.send(later("e", "sleep 1000\necho hi\nreturn 7")).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    assert_eq!(answer.header("location"), "/executions/e");
    assert_eq!(answer.header("preference-applied"), "respond-async");
    assert_eq!(
        answer.json(),
        json!({"execution_id": "e", "status": "pending", "message": "Execution submitted"})
    );
    until(|| api.sandbox.running() == 1).await;
    let live = api.send(get("/executions/e")).await.json();
    assert_eq!(
        (&live["status"], &live["return_value"]),
        (&json!("running"), &Value::Null)
    );
    assert_eq!(live["completed_at"], Value::Null);

    tokio::time::sleep(Duration::from_secs(2)).await;
    let ended = api.send(get("/executions/e")).await;
    assert_eq!(ended.status, StatusCode::OK);
    assert_eq!(ended.json()["return_value"], 7);
    // The same as for whoever waits, and for whoever asks again.
    let waited = api
        .send(post(
            program("e", "sleep 1000\necho hi\nreturn 7").to_string(),
        ))
        .await;
    assert_eq!(waited.json(), ended.json());
    let again = api.send(later("e", "sleep 1000\necho hi\nreturn 7")).await;
    assert_eq!(again.status, StatusCode::ACCEPTED);
    assert_eq!(again.json()["status"], "completed");
    let other = api.send(later("e", "return 8")).await;
    other.assert_error(409, "Executor.Conflict");
    assert_eq!(api.sandbox.started(), 1);
}

#[tokio::test(start_paused = true)]
async fn where_it_is_usual_everybody_is_answered_at_once_with_200() {
    let options = ApiOptions {
        answer_later: true,
        ..ApiOptions::default()
    };
    let api = Api::new(Options::default(), options);
    // As the control plane sends it.
    let body = json!({
        "execution_id": "exec_20240115_abc12345", "session_id": "sess_1", "language": "python",
        "code": "sleep 5000\nreturn 1", "event": {"name": "Alice"}, "timeout": 30,
        "env_vars": {"A": "1"},
    });
    let answer = api.send(post(body.to_string())).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(!answer.headers.contains_key("preference-applied"));
    assert_eq!(
        answer.json(),
        json!({
            "execution_id": "exec_20240115_abc12345", "status": "pending",
            "message": "Execution submitted",
        })
    );
    // Who asks for it may wait, and who asks to be answered later is told so.
    let quick = with(
        post(program("a", "return 1").to_string()),
        "prefer",
        "wait=10",
    );
    let quick = api.send(quick).await;
    assert_eq!(
        (quick.status, quick.header("preference-applied")),
        (StatusCode::OK, "wait")
    );
    assert_eq!(quick.json()["return_value"], 1);
    assert_eq!(
        api.send(later("b", "return 1")).await.status,
        StatusCode::ACCEPTED
    );
}

#[tokio::test(start_paused = true)]
async fn who_waits_a_while_gets_the_result_if_there_is_one_by_then() {
    let api = Api::default();
    for (id, sleep, status) in [("quick", 1000, 200), ("slow", 60_000, 202)] {
        let body = program(id, &format!("sleep {sleep}\nreturn 1")).to_string();
        let answer = api
            .send(with(post(body), "prefer", "respond-async, wait=5"))
            .await;
        assert_eq!(answer.status.as_u16(), status, "{id}");
        assert!(answer.header("preference-applied").contains("wait"));
    }
    assert_eq!(api.sandbox.running(), 1);
}

#[tokio::test(start_paused = true)]
async fn events_come_as_they_happen_and_end_with_the_result() {
    let api = Api::default();
    let code = "echo one\nsleep 1000\nwarn two\nreturn {\"a\":1}";
    let request = post(program("e", code).to_string());
    let mut stream = Stream::of(&api, with(request, "accept", "text/event-stream")).await;
    let mut sent = Vec::new();
    while !sent.iter().any(|sent: &Sent| sent.event == "stdout") {
        sent.push(stream.next().await.unwrap());
    }
    assert_eq!(api.sandbox.running(), 1, "it still runs");
    sent.extend(stream.rest().await);
    assert_eq!(
        names(&sent),
        ["status", "status", "stdout", "stderr", "result"]
    );
    for (sent, status, message) in [
        (&sent[0], "pending", "Execution submitted"),
        (&sent[1], "running", "Execution running"),
    ] {
        let expected = json!({"execution_id": "e", "status": status, "message": message});
        assert_eq!(sent.data, expected);
    }
    let ids: Vec<_> = sent.iter().map(|sent| sent.id.as_str()).collect();
    assert_eq!(ids, ["0.0", "0.0", "4.0", "4.4", "4.4"]);
    let result = &sent.last().unwrap().data;
    assert_eq!(*result, api.send(get("/executions/e")).await.json());

    // From any event on, the rest comes again.
    for (n, last) in sent.iter().enumerate() {
        let request = with(get("/executions/e/events"), "last-event-id", &last.id);
        let again = Stream::of(&api, request).await.rest().await;
        for stream in ["stdout", "stderr"] {
            assert_eq!(text(&again, stream), text(&sent[n + 1..], stream), "{n}");
        }
        assert_eq!(again.last().unwrap(), sent.last().unwrap());
        assert_eq!(
            names(&again)
                .iter()
                .filter(|name| **name == "result")
                .count(),
            1
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_breaks_off_does_not_end_the_run() {
    let api = Api::new(
        Options {
            cancel_abandoned: true,
            ..Options::default()
        },
        ApiOptions::default(),
    );
    let request = post(program("e", "sleep 1000\necho hi").to_string());
    drop(Stream::of(&api, with(request, "accept", "text/event-stream")).await);
    let sent = Stream::of(&api, get("/executions/e/events"))
        .await
        .rest()
        .await;
    assert_eq!(text(&sent, "stdout"), "hi\n");
    assert_eq!(sent.last().unwrap().data["status"], "completed");
}

#[tokio::test(start_paused = true)]
async fn every_stage_of_a_life_is_an_event_also_when_it_is_read_later() {
    let api = Api::new(
        Options {
            capacity: Capacity {
                running: 1,
                ..Capacity::default()
            },
            ..Options::default()
        },
        ApiOptions::default(),
    );
    api.send(later("first", "sleep 1000")).await;
    until(|| api.sandbox.running() == 1).await;
    let request = post(program("second", "sleep 1000\nreturn 1").to_string());
    let stream = Stream::of(&api, with(request, "accept", "text/event-stream")).await;
    let sent = stream.rest().await;
    let stages: Vec<_> = sent
        .iter()
        .map(|sent| sent.data["status"].clone())
        .collect();
    assert_eq!(stages, ["pending", "running", "completed"]);
    assert_eq!(names(&sent), ["status", "status", "result"]);
    let again = Stream::of(&api, get("/executions/second/events")).await;
    assert_eq!(again.rest().await, sent);
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_shows_that_it_is_there() {
    let api = Api::default();
    let request = post(program("e", "sleep 20000").to_string());
    let mut stream = Stream::of(&api, with(request, "accept", "text/event-stream")).await;
    while let Some(piece) = stream.body.next().await {
        stream
            .text
            .push_str(std::str::from_utf8(&piece.unwrap()).unwrap());
    }
    assert!(stream.text.contains("\n\n:"), "{}", stream.text);
}

#[tokio::test]
async fn where_output_is_cut_a_notice_comes_once_and_no_half_a_character() {
    use executor_domain::{LimitCeilings, LimitPolicy};
    let policy = LimitPolicy::new(LimitCeilings {
        max_output_bytes: 1024,
        ..LimitCeilings::default()
    });
    let api = Api::new(
        Options {
            policy: policy.unwrap(),
            ..Options::default()
        },
        ApiOptions::default(),
    );
    let code = format!("flood 1023\necho {}\nwarn ok", "é".repeat(5));
    let request = post(program("e", &code).to_string());
    let live = Stream::of(&api, with(request, "accept", "text/event-stream")).await;
    let live = live.rest().await;
    let again = Stream::of(&api, get("/executions/e/events")).await;
    assert_eq!(again.rest().await, live);

    let ids: Vec<_> = live
        .iter()
        .map(|sent| (sent.event.as_str(), sent.id.as_str()))
        .collect();
    let expected = [
        ("status", "0.0"),
        ("status", "0.0"),
        ("stdout", "1023.0"),
        ("truncated", "1025.0"),
        ("stderr", "1025.3"),
        ("result", "1025.3"),
    ];
    assert_eq!(ids, expected);
    assert_eq!(live[2].data["text"], "x".repeat(1023));
    let notice = json!({"stream": "stdout", "kept_bytes": 1024});
    assert_eq!(live[3].data, notice);
    let result = &live[5].data;
    assert_eq!(result["stdout"], "x".repeat(1023));
    assert_eq!(result["stdout_truncated_bytes"], 10);

    // Whoever saw the notice is not told again; whoever was cut off before it is.
    for (seen, rest) in [
        ("1023.0", &live[3..]),
        ("1024.0", &live[3..]),
        ("1025.0", &live[4..]),
    ] {
        let request = with(get("/executions/e/events"), "last-event-id", seen);
        let again = Stream::of(&api, request).await.rest().await;
        assert_eq!(again, rest, "{seen}");
    }
}

#[tokio::test(start_paused = true)]
async fn cancelling_ends_what_runs_and_what_waits_and_changes_nothing_afterwards() {
    let api = Api::new(
        Options {
            capacity: Capacity {
                running: 1,
                ..Capacity::default()
            },
            ..Options::default()
        },
        ApiOptions::default(),
    );
    for id in ["running", "queued"] {
        api.send(later(id, "sleep 1000000")).await;
    }
    until(|| api.sandbox.running() == 1).await;
    for id in ["queued", "running", "queued", "running"] {
        let answer = api.send(delete(&format!("/executions/{id}"))).await;
        assert_eq!(answer.status, StatusCode::OK);
        let execution = answer.json();
        assert_eq!(execution["status"], "cancelled");
        assert_eq!(execution["error"]["reason"], "cancelled");
        assert_eq!(execution["exit_code"], -1);
    }
    assert_eq!((api.sandbox.running(), api.sandbox.started()), (0, 1));
    api.send(post(program("done", "return 1").to_string()))
        .await;
    let done = api.send(delete("/executions/done")).await;
    assert_eq!(done.json()["status"], "completed");
}

#[tokio::test]
async fn what_is_not_there_is_404() {
    let api = Api::default();
    for request in [
        get("/executions/e"),
        get("/executions/.e"),
        get("/executions/%FF"),
        get("/executions/a%2Fb"),
        get("/executions/e/events"),
        delete("/executions/e"),
    ] {
        let path = request.uri().to_string();
        let answer = api.send(request).await;
        let error = answer.assert_error(404, "Executor.NotFound");
        assert!(
            !error["error_detail"].as_str().unwrap().contains("route"),
            "{path}"
        );
    }
}

#[tokio::test]
async fn lists_are_paged_and_say_what_is_wrong_with_a_question() {
    let api = Api::default();
    for n in 0..3 {
        api.send(post(program(&format!("e{n}"), "exit 1").to_string()))
            .await;
    }
    let list = async |query: &str| {
        let answer = api.send(get(&format!("/executions{query}"))).await;
        assert_eq!(answer.status, StatusCode::OK, "{query}");
        let list = answer.json();
        let ids: Vec<_> = list["executions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|execution| execution["execution_id"].as_str().unwrap().to_owned())
            .collect();
        (ids.join(" "), list["next_cursor"].clone())
    };
    assert_eq!(list("").await, ("e2 e1 e0".into(), Value::Null));
    let (first, cursor) = list("?limit=2").await;
    assert_eq!(first, "e2 e1");
    let cursor = cursor.as_str().unwrap();
    let rest = list(&format!("?limit=2&cursor={cursor}")).await;
    assert_eq!(rest, ("e0".into(), Value::Null));
    assert_eq!(list("?session_id=s&status=failed").await.0, "e2 e1 e0");
    assert_eq!(list("?session_id=other").await.0, "");
    assert_eq!(list("?status=running").await.0, "");
    let answer = api.send(get("/executions?limit=1")).await.json();
    assert_eq!(
        answer["executions"][0],
        json!({
            "execution_id": "e2", "session_id": "s", "status": "failed",
            "message": "Execution failed", "accepted_at": "2026-01-01T00:00:00.000000Z",
            "started_at": "2026-01-01T00:00:00.000000Z",
            "completed_at": "2026-01-01T00:00:00.000000Z",
        })
    );

    for (query, named) in [
        ("?limit=0", "limit"),
        ("?limit=1001", "limit"),
        ("?limit=x", "limit"),
        ("?status=done", "status"),
        ("?session_id=..", "session_id"),
        ("?cursor=-1", "cursor"),
        ("?sesion_id=s", "sesion_id"),
        ("?limit=1&limit=2", "limit"),
    ] {
        let answer = api.send(get(&format!("/executions{query}"))).await;
        let error = answer.assert_error(400, "Executor.ValidationError");
        let detail = error["error_detail"].as_str().unwrap();
        assert!(detail.starts_with(named), "{query}: {detail}");
        assert!(
            error["solution"]
                .as_str()
                .unwrap()
                .contains("session_id, status")
        );
    }
    let unreadable = with(get("/executions/e0/events"), "last-event-id", "yesterday");
    let error = api
        .send(unreadable)
        .await
        .assert_error(400, "Executor.ValidationError");
    assert!(
        error["error_detail"]
            .as_str()
            .unwrap()
            .contains("Last-Event-ID")
    );
}

#[tokio::test]
async fn every_route_of_executions_is_guarded() {
    use crate::{Access, BearerToken};
    let options = ApiOptions {
        access: Access::Bearer(BearerToken::new("s3cret")),
        ..ApiOptions::default()
    };
    let api = Api::new(Options::default(), options);
    for request in [
        get("/executions"),
        get("/executions/e"),
        get("/executions/e/events"),
        delete("/executions/e"),
    ] {
        let answer = api.send(request).await;
        answer.assert_error(401, "Executor.Unauthorized");
    }
}

#[tokio::test]
async fn a_store_that_fails_is_our_fault_and_a_full_one_says_when_to_come_back() {
    let failing = |error: fn() -> StoreError| {
        let mut store = MockExecutionStore::new();
        store.expect_may_know().return_const(false);
        store.expect_accept().returning(|_, _| Ok(()));
        store.expect_finish().returning(move |_| Err(error()));
        store.expect_forget().returning(|_| Ok(()));
        let workspaces: Arc<dyn Workspaces> = Arc::new(NoWorkspaces);
        let sandbox: Arc<dyn Sandbox> = Arc::new(FakeSandbox::default());
        let executor = ExecuteCode::with_store(
            Arc::clone(&sandbox),
            Arc::clone(&workspaces),
            Arc::new(StoppedClock),
            Arc::new(store),
            Options::default(),
        );
        let health = CheckHealth::new(executor.clone(), sandbox, workspaces);
        router(ApiState::new(
            executor,
            Arc::new(health),
            ApiOptions::default(),
        ))
    };
    for (error, status, code) in [
        (
            (|| StoreError::Full("secret path".into())) as fn() -> StoreError,
            503,
            "Executor.Unavailable",
        ),
        (
            || StoreError::Damaged("secret path".into()),
            500,
            "Executor.InternalError",
        ),
    ] {
        let request = post(program("e", "return 1").to_string());
        let answer = Answer::of(failing(error).oneshot(request).await.unwrap()).await;
        let body = answer.assert_error(status, code);
        assert!(!body.to_string().contains("secret"));
        assert_eq!(answer.headers.contains_key("retry-after"), status == 503);
    }
}
