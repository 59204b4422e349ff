//! The token in a file, as Docker and Kubernetes mount secrets.

use std::path::Path;

use super::parse;
use crate::{files::read_text, secret::Secret};

/// Longest token file. A header has to carry the token.
const MAX_TOKEN_BYTES: usize = 4096;

/// Reads a token; line ends after it, which editors and `echo` add, are not part of it.
pub(crate) fn read(path: &Path) -> Result<Secret, String> {
    let text = read_text(path, MAX_TOKEN_BYTES)
        .map_err(|error| format!("cannot be read ({}): {error}", path.display()))?;
    parse::token(text.trim_end_matches(['\r', '\n']))
        .map_err(|wrong| format!("names {}, whose content {wrong}", path.display()))
}
