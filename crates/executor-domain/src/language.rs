//! What a guest is written in, and how it is entered.

use core::fmt;

use thiserror::Error;

/// A language that a guest can be written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Language {
    /// `CPython`.
    Python,
    /// Node.js.
    JavaScript,
    /// bash.
    Shell,
}

/// The text is not the name of a language.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("must be one of python, javascript, shell")]
pub struct UnknownLanguage;

impl Language {
    /// Every language, in the order in which they are shown.
    pub const ALL: [Self; 3] = [Self::Python, Self::JavaScript, Self::Shell];

    /// Parses the name as the API spells it.
    pub fn parse(name: &str) -> Result<Self, UnknownLanguage> {
        Self::ALL
            .into_iter()
            .find(|language| language.as_str() == name)
            .ok_or(UnknownLanguage)
    }

    /// The name as the API spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::JavaScript => "javascript",
            Self::Shell => "shell",
        }
    }

    /// How a guest is entered when the caller does not say.
    pub const fn default_mode(self) -> Mode {
        match self {
            Self::Python | Self::JavaScript => Mode::Handler,
            Self::Shell => Mode::Script,
        }
    }

    /// Whether guests in this language can be entered in this mode. A shell script has no functions to call with an
    /// object, so it is always a script.
    pub const fn supports(self, mode: Mode) -> bool {
        matches!(
            (self, mode),
            (Self::Python | Self::JavaScript, _) | (Self::Shell, Mode::Script)
        )
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a guest is entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// The code defines `handler`, which is called with the event; what it returns is the result.
    Handler,
    /// The code runs from top to bottom; its exit code and output are the result.
    Script,
}

/// The text is not the name of a mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("must be one of handler, script")]
pub struct UnknownMode;

impl Mode {
    /// Parses the name as the API spells it.
    pub fn parse(name: &str) -> Result<Self, UnknownMode> {
        [Self::Handler, Self::Script]
            .into_iter()
            .find(|mode| mode.as_str() == name)
            .ok_or(UnknownMode)
    }

    /// The name as the API spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Handler => "handler",
            Self::Script => "script",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_strangers_are_refused() {
        for language in Language::ALL {
            assert_eq!(Language::parse(language.as_str()), Ok(language));
        }
        for stranger in ["", "Python", "bash", "node", "python "] {
            assert_eq!(Language::parse(stranger), Err(UnknownLanguage));
        }
        assert_eq!(Mode::parse("script"), Ok(Mode::Script));
        assert_eq!(Mode::parse("main"), Err(UnknownMode));
    }

    #[test]
    fn every_language_supports_its_default_mode() {
        for language in Language::ALL {
            assert!(language.supports(language.default_mode()), "{language}");
        }
        assert!(!Language::Shell.supports(Mode::Handler));
    }
}
