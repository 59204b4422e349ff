//! Names that callers choose: parsed once, harmless ever after.

use alloc::boxed::Box;
use core::fmt;

use thiserror::Error;

/// Longest identifier, in bytes. Short enough for a file name on every file system that matters (255 bytes), with
/// room for a suffix of ours.
const MAX_ID_BYTES: usize = 128;

/// Why a text is no identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum InvalidId {
    /// Nothing there.
    #[error("must not be empty")]
    Empty,
    /// Longer than 128 bytes.
    #[error("must be at most {MAX_ID_BYTES} characters long, has {0}")]
    TooLong(usize),
    /// Starts with a dot: `.` and `..` would be directories, everything else a hidden file.
    #[error("must not start with a dot")]
    LeadingDot,
    /// A character outside `A-Z a-z 0-9 . _ -`.
    #[error("must consist of A-Z a-z 0-9 . _ - only, has {0:?}")]
    Character(char),
}

/// The one grammar of all identifiers. What passes is safe as a file name, a URL segment, a log field and an HTTP
/// header.
fn check(text: &str) -> Result<(), InvalidId> {
    if text.is_empty() {
        return Err(InvalidId::Empty);
    }
    if text.len() > MAX_ID_BYTES {
        return Err(InvalidId::TooLong(text.chars().count()));
    }
    if text.starts_with('.') {
        return Err(InvalidId::LeadingDot);
    }
    match text
        .chars()
        .find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')))
    {
        Some(stranger) => Err(InvalidId::Character(stranger)),
        None => Ok(()),
    }
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Box<str>);

        impl $name {
            /// Parses 1–128 characters of `A-Z a-z 0-9 . _ -` that do not start with a dot.
            pub fn parse(text: &str) -> Result<Self, InvalidId> {
                check(text).map(|()| Self(text.into()))
            }

            /// The identifier as its caller wrote it.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

identifier! {
    /// Names one execution, and is its idempotency key.
    ExecutionId
}

identifier! {
    /// Names a session: the executions that share a workspace.
    SessionId
}

#[cfg(test)]
mod tests {
    use alloc::string::String;

    use super::*;

    #[test]
    fn accepts_the_whole_alphabet_up_to_the_cap() {
        for good in ["a", "Z9", "exec_001", "a.b-c_d", "-x", "_", "0"] {
            assert_eq!(ExecutionId::parse(good).unwrap().as_str(), good);
        }
        assert!(SessionId::parse(&"x".repeat(128)).is_ok());
    }

    #[test]
    fn refuses_what_could_be_a_path_a_header_or_a_log_line() {
        assert_eq!(SessionId::parse(""), Err(InvalidId::Empty));
        assert_eq!(SessionId::parse("."), Err(InvalidId::LeadingDot));
        assert_eq!(SessionId::parse("..%2f"), Err(InvalidId::LeadingDot));
        assert_eq!(
            SessionId::parse(&"x".repeat(129)),
            Err(InvalidId::TooLong(129))
        );
        for (text, stranger) in [
            ("a/b", '/'),
            ("a\nb", '\n'),
            ("a\0", '\0'),
            ("a b", ' '),
            ("é", 'é'),
            ("a\\b", '\\'),
        ] {
            assert_eq!(
                SessionId::parse(text),
                Err(InvalidId::Character(stranger)),
                "{text:?}"
            );
        }
    }

    #[test]
    fn too_long_counts_characters_for_the_reader() {
        let text: String = "é".repeat(100);
        assert_eq!(SessionId::parse(&text), Err(InvalidId::TooLong(100)));
    }
}
