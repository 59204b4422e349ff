//! The bucket that artifacts go to.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use executor_application::{ArtifactOwner, ArtifactStore, ArtifactStoreError, Content};
use executor_domain::Artifact;
use executor_outbound::{Outbound, OutboundError};
use hyper::Uri;
use object_store::{
    BackoffConfig, ObjectStore, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder},
    path::Path,
};

use crate::{
    connection::Connections,
    crypto::Sha2,
    key::{key, url},
    upload,
};

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The first pause before another attempt, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Who writes to the bucket. Its `Debug` shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The name of the key.
    pub access_key: String,
    /// What signs.
    pub secret_key: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(…)")
    }
}

/// Where artifacts go, in whose name, and how long that may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Options {
    /// Where the store is: `http` or `https`, host and port, without a slash at its end. The bucket's name is appended
    /// as a part of the path.
    pub endpoint: String,
    /// The bucket; it must be there.
    pub bucket: String,
    /// What every key begins with, without slashes around it.
    pub prefix: Option<String>,
    /// The region that signatures name.
    pub region: String,
    /// Who writes.
    pub credentials: Credentials,
    /// What the addresses of objects begin with, in place of endpoint and bucket, without a slash at its end.
    pub public_url: Option<String>,
    /// How long one request is tried again. Each attempt may take a third of it.
    pub retry_for: Duration,
}

/// Why no store can be talked to, whether or not it is there.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// The address is none.
    #[error("{url:?} is no http or https URL")]
    Url {
        /// As it was written.
        url: String,
    },
    /// It cannot be connected to from here.
    #[error(transparent)]
    Outbound(#[from] OutboundError),
    /// The client does not take these options.
    #[error("the S3 client cannot be made")]
    Client(#[source] object_store::Error),
}

/// A bucket of an S3-compatible store.
#[derive(Debug)]
pub struct S3ArtifactStore {
    store: Arc<AmazonS3>,
    prefix: Option<String>,
    /// The address of the bucket, for those who fetch.
    base: String,
}

impl S3ArtifactStore {
    /// Connects to nobody yet.
    ///
    /// # Errors
    ///
    /// Where the address is none, or its scheme is not supported here.
    pub fn new(options: S3Options) -> Result<Self, OptionsError> {
        let wrong = || OptionsError::Url {
            url: options.endpoint.clone(),
        };
        let uri: Uri = options.endpoint.parse().map_err(|_| wrong())?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.authority().is_none() {
            return Err(wrong());
        }
        let connections = Connections {
            outbound: Outbound::to(&uri, CONNECT_TIMEOUT)?,
            attempt: options.retry_for / 3,
        };
        let (init_backoff, max_backoff) = BACKOFF;
        let store = AmazonS3Builder::new()
            .with_endpoint(&options.endpoint)
            .with_bucket_name(&options.bucket)
            .with_region(&options.region)
            .with_access_key_id(options.credentials.access_key)
            .with_secret_access_key(options.credentials.secret_key)
            // In the open where the operator says so, by the scheme of the address.
            .with_allow_http(true)
            .with_crypto_provider(Arc::new(Sha2))
            .with_http_connector(connections)
            .with_retry(RetryConfig {
                backoff: BackoffConfig {
                    init_backoff,
                    max_backoff,
                    ..BackoffConfig::default()
                },
                retry_timeout: options.retry_for,
                ..RetryConfig::default()
            })
            .build()
            .map_err(OptionsError::Client)?;
        let base = options
            .public_url
            .unwrap_or_else(|| format!("{}/{}", options.endpoint, options.bucket));
        Ok(Self {
            store: Arc::new(store),
            prefix: options.prefix,
            base,
        })
    }
}

#[async_trait]
impl ArtifactStore for S3ArtifactStore {
    async fn store(
        &self,
        owner: &ArtifactOwner,
        artifact: &Artifact,
        content: Box<dyn Content>,
    ) -> Result<String, ArtifactStoreError> {
        let key = key(self.prefix.as_deref(), owner, &artifact.path).ok_or(
            ArtifactStoreError::Unsuitable("its name is too long for the artifact store"),
        )?;
        // As it is: what the client makes of other paths would have other addresses.
        let place = Path::parse(&key)
            .map_err(|_| ArtifactStoreError::Unsuitable("the artifact store has no such names"))?;
        let store = Arc::clone(&self.store) as Arc<dyn ObjectStore>;
        upload::upload(store, &place, artifact, content).await?;
        Ok(url(&self.base, &key))
    }
}
