//! Who may call.

use std::fmt;

use axum::http::{HeaderMap, header};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// Who may call: with `Authorization: Bearer TOKEN`, or, for browsers, as anybody whose password is the token.
#[derive(Clone)]
pub enum Access {
    /// Whoever reaches the port.
    Anyone,
    /// Whoever knows the token, of which only the digest is kept.
    Token(TokenDigest),
}

/// SHA-256 of a token.
#[derive(Clone)]
pub struct TokenDigest([u8; 32]);

impl Access {
    /// Only whoever knows this token.
    pub fn token(token: &str) -> Self {
        Self::Token(digest(token.as_bytes()))
    }

    pub(crate) fn allows(&self, headers: &HeaderMap) -> bool {
        let Self::Token(expected) = self else {
            return true;
        };
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return false;
        };
        // Digests have one length and tell nothing of what is alike, so comparing them takes one time.
        secret_in(value.as_bytes())
            .is_some_and(|secret| digest(&secret).0.ct_eq(&expected.0).into())
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Anyone => "Anyone",
            Self::Token(_) => "Token(…)",
        })
    }
}

fn digest(token: &[u8]) -> TokenDigest {
    TokenDigest(Sha256::digest(token).into())
}

/// The token of `Bearer`, or the password of `Basic` (RFC 7617).
fn secret_in(value: &[u8]) -> Option<Vec<u8>> {
    let space = value.iter().position(|byte| *byte == b' ')?;
    let (scheme, rest) = value.split_at(space);
    let rest = rest.trim_ascii();
    if scheme.eq_ignore_ascii_case(b"Bearer") {
        return Some(rest.to_vec());
    }
    if !scheme.eq_ignore_ascii_case(b"Basic") {
        return None;
    }
    let decoded = BASE64_STANDARD.decode(rest).ok()?;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    Some(decoded[colon + 1..].to_vec())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn allowed(values: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        Access::token("s3cret").allows(&headers)
    }

    #[test]
    fn only_the_whole_token_opens() {
        let basic = |text: &str| format!("Basic {}", BASE64_STANDARD.encode(text));
        for good in [
            "Bearer s3cret",
            "bearer s3cret",
            &basic("anybody:s3cret"),
            &basic(":s3cret"),
        ] {
            assert!(allowed(&[good]), "{good}");
        }
        for bad in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer s3cre",
            "Bearer s3crett",
            "Basic s3cret",
            "Basic !!!",
            &basic("s3cret"),
            &basic("s3cret:"),
            "s3cret",
        ] {
            assert!(!allowed(&[bad]), "{bad}");
        }
        assert!(!allowed(&[]));
        assert!(!allowed(&["Bearer s3cret", "Bearer s3cret"]));
        assert!(Access::Anyone.allows(&HeaderMap::new()));
    }
}
