//! The program of a guest.

use alloc::sync::Arc;
use core::fmt;

use thiserror::Error;

use crate::{Language, Mode};

/// Longest program, in bytes of UTF-8: 1 MiB, fixed by the API.
pub const MAX_CODE_BYTES: usize = 1 << 20;

/// Why a text is not a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum InvalidSource {
    /// Longer than [`MAX_CODE_BYTES`].
    #[error("must be at most {MAX_CODE_BYTES} bytes long, has {0}")]
    TooLong(usize),
    /// Has a NUL byte: no interpreter of ours takes one, and each fails in its own odd way.
    #[error("must not contain a NUL byte, has one at byte {0}")]
    Nul(usize),
    /// The language cannot be entered in this mode.
    #[error("{language} runs in mode \"script\" only")]
    Mode {
        /// The language asked for.
        language: Language,
    },
}

/// A program: its text, its language and how it is entered. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Source {
    language: Language,
    mode: Mode,
    code: Arc<str>,
}

impl Source {
    /// Accepts at most [`MAX_CODE_BYTES`] of text without NUL bytes; `mode` defaults to the language's own.
    pub fn parse(
        language: Language,
        mode: Option<Mode>,
        code: &str,
    ) -> Result<Self, InvalidSource> {
        if code.len() > MAX_CODE_BYTES {
            return Err(InvalidSource::TooLong(code.len()));
        }
        if let Some(at) = code.bytes().position(|byte| byte == 0) {
            return Err(InvalidSource::Nul(at));
        }
        let mode = mode.unwrap_or(language.default_mode());
        if !language.supports(mode) {
            return Err(InvalidSource::Mode { language });
        }
        Ok(Self {
            language,
            mode,
            code: code.into(),
        })
    }

    /// What the program is written in.
    pub const fn language(&self) -> Language {
        self.language
    }

    /// How the program is entered.
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// The program's text.
    pub fn code(&self) -> &str {
        &self.code
    }
}

/// Without the code, which may hold a caller's secrets and does not belong in a log.
impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source")
            .field("language", &self.language)
            .field("mode", &self.mode)
            .field("code_bytes", &self.code.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use alloc::format;

    use super::*;

    #[test]
    fn stands_at_the_cap_and_falls_one_byte_above() {
        let at_cap = "#".repeat(MAX_CODE_BYTES);
        assert!(Source::parse(Language::Python, None, &at_cap).is_ok());
        let above = "#".repeat(MAX_CODE_BYTES + 1);
        assert_eq!(
            Source::parse(Language::Python, None, &above),
            Err(InvalidSource::TooLong(MAX_CODE_BYTES + 1))
        );
    }

    #[test]
    fn refuses_nul_and_a_shell_handler() {
        assert_eq!(
            Source::parse(Language::Shell, None, "echo\0"),
            Err(InvalidSource::Nul(4))
        );
        assert_eq!(
            Source::parse(Language::Shell, Some(Mode::Handler), "echo"),
            Err(InvalidSource::Mode {
                language: Language::Shell
            })
        );
    }

    #[test]
    fn debug_does_not_show_the_code() {
        let source = Source::parse(Language::Python, None, "password = 'hunter2'").unwrap();
        assert!(!format!("{source:?}").contains("hunter2"));
    }
}
