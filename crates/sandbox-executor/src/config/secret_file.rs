//! A secret in a file, as Docker and Kubernetes mount them.

use std::path::Path;

use super::parse;
use crate::{files::read_text, secret::Secret};

/// Longest file. A header has to carry a token.
const MAX_BYTES: usize = 4096;

/// Reads a secret; line ends after it, which editors and `echo` add, are not part of it.
pub(crate) fn read(path: &Path) -> Result<Secret, String> {
    let text = read_text(path, MAX_BYTES)
        .map_err(|error| format!("cannot be read ({}): {error}", path.display()))?;
    parse::token(text.trim_end_matches(['\r', '\n']))
        .map_err(|wrong| format!("names {}, whose content {wrong}", path.display()))
}
