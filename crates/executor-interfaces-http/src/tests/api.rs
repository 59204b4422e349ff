//! Through the router.

use std::{convert::Infallible, task::Poll, time::Duration};

use axum::http::Method;
use executor_application::{Capacity, MockSandbox, SandboxError};
use futures_util::stream;

use super::*;
use crate::{Access, BearerToken};

fn open() -> ApiOptions {
    ApiOptions::default()
}

fn guarded() -> ApiOptions {
    ApiOptions {
        access: Access::Bearer(BearerToken::new("s3cret")),
        ..open()
    }
}

fn bearer(mut request: Request<Body>, token: &str) -> Request<Body> {
    let value = format!("Bearer {token}").parse().unwrap();
    request.headers_mut().insert(header::AUTHORIZATION, value);
    request
}

/// A sandbox that describes itself like the fake and fails every run.
fn broken(error: impl Fn() -> SandboxError + Send + Sync + 'static) -> MockSandbox {
    let mut sandbox = MockSandbox::new();
    sandbox
        .expect_description()
        .return_const(FakeSandbox::default().description().clone());
    sandbox.expect_run().returning(move |_, _| Err(error()));
    sandbox.expect_check().returning(|| {
        Err(SandboxError::Unavailable {
            reason: "secret reason".into(),
        })
    });
    sandbox
}

async fn on(sandbox: MockSandbox, request: Request<Body>) -> Answer {
    let (router, _) = router_on(Arc::new(sandbox), Options::default(), open());
    Answer::of(router.oneshot(request).await.unwrap()).await
}

#[tokio::test]
async fn a_run_is_answered_with_its_result() {
    let body = program("exec_1", "echo hi\nwarn ho\nreturn {\"a\": 1.0}").to_string();
    let answer = Api::default().send(post(body)).await;
    assert_eq!(answer.status, StatusCode::OK);
    let result = answer.json();
    assert_eq!(result["execution_id"], "exec_1");
    assert_eq!(result["status"], "completed");
    assert_eq!(result["return_value"], json!({"a": 1.0}));
    assert_eq!(
        (&result["stdout"], &result["stderr"]),
        (&json!("hi\n"), &json!("ho\n"))
    );
    assert_eq!(result["exit_code"], 0);
    assert_eq!(result["started_at"], "2026-01-01T00:00:00.000000Z");
}

#[tokio::test]
async fn a_guests_misfortune_is_200() {
    let api = Api::default();
    for (code, status, exit_code, reason) in [
        ("exit 3", "failed", 3, "exit_code"),
        ("gibberish", "failed", 1, "syntax_error"),
        ("kill 11", "crashed", -1, "signal"),
        ("hog", "crashed", -1, "memory"),
    ] {
        let answer = api.send(post(program(reason, code).to_string())).await;
        assert_eq!(answer.status, StatusCode::OK, "{code}");
        let result = answer.json();
        assert_eq!(result["status"], status, "{code}");
        assert_eq!(result["exit_code"], exit_code, "{code}");
        assert_eq!(result["error"]["reason"], reason, "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_timeout_is_200() {
    let mut body = program("e", "sleep 5000");
    body["timeout"] = json!(3);
    let result = Api::default().send(post(body.to_string())).await.json();
    assert_eq!(result["status"], "timeout");
    assert_eq!(
        result["error"]["error_message"],
        "Task timed out after 3.00 seconds"
    );
    assert_eq!(result["metrics"]["limits_hit"], json!(["wall_time"]));
}

#[tokio::test]
async fn invalid_fields_are_400_and_named() {
    let answer = Api::default()
        .send(post(
            r#"{"session_id":"s","code":"c","languge":"python","timeout":0}"#,
        ))
        .await;
    let detail = answer.assert_error(400, "Executor.ValidationError")["error_detail"].to_string();
    for part in [
        "execution_id is required",
        "language is required",
        "languge is not a field of this request",
        "timeout must be between 1 and 3600, is 0",
    ] {
        assert!(detail.contains(part), "{detail}");
    }
}

#[tokio::test]
async fn broken_bodies_are_400() {
    let api = Api::default();
    let bodies: [&[u8]; 6] = [
        b"",
        b"{",
        b"[]",
        b"{} {}",
        b"\xef\xbb\xbf{}",
        b"{\"code\":\"\xff\"}",
    ];
    for body in bodies {
        let answer = api.send(post(body)).await;
        answer.assert_error(400, "Executor.ValidationError");
    }
    let answer = api.send(post(&b"{\"code\":\"\xff\"}"[..])).await;
    assert_eq!(
        answer.json()["error_detail"],
        "the body is not UTF-8 at byte 9"
    );
}

#[tokio::test]
async fn a_body_that_breaks_off_is_400() {
    let broken_off = stream::iter([Ok("{"), Err(std::io::Error::other("gone"))]);
    let answer = Api::default()
        .send(post(Body::from_stream(broken_off)))
        .await;
    answer.assert_error(400, "Executor.ValidationError");
}

#[tokio::test]
async fn a_missing_interpreter_is_400() {
    let mut description = FakeSandbox::default().description().clone();
    description.languages.clear();
    let mut sandbox = MockSandbox::new();
    sandbox.expect_description().return_const(description);
    let answer = on(sandbox, post(program("e", "").to_string())).await;
    let body = answer.assert_error(400, "Executor.ValidationError");
    assert_eq!(
        body["error_detail"],
        "language is python, for which this host has no interpreter"
    );
}

#[tokio::test]
async fn guarded_routes_want_the_token() {
    let api = Api::new(Options::default(), guarded());
    let run = |id: &str| post(program(id, "").to_string());
    for request in [
        get("/info"),
        run("a"),
        bearer(get("/info"), "s3cre"),
        bearer(run("b"), ""),
    ] {
        let answer = api.send(request).await;
        answer.assert_error(401, "Executor.Unauthorized");
        assert_eq!(answer.header("www-authenticate"), "Bearer");
    }
    assert_eq!(api.sandbox.started(), 0);
    for request in [bearer(get("/info"), "s3cret"), bearer(run("c"), "s3cret")] {
        assert_eq!(api.send(request).await.status, StatusCode::OK);
    }
    for open in ["/health", "/livez"] {
        assert_eq!(api.send(get(open)).await.status, StatusCode::OK, "{open}");
    }
}

#[tokio::test]
async fn strangers_bodies_are_not_read() {
    let unreadable = stream::poll_fn(|_| -> Poll<Option<Result<&str, Infallible>>> {
        panic!("the body was read")
    });
    let answer = Api::new(Options::default(), guarded())
        .send(post(Body::from_stream(unreadable)))
        .await;
    answer.assert_error(401, "Executor.Unauthorized");
}

#[tokio::test]
async fn without_a_token_everything_is_open() {
    let api = Api::default();
    assert_eq!(api.send(get("/info")).await.status, StatusCode::OK);
    assert_eq!(
        api.send(bearer(get("/info"), "any")).await.status,
        StatusCode::OK
    );
}

#[tokio::test]
async fn unknown_routes_are_404_and_unknown_methods_405() {
    let api = Api::default();
    for path in ["/", "/execute/", "/executions/", "/Health"] {
        api.send(get(path))
            .await
            .assert_error(404, "Executor.NotFound");
    }
    for (method, path, allow) in [
        (Method::GET, "/execute", "POST"),
        (Method::DELETE, "/execute", "POST"),
        (Method::POST, "/health", "GET,HEAD"),
        (Method::OPTIONS, "/info", "GET,HEAD"),
    ] {
        let request = Request::builder().method(method).uri(path);
        let answer = api.send(request.body(Body::empty()).unwrap()).await;
        answer.assert_error(405, "Executor.MethodNotAllowed");
        assert_eq!(answer.header("allow"), allow, "{path}");
    }
}

#[tokio::test]
async fn the_same_request_runs_once_and_another_under_its_id_is_409() {
    let api = Api::default();
    let body = program("e", "echo once").to_string();
    let first = api.send(post(body.clone())).await;
    let second = api.send(post(body)).await;
    assert_eq!(first.status, StatusCode::OK);
    assert_eq!(first.body, second.body);
    assert_eq!(api.sandbox.started(), 1);

    let other = api.send(post(program("e", "echo twice").to_string())).await;
    other.assert_error(409, "Executor.Conflict");
    assert_eq!(api.sandbox.started(), 1);
}

#[tokio::test]
async fn bodies_stand_at_the_cap_and_fall_one_byte_above() {
    let mut body = program("e", "return 1").to_string();
    let api = Api::new(
        Options::default(),
        ApiOptions {
            max_body_bytes: body.len() + 1,
            ..open()
        },
    );
    body.push(' ');
    assert_eq!(api.send(post(body.clone())).await.status, StatusCode::OK);
    body.push(' ');
    let answer = api.send(post(body.clone())).await;
    answer.assert_error(413, "Executor.PayloadTooLarge");

    // The same without an announced length.
    let chunks = |body: &str| {
        let bytes: Vec<_> = body
            .bytes()
            .map(|byte| Ok::<_, Infallible>(vec![byte]))
            .collect();
        post(Body::from_stream(stream::iter(bytes)))
    };
    let at_cap = &body[..body.len() - 1];
    assert_eq!(api.send(chunks(at_cap)).await.status, StatusCode::OK);
    let answer = api.send(chunks(&body)).await;
    answer.assert_error(413, "Executor.PayloadTooLarge");
}

#[tokio::test]
async fn the_rest_of_a_body_above_the_cap_is_not_read() {
    let mut chunks = 0;
    let long = stream::poll_fn(move |_| {
        chunks += 1;
        assert!(chunks <= 3, "read on");
        Poll::Ready(Some(Ok::<_, Infallible>(vec![b' '; 100])))
    });
    let api = Api::new(
        Options::default(),
        ApiOptions {
            max_body_bytes: 200,
            ..open()
        },
    );
    let answer = api.send(post(Body::from_stream(long))).await;
    answer.assert_error(413, "Executor.PayloadTooLarge");
}

#[tokio::test]
async fn a_mebibyte_of_code_and_a_large_event_fit() {
    let mut body = program("e", &format!("return 1\n{}", "#".repeat((1 << 20) - 9)));
    body["event"] = json!({"data": "x".repeat(8 << 20)});
    let answer = Api::default().send(post(body.to_string())).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.json()["return_value"], 1);
}

#[tokio::test]
async fn what_is_not_plain_json_is_415() {
    let api = Api::default();
    let body = program("e", "").to_string();
    let without_type = Request::post("/execute")
        .body(Body::from(body.clone()))
        .unwrap();
    api.send(without_type)
        .await
        .assert_error(415, "Executor.UnsupportedMediaType");
    for (name, value) in [
        (header::CONTENT_TYPE, "text/plain"),
        (header::CONTENT_ENCODING, "gzip"),
    ] {
        let mut request = post(body.clone());
        request.headers_mut().insert(name, value.parse().unwrap());
        api.send(request)
            .await
            .assert_error(415, "Executor.UnsupportedMediaType");
    }
    let mut request = post(body);
    let identity = "Identity".parse().unwrap();
    request
        .headers_mut()
        .insert(header::CONTENT_ENCODING, identity);
    assert_eq!(api.send(request).await.status, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_arrive_is_408() {
    let never = stream::pending::<Result<&str, Infallible>>();
    let answer = Api::default().send(post(Body::from_stream(never))).await;
    let body = answer.assert_error(408, "Executor.RequestTimeout");
    assert_eq!(body["error_detail"], "the body was not complete after 60 s");
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_is_429_and_says_when_to_come_back() {
    let capacity = Capacity {
        running: 1,
        queued: 0,
        ..Capacity::default()
    };
    let api = Api::new(
        Options {
            capacity,
            ..Options::default()
        },
        open(),
    );
    let first = tokio::spawn(
        api.router
            .clone()
            .oneshot(post(program("first", "sleep 1000").to_string())),
    );
    until(|| api.sandbox.running() == 1).await;
    let answer = api.send(post(program("second", "").to_string())).await;
    answer.assert_error(429, "Executor.QueueFull");
    assert_eq!(answer.header("retry-after"), "1");

    assert_eq!(first.await.unwrap().unwrap().status(), StatusCode::OK);
    let answer = api.send(post(program("second", "").to_string())).await;
    assert_eq!(answer.status, StatusCode::OK);
}

#[tokio::test]
async fn our_own_failure_is_500_and_tells_nothing() {
    let sandbox = broken(|| SandboxError::Failed {
        step: "open /secret/path",
        source: "secret cause".into(),
    });
    let answer = on(sandbox, post(program("e", "").to_string())).await;
    let body = answer
        .assert_error(500, "Executor.InternalError")
        .to_string();
    assert!(!body.contains("secret"), "{body}");
}

#[tokio::test]
async fn a_sandbox_that_cannot_be_started_is_503() {
    let unavailable = || SandboxError::Unavailable {
        reason: "secret reason".into(),
    };
    let answer = on(broken(unavailable), post(program("e", "").to_string())).await;
    let body = answer.assert_error(503, "Executor.Unavailable").to_string();
    assert!(!body.contains("secret"), "{body}");
    assert_eq!(answer.header("retry-after"), "5");

    let answer = on(broken(unavailable), get("/health")).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    let body = answer.json();
    assert_eq!(body["status"], "unhealthy");
    assert_eq!(body["reason"], "a sandbox cannot be started");
}

#[tokio::test]
async fn draining_is_503() {
    let api = Api::default();
    api.executor.drain(Duration::ZERO).await;
    let answer = api.send(post(program("e", "").to_string())).await;
    answer.assert_error(503, "Executor.Unavailable");
    assert_eq!(answer.header("retry-after"), "5");
    let answer = api.send(get("/health")).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.json()["reason"], "draining");
    // The process is alive all the same.
    assert_eq!(api.send(get("/livez")).await.status, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn health_has_the_fields_of_the_contract() {
    let api = Api::default();
    tokio::time::advance(Duration::from_millis(2_900)).await;
    let answer = api.send(get("/health")).await;
    assert_eq!(
        answer.json(),
        json!({"status": "healthy", "version": env!("CARGO_PKG_VERSION"), "isolation": "fake",
               "platform": "Linux", "uptime_seconds": 2, "active_executions": 0})
    );
}

#[tokio::test]
async fn info_has_the_fields_of_the_contract() {
    let capacity = Capacity {
        running: 3,
        queued: 4,
        ..Capacity::default()
    };
    let api = Api::new(
        Options {
            capacity,
            ..Options::default()
        },
        open(),
    );
    let info = api.send(get("/info")).await.json();
    for (field, value) in [
        ("version", json!(env!("CARGO_PKG_VERSION"))),
        ("platform", json!("Linux")),
        ("isolation", json!("fake")),
        ("isolation_version", json!("0")),
        ("workspace_path", json!("/nonexistent")),
        ("active_executions", json!(0)),
        (
            "walls",
            json!([
                {"name": "everything", "on": false, "detail": "a fake for tests isolates nothing"},
                {"name": "workspace_quota", "on": false, "detail": "there are no files"},
            ]),
        ),
        ("capacity", json!({"running": 3, "queued": 4})),
    ] {
        assert_eq!(info[field], value, "{field}");
    }
    assert_eq!(info["limits"]["defaults"]["timeout"], 300);
    assert_eq!(info["limits"]["ceilings"]["timeout"], 3600);
    assert_eq!(
        info["languages"][1],
        json!({"language": "javascript", "interpreter": "fake", "version": "0"})
    );
}

#[tokio::test]
async fn every_answer_has_its_name_and_the_security_headers() {
    let api = Api::default();
    let ok = post(program("e", "").to_string());
    for mut request in [
        get("/livez"),
        get("/nowhere"),
        get("/execute"),
        post("{"),
        ok,
    ] {
        let id = "my-request.1".parse().unwrap();
        request.headers_mut().insert("x-request-id", id);
        let answer = api.send(request).await;
        assert_eq!(answer.header("x-request-id"), "my-request.1");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert_eq!(answer.header("cache-control"), "no-store");
    }
    let made_up = api.send(get("/livez")).await;
    assert_eq!(made_up.header("x-request-id").len(), 36);
}

#[tokio::test(start_paused = true)]
async fn large_bodies_wait_for_room_and_ordinary_ones_never() {
    let executor = Api::default().executor;
    let (sandbox, workspaces) = (Arc::new(FakeSandbox::default()), Arc::new(NoWorkspaces));
    let health = CheckHealth::new(executor.clone(), sandbox, workspaces);
    let options = ApiOptions {
        max_bodies_bytes: 4096,
        ..open()
    };
    let state = ApiState::new(executor, Arc::new(health), options);
    let send = async |id: &str, padding: usize| {
        let code = format!("return 1{}", " ".repeat(padding));
        let request = post(program(id, &code).to_string());
        Answer::of(router(state.clone()).oneshot(request).await.unwrap()).await
    };
    let large = 100 << 10;
    let all = state.room(4096).await;
    send("a", large)
        .await
        .assert_error(408, "Executor.RequestTimeout");
    assert_eq!(send("small", 0).await.status, StatusCode::OK);
    drop(all);
    assert_eq!(send("a", large).await.status, StatusCode::OK);
    assert_eq!(
        send("b", large).await.status,
        StatusCode::OK,
        "the room was given back"
    );
}

#[tokio::test]
async fn large_answers_wait_for_room_and_give_it_back_with_their_last_byte() {
    let executor = Api::default().executor;
    let (sandbox, workspaces) = (Arc::new(FakeSandbox::default()), Arc::new(NoWorkspaces));
    let health = CheckHealth::new(executor.clone(), sandbox, workspaces);
    let state = ApiState::new(executor, Arc::new(health), open());
    let send = async |id: &str, length: usize| {
        let code = format!("echo {}", "x".repeat(length));
        let request = post(program(id, &code).to_string());
        router(state.clone()).oneshot(request).await.unwrap()
    };
    let all = state.options().max_answers_bytes;
    let free = async || {
        tokio::select! {
            biased;
            room = state.room_for_answer(all) => room.is_some(),
            () = tokio::task::yield_now() => false,
        }
    };
    assert_eq!(send("small", 10).await.status(), StatusCode::OK);
    let answer = send("large", 100 << 10).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert!(!free().await, "the answer is still here");
    // The same execution again, as often as anybody likes: each answer takes its own room.
    let taken = state.room_for_answer(all / 2 + 1).await;
    drop(answer);
    assert!(!free().await);
    drop(taken);
    assert!(free().await);
}
