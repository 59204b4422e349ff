//! Hostile requests, as many as somebody has patience for: each is answered as it should be, and memory stays flat.
//!
//! `HOSTILE_REQUESTS` says how many. A million have been sent: `docs/fuzzing.md`.

use std::env;

use serde_json::{Value, json};
use tokio::{task::JoinSet, time::Instant};

use super::{
    support::{
        daemon::{request, request_with},
        raw::Raw,
    },
    watched::{EXECUTE, Watched, numbered, posted},
};

const DEFAULT_REQUESTS: usize = 5000;
const CONNECTIONS: usize = 16;
/// Of so many requests, one starts a guest, whose client hangs up.
const RUN_EVERY: usize = 1000;

/// One request and the status that answers it; 0: its client does not wait for an answer.
type Kind = (Vec<u8>, u16);

/// Every kind of request, hostile and, now and then, harmless.
fn kinds(first: &Value) -> Vec<Kind> {
    let host = "Host: localhost\r\n";
    let get = |path: &str, more: &str| format!("GET {path} HTTP/1.1\r\n{host}{more}\r\n");
    let file = |method: &str, path: &str, more: &str, body: &str| {
        format!(
            "{method} /sessions/benign/files/{path} HTTP/1.1\r\n{host}{more}Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let run = |more: Value| request_with("shell", "true", more).to_string();
    let post = |body: &str| String::from_utf8(posted(body)).unwrap();
    let mut other = first.clone();
    other["code"] = json!("echo other");
    let deep = format!("{{\"event\":{}", "[".repeat(20_000));
    let wide = numbered(500, |n| format!("\"f{n}\":0,"));
    let kinds = [
        // No HTTP.
        (get("/livez", "X : y\r\n"), 400),
        (
            get("/livez", &format!("X: {}\r\n", "y".repeat(40_000))),
            431,
        ),
        (format!("{EXECUTE}Content-Length: +2\r\n\r\n{{}}"), 400),
        (
            format!("{EXECUTE}Transfer-Encoding: chunked\r\n\r\nZZ\r\n"),
            400,
        ),
        ("\u{16}\u{3}\u{1}\0\0\r\n\r\n".into(), 400),
        // No request.
        (post(""), 400),
        (post("{"), 400),
        (post(&deep), 400),
        (post(&format!("{{{wide}\"code\":\"\"}}")), 400),
        (
            post(&run(
                json!({"execution_id": "../../etc", "session_id": "", "language": "cobol"}),
            )),
            400,
        ),
        (
            post(&run(
                json!({"limits": {"max_memory_mb": 1_000_000}, "timeout": 0}),
            )),
            400,
        ),
        (post(&run(json!({"env_vars": {"A=B": "x", "C": 1}}))), 400),
        (post("{\"code\":\"\\ud800\"}"), 400),
        (post(&other.to_string()), 409),
        (post("{}").replace("application/json", "text/html"), 415),
        (
            post("{}").replacen("\r\n", "\r\nContent-Encoding: gzip\r\n", 1),
            415,
        ),
        (format!("{EXECUTE}Content-Length: 99999999999\r\n\r\n"), 413),
        (format!("{EXECUTE}Content-Length: 100\r\n\r\n{{\"code\""), 0),
        // No place, no method, no business.
        (get("/nowhere", ""), 404),
        (get("/execute", ""), 405),
        (get("/info", "").replace("localhost", "example.com"), 403),
        (get("/executions/..%2fx", ""), 404),
        (get("/executions?limit=0&status=well&x=y", ""), 400),
        (get("/executions/none/events", "Last-Event-ID: -1\r\n"), 400),
        (get("/sessions/..%2f..%2fetc/files/passwd", ""), 400),
        (get("/sessions/none/files", ""), 404),
        // Files.
        (file("PUT", "../../x", "", "x"), 400),
        (file("PUT", "a%00b", "", "x"), 400),
        (file("PUT", "x", "If-Match: \"none\"\r\n", "x"), 412),
        (file("PUT", "d?archive=tar", "", "no archive"), 400),
        (
            file("PUT", "d?archive=zip", "", "PK\u{3}\u{4}no archive"),
            400,
        ),
        (
            file("GET", "event.json", "Range: bytes=99999999999-\r\n", ""),
            416,
        ),
        (file("DELETE", "none", "", ""), 404),
        // And what is done.
        (file("PUT", "event.json", "", "{}"), 200),
        (file("GET", "event.json", "Range: bytes=0-0\r\n", ""), 206),
        (
            get(
                &format!("/executions/{}", first["execution_id"].as_str().unwrap()),
                "",
            ),
            200,
        ),
        (post(&first.to_string()), 200),
        (get("/livez", "X-Request-Id: \u{7f}\r\n"), 400),
        (get("/metrics", ""), 200),
    ];
    kinds
        .map(|(bytes, status)| (bytes.into_bytes(), status))
        .into()
}

/// One client, which connects again wherever its connection has ended.
async fn client(address: String, kinds: Vec<Kind>, requests: usize, first: usize) {
    let mut connection = Raw::connect(&address).await;
    for n in first..first + requests {
        if n % RUN_EVERY == 0 {
            let body = request("shell", "sleep 1000").to_string();
            connection.send(&posted(&body)).await;
            connection = Raw::connect(&address).await;
        }
        let (bytes, status) = &kinds[n % kinds.len()];
        connection.send(bytes).await;
        if *status == 0 {
            connection = Raw::connect(&address).await;
            continue;
        }
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]);
        let answer = connection.answer().await.expect(&shown);
        assert_eq!(answer.status, *status, "{shown}\n{}", answer.head);
        // What hyper refuses by itself ends the connection without a word.
        let ends =
            answer.header("connection") == Some("close") || answer.header("x-request-id").is_none();
        if ends {
            connection = Raw::connect(&address).await;
        }
    }
}

#[tokio::test]
async fn memory_is_flat_whatever_is_sent() {
    let requests =
        env::var("HOSTILE_REQUESTS").map_or(DEFAULT_REQUESTS, |requests| requests.parse().unwrap());
    // The result that is asked for again and again is kept.
    let watched = Watched::with(&[("RESULT_TTL", "24h"), ("MAX_STATE_BYTES", "64 MiB")]).await;
    let first = request("shell", "true");
    assert_eq!(watched.execute(&first).await.status, 200);
    let upload = "PUT /sessions/benign/files/event.json HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}";
    let mut connection = Raw::to(&watched.daemon).await;
    connection.send(upload.as_bytes()).await;
    assert_eq!(connection.answer().await.unwrap().status, 201);
    drop(connection);

    let kinds = kinds(&first);
    let begin = Instant::now();
    let mut clients = JoinSet::new();
    for n in 0..CONNECTIONS {
        let address = watched.daemon.address().to_owned();
        clients.spawn(client(
            address,
            kinds.clone(),
            requests / CONNECTIONS,
            n * 7,
        ));
    }
    clients.join_all().await;
    let took = begin.elapsed().as_secs_f64();
    println!(
        "{requests} requests of {} kinds in {took:.0} s",
        kinds.len()
    );
    watched.is_as_before().await;
}
