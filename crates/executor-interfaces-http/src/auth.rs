//! Who may call.

use std::{fmt, net::IpAddr};

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, header, request::Parts},
};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::{ApiState, error::ApiError};

/// Who may call the guarded routes.
#[derive(Debug, Clone)]
pub enum Access {
    /// Whoever reaches the socket.
    Anyone,
    /// Whoever is on this host and knows it: the request's `Host` is `localhost` or an address. A web page in a browser
    /// here reaches a socket on loopback too, by a name of its own that its owner lets point here (DNS rebinding).
    ThisHost,
    /// Whoever presents this token as `Authorization: Bearer …` (RFC 6750, section 2.1).
    Bearer(BearerToken),
}

/// A token that callers present. Only its digest is kept, so nothing can show the token itself.
#[derive(Clone)]
pub struct BearerToken {
    /// SHA-256. Digests are equally long, so that comparing them tells nothing of the token's length either.
    digest: [u8; 32],
}

impl BearerToken {
    /// The token that callers have to present.
    pub fn new(token: &str) -> Self {
        Self {
            digest: Sha256::digest(token).into(),
        }
    }

    /// Whether this is the token, in a time that does not depend on how much of it is right.
    fn matches(&self, presented: &[u8]) -> bool {
        let digest: [u8; 32] = Sha256::digest(presented).into();
        digest.ct_eq(&self.digest).into()
    }
}

/// Without the digest: a short token could be guessed from it.
impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BearerToken(…)")
    }
}

impl Access {
    fn check(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let (allowed, refusal) = match self {
            Self::Anyone => return Ok(()),
            Self::ThisHost => (names_this_host(headers), ApiError::ForeignHost),
            Self::Bearer(token) => (
                presented(headers).is_some_and(|text| token.matches(text)),
                ApiError::Unauthorized,
            ),
        };
        if allowed { Ok(()) } else { Err(refusal) }
    }
}

/// Whether no name stands in `Host` that somebody else could have chosen. Programs may leave it out; browsers do not.
pub(crate) fn names_this_host(headers: &HeaderMap) -> bool {
    headers.get_all(header::HOST).iter().all(|host| {
        let Ok(host) = host.to_str() else {
            return false;
        };
        // `name:port`, `1.2.3.4:port` or `[::1]:port` (RFC 3986, section 3.2), and nothing behind it.
        let (name, behind) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some(parts) => parts,
            None => host.split_at(host.find(':').unwrap_or(host.len())),
        };
        let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
        (behind.is_empty() || behind.strip_prefix(':').is_some_and(is_port))
            && (name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok())
    })
}

/// The token that a request presents. Of several `Authorization` headers none counts: whoever guards us in front may
/// have looked at another one than we would.
fn presented(headers: &HeaderMap) -> Option<&[u8]> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next()?.as_bytes();
    if values.next().is_some() {
        return None;
    }
    let space = value.iter().position(|byte| *byte == b' ')?;
    let (scheme, token) = value.split_at(space);
    scheme
        .eq_ignore_ascii_case(b"Bearer")
        .then(|| token.trim_ascii())
}

/// The proof that a caller may call. Every guarded handler takes it as its first argument, so that the request's body
/// is not even read for anybody else.
pub(crate) struct Authorized(());

impl FromRequestParts<ApiState> for Authorized {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &ApiState) -> Result<Self, ApiError> {
        api.options().access.check(&parts.headers)?;
        Ok(Self(()))
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn allowed(headers: &[&[u8]]) -> bool {
        let mut map = HeaderMap::new();
        for value in headers {
            map.append(
                header::AUTHORIZATION,
                HeaderValue::from_bytes(value).unwrap(),
            );
        }
        Access::Bearer(BearerToken::new("s3cret"))
            .check(&map)
            .is_ok()
    }

    #[test]
    fn without_a_token_no_name_but_this_hosts_counts() {
        let allowed = |host: Option<&str>| {
            let mut map = HeaderMap::new();
            if let Some(host) = host {
                map.insert(header::HOST, host.parse().unwrap());
            }
            Access::ThisHost.check(&map).is_ok()
        };
        for ours in [
            "localhost",
            "LocalHost:8080",
            "127.0.0.1:8080",
            "127.0.0.1",
            "[::1]:8080",
            "[::1]",
        ] {
            assert!(allowed(Some(ours)), "{ours}");
        }
        assert!(allowed(None));
        for theirs in [
            "rebound.example",
            "rebound.example:8080",
            "localhost.example",
            "127.0.0.1.example:8080",
            "[rebound.example]:8080",
            "127.0.0.1:80@rebound.example",
            "[::1]rebound.example",
            "localhost:8080,rebound.example",
            "",
        ] {
            assert!(!allowed(Some(theirs)), "{theirs}");
        }
    }

    #[test]
    fn only_the_whole_token_opens() {
        assert!(allowed(&[b"Bearer s3cret"]));
        assert!(allowed(&[b"bearer s3cret"]));
        assert!(allowed(&[b"BEARER  s3cret"]));
        let strangers: [&[u8]; 10] = [
            b"",
            b"Bearer",
            b"Bearer ",
            b"Bearer s3cre",
            b"Bearer s3cret1",
            b"Bearer S3CRET",
            b"Bearer s3cret s3cret",
            b"Basic s3cret",
            b"s3cret",
            b"Bearer \xff\xfe",
        ];
        for stranger in strangers {
            assert!(!allowed(&[stranger]), "{stranger:?}");
        }
        assert!(!allowed(&[]));
    }

    #[test]
    fn of_two_headers_none_counts() {
        assert!(!allowed(&[b"Bearer s3cret", b"Bearer s3cret"]));
        assert!(!allowed(&[b"Basic x", b"Bearer s3cret"]));
    }

    #[test]
    fn debug_shows_neither_token_nor_digest() {
        let shown = format!("{:?}", Access::Bearer(BearerToken::new("s3cret")));
        assert_eq!(shown, "Bearer(BearerToken(…))");
    }
}
