//! Against a collector that keeps what it gets. Spans are looked for as bytes: names and ids stand in protobuf as they
//! are.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    thread::{self, JoinHandle},
};

use tracing::info_span;
use tracing_subscriber::layer::SubscriberExt as _;

use super::*;

/// Takes one request and answers it.
struct Collector {
    endpoint: String,
    request: JoinHandle<(String, Vec<u8>)>,
}

impl Collector {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let request = thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream);
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                assert!(reader.read_line(&mut head).unwrap() > 0, "{head}");
            }
            let length = head
                .lines()
                .find_map(|line| {
                    line.to_ascii_lowercase()
                        .strip_prefix("content-length: ")?
                        .parse()
                        .ok()
                })
                .unwrap();
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            reader.get_mut().write_all(answer).unwrap();
            (head, body)
        });
        Self { endpoint, request }
    }
}

fn options(endpoint: String) -> OtlpOptions {
    OtlpOptions {
        endpoint,
        service: "the-service",
        version: "1.2.3",
    }
}

fn has(body: &[u8], part: &[u8]) -> bool {
    body.windows(part.len()).any(|found| found == part)
}

#[test]
fn spans_are_exported_below_their_callers() {
    let collector = Collector::start();
    let otlp = Otlp::start(&options(collector.endpoint + "/")).unwrap();
    let traces = otlp.traces();
    let caller =
        TraceParent::parse("00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01").unwrap();
    let subscriber = Registry::default().with(otlp.layer());
    let named = tracing::subscriber::with_default(subscriber, || {
        let request = info_span!(target: "executor_x", "outer-span", route = "/some/route");
        traces.adopt(&request, caller);
        let execution = request.in_scope(|| info_span!(target: "executor_x", "inner-span"));
        let _foreign = execution.in_scope(|| info_span!(target: "hyper", "foreign-span").entered());
        let _detail = tracing::debug_span!(target: "executor_x", "detail-span").entered();
        traces.name_of(&execution).unwrap()
    });
    otlp.stop();

    // Of the caller's trace, and a step of our own.
    assert_eq!(named.trace_id(), caller.trace_id());
    assert_ne!(named.span_id(), caller.span_id());
    assert_eq!(named.flags(), 1);

    let (head, body) = collector.request.join().unwrap();
    assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{head}");
    assert!(
        head.to_ascii_lowercase()
            .contains("content-type: application/x-protobuf\r\n"),
        "{head}"
    );
    for part in [
        &b"outer-span"[..],
        b"inner-span",
        b"/some/route",
        b"the-service",
        b"1.2.3",
        &caller.trace_id().to_be_bytes(),
        &caller.span_id().to_be_bytes(),
        &named.span_id().to_be_bytes(),
    ] {
        assert!(has(&body, part), "no {part:?}");
    }
    for stranger in [&b"foreign-span"[..], b"detail-span"] {
        assert!(!has(&body, stranger));
    }
}

#[test]
fn without_the_layer_nothing_has_a_name_and_nothing_fails() {
    let span = info_span!(target: "executor_x", "span");
    let caller = TraceParent::new(1, 2, 1).unwrap();
    Links.adopt(&span, caller);
    assert_eq!(Links.name_of(&span), None);
}

#[test]
fn a_collector_that_is_not_there_holds_nobody_up() {
    // A port that was free a moment ago.
    let address = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let otlp = Otlp::start(&options(format!("http://{address}"))).unwrap();
    let subscriber = Registry::default().with(otlp.layer());
    tracing::subscriber::with_default(subscriber, || {
        for _ in 0..10_000 {
            drop(info_span!(target: "executor_x", "span"));
        }
    });
    let begun = std::time::Instant::now();
    otlp.stop();
    assert!(begun.elapsed() < 10 * LAST_WORDS);
}

#[test]
fn an_endpoint_that_is_no_address_is_refused() {
    assert!(matches!(
        Otlp::start(&options("not an address".into())),
        Err(OtlpError::Start(_))
    ));
}
