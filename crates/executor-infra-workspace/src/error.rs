//! How the steps of this crate become the port's error.

use std::{
    io,
    path::{Path, PathBuf},
};

use executor_application::WorkspaceError;
use thiserror::Error;

/// An operation on a path of the operator's or of ours, that failed.
#[derive(Debug, Error)]
#[error("{}", path.display())]
struct AtPath {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// A session directory that is not ours to use. Handing it to a guest could expose somebody else's files.
#[derive(Debug, Error)]
#[error("{} belongs to uid {found}, not to uid {expected}: change its owner or remove it", path.display())]
struct ForeignOwner {
    path: PathBuf,
    found: u32,
    expected: u32,
}

/// Turns an I/O error into the port's, naming what we were doing and where.
pub(crate) fn failed<E: Into<io::Error>>(
    step: &'static str,
    path: &Path,
) -> impl FnOnce(E) -> WorkspaceError {
    move |source| WorkspaceError {
        step,
        source: Box::new(AtPath {
            path: path.to_owned(),
            source: source.into(),
        }),
    }
}

/// A directory that belongs to a stranger.
pub(crate) fn foreign_owner(path: &Path, found: u32, expected: u32) -> WorkspaceError {
    WorkspaceError {
        step: "open a session's workspace",
        source: Box::new(ForeignOwner {
            path: path.to_owned(),
            found,
            expected,
        }),
    }
}
