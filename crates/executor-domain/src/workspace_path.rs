//! Paths within a workspace: parsed once, unable to leave it ever after.

use alloc::boxed::Box;
use core::fmt;

use thiserror::Error;

/// Longest path, in bytes: what Linux takes in one system call (`PATH_MAX`), without the final NUL.
const MAX_PATH_BYTES: usize = 4095;

/// Longest name between two slashes, in bytes: what every file system that matters can store.
const MAX_NAME_BYTES: usize = 255;

/// Why a text is no path within a workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum InvalidPath {
    /// Nothing there.
    #[error("must not be empty")]
    Empty,
    /// Longer than 4095 bytes.
    #[error("must be at most {MAX_PATH_BYTES} bytes long, has {0}")]
    TooLong(usize),
    /// Starts at the root of some file system.
    #[error("must be relative to the workspace, without a slash at its start")]
    Absolute,
    /// Two slashes in a row, or one at the end.
    #[error("must not have an empty name between its slashes")]
    EmptyName,
    /// A part is `.` or `..`.
    #[error("must not have `.` or `..` as a part")]
    Dots,
    /// A name is longer than 255 bytes.
    #[error("must have names of at most {MAX_NAME_BYTES} bytes, has one of {0}")]
    NameTooLong(usize),
    /// A character that ends a line, moves a cursor or reorders text: it could forge a log line or hide an extension.
    #[error("must not have control characters, has {0:?}")]
    Control(char),
}

/// A path within a workspace: one or more names with a slash between them; never absolute, never with `..`, and
/// harmless in a log line. What it names may not exist, and may be anything: who opens it follows no link.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkspacePath(Box<str>);

impl WorkspacePath {
    /// Parses a path, which is taken as it is or not at all: one that was repaired would name another file.
    pub fn parse(text: &str) -> Result<Self, InvalidPath> {
        if text.is_empty() {
            return Err(InvalidPath::Empty);
        }
        if text.len() > MAX_PATH_BYTES {
            return Err(InvalidPath::TooLong(text.len()));
        }
        if text.starts_with('/') {
            return Err(InvalidPath::Absolute);
        }
        if let Some(c) = text.chars().find(|c| is_deceptive(*c)) {
            return Err(InvalidPath::Control(c));
        }
        for name in text.split('/') {
            match name {
                "" => return Err(InvalidPath::EmptyName),
                "." | ".." => return Err(InvalidPath::Dots),
                name if name.len() > MAX_NAME_BYTES => {
                    return Err(InvalidPath::NameTooLong(name.len()));
                }
                _ => {}
            }
        }
        Ok(Self(text.into()))
    }

    /// The path as its caller wrote it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its last name.
    pub fn name(&self) -> &str {
        self.split().1
    }

    /// Its directory, empty for the workspace itself, and its last name.
    pub fn split(&self) -> (&str, &str) {
        self.0.rsplit_once('/').unwrap_or(("", &self.0))
    }

    /// Its names, outermost first.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }
}

impl fmt::Display for WorkspacePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a character moves the cursor, ends a line or reorders text: what could forge a log line or hide an extension.
pub fn is_deceptive(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use alloc::{string::String, vec};

    use super::*;

    #[test]
    fn plain_paths_are_taken_as_they_are() {
        for good in [
            "a",
            "a/b/c.txt",
            ".hidden",
            "...",
            "a..b",
            "with space/größe.png",
            "back\\slash",
            "-",
        ] {
            assert_eq!(WorkspacePath::parse(good).unwrap().as_str(), good);
        }
        let longest = "x".repeat(255);
        assert!(WorkspacePath::parse(&longest).is_ok());
        let longest = vec![longest.as_str(); 16].join("/");
        assert_eq!(longest.len(), MAX_PATH_BYTES);
        assert!(WorkspacePath::parse(&longest).is_ok());
    }

    #[test]
    fn no_path_leaves_the_workspace_or_deceives_its_reader() {
        let too_long: String = "a/".repeat(2048);
        for (bad, why) in [
            ("", InvalidPath::Empty),
            ("/", InvalidPath::Absolute),
            ("/etc/passwd", InvalidPath::Absolute),
            ("..", InvalidPath::Dots),
            ("../x", InvalidPath::Dots),
            ("a/../b", InvalidPath::Dots),
            ("a/..", InvalidPath::Dots),
            ("./a", InvalidPath::Dots),
            ("a/", InvalidPath::EmptyName),
            ("a//b", InvalidPath::EmptyName),
            ("a\0b", InvalidPath::Control('\0')),
            ("a\nb", InvalidPath::Control('\n')),
            ("rtl\u{202e}gnp.exe", InvalidPath::Control('\u{202e}')),
            (&too_long, InvalidPath::TooLong(4096)),
            (&"x".repeat(256), InvalidPath::NameTooLong(256)),
        ] {
            assert_eq!(WorkspacePath::parse(bad), Err(why), "{bad:?}");
        }
    }

    #[test]
    fn a_path_knows_its_directory_and_its_name() {
        let parts = |text| {
            let path = WorkspacePath::parse(text).unwrap();
            let (directory, name) = path.split();
            (String::from(directory), String::from(name))
        };
        assert_eq!(parts("a/b/c"), ("a/b".into(), "c".into()));
        assert_eq!(parts("c"), (String::new(), "c".into()));
    }
}
