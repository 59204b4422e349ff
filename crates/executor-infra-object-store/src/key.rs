//! What objects are called, and under which address they are found.

use std::fmt::Write as _;

use executor_application::ArtifactOwner;

/// Longest key that S3 takes, in bytes
/// (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html>).
const MAX_KEY_BYTES: usize = 1024;

/// The key of an artifact; `None` where it would be too long.
pub(crate) fn key(prefix: Option<&str>, owner: &ArtifactOwner, path: &str) -> Option<String> {
    let mut key = String::new();
    if let Some(prefix) = prefix {
        let _ = write!(key, "{prefix}/");
    }
    // Neither an id nor the path of an artifact has a part that means anything to a path: no `..`, nothing empty.
    let _ = write!(key, "{}/{}/{path}", owner.session, owner.execution);
    (key.len() <= MAX_KEY_BYTES).then_some(key)
}

/// The address of an object below that of its bucket.
pub(crate) fn url(bucket: &str, key: &str) -> String {
    let mut url = format!("{bucket}/");
    for byte in key.bytes() {
        // Unreserved (RFC 3986, 2.3), and what separates parts.
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            url.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(url, "%{byte:02X}");
        }
    }
    url
}

#[cfg(test)]
mod tests {
    use executor_domain::{ExecutionId, SessionId};

    use super::*;

    fn owner() -> ArtifactOwner {
        ArtifactOwner {
            session: SessionId::parse("s").unwrap(),
            execution: ExecutionId::parse("e").unwrap(),
        }
    }

    #[test]
    fn a_key_says_whose_it_is_and_has_an_end() {
        assert_eq!(key(None, &owner(), "a/b").as_deref(), Some("s/e/a/b"));
        assert_eq!(
            key(Some("x/y"), &owner(), "f").as_deref(),
            Some("x/y/s/e/f")
        );
        assert!(key(None, &owner(), &"x".repeat(1020)).is_some());
        assert!(key(None, &owner(), &"x".repeat(1021)).is_none());
    }

    #[test]
    fn an_address_holds_any_name() {
        assert_eq!(
            url("http://store/bucket", "s/e/a b?#%ü/+.png"),
            "http://store/bucket/s/e/a%20b%3F%23%25%C3%BC/%2B.png"
        );
    }
}
