//! Against a server that keeps no promise of HTTP's: what goes out is exactly what is promised, and every attempt comes back.

#![allow(clippy::unwrap_used, reason = "this is how a test fails")]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use executor_application::{ControlPlane, Delivery, ExitReason, Report};
use executor_domain::{
    Artifacts, CapturedOutput, CrashCause, Ending, Execution, ExecutionId, Outcome, SessionId,
    Start, Timestamp, TraceParent, Usage,
};
use executor_infra_control_plane::{
    BearerToken, HttpControlPlane, HttpControlPlaneOptions, Identity,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep},
};

const TOKEN: &str = "hunter2-hunter2";

/// What the server has read, one text a request.
type Requests = Arc<Mutex<Vec<String>>>;

/// Reads one request: its head, and the body that its length announces.
async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .filter_map(|line| line.split_once(": "))
                .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
                .map_or(0, |(_, length)| length.parse().unwrap());
            if body.len() >= length {
                return Some(text);
            }
        }
        if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return None;
        }
    }
}

/// What a server does with a connection.
trait Manners: Fn(TcpStream, Requests) -> Self::Conversation + Send + Sync + 'static {
    type Conversation: Future<Output = ()> + Send;
}

impl<F, C> Manners for F
where
    F: Fn(TcpStream, Requests) -> C + Send + Sync + 'static,
    C: Future<Output = ()> + Send,
{
    type Conversation = C;
}

async fn server<M>(manners: M) -> (String, Requests)
where
    M: Manners,
    M::Conversation: 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let requests = Requests::default();
    let seen = Arc::clone(&requests);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(manners(stream, Arc::clone(&seen)));
        }
    });
    (url, requests)
}

/// A server that answers every request with this text and keeps the connection.
async fn answers(answer: impl Into<String>) -> (String, Requests) {
    let answer = answer.into();
    server(move |mut stream: TcpStream, requests: Requests| {
        let answer = answer.clone();
        async move {
            while let Some(request) = read_request(&mut stream).await {
                requests.lock().unwrap().push(request);
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    })
    .await
}

/// Longer than anybody waits here: an attempt that ends by its time-out has failed its test.
const NEVER: Duration = Duration::from_secs(600);
/// How long an attempt may take that does not wait for its time-out, on a machine that is very busy.
const SOON: Duration = Duration::from_secs(60);

fn options(url: &str) -> HttpControlPlaneOptions {
    let identity = Identity {
        container_id: "c-1".into(),
        pod_name: Some("pod-1".into()),
    };
    HttpControlPlaneOptions {
        token: Some(BearerToken::new(TOKEN).unwrap()),
        timeout: NEVER,
        result_timeout: NEVER,
        ..HttpControlPlaneOptions::new(url, identity)
    }
}

fn client(url: &str) -> HttpControlPlane {
    HttpControlPlane::new(options(url)).unwrap()
}

/// One that gives up while a test waits.
fn impatient(url: &str) -> HttpControlPlane {
    HttpControlPlane::new(HttpControlPlaneOptions {
        timeout: Duration::from_secs(1),
        result_timeout: Duration::from_secs(1),
        ..options(url)
    })
    .unwrap()
}

/// The step of a trace that every execution is.
const STEP: &str = "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01";

const AT: Timestamp = Timestamp::from_unix_micros(0);

fn running() -> Execution {
    let id = ExecutionId::parse("exec_1").unwrap();
    let mut execution = Execution::accept(id, SessionId::parse("s").unwrap(), AT);
    execution.trace(TraceParent::parse(STEP).unwrap());
    execution.start(AT).unwrap();
    execution
}

fn heartbeat() -> Report {
    Report::Heartbeat {
        execution: running(),
        at: AT,
    }
}

fn result(stdout: Vec<u8>) -> Report {
    let mut execution = running();
    let outcome = Outcome {
        ending: Ending::Crashed(CrashCause::Memory),
        stdout: CapturedOutput {
            bytes: stdout,
            truncated_bytes: 0,
        },
        stderr: CapturedOutput::default(),
        usage: Usage::default(),
        start: Start::Cold,
        limits_hit: Vec::new(),
    };
    execution.finish(AT, outcome, Artifacts::default()).unwrap();
    Report::Result(execution)
}

/// An attempt must come back with this kind of word, and not by its time-out.
async fn expect(url: &str, kind: &str) -> Delivery {
    attempt(client(url), kind).await
}

/// An attempt must come back by its time-out.
async fn expect_time_out(url: &str) {
    attempt(impatient(url), "retry").await;
}

async fn attempt(client: HttpControlPlane, kind: &str) -> Delivery {
    let begun = Instant::now();
    let delivery = client.deliver(&heartbeat()).await;
    let took = begun.elapsed();
    let found = match &delivery {
        Delivery::Delivered => "delivered",
        Delivery::Retry { .. } => "retry",
        Delivery::Refused { .. } => "refused",
    };
    assert_eq!(found, kind, "{delivery:?}");
    assert!(took < SOON, "{took:?}");
    assert!(!format!("{delivery:?}").contains("hunter2"), "{delivery:?}");
    delivery
}

#[tokio::test]
async fn what_goes_out_is_what_the_contract_says() {
    let (url, requests) = answers("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").await;
    let plane = client(&url);
    let at = Timestamp::from_unix_micros(1_767_268_800_000_000);
    let reports = [
        Report::Ready { port: 8080, at },
        heartbeat(),
        result(b"\xff".to_vec()),
        Report::Exited {
            port: 8080,
            exit_code: 143,
            reason: ExitReason::Terminated,
            at,
        },
    ];
    for report in &reports {
        assert_eq!(plane.deliver(report).await, Delivery::Delivered);
    }
    let requests = requests.lock().unwrap();
    let starts = [
        "POST /api/v1/internal/containers/ready HTTP/1.1\r\n",
        "POST /api/v1/internal/executions/exec_1/heartbeat HTTP/1.1\r\n",
        "POST /api/v1/internal/executions/exec_1/result HTTP/1.1\r\n",
        "POST /api/v1/internal/containers/exited HTTP/1.1\r\n",
    ];
    assert_eq!(requests.len(), starts.len());
    for (request, start) in requests.iter().zip(starts) {
        assert!(request.starts_with(start), "{request}");
        assert!(
            request.contains(&format!("authorization: Bearer {TOKEN}\r\n")),
            "{request}"
        );
        assert!(
            request.contains("content-type: application/json\r\n"),
            "{request}"
        );
        assert_eq!(
            request.contains("idempotency-key: exec_1\r\n"),
            start.contains("result"),
            "{request}"
        );
        assert_eq!(
            request.contains(&format!("traceparent: {STEP}\r\n")),
            start.contains("/executions/"),
            "{request}"
        );
    }
    assert!(requests[0].ends_with(
        r#"{"event_type":"ready","container_id":"c-1","pod_name":"pod-1","executor_port":8080,"ready_at":"2026-01-01T12:00:00.000000Z"}"#
    ));
}

#[tokio::test]
async fn without_a_token_none_is_sent() {
    let (url, requests) = answers("HTTP/1.1 204 No Content\r\n\r\n").await;
    let plane = HttpControlPlane::new(HttpControlPlaneOptions {
        token: None,
        prefix: "/other".into(),
        ..options(&format!("{url}/base/"))
    });
    let delivery = plane.unwrap().deliver(&heartbeat()).await;
    assert_eq!(delivery, Delivery::Delivered);
    let request = requests.lock().unwrap().remove(0);
    assert!(
        request.starts_with("POST /base/other/executions/exec_1/heartbeat "),
        "{request}"
    );
    assert!(!request.contains("authorization"), "{request}");
}

#[tokio::test]
async fn every_status_has_its_word() {
    for (status, kind) in [
        (200, "delivered"),
        (201, "delivered"),
        (204, "delivered"),
        (300, "refused"),
        (302, "refused"),
        (307, "refused"),
        (308, "refused"),
        (400, "refused"),
        (401, "retry"),
        (403, "refused"),
        (404, "refused"),
        (408, "retry"),
        (409, "refused"),
        (422, "refused"),
        (429, "retry"),
        (500, "retry"),
        (502, "retry"),
        (503, "retry"),
        (599, "retry"),
    ] {
        let (url, _) = answers(format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n")).await;
        expect(&url, kind).await;
    }
}

#[tokio::test]
async fn retry_after_comes_through() {
    let (url, _) = answers("HTTP/1.1 429 X\r\nRetry-After: 17\r\nContent-Length: 0\r\n\r\n").await;
    let delivery = expect(&url, "retry").await;
    assert!(
        matches!(delivery, Delivery::Retry { after: Some(after), .. } if after.as_secs() == 17)
    );
}

#[tokio::test]
async fn a_redirect_is_not_followed_anywhere() {
    let (elsewhere, visits) = answers("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    for status in [301, 302, 303, 307, 308] {
        let (url, requests) = answers(format!(
            "HTTP/1.1 {status} X\r\nLocation: {elsewhere}/stolen\r\nContent-Length: 0\r\n\r\n"
        ))
        .await;
        expect(&url, "refused").await;
        assert_eq!(requests.lock().unwrap().len(), 1);
    }
    assert_eq!(visits.lock().unwrap().len(), 0);
}

#[tokio::test]
async fn nobody_there() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    expect(&url, "retry").await;
}

#[tokio::test]
async fn accepts_and_never_answers() {
    let (url, _) = server(async |stream: TcpStream, _| {
        sleep(NEVER).await;
        drop(stream);
    })
    .await;
    expect_time_out(&url).await;
}

#[tokio::test]
async fn never_accepts() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    // The kernel makes the connection, and nobody ever reads from it.
    expect_time_out(&url).await;
    drop(listener);
}

#[tokio::test]
async fn hangs_up_at_once_or_in_the_middle() {
    for said in ["", "HTTP/1.1 2", "HTTP/1.1 200 OK\r\nContent-Le"] {
        let (url, _) = server(move |mut stream: TcpStream, _| async move {
            read_request(&mut stream).await;
            let _ = stream.write_all(said.as_bytes()).await;
        })
        .await;
        expect(&url, "retry").await;
    }
    // Its head has said that it has the report; the rest of the answer matters to nobody.
    for rest in [
        "Content-Length: 100\r\n\r\nhalf",
        "Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    ] {
        let (url, _) = server(move |mut stream: TcpStream, _| async move {
            read_request(&mut stream).await;
            let said = format!("HTTP/1.1 200 OK\r\n{rest}");
            let _ = stream.write_all(said.as_bytes()).await;
        })
        .await;
        expect(&url, "delivered").await;
    }
}

#[tokio::test]
async fn garbage() {
    for said in [
        "SSH-2.0-OpenSSH_9.2\r\n",
        "\0\0\0\0",
        "HTTP/1.1 abc\r\n\r\n",
        "HTTP/1.1 99999 X\r\n\r\n",
        "<html>200 OK</html>\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    ] {
        let (url, _) = answers(said).await;
        expect(&url, "retry").await;
    }
}

#[tokio::test]
async fn a_head_without_end() {
    let (url, _) = server(async |mut stream: TcpStream, _| {
        read_request(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n").await;
        while stream.write_all(&b"X: y\r\n".repeat(1000)).await.is_ok() {}
    })
    .await;
    expect(&url, "retry").await;
}

#[tokio::test]
async fn informational_answers_without_end() {
    let (url, _) = server(async |mut stream: TcpStream, _| {
        read_request(&mut stream).await;
        while stream
            .write_all(b"HTTP/1.1 103 Early Hints\r\n\r\n")
            .await
            .is_ok()
        {
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    expect_time_out(&url).await;
}

#[tokio::test]
async fn a_body_without_end_is_not_read_to_its_end() {
    let (told, mut written) = tokio::sync::mpsc::channel(1);
    let (url, _) = server(move |mut stream: TcpStream, _| {
        let told = told.clone();
        async move {
            read_request(&mut stream).await;
            let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
            let _ = stream.write_all(head).await;
            let chunk = [b"1000\r\n".as_slice(), &[b'x'; 0x1000], b"\r\n"].concat();
            let mut bytes = 0_usize;
            while stream.write_all(&chunk).await.is_ok() {
                bytes += chunk.len();
            }
            let _ = told.send(bytes).await;
        }
    })
    .await;
    expect(&url, "delivered").await;
    // What the sockets' buffers hold, and not what a minute would carry.
    let written = written.recv().await.unwrap();
    assert!(written < 32 << 20, "{written}");
}

#[tokio::test]
async fn a_body_that_trickles_is_not_waited_for() {
    let (url, _) = server(async |mut stream: TcpStream, _| {
        read_request(&mut stream).await;
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n";
        let _ = stream.write_all(head).await;
        while stream.write_all(b"x").await.is_ok() {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    expect(&url, "delivered").await;
}

#[tokio::test]
async fn one_that_reads_nothing_of_a_large_report() {
    let (url, _) = server(async |stream: TcpStream, _| {
        sleep(NEVER).await;
        drop(stream);
    })
    .await;
    let begun = Instant::now();
    let report = result(vec![0; 8 << 20]);
    let delivery = impatient(&url).deliver(&report).await;
    assert!(matches!(delivery, Delivery::Retry { .. }), "{delivery:?}");
    assert!(begun.elapsed() < SOON);
}

#[tokio::test]
async fn what_it_says_never_becomes_part_of_a_reason() {
    let (url, _) = answers(format!(
        "HTTP/1.1 500 {TOKEN}\r\nX-Echo: {TOKEN}\r\nContent-Length: {}\r\n\r\n{TOKEN}",
        TOKEN.len()
    ))
    .await;
    expect(&url, "retry").await;
}

#[tokio::test]
async fn a_connection_is_used_again() {
    let connections = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&connections);
    let (url, requests) = server(move |mut stream: TcpStream, requests: Requests| {
        *counted.lock().unwrap() += 1;
        async move {
            while let Some(request) = read_request(&mut stream).await {
                requests.lock().unwrap().push(request);
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
                let _ = stream.write_all(answer).await;
            }
        }
    })
    .await;
    let plane = client(&url);
    for _ in 0..5 {
        assert_eq!(plane.deliver(&heartbeat()).await, Delivery::Delivered);
    }
    assert_eq!(requests.lock().unwrap().len(), 5);
    assert_eq!(*connections.lock().unwrap(), 1);
}

#[cfg(not(feature = "tls"))]
#[test]
fn without_tls_https_is_refused_by_name() {
    let error = HttpControlPlane::new(options("https://cp.example")).unwrap_err();
    assert!(error.to_string().contains("tls"), "{error}");
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn over_tls_somebody_who_speaks_none_is_nobody() {
    let (url, requests) = answers("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    // Each waits for the other to speak its own language.
    expect_time_out(&url.replace("http://", "https://")).await;
    assert_eq!(requests.lock().unwrap().len(), 0);
}
