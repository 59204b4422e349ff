//! Variables that a caller adds to a guest's environment.

use alloc::{collections::BTreeMap, string::String};
use core::fmt;

use thiserror::Error;

/// Longest `NAME=value`, in bytes with its NUL. Linux refuses to start a program with a longer one
/// (`MAX_ARG_STRLEN`, execve(2)).
const MAX_VARIABLE_BYTES: usize = 128 << 10;

/// Most characters of a name that an error shows.
const MAX_SHOWN_CHARS: usize = 64;

/// Why a variable is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EnvironmentError {
    /// Not `[A-Za-z_][A-Za-z0-9_]*`, which is what a shell can read back (POSIX, "Environment Variable Definition").
    #[error(
        "has an invalid variable name {0:?}: use letters, digits and _, not starting with a digit"
    )]
    Name(String),
    /// The value has a NUL byte.
    #[error("has a NUL byte in the value of {0}")]
    Nul(String),
    /// The variable is too long for the kernel.
    #[error("has a variable {0} that is longer than {MAX_VARIABLE_BYTES} bytes")]
    TooLong(String),
    /// All variables together are too long.
    #[error("takes {0} bytes in all, more than {max}", max = GuestEnvironment::MAX_BYTES)]
    TooLarge(usize),
}

/// Variables that a caller adds to a guest's environment, by name.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct GuestEnvironment(BTreeMap<String, String>);

impl GuestEnvironment {
    /// Most bytes that all variables may take together, each with its `=` and NUL. Linux allows a quarter of the stack limit
    /// for arguments and environment together (execve(2)); this stays well below its 2 MiB with room for `EVENT_JSON` and
    /// our own.
    pub const MAX_BYTES: usize = 1 << 20;

    /// Accepts names of letters, digits and `_`, and values without NUL, each at most 128 KiB and 1 MiB in all.
    pub fn parse(variables: BTreeMap<String, String>) -> Result<Self, EnvironmentError> {
        let mut total = 0;
        for (name, value) in &variables {
            // A name is as long as its caller likes, and the error goes back to them.
            let shown = || name.chars().take(MAX_SHOWN_CHARS).collect();
            if !is_name(name) {
                return Err(EnvironmentError::Name(shown()));
            }
            if value.contains('\0') {
                return Err(EnvironmentError::Nul(shown()));
            }
            let bytes = name.len() + value.len() + "=\0".len();
            if bytes > MAX_VARIABLE_BYTES {
                return Err(EnvironmentError::TooLong(shown()));
            }
            total += bytes;
        }
        if total > Self::MAX_BYTES {
            return Err(EnvironmentError::TooLarge(total));
        }
        Ok(Self(variables))
    }

    /// The variables in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The value of one variable.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Names only: values are where callers put their secrets.
impl fmt::Debug for GuestEnvironment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use alloc::{format, string::ToString};

    use super::*;

    fn parse(name: &str, value: &str) -> Result<GuestEnvironment, EnvironmentError> {
        GuestEnvironment::parse(BTreeMap::from([(name.to_string(), value.to_string())]))
    }

    #[test]
    fn names_are_what_a_shell_can_read_back() {
        for good in ["A", "_x", "PATH", "a1_B"] {
            assert_eq!(parse(good, "v").unwrap().get(good), Some("v"));
        }
        for bad in ["", "1A", "A-B", "A=B", "A B", "É", "A\0"] {
            assert!(
                matches!(parse(bad, "v"), Err(EnvironmentError::Name(_))),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn values_stand_at_the_kernels_cap_and_fall_above() {
        assert!(parse("A", &"x".repeat(MAX_VARIABLE_BYTES - 3)).is_ok());
        assert!(matches!(
            parse("A", &"x".repeat(MAX_VARIABLE_BYTES - 2)),
            Err(EnvironmentError::TooLong(_))
        ));
        assert!(matches!(parse("A", "a\0b"), Err(EnvironmentError::Nul(_))));
    }

    #[test]
    fn an_error_shows_no_more_of_a_name_than_a_person_reads() {
        let long = "x".repeat(MAX_VARIABLE_BYTES);
        for (name, value) in [(long.clone(), "v"), (long.clone(), "\0"), (long + "-", "v")] {
            let error = parse(&name, value).unwrap_err().to_string();
            assert!(error.len() < 256, "{} bytes", error.len());
        }
    }

    #[test]
    fn the_whole_is_bounded_too() {
        let many = (0..10)
            .map(|n| (format!("V{n}"), "x".repeat(MAX_VARIABLE_BYTES - 10)))
            .collect();
        assert!(matches!(
            GuestEnvironment::parse(many),
            Err(EnvironmentError::TooLarge(_))
        ));
    }

    #[test]
    fn debug_shows_names_only() {
        let text = format!("{:?}", parse("TOKEN", "hunter2").unwrap());
        assert!(text.contains("TOKEN") && !text.contains("hunter2"));
    }
}
