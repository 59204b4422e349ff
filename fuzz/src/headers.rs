//! Headers of requests, and the query of those about files.

use std::{net::IpAddr, time::Duration};

use executor_application::Condition;
use executor_domain::{ExecutionId, TraceParent};
use executor_interfaces_http::fuzzing::{self, Answering, Download};
use http::{HeaderMap, HeaderName, HeaderValue, header, uri::Authority};

/// Sizes of files, the odd ones included.
const SIZES: [u64; 5] = [0, 1, 10, u64::MAX - 1, u64::MAX];

/// One header a line, as HTTP writes them; a line `?…` is a query.
pub fn target(data: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n').take(64) {
        if let Some(query) = line.strip_prefix(b"?") {
            str::from_utf8(query)
                .map(query_of_files)
                .unwrap_or_default();
            continue;
        }
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    preferences(&headers);
    names(&headers);
    conditions(&headers);
    bodies(&headers);
    hosts(&headers);
}

fn query_of_files(query: &str) {
    if let Some((limit, _)) = fuzzing::files_query(query) {
        assert!((1..=1000).contains(&limit));
    }
}

/// Nobody waits for longer than a day, and who does not ask for it is not answered later.
fn preferences(headers: &HeaderMap) {
    if let Answering::Later(Some(wait)) = fuzzing::answering(headers, true) {
        assert!(wait <= Duration::from_secs(24 * 3600));
    }
    if !headers.contains_key("prefer") {
        let answering = fuzzing::answering(headers, false);
        assert!(!matches!(answering, Answering::Later(_)));
    }
    if !headers.contains_key(header::ACCEPT) {
        assert_ne!(fuzzing::answering(headers, false), Answering::Stream);
    }
}

/// What names a request, a trace or an event is harmless, and spelled in one way.
fn names(headers: &HeaderMap) {
    let id = fuzzing::request_id(headers);
    assert!(ExecutionId::parse(&id).is_ok(), "{id}");

    if let Some(parent) = fuzzing::trace_parent(headers) {
        assert_eq!(headers.get_all("traceparent").iter().count(), 1);
        assert_eq!(TraceParent::parse(&parent.to_string()), Ok(parent));
    }

    let Some(Ok(id)) = headers.get("last-event-id").map(|id| id.to_str()) else {
        return;
    };
    if let Some(place) = fuzzing::position(id) {
        let spelled = format!("{}.{}", place.stdout, place.stderr);
        assert_eq!(fuzzing::position(&spelled), Some(place));
    }
}

/// Conditions are bounded; what is sent of a file is of the file.
fn conditions(headers: &HeaderMap) {
    match fuzzing::change(headers) {
        Some(Condition::Etag(tags)) => {
            assert!(tags.len() <= 100);
            assert!(!tags.iter().any(|tag| tag.contains('"')));
            assert!(headers.contains_key(header::IF_MATCH));
        }
        Some(Condition::Present) => assert!(headers.contains_key(header::IF_MATCH)),
        Some(Condition::Absent) => assert!(headers.contains_key(header::IF_NONE_MATCH)),
        Some(Condition::Always) => {
            assert!(!headers.contains_key(header::IF_MATCH));
            assert!(!headers.contains_key(header::IF_NONE_MATCH));
        }
        None => {}
    }
    for size in SIZES {
        let Download::Part(start, length) = fuzzing::download(headers, "tag", size) else {
            continue;
        };
        let end = start.checked_add(length).expect("an end that is a number");
        assert!(end <= size, "{start}+{length} of {size}");
        if (start, length) != (0, size) {
            assert!(length > 0 && headers.contains_key(header::RANGE));
        }
    }
}

/// What is read is JSON and not compressed.
fn bodies(headers: &HeaderMap) {
    if !fuzzing::is_plain_json(headers) {
        return;
    }
    let mut encodings = headers.get_all(header::CONTENT_ENCODING).iter();
    assert!(encodings.all(|encoding| encoding.as_bytes().eq_ignore_ascii_case(b"identity")));
    let content_type = headers[header::CONTENT_TYPE].to_str().unwrap();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    assert!(essence.to_ascii_lowercase().ends_with("json"), "{essence}");
}

/// A name that is taken for this host's is no other host's to anybody who reads it as RFC 3986 does.
fn hosts(headers: &HeaderMap) {
    if !fuzzing::names_this_host(headers) {
        return;
    }
    for host in headers.get_all(header::HOST) {
        let Ok(authority) = Authority::try_from(host.as_bytes()) else {
            continue;
        };
        let name = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']');
        let is_ours = name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok();
        assert!(is_ours, "{host:?}");
    }
}
