//! What is asked of a request, and what the daemon says where it is not kept.

use std::net::SocketAddr;

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

use super::{
    runs::waits_for,
    support::daemon::{Answer, Daemon, appears, request, request_with},
};

const JSON: &str = "application/json";

#[tokio::test]
async fn everything_that_is_wrong_is_named_at_once() {
    let daemon = Daemon::start();
    let body = json!({
        "execution_id": "../x", "session_id": 7, "language": "ruby", "timeout": 3601, "event": [], "tiemout": 3,
        "env_vars": {"A=B": "x"}, "mode": "main", "stdin": false, "limits": {"max_memory_mb": 513, "memory": 1},
    });
    let answer = daemon.execute(&body).await;
    let detail = answer.refusal(400, "Executor.ValidationError");
    for field in [
        "execution_id",
        "session_id",
        "code is required",
        "language",
        "timeout",
        "event",
        "tiemout is not a field",
        "env_vars",
        "stdin",
        "limits.max_memory_mb",
        "limits.memory is not a field",
    ] {
        assert!(detail.contains(field), "{field}: {detail}");
    }
}

#[tokio::test]
async fn a_wish_above_its_ceiling_is_refused_with_wish_and_ceiling() {
    let daemon = Daemon::with(&[
        ("MAX_TIMEOUT", "100"),
        ("MAX_CPU_TIME_MS", "5000"),
        ("MAX_PROCESSES", "7"),
    ]);
    let wishes = [
        ("timeout", 100),
        ("limits.max_memory_mb", 512),
        ("limits.max_cpu_time_ms", 5000),
        ("limits.max_wall_time_ms", 100_000),
        ("limits.max_processes", 7),
        ("limits.max_file_size_mb", 100),
        ("limits.max_output_bytes", 10 << 20),
        ("limits.max_workspace_mb", 1024),
    ];
    for (field, ceiling) in wishes {
        let ask = |wish: u64| match field.strip_prefix("limits.") {
            Some(limit) => request_with("shell", "true", json!({"limits": {limit: wish}})),
            None => request_with("shell", "true", json!({field: wish})),
        };
        let answer = daemon.execute(&ask(ceiling + 1)).await;
        let detail = answer.refusal(400, "Executor.ValidationError");
        for part in [field, &(ceiling + 1).to_string(), &ceiling.to_string()] {
            assert!(detail.contains(part), "{part}: {detail}");
        }
        daemon.execute(&ask(ceiling)).await.completed();
    }
}

#[tokio::test]
async fn what_is_no_json_object_is_refused() {
    let daemon = Daemon::start();
    for body in [
        "",
        "{",
        "[]",
        "null",
        "{}{}",
        "\"x\"",
        "{\"code\": \"\\ud800\"}",
    ] {
        let answer = Answer::to(daemon.post_text(JSON, body)).await;
        answer.refusal(400, "Executor.ValidationError");
    }
    let answer = Answer::to(daemon.post_text(JSON, &b"{\"code\": \"\xff\"}"[..])).await;
    answer.refusal(400, "Executor.ValidationError");
    daemon.execute(&request("shell", "true")).await.completed();
}

#[tokio::test]
async fn other_media_types_routes_and_methods_are_refused() {
    let daemon = Daemon::start();
    let good = request("shell", "true");
    for not_plain_json in [
        daemon.post_text("text/plain", good.to_string()),
        daemon.post(&good).header("content-encoding", "gzip"),
    ] {
        Answer::to(not_plain_json)
            .await
            .refusal(415, "Executor.UnsupportedMediaType");
    }
    Answer::to(daemon.get("/nowhere"))
        .await
        .refusal(404, "Executor.NotFound");
    let wrong_method = Answer::to(daemon.get("/execute")).await;
    wrong_method.refusal(405, "Executor.MethodNotAllowed");
    assert_eq!(wrong_method.headers["allow"], "POST");
}

#[tokio::test]
async fn a_body_above_the_cap_is_refused_and_one_at_the_cap_runs() {
    const CAP: usize = 4096;
    let daemon = Daemon::with(&[("MAX_BODY_BYTES", &CAP.to_string())]);
    let of_length = |length: usize| {
        let body = request("shell", "true #").to_string();
        let filling = "#".repeat(length - body.len());
        body.replace('#', &format!("#{filling}"))
    };
    Answer::to(daemon.post_text(JSON, of_length(CAP)))
        .await
        .completed();
    Answer::to(daemon.post_text(JSON, of_length(CAP + 1)))
        .await
        .refusal(413, "Executor.PayloadTooLarge");
}

#[tokio::test]
async fn the_same_request_again_gets_the_first_result_and_runs_nothing() {
    let daemon = Daemon::start();
    let request = request("shell", "echo x >> runs; date +%N");
    let (first, second) = tokio::join!(daemon.execute(&request), daemon.execute(&request));
    let first = first.completed();
    assert_eq!(second.completed(), first);
    assert_eq!(daemon.execute(&request).await.completed(), first);
    assert_eq!(std::fs::read_to_string(daemon.file("runs")).unwrap(), "x\n");

    let mut other = request.clone();
    other["code"] = json!("echo y >> runs");
    daemon
        .execute(&other)
        .await
        .refusal(409, "Executor.Conflict");
    assert_eq!(std::fs::read_to_string(daemon.file("runs")).unwrap(), "x\n");
}

#[tokio::test]
async fn where_every_place_is_taken_the_next_is_told_when_to_come_back() {
    let daemon = Daemon::with(&[
        ("MAX_CONCURRENT_EXECUTIONS", "1"),
        ("MAX_QUEUED_EXECUTIONS", "1"),
    ]);
    let mut runs = JoinSet::new();
    for _ in 0..3 {
        runs.spawn(Answer::to(
            daemon.post(&request("shell", &waits_for("release"))),
        ));
    }
    // One runs, one waits, and neither ends before it is released: whichever is answered now is the third.
    let refused = runs.join_next().await.unwrap().unwrap();
    refused.refusal(429, "Executor.QueueFull");
    let retry_after = refused.headers["retry-after"].to_str().unwrap();
    assert!(retry_after.parse::<u64>().unwrap() >= 1);

    // The session's directory comes with the first run.
    appears(daemon.file("release").parent().unwrap()).await;
    std::fs::write(daemon.file("release"), "").unwrap();
    for run in runs.join_all().await {
        run.completed();
    }
}

#[tokio::test]
async fn with_a_token_nothing_but_health_is_answered_without_it() {
    let daemon = Daemon::with(&[("INTERNAL_API_TOKEN", "s3cret")]);
    let run = request("shell", "true");
    for guarded in [daemon.post(&run), daemon.get("/info")] {
        let again = || guarded.try_clone().unwrap();
        let refused = Answer::to(again()).await;
        refused.refusal(401, "Executor.Unauthorized");
        assert_eq!(refused.headers["www-authenticate"], "Bearer");
        let wrong = Answer::to(again().bearer_auth("s3cre")).await;
        wrong.refusal(401, "Executor.Unauthorized");
        assert_eq!(Answer::to(again().bearer_auth("s3cret")).await.status, 200);
    }
    for open in ["/health", "/livez"] {
        assert_eq!(Answer::to(daemon.get(open)).await.status, 200, "{open}");
    }

    // For callers that send none, in a network that guards itself.
    let open = Daemon::with(&[
        ("INTERNAL_API_TOKEN", "s3cret"),
        ("EXECUTOR_REQUIRE_AUTH", "false"),
    ]);
    open.execute(&run).await.completed();
}

#[tokio::test]
async fn the_request_id_comes_back_and_is_in_the_log() {
    let daemon = Daemon::start();
    let get = daemon.get("/nowhere").header("x-request-id", "trace-me-42");
    let answer = Answer::to(get).await;
    assert_eq!(answer.headers["x-request-id"], "trace-me-42");
    assert_eq!(answer.body["request_id"], "trace-me-42");
    assert!(daemon.log().contains("trace-me-42"));
}

#[tokio::test]
async fn requests_that_are_no_http_do_not_disturb_others() {
    let daemon = Daemon::start();
    let address: SocketAddr = daemon.address().parse().unwrap();
    let mut open = Vec::new();
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01"[..],
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /execute HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n{\"exec",
        b"POST /execute HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: ",
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        open.push(stream);
    }
    daemon.execute(&request("shell", "true")).await.completed();
    for mut stream in open {
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        // Reset or answered, but not 200.
        let _ = stream.read_to_end(&mut answer).await;
        assert!(
            !answer.starts_with(b"HTTP/1.1 200"),
            "{}",
            String::from_utf8_lossy(&answer)
        );
    }
}
