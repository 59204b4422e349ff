//! Heads and framing: what is no HTTP, what two readers would read in two ways, and paths that lead elsewhere.

use super::{
    support::raw::Raw,
    watched::{EXECUTE, Watched, numbered},
};

/// A request of no harm, to see what a connection is still good for. Its answer can be told from every other.
const SENTINEL: &str = "GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: sentinel\r\n\r\n";

/// Sends bytes, then a sentinel. Returns what was answered to the bytes, and whether the connection went on to answer the
/// sentinel. Whatever the bytes smuggled past the daemon would be answered in between.
async fn answers(watched: &Watched, bytes: &[u8]) -> (Vec<u16>, bool) {
    let mut connection = Raw::to(&watched.daemon).await;
    connection.send(bytes).await;
    connection.send(SENTINEL.as_bytes()).await;
    let mut found = Vec::new();
    let mut announced = false;
    while let Some(answer) = connection.answer().await {
        if answer.header("x-request-id") == Some("sentinel") {
            assert!(!announced);
            return (found, true);
        }
        // What is refused before it is a request has neither name nor body; everything else has both.
        let named = answer.header("x-request-id").is_some();
        assert_eq!(named, !answer.body.is_empty(), "{}", answer.head);
        // Whoever is answered is told that it was the last answer.
        announced = !named || answer.header("connection") == Some("close");
        found.push(answer.status);
    }
    assert!(announced || found.is_empty(), "{found:?}");
    (found, false)
}

async fn each_is_answered(cases: impl IntoIterator<Item = (String, u16, bool)>) {
    let watched = Watched::start().await;
    for (request, status, goes_on) in cases {
        let answered = answers(&watched, request.as_bytes()).await;
        let shown: String = request.chars().take(200).collect();
        assert_eq!(answered, (vec![status], goes_on), "{shown:?}");
    }
    watched.is_as_before().await;
}

/// Where a body ends is said once, in one way, or the connection ends with the refusal: nothing of it is taken for a
/// request of its own.
#[tokio::test]
async fn two_readers_never_read_two_requests() {
    let smuggled = "GET /info HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let post = |how: &str| format!("{EXECUTE}{how}\r\n\r\n");
    let mut cases = Vec::new();
    for length in [
        "+2",
        "-1",
        "0x2",
        "2, 2",
        "2,3",
        "2 2",
        "",
        "2\u{b}",
        "99999999999999999999",
    ] {
        let body = format!("{{}}{smuggled}");
        cases.push((
            post(&format!("Content-Length: {length}")) + &body,
            400,
            false,
        ));
    }
    cases.push((
        post("Content-Length: 2\r\nContent-Length: 3") + "{}x",
        400,
        false,
    ));
    for coding in [
        "identity",
        "xchunked",
        "chunked, gzip",
        "chunked\u{b}",
        "chunked;x",
    ] {
        let head = post(&format!("Transfer-Encoding: {coding}"));
        cases.push((head + "2\r\n{}\r\n0\r\n\r\n", 400, false));
    }
    for both in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 4",
    ] {
        cases.push((post(both) + "0\r\n\r\n" + smuggled, 400, false));
    }
    let chunked = post("Transfer-Encoding: chunked");
    for chunks in [
        "ZZ\r\n{}\r\n0\r\n\r\n",
        "-2\r\n{}\r\n0\r\n\r\n",
        "FFFFFFFFFFFFFFFFFF\r\n{}",
        "2\r\n{}0\r\n\r\n",
        "2\n{}\n0\n\n",
        " 2\r\n{}\r\n0\r\n\r\n",
    ] {
        cases.push((format!("{chunked}{chunks}"), 400, false));
    }
    // Extensions and trailers have bounds.
    let (long, longer) = ("x".repeat(20_000), "x".repeat(100_000));
    cases.push((
        format!("{chunked}2;{long}\r\n{{}}\r\n0\r\n\r\n"),
        400,
        false,
    ));
    cases.push((
        format!("{chunked}2\r\n{{}}\r\n0\r\nX: {longer}\r\n\r\n"),
        400,
        false,
    ));
    let many = "X: y\r\n".repeat(5000);
    cases.push((format!("{chunked}2\r\n{{}}\r\n0\r\n{many}\r\n"), 400, false));
    // HTTP/1.0 has no chunks.
    let old = chunked.replace("HTTP/1.1", "HTTP/1.0");
    cases.push((old + "2\r\n{}\r\n0\r\n\r\n", 400, false));
    // Controls: the same without a trick is one request, refused for what is in it, and the connection goes on.
    cases.push((post("Content-Length: 2") + "{}", 400, true));
    cases.push((
        format!("{chunked}2\r\n{{}}\r\n0\r\nX: y\r\n\r\n"),
        400,
        true,
    ));
    each_is_answered(cases).await;
}

#[tokio::test]
async fn what_is_no_http_of_ours_is_refused() {
    let get = |headers: &str| format!("GET /livez HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
    let long = |length| get(&format!("X: {}\r\n", "y".repeat(length)));
    let cases = [
        (get("X: a\r\n b\r\n"), 400, false),
        (get("X : a\r\n"), 400, false),
        (get("X: a\0b\r\n"), 400, false),
        (get("X: a\rY: b\r\n"), 400, false),
        (get(": b\r\n"), 400, false),
        (get("no colon\r\n"), 400, false),
        ("GET /livez\r\n\r\n".into(), 400, false),
        ("GET /livez HTTP/0.9\r\n\r\n".into(), 400, false),
        ("GET /livez HTTP/9.9\r\n\r\n".into(), 400, false),
        ("\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}".into(), 400, false),
        ("GET /\u{e9} HTTP/1.1\r\n\r\n".into(), 404, true),
        ("GET \\livez HTTP/1.1\r\n\r\n".into(), 400, false),
        // Beyond the bounds of a head, in each of its parts.
        (long(40_000), 431, false),
        (long(5_000_000), 431, false),
        (get(&"X: y\r\n".repeat(200)), 431, false),
        (get("").replace("GET", &"A".repeat(100_000)), 431, false),
        (get("").replace("livez", &"a".repeat(60_000)), 431, false),
        // Controls at the other side of them.
        (long(30_000), 200, true),
        (get(&"X: y\r\n".repeat(90)), 200, true),
        (
            get("").replace("livez", &format!("livez?{}", "a".repeat(30_000))),
            200,
            true,
        ),
        // Other methods, forms and wishes.
        (get("").replace("GET", "TRACE"), 405, true),
        (get("").replace("GET", "get"), 405, true),
        (get("").replace("GET", &"A".repeat(5_000)), 405, true),
        (
            "CONNECT example.com:443 HTTP/1.1\r\nHost: example.com\r\n\r\n".into(),
            404,
            true,
        ),
        (
            "OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n".into(),
            404,
            true,
        ),
        (
            get(
                "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
            ),
            200,
            true,
        ),
        (get("Content-Length: 5\r\n") + "hello", 200, true),
    ];
    each_is_answered(cases).await;
}

/// The beginning of HTTP/2 has no answer in HTTP/1.
#[tokio::test]
async fn http_2_is_hung_up_on() {
    let watched = Watched::start().await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    assert_eq!(answers(&watched, preface).await, (vec![], false));
    watched.is_as_before().await;
}

/// A page in a browser on this host, by a name that its owner lets point here.
#[tokio::test]
async fn without_a_token_no_other_host_is_served() {
    let info = |host: &str| format!("GET /info HTTP/1.1\r\n{host}\r\n");
    let refused = [
        "Host: example.com\r\n",
        "Host: localhost.example.com\r\n",
        "Host: localhost\r\nHost: example.com\r\n",
        "Host: 127.0.0.1:80@example.com\r\n",
        "Host: [::1]example.com\r\n",
        "Host: \r\n",
    ]
    .map(|host| (info(host), 403, true));
    let served = [
        "",
        "Host: localhost:8080\r\n",
        "Host: 127.0.0.1\r\n",
        "Host: [::1]:1\r\n",
    ]
    .map(|host| (info(host), 200, true));
    each_is_answered(refused.into_iter().chain(served)).await;
}

#[tokio::test]
async fn no_path_leads_elsewhere() {
    let cases = [
        ("/%2e%2e/%2e%2e/etc/passwd", 404),
        ("/sessions/s/files/%2e%2e/%2e%2e/etc/passwd", 400),
        ("/sessions/s/files/../../etc/passwd", 400),
        ("/sessions/s/files//etc/passwd", 400),
        ("/sessions/s/files/%2fetc%2fpasswd", 400),
        ("/sessions/s/files/a%00b", 400),
        ("/sessions/s/files/a%0ab", 400),
        ("/sessions/s/files/%ff", 400),
        // A name as good as any, which no file has.
        ("/sessions/benign/files/%252e%252e/x", 404),
        ("/sessions/benign/files/..%5cx", 404),
        ("/sessions/%2e%2e/files", 400),
        ("/sessions/s%2f..%2fx/files", 400),
        ("/sessions/.sandbox-executor/files", 400),
        ("/sessions/.state/files", 400),
        ("/executions/..%2f..%2fx", 404),
        ("/executions/%0d%0aX:y", 404),
        ("//execute", 404),
        ("/./livez", 404),
        ("/livez/", 404),
        ("/livez;x", 404),
        ("*", 404),
    ];
    let cases = cases.map(|(path, status)| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        (request, status, true)
    });
    each_is_answered(cases).await;
}

#[tokio::test]
async fn many_requests_at_once_on_one_connection_are_answered_in_order() {
    const REQUESTS: usize = 1000;
    let watched = Watched::start().await;
    let mut connection = Raw::to(&watched.daemon).await;
    let requests = numbered(REQUESTS, |n| {
        format!("GET /x HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: r{n}\r\n\r\n")
    });
    connection.send(requests.as_bytes()).await;
    for n in 0..REQUESTS {
        let answer = connection.answer().await.unwrap();
        assert_eq!(answer.header("x-request-id"), Some(&*format!("r{n}")));
        assert_eq!(answer.status, 404);
    }
    drop(connection);
    watched.is_as_before().await;
}

#[tokio::test]
async fn who_asks_before_sending_is_told_to_go_on_or_not_to() {
    let watched = Watched::start().await;
    let ask = |more: &str| format!("{EXECUTE}Expect: 100-continue\r\n{more}\r\n\r\n");
    for (request, first, then) in [
        (ask("Content-Length: 2"), 100, Some(400)),
        (ask("Content-Length: 999999999999"), 413, None),
        (
            ask("Content-Length: 2").replace("application/json", "text/html"),
            415,
            None,
        ),
    ] {
        let mut connection = Raw::to(&watched.daemon).await;
        connection.send(request.as_bytes()).await;
        assert_eq!(connection.answer().await.unwrap().status, first);
        if let Some(status) = then {
            connection.send(b"{}").await;
            assert_eq!(connection.answer().await.unwrap().status, status);
        }
    }
    watched.is_as_before().await;
}
