//! What operators see of a daemon at work: counters, log lines, traces, and the description of its API.

use std::time::Duration;

use nix::sys::signal::Signal;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::{
    io::{
        AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _,
        BufReader,
    },
    net::TcpListener,
    sync::mpsc,
};
use tokio_rustls::TlsAcceptor;

use super::support::{
    daemon::{ALL_WARM, Answer, Daemon, command, request, request_with},
    tls::{acceptor, fixture},
};

/// The value of a series, which must be there.
#[track_caller]
fn value<'a>(text: &'a str, series: &str) -> &'a str {
    let value = text.lines().find_map(|line| line.strip_prefix(series));
    assert!(value.is_some(), "no {series} in\n{text}");
    value.unwrap().trim()
}

#[tokio::test]
async fn counters_follow_what_happens() {
    let daemon = Daemon::start();
    let begin = daemon.metrics().await;
    assert_eq!(
        value(
            &begin,
            r#"sandbox_executions_total{language="shell",status="failed"}"#
        ),
        "0"
    );
    daemon
        .execute(&request("shell", "echo hi"))
        .await
        .completed();
    daemon.execute(&request("shell", "exit 3")).await.ran();
    let loud = request_with(
        "shell",
        "head -c 5000 /dev/zero",
        json!({"limits": {"max_output_bytes": 100}}),
    );
    daemon.execute(&loud).await.ran();
    daemon
        .post_text("application/json", "{")
        .send()
        .await
        .unwrap();

    let text = daemon.metrics().await;
    for (series, expected) in [
        (
            r#"sandbox_executions_total{language="shell",status="completed"}"#,
            "2",
        ),
        (
            r#"sandbox_executions_total{language="shell",status="failed"}"#,
            "1",
        ),
        (
            r#"sandbox_executions_total{language="python",status="completed"}"#,
            "0",
        ),
        (r#"sandbox_limits_hit_total{limit="output"}"#, "1"),
        (r#"sandbox_output_bytes_total{stream="stdout"}"#, "103"),
        (r#"sandbox_output_truncated_total{stream="stdout"}"#, "1"),
        (
            r#"sandbox_output_truncated_bytes_total{stream="stdout"}"#,
            "4900",
        ),
        (
            r#"sandbox_http_requests_total{method="POST",route="/execute",status="200"}"#,
            "3",
        ),
        (
            r#"sandbox_http_requests_total{method="POST",route="/execute",status="400"}"#,
            "1",
        ),
        ("sandbox_queue_wait_seconds_count", "3"),
        ("sandbox_executions_active ", "0"),
        ("sandbox_executions_queued ", "0"),
        ("sandbox_executions_active_limit ", "100"),
    ] {
        assert_eq!(value(&text, series), expected, "{series}\n{text}");
    }
    let total = |series: &str| -> f64 {
        ["warm", "forked", "cold"]
            .iter()
            .map(|start| value(&text, &format!("{series}{{start=\"{start}\"}}")))
            .map(|value| value.parse::<f64>().unwrap())
            .sum()
    };
    let runs = |series| format!("{:.0}", total(series));
    assert_eq!(runs("sandbox_execution_duration_seconds_count"), "3");
    assert_eq!(runs("sandbox_startup_seconds_count"), "3");
    // A sandbox is not made in no time.
    assert!(total("sandbox_startup_seconds_sum") > 0.0);
    let figure = |series| value(&text, series).parse::<f64>().unwrap();
    assert!(figure("process_resident_memory_bytes") > 1e6);
    assert!(figure("process_open_fds") > 3.0);
}

#[tokio::test]
async fn who_runs_is_counted_while_it_runs() {
    let daemon = Daemon::with(&[("MAX_CONCURRENT_EXECUTIONS", "1")]);
    let marker = super::support::daemon::marker();
    let _first = daemon.spawn(&request("shell", &format!("sleep {marker}")));
    super::support::daemon::alive_becomes(&marker, 1).await;
    let _second = daemon.spawn(&request("shell", "true"));
    for _ in 0..1000 {
        let text = daemon.metrics().await;
        let levels = ["active ", "queued "]
            .map(|level| value(&text, &format!("sandbox_executions_{level}")));
        if levels == ["1", "1"] {
            return;
        }
        assert_eq!(levels, ["1", "0"]);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    unreachable!("the second one never waited");
}

/// Neither a token, nor code, nor what goes into a guest or comes out of it, stands in the log; ids do. At every level
/// that the daemon's own lines have.
#[tokio::test]
async fn the_log_names_ids_and_keeps_secrets() {
    for format in ["json", "text"] {
        let daemon = Daemon::with(&[
            ("INTERNAL_API_TOKEN", "MARK-token"),
            ("LOG_LEVEL", "trace"),
            ("LOG_FORMAT", format),
        ]);
        let code = "import os, sys\n\
            def handler(event):\n    \
                print('MARK-' + 'stdout', os.environ['A'])  # MARK-code\n    \
                print('MARK-' + 'stderr', sys.stdin.read(), file=sys.stderr)\n    \
                if event['fail']: raise ValueError('MARK-' + 'exception')\n    \
                return 'MARK-' + 'return'\n";
        for (id, fail, status) in [("run-1", false, "completed"), ("run-2", true, "failed")] {
            let body = json!({
                "execution_id": id, "session_id": "session-9", "language": "python", "code": code,
                "event": {"fail": fail, "secret": "MARK-event"}, "env_vars": {"A": "MARK-variable"},
                "stdin": "MARK-stdin",
            });
            let post = daemon
                .post(&body)
                .header("x-request-id", format!("request-of-{id}"));
            let answer = Answer::to(post.header("authorization", "Bearer MARK-token")).await;
            assert_eq!(answer.ran()["status"], status);
        }
        let wrong = daemon
            .get("/info")
            .header("authorization", "Bearer MARK-wrong");
        Answer::to(wrong)
            .await
            .refusal(401, "Executor.Unauthorized");
        let broken = daemon
            .post_text("application/json", r#"{"MARK-field": "MARK-value"}"#)
            .header("authorization", "Bearer MARK-token");
        Answer::to(broken)
            .await
            .refusal(400, "Executor.ValidationError");
        let lost = daemon.get("/MARK-path?MARK-query=1");
        Answer::to(lost).await.refusal(404, "Executor.NotFound");

        let log = daemon.log();
        let told: Vec<_> = log.lines().filter(|line| line.contains("MARK")).collect();
        assert!(told.is_empty(), "{told:#?}");
        let ended = log
            .lines()
            .find(|line| line.contains("execution ended") && line.contains("run-2"));
        let ended = ended.unwrap_or_else(|| panic!("{log}"));
        for name in ["request-of-run-2", "session-9", "python", "failed"] {
            assert!(ended.contains(name), "{name}: {ended}");
        }
        if format == "json" {
            let line: Value = serde_json::from_str(ended).unwrap();
            let names = |field: &str| {
                let spans = line["spans"].as_array().unwrap();
                spans.iter().find_map(|span| span[field].as_str())
            };
            assert_eq!(names("request_id"), Some("request-of-run-2"));
            assert_eq!(names("execution_id"), Some("run-2"));
            assert_eq!(names("session_id"), Some("session-9"));
        }
    }
}

/// What a collector got: head and body of each request.
type Received = mpsc::UnboundedReceiver<(String, Vec<u8>)>;

/// A collector of traces that hands on what it gets, and the port that it listens on.
async fn collector(tls: Option<TlsAcceptor>) -> (u16, Received) {
    async fn take(
        stream: impl AsyncRead + AsyncWrite + Unpin,
    ) -> std::io::Result<(String, Vec<u8>)> {
        let mut stream = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        let length = head
            .lines()
            .find_map(|line| {
                let line = line.to_ascii_lowercase();
                line.strip_prefix("content-length: ")?.parse().ok()
            })
            .unwrap_or(0);
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            .await?;
        stream.shutdown().await?;
        Ok((head, body))
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let taken = match &tls {
                None => take(stream).await,
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => take(stream).await,
                    // Whoever does not trust us hangs up.
                    Err(error) => Err(error),
                },
            };
            if let Ok(request) = taken {
                let _ = sender.send(request);
            }
        }
    });
    (port, receiver)
}

/// Heads, in lower case, and bodies of all that was received.
async fn all(mut received: Received) -> (String, Vec<u8>) {
    received.close();
    let (mut heads, mut bodies) = (String::new(), Vec::new());
    while let Some((head, body)) = received.recv().await {
        assert!(head.starts_with("POST /v1/traces "), "{head}");
        heads += &head.to_ascii_lowercase();
        bodies.extend(body);
    }
    (heads, bodies)
}

fn has(body: &[u8], part: &[u8]) -> bool {
    body.windows(part.len()).any(|found| found == part)
}

const TRACE: u128 = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c;

#[tokio::test]
async fn spans_reach_the_collector_as_part_of_the_callers_trace() {
    let (port, received) = collector(None).await;
    let endpoint = format!("http://127.0.0.1:{port}");
    let mut daemon = Daemon::with(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=of-the-collector"),
        ("OTEL_SERVICE_NAME", "my-executor"),
        // What is logged has nothing to do with it.
        ("LOG_LEVEL", "error"),
    ]);
    let traced = daemon.post(&request("shell", "echo MARK")).header(
        "traceparent",
        format!("00-{TRACE:032x}-00f067aa0ba902b7-01"),
    );
    Answer::to(traced).await.completed();
    // Spans that wait for their batch are sent at the end.
    daemon.signal(Signal::SIGTERM);
    daemon.exit().await;
    let (heads, all) = all(received).await;
    assert!(heads.contains("x-key: of-the-collector\r\n"), "{heads}");
    for part in [
        &b"request"[..],
        b"execution",
        b"execution_id",
        b"/execute",
        b"my-executor",
        &TRACE.to_be_bytes(),
        &0x00f0_67aa_0ba9_02b7_u64.to_be_bytes(),
    ] {
        assert!(has(&all, part), "no {}", String::from_utf8_lossy(part));
    }
    assert!(!has(&all, b"MARK"));
    assert_eq!(daemon.log(), "");
}

#[tokio::test]
async fn over_tls_spans_reach_only_a_collector_that_the_host_trusts() {
    let authority = fixture("authority.pem");
    let authority = authority.to_str().unwrap();
    for (host, trusted, arrives) in [
        ("localhost", Some(authority), true),
        // Nobody vouches for it; and the certificate is not for this name.
        ("localhost", None, false),
        ("127.0.0.1", Some(authority), false),
    ] {
        let (port, received) = collector(Some(acceptor())).await;
        let endpoint = format!("https://{host}:{port}");
        let mut settings = vec![
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer MARK"),
        ];
        settings.extend(trusted.map(|file| ("SSL_CERT_FILE", file)));
        let mut daemon = Daemon::with(&settings);
        daemon.execute(&request("shell", "true")).await.completed();
        daemon.signal(Signal::SIGTERM);
        assert_eq!(daemon.exit().await.code(), Some(143));
        let (heads, bodies) = all(received).await;
        assert_eq!(heads.contains("bearer mark"), arrives, "{endpoint}");
        assert_eq!(has(&bodies, b"/execute"), arrives, "{endpoint}");
    }
}

#[tokio::test]
async fn a_collector_that_hangs_holds_neither_runs_nor_the_end_up() {
    // Takes connections and says nothing.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let mut daemon = Daemon::with(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
        ("OTEL_BSP_SCHEDULE_DELAY", "10"),
    ]);
    for _ in 0..3 {
        daemon.execute(&request("shell", "true")).await.completed();
    }
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.exit().await.code(), Some(143));
}

#[test]
fn an_endpoint_that_cannot_be_used_is_a_mistake_at_once() {
    let output = command()
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://collector:4318")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("OTEL_EXPORTER_OTLP_ENDPOINT"), "{said}");
}

#[tokio::test]
async fn languages_start_warm_that_are_kept_warm() {
    for (settings, warm) in [
        (ALL_WARM, vec!["python", "javascript", "shell"]),
        (("WARM_POOL_LANGUAGES", "python"), vec!["python"]),
        (("WARM_POOL", "false"), vec![]),
    ] {
        let daemon = Daemon::with(&[settings]);
        let info = Answer::to(daemon.get("/info")).await.body;
        let pools = info["warm_pools"].as_array().unwrap();
        let named: Vec<_> = pools.iter().map(|pool| &pool["language"]).collect();
        assert_eq!(named, warm, "{info:#}");
        for (language, code) in [
            ("python", "print(1)"),
            ("javascript", "console.log(1)"),
            ("shell", "echo 1"),
        ] {
            let request = request_with(language, code, json!({"mode": "script"}));
            let run = daemon.execute(&request).await.completed();
            assert_eq!(run["stdout"], "1\n");
            let is_warm = run["metrics"]["start"] != "cold";
            assert_eq!(is_warm, warm.contains(&language), "{run:#}");
        }
    }
}

#[tokio::test]
async fn the_description_is_that_of_the_repository() {
    let daemon = Daemon::start();
    let served = Answer::to(daemon.get("/openapi.json")).await;
    assert_eq!(served.status, StatusCode::OK);
    let committed: Value =
        serde_json::from_str(include_str!("../../../docs/openapi.json")).unwrap();
    assert_eq!(served.body, committed);
    let printed = command().arg("openapi").output().unwrap();
    assert_eq!(
        String::from_utf8(printed.stdout).unwrap(),
        include_str!("../../../docs/openapi.json")
    );
}
