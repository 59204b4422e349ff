//! A door for the fuzz targets of `fuzz/`: what reads the bytes of strangers in this crate, one function each.
//!
//! It is there with the feature `fuzzing` alone, is no part of the API, and nothing here decides anything.

use std::time::Duration;

use axum::http::HeaderMap;
use executor_application::{ArchiveFormat, Condition, ExecuteCommand, Position};
use executor_domain::{LimitPolicy, TraceParent};

use crate::{
    auth, body, events, prefer, request,
    request_id::RequestId,
    routes::files::{conditions, query::Query},
    trace,
};

/// The body of `POST /execute`. An error is what the client reads as `error_detail`.
pub fn request(body: &str, policy: &LimitPolicy) -> Result<ExecuteCommand, String> {
    request::parse(body, policy).map_err(|refused| refused.detail().into_owned())
}

/// Whether a body with this head is read at all: JSON, in UTF-8, not compressed.
pub fn is_plain_json(headers: &HeaderMap) -> bool {
    body::check_media_type(headers).is_ok()
}

/// Whether a request names this host, or none.
pub fn names_this_host(headers: &HeaderMap) -> bool {
    auth::names_this_host(headers)
}

/// How a caller wants to be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answering {
    /// With the result.
    Result,
    /// At once, or with the result if it comes within this time.
    Later(Option<Duration>),
    /// With events.
    Stream,
}

/// `Prefer` and `Accept`.
pub fn answering(headers: &HeaderMap, later_by_default: bool) -> Answering {
    match prefer::Answering::of(headers, later_by_default) {
        prefer::Answering::Result => Answering::Result,
        prefer::Answering::Later { wait, .. } => Answering::Later(wait),
        prefer::Answering::Stream => Answering::Stream,
    }
}

/// `traceparent`.
pub fn trace_parent(headers: &HeaderMap) -> Option<TraceParent> {
    trace::parent_of(headers)
}

/// `X-Request-Id`, or a name of ours.
pub fn request_id(headers: &HeaderMap) -> String {
    RequestId::of(headers).to_string()
}

/// `Last-Event-ID`.
pub fn position(id: &str) -> Option<Position> {
    events::position(id)
}

/// `If-Match` and `If-None-Match` where a file is changed; `None`: refused.
pub fn change(headers: &HeaderMap) -> Option<Condition> {
    conditions::for_change(headers).ok()
}

/// What becomes of a request for a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Download {
    /// It is answered with this part of it, which may be all: first byte and length.
    Part(u64, u64),
    /// It is answered without content: 304, 412 or 416.
    Nothing,
    /// It is refused: 400.
    Refused,
}

/// `Range`, `If-Range`, `If-Match` and `If-None-Match` for a file with this tag and size.
pub fn download(headers: &HeaderMap, etag: &str, size: u64) -> Download {
    match conditions::judge(headers, etag, size) {
        Ok(conditions::Verdict::Whole) => Download::Part(0, size),
        Ok(conditions::Verdict::Part { start, length }) => Download::Part(start, length),
        Ok(_) => Download::Nothing,
        Err(_) => Download::Refused,
    }
}

/// The query of a request about files: entries of a page and the kind of archive; `None`: refused.
pub fn files_query(text: &str) -> Option<(usize, Option<ArchiveFormat>)> {
    let query = Query::parse(text).ok()?;
    Some((query.limit, query.archive))
}

/// What readers of events see of a stream that comes in these pieces.
pub fn decoded(pieces: &[&[u8]], truncated: bool) -> String {
    let mut decoder = events::Decoder::default();
    let mut text: String = pieces.iter().map(|piece| decoder.push(piece)).collect();
    if truncated {
        decoder.leave_out();
    }
    text += &decoder.finish();
    text
}
