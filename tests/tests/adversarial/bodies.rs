//! Bodies that are built to hurt whoever reads them: deep, wide, huge, compressed, or no text.

use std::process::Command;

use serde_json::{Value, json};

use super::{
    support::{
        daemon::{request, request_with},
        raw::{Raw, RawAnswer},
    },
    watched::{EXECUTE, Watched, numbered, posted},
};

/// Longest refusal: it names at most 20 fields, and of each name no more than a person reads.
const MAX_REFUSAL_BYTES: usize = 16 << 10;

impl Watched {
    async fn post(&self, headers: &str, body: &[u8]) -> RawAnswer {
        let head = format!("{EXECUTE}{headers}Content-Length: {}\r\n\r\n", body.len());
        let mut connection = Raw::to(&self.daemon).await;
        connection.send(&[head.as_bytes(), body].concat()).await;
        connection.answer().await.unwrap()
    }

    async fn refuses(&self, status: u16, headers: &str, body: &[u8]) {
        let answer = self.post(headers, body).await;
        let shown = String::from_utf8_lossy(&body[..body.len().min(100)]);
        assert_eq!(answer.status, status, "{headers}{shown}");
        assert!(
            answer.body.len() <= MAX_REFUSAL_BYTES,
            "{shown}: {}",
            answer.body.len()
        );
        let refusal: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(
            refusal["request_id"],
            answer.header("x-request-id").unwrap()
        );
    }
}

/// A body with this text in the place of a value, which no library would write.
fn with(field: &str, value: &str) -> Vec<u8> {
    let body = request_with("shell", "true", json!({field: "HERE"})).to_string();
    assert!(body.contains("\"HERE\""));
    body.replace("\"HERE\"", value).into_bytes()
}

#[tokio::test]
async fn deep_and_wide_json_costs_its_bytes() {
    const DEEP: usize = 100_000;
    let watched = Watched::start().await;
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(DEEP), "]".repeat(DEEP));
    // As an event it is the guest's to read; whoever does not, runs.
    let answer = watched.post("", &with("event", &deep)).await;
    let run: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(run["status"], "completed", "{run:#}");

    let objects = format!("{}1{}", "{\"a\":".repeat(DEEP), "}".repeat(DEEP));
    let wide = numbered(200_000, |n| format!("\"f{n}\":0,"));
    let wide = format!("{{{wide}\"code\":\"\"}}");
    let list = format!("[{}0]", "0,".repeat(1_000_000));
    for body in [
        "[".repeat(DEEP).into_bytes(),
        objects.clone().into_bytes(),
        with("env_vars", &objects),
        with("limits", &deep),
        with("code", &deep),
        wide.clone().into_bytes(),
        with("env_vars", &wide),
        with("limits", &wide),
        with("event", &list),
        with("timeout", &list),
        with("unknown", &deep),
    ] {
        watched.refuses(400, "", &body).await;
    }
    watched.is_as_before().await;
}

#[tokio::test]
async fn what_is_ambiguous_or_no_text_is_refused() {
    let watched = Watched::start().await;
    let good = request("shell", "true").to_string();
    let twice = good.replacen('{', r#"{"code":"false","#, 1);
    let million_digits = "1".repeat(1_000_000);
    let long_name = format!("{{\"{}\":\"\\u0000\"}}", "A".repeat(1_000_000));
    for body in [
        twice.into_bytes(),
        with("limits", r#"{"max_processes":1,"max_processes":2}"#),
        with("env_vars", r#"{"A":"1","\u0041":"2"}"#),
        with("env_vars", &long_name),
        with("timeout", "1e999999999"),
        with("timeout", "-0.5"),
        with("timeout", &million_digits),
        with("timeout", &format!("1.{million_digits}")),
        with("timeout", "18446744073709551617"),
        with("timeout", "NaN"),
        with("timeout", "01"),
        with("code", r#""\ud800""#),
        with("stdin", r#""\udc00\ud800""#),
        with("code", "\"\0\""),
        with("code", r#""\u0000""#),
        with("code", &format!("\"{}\"", "x".repeat((1 << 20) + 1))),
        b"{\"code\":\"\xff\xfe\"}".to_vec(),
        b"{\"code\":\"\xed\xa0\x80\"}".to_vec(),
        b"{\"code\":\"\xc0\xaf\"}".to_vec(),
        format!("\u{feff}{good}").into_bytes(),
        format!("{good}{good}").into_bytes(),
        good.encode_utf16().flat_map(u16::to_le_bytes).collect(),
        good.as_bytes()[..good.len() - 1].to_vec(),
        good.replace('"', "'").into_bytes(),
        b" ".repeat(1_000_000),
    ] {
        watched.refuses(400, "", &body).await;
    }
    // However it is spelled, it is a whole number.
    let answer = watched.post("", &with("timeout", "3.0e0")).await;
    assert_eq!(answer.status, 200);
    watched.is_as_before().await;
}

#[tokio::test]
async fn nothing_is_unpacked() {
    // 64 MiB in 64 KiB.
    let bomb = Command::new("sh")
        .args(["-c", "head -c 67108864 /dev/zero | gzip -9"])
        .output()
        .unwrap()
        .stdout;
    assert!((1000..1_000_000).contains(&bomb.len()));
    let watched = Watched::start().await;
    for encoding in [
        "gzip",
        "deflate",
        "br",
        "zstd",
        "x-gzip",
        "identity, gzip",
        "GZIP",
        "",
    ] {
        let header = format!("Content-Encoding: {encoding}\r\n");
        watched.refuses(415, &header, &bomb).await;
    }
    let second = "Content-Encoding: identity\r\nContent-Encoding: gzip\r\n";
    watched.refuses(415, second, &bomb).await;
    // Whoever does not say so gets it read as what it is: no text.
    watched.refuses(400, "", &bomb).await;
    // A transfer coding is none of ours either, and its bytes are no text.
    let head = format!(
        "{EXECUTE}Transfer-Encoding: gzip, chunked\r\n\r\n{:x}\r\n",
        bomb.len()
    );
    let mut connection = Raw::to(&watched.daemon).await;
    connection
        .send(&[head.as_bytes(), &bomb, b"\r\n0\r\n\r\n"].concat())
        .await;
    assert_eq!(connection.answer().await.unwrap().status, 400);
    drop(connection);

    // The same in a workspace: it is a file of so many bytes, and no archive.
    let put = |query: &str| {
        let head = format!(
            "PUT /sessions/benign/files/bomb{query} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n",
            bomb.len()
        );
        [head.as_bytes(), &bomb].concat()
    };
    for (query, status) in [("?archive=tar", 400), ("?archive=zip", 400), ("", 201)] {
        let mut connection = Raw::to(&watched.daemon).await;
        connection.send(&put(query)).await;
        assert_eq!(connection.answer().await.unwrap().status, status, "{query}");
    }
    watched.is_as_before().await;
}

#[tokio::test]
async fn bodies_that_are_too_large_are_not_taken() {
    const CAP: usize = 1 << 20;
    let watched = Watched::with(&[("MAX_BODY_BYTES", &CAP.to_string())]).await;
    // Announced: refused before it is sent.
    let mut connection = Raw::to(&watched.daemon).await;
    connection
        .send(format!("{EXECUTE}Content-Length: {}\r\n\r\n", CAP + 1).as_bytes())
        .await;
    assert_eq!(connection.answer().await.unwrap().status, 413);
    drop(connection);

    // Not announced: refused when it is too much, and never mind how much is to come.
    let mut connection = Raw::to(&watched.daemon).await;
    connection
        .send(format!("{EXECUTE}Transfer-Encoding: chunked\r\n\r\n").as_bytes())
        .await;
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(1 << 16));
    for _ in 0..1024 {
        connection.send(chunk.as_bytes()).await;
    }
    // The refusal may be lost where the connection is reset; that it was taken may not happen.
    if let Some(answer) = connection.answer().await {
        assert_eq!(answer.status, 413);
    }
    drop(connection);
    watched.is_as_before().await;
}

/// Each sends a little and then nothing, as many as there may be connections but for a few: nobody else waits for them.
#[tokio::test]
async fn slow_heads_and_bodies_hold_nobody_up() {
    const SLOW: usize = 600;
    let watched = Watched::start().await;
    let whole = posted(&request("shell", "true").to_string());
    let beginnings = [
        &b""[..],
        b"P",
        b"POST /execute HTTP/1.1\r\nHost: localh",
        &whole[..EXECUTE.len()],
        &whole[..whole.len() - 1],
    ];
    let mut slow = Vec::new();
    for n in 0..SLOW {
        let mut connection = Raw::to(&watched.daemon).await;
        connection.send(beginnings[n % beginnings.len()]).await;
        slow.push(connection);
    }
    for n in 0..20 {
        // A byte more of each, as they come.
        for connection in &mut slow[n..n + 5] {
            connection.send(b"x").await;
        }
        let run = watched.execute(&request("shell", "true")).await;
        assert_eq!(run.status, 200);
    }
    drop(slow);
    watched.is_as_before().await;
}
