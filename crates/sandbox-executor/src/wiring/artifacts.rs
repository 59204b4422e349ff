//! Where artifacts go after a run, as configured.

use executor_application::ArtifactUploads;

use crate::config::{ArtifactStoreConfig, Config};

/// Files that are uploaded at the same time. Each holds a part of 5 MiB and a chunk in memory.
#[cfg(feature = "s3")]
const CONCURRENT_UPLOADS: usize = 4;

/// Why artifacts cannot be uploaded, whether or not the store is there.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactStoreFailure {
    /// The store cannot be talked to.
    #[cfg(feature = "s3")]
    #[error(transparent)]
    Options(#[from] executor_infra_object_store::OptionsError),
    /// This executable was built without it.
    #[cfg(not(feature = "s3"))]
    #[error(
        "object storage needs an executable that was built with the feature `s3`, and this one was not"
    )]
    NotBuilt,
}

/// The store that is configured; `None` where artifacts stay in their workspaces. Connects to nobody yet.
pub(super) fn uploads(config: &Config) -> Result<Option<ArtifactUploads>, ArtifactStoreFailure> {
    config.artifact_store.as_ref().map(to).transpose()
}

#[cfg(feature = "s3")]
fn to(config: &ArtifactStoreConfig) -> Result<ArtifactUploads, ArtifactStoreFailure> {
    use std::sync::Arc;

    use executor_infra_object_store::{Credentials, S3ArtifactStore, S3Options};

    let store = S3ArtifactStore::new(S3Options {
        endpoint: config.endpoint.clone(),
        bucket: config.bucket.clone(),
        prefix: config.prefix.clone(),
        region: config.region.clone(),
        credentials: Credentials {
            access_key: config.access_key.expose().to_owned(),
            secret_key: config.secret_key.expose().to_owned(),
        },
        public_url: config.public_url.clone(),
        retry_for: config.upload_timeout,
    })?;
    Ok(ArtifactUploads {
        store: Arc::new(store),
        timeout: config.upload_timeout,
        concurrent: CONCURRENT_UPLOADS,
    })
}

#[cfg(not(feature = "s3"))]
fn to(_config: &ArtifactStoreConfig) -> Result<ArtifactUploads, ArtifactStoreFailure> {
    Err(ArtifactStoreFailure::NotBuilt)
}
