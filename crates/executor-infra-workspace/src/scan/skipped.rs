//! What a scan left out, for a person.

use std::io;

use rustix::fs::FileType;

use crate::names;

/// Lines about what was left out.
const MAX_SKIPPED: usize = 100;

/// Why a thing was left out, for a person.
pub(super) type Reason = String;

/// What was left out, so far.
#[derive(Default)]
pub(super) struct Skipped {
    /// About bounds that were reached: there are two of these at most.
    notes: Vec<String>,
    /// About single paths.
    lines: Vec<String>,
    /// How many paths have no line any more.
    more: u64,
}

impl Skipped {
    pub(super) fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    pub(super) fn path(&mut self, path: &[u8], why: &str) {
        if self.lines.len() < MAX_SKIPPED {
            let path = if path.is_empty() { b"." } else { path };
            self.lines.push(format!("{}: {why}", names::escaped(path)));
        } else {
            self.more += 1;
        }
    }

    pub(super) fn into_lines(self) -> Vec<String> {
        let mut lines = self.notes;
        lines.extend(self.lines);
        if self.more > 0 {
            lines.push(format!("and {} more", self.more));
        }
        lines
    }
}

pub(super) fn cannot(what: &str, error: impl Into<io::Error>) -> Reason {
    format!("cannot {what}: {}", error.into())
}

pub(super) fn kind_in_words(kind: FileType) -> &'static str {
    match kind {
        FileType::Symlink => "a symbolic link, not followed",
        FileType::Fifo => "a FIFO, not read",
        FileType::Socket => "a socket, not read",
        FileType::BlockDevice | FileType::CharacterDevice => "a device, not read",
        _ => "no regular file, not read",
    }
}
