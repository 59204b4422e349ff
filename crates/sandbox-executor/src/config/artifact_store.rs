//! Where artifacts are uploaded to, if anywhere.

use std::time::Duration;

use super::{Origin, Reader, keys, parse};
use crate::{config::keys::Key, secret::Secret};

/// A bucket of an S3-compatible store.
#[derive(Debug, Clone)]
pub struct ArtifactStoreConfig {
    /// `http` or `https`, host and port, without a slash at its end.
    pub endpoint: String,
    /// The bucket.
    pub bucket: String,
    /// What every key begins with, without slashes around it.
    pub prefix: Option<String>,
    /// The region that signatures name.
    pub region: String,
    /// The name of the key that signs.
    pub access_key: Secret,
    /// The key.
    pub secret_key: Secret,
    /// What the addresses of artifacts begin with, without a slash at its end; `None`: endpoint and bucket.
    pub public_url: Option<String>,
    /// How long a run may be kept waiting for its artifacts.
    pub upload_timeout: Duration,
}

impl Reader {
    /// `None`: artifacts stay in their workspaces. After a mistake as well.
    pub(super) fn artifact_store(&mut self) -> Option<ArtifactStoreConfig> {
        let endpoint = self.optional(&keys::S3_ENDPOINT, parse::store_url);
        let bucket = self.optional(&keys::S3_BUCKET, parse::bucket);
        let prefix = self.optional(&keys::S3_PREFIX, parse::key_prefix);
        let region = self.required(&keys::S3_REGION, String::new(), parse::word);
        let access_key = self.secret(&keys::S3_ACCESS_KEY, &keys::S3_ACCESS_KEY_FILE);
        let secret_key = self.secret(&keys::S3_SECRET_KEY, &keys::S3_SECRET_KEY_FILE);
        let public_url = self.optional(&keys::S3_PUBLIC_URL, parse::store_url);
        let upload_timeout = self.duration(&keys::S3_UPLOAD_TIMEOUT);
        if self.merged.find(&keys::S3_ENDPOINT).is_none() {
            self.only_with_endpoint();
            return None;
        }
        self.needed(&keys::S3_BUCKET, None);
        self.needed(&keys::S3_ACCESS_KEY, Some(&keys::S3_ACCESS_KEY_FILE));
        self.needed(&keys::S3_SECRET_KEY, Some(&keys::S3_SECRET_KEY_FILE));
        Some(ArtifactStoreConfig {
            endpoint: endpoint?,
            bucket: bucket?,
            prefix,
            region,
            access_key: access_key?,
            secret_key: secret_key?,
            public_url,
            upload_timeout,
        })
    }

    /// Whoever sets a part of this and not the endpoint believes that artifacts are uploaded.
    fn only_with_endpoint(&mut self) {
        for key in [
            &keys::S3_BUCKET,
            &keys::S3_ACCESS_KEY,
            &keys::S3_ACCESS_KEY_FILE,
            &keys::S3_SECRET_KEY,
            &keys::S3_SECRET_KEY_FILE,
            &keys::S3_PUBLIC_URL,
        ] {
            if self.origin(key) != Origin::Default {
                self.mistake(key, "means nothing without s3_endpoint");
            }
        }
    }

    /// A setting that has to be there beside the endpoint, itself or in a file.
    fn needed(&mut self, key: &'static Key, file: Option<&'static Key>) {
        let is_set = |key| self.merged.find(key).is_some();
        if !is_set(key) && !file.is_some_and(is_set) {
            let or_file = file.map_or_else(String::new, |file| format!(", or {}", file.name));
            self.mistake(&keys::S3_ENDPOINT, format!("needs {}{or_file}", key.name));
        }
    }
}
