//! Where a request belongs in a trace (W3C Trace Context).

use std::convert::Infallible;

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, HeaderName, request::Parts},
};
use executor_domain::TraceParent;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The step of a trace that a request comes from. One that is malformed, or sent twice, counts as none, as the
/// specification asks: tracing never fails a request.
pub(crate) fn parent_of(headers: &HeaderMap) -> Option<TraceParent> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    let value = values.next()?.to_str().ok()?;
    match values.next() {
        None => TraceParent::parse(value).ok(),
        Some(_) => None,
    }
}

/// The same as an argument of a handler.
pub(crate) struct CallersTrace(pub(crate) Option<TraceParent>);

impl<S: Sync> FromRequestParts<S> for CallersTrace {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(parent_of(&parts.headers)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01";

    #[test]
    fn of_two_headers_and_of_nonsense_none_counts() {
        let mut headers = HeaderMap::new();
        assert_eq!(parent_of(&headers), None);
        headers.append(TRACEPARENT, PARENT.parse().unwrap());
        assert_eq!(parent_of(&headers).unwrap().to_string(), PARENT);
        headers.append(TRACEPARENT, PARENT.parse().unwrap());
        assert_eq!(parent_of(&headers), None);
        headers.insert(TRACEPARENT, "00-1-2-3".parse().unwrap());
        assert_eq!(parent_of(&headers), None);
    }
}
