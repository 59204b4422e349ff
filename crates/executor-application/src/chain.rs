//! Errors as a log has them.

use std::error::Error;

/// An error and all its sources in one line. What is logged is this, since a log in JSON would have the error alone.
pub fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        line.push_str(": ");
        line.push_str(&cause.to_string());
        source = cause.source();
    }
    line
}
