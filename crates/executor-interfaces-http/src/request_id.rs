//! Names of requests: the same in the answer's header, in an error's body and in every log line of a request.

use std::fmt;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use executor_domain::ExecutionId;
use uuid::Uuid;

/// The header that carries a request's name in both directions.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Names one request.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(HeaderValue);

impl RequestId {
    /// The name that the caller chose, where it follows the grammar of all identifiers and thus can do no harm in a
    /// log; else a new one.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        headers
            .get(X_REQUEST_ID)
            .filter(|value| {
                value
                    .to_str()
                    .is_ok_and(|text| ExecutionId::parse(text).is_ok())
            })
            .cloned()
            .map_or_else(Self::new, Self)
    }

    fn new() -> Self {
        let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
        let text = Uuid::new_v4().hyphenated().encode_lower(&mut text);
        // Hexadecimal digits and hyphens are legal in a header.
        Self(HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("unknown")))
    }

    pub(crate) fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }

    pub(crate) fn into_header(self) -> HeaderValue {
        self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(value: &[u8]) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(X_REQUEST_ID, HeaderValue::from_bytes(value).unwrap());
        RequestId::of(&headers).to_string()
    }

    #[test]
    fn a_harmless_name_is_kept_up_to_the_cap() {
        assert_eq!(of(b"trace-42.A_b"), "trace-42.A_b");
        let at_cap = "x".repeat(128);
        assert_eq!(of(at_cap.as_bytes()), at_cap);
    }

    #[test]
    fn any_other_name_is_replaced() {
        let long = "x".repeat(129);
        let strangers: [&[u8]; 6] = [b"", b"a b", b"a\"b", b".a", b"\xff", long.as_bytes()];
        for stranger in strangers {
            let id = of(stranger);
            assert!(Uuid::parse_str(&id).is_ok(), "{stranger:?} became {id}");
        }
        let none = HeaderMap::new();
        assert_ne!(RequestId::of(&none).as_str(), RequestId::of(&none).as_str());
    }
}
