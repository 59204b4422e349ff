//! A place for artifacts beyond their session.

use async_trait::async_trait;
use executor_domain::{Artifact, ExecutionId, SessionId};
use thiserror::Error;

use super::{Content, FilesError, PortError};

/// Whose artifact it is: what its place in the store is called after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArtifactOwner {
    /// The session that it was found in.
    pub session: SessionId,
    /// The run that made it.
    pub execution: ExecutionId,
}

/// Why an artifact was not stored.
#[derive(Debug, Error)]
pub enum ArtifactStoreError {
    /// Its content could not be read to the end.
    #[error("its content cannot be read")]
    Content(#[source] FilesError),
    /// The store takes nothing of this kind; it may take others.
    #[error("the store cannot take it: {0}")]
    Unsuitable(&'static str),
    /// The store did not take it, whatever it was.
    #[error("the store has failed")]
    Failed(#[source] PortError),
}

/// Keeps artifacts where others can fetch them, for as long as it likes.
#[cfg_attr(any(test, feature = "mocks"), mockall::automock)]
#[async_trait]
pub trait ArtifactStore: Send + Sync {
    /// Stores a file, and returns the address under which it is found from now on.
    ///
    /// - MUST store all of the content or nothing: where the content ends with an error, or the future is dropped, nothing
    ///   becomes visible under that address.
    /// - MUST hold a bounded part of the content in memory, whatever its size.
    /// - MUST try again what can be tried again, and give up by itself. How long all of it may take is the caller's to say.
    async fn store(
        &self,
        owner: &ArtifactOwner,
        artifact: &Artifact,
        content: Box<dyn Content>,
    ) -> Result<String, ArtifactStoreError>;
}
