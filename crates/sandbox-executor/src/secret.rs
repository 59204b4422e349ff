//! Text that must not be seen.

use std::fmt;

/// A secret. Its `Debug` does not show it, and it has no `Display`: whoever wants it must say so.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps a text secret from here on.
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    /// The secret itself: for whoever compares or sends it, never for a log.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(****)")
    }
}
