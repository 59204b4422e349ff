//! One file on its way into the store.

use std::{sync::Arc, time::Duration};

use executor_application::{ArtifactStoreError, Content};
use executor_domain::Artifact;
use object_store::{
    Attribute, Attributes, MultipartUpload, ObjectStore, PutMultipartOptions, PutOptions,
    PutPayload, path::Path,
};
use tokio::{runtime::Handle, time::timeout};

/// A part of a multipart upload; S3 takes none that is smaller, but for the last one. A larger file takes more of them,
/// never more memory: 10,000 parts, which S3 takes at most, are 48 GiB.
pub(crate) const PART_BYTES: usize = 5 << 20;

/// How long it may take to tell the store that an upload is given up. Nobody waits for it.
const ABORT_TIMEOUT: Duration = Duration::from_secs(10);

/// Media types that a browser may show from the store's own address. What could run there is for keeping: a page of a
/// guest's is nobody's page.
const SHOWN: [&str; 6] = [
    "image/png",
    "image/jpeg",
    "image/gif",
    "image/webp",
    "text/plain",
    "text/csv",
];

/// Uploads a file, in one request or in parts.
pub(crate) async fn upload(
    store: Arc<dyn ObjectStore>,
    place: &Path,
    artifact: &Artifact,
    content: Box<dyn Content>,
) -> Result<(), ArtifactStoreError> {
    let attributes = attributes(artifact);
    let mut parts = Parts {
        content,
        ahead: Vec::new(),
        ended: false,
    };
    let first = parts.next().await?.unwrap_or_default();
    if parts.ended {
        let options = PutOptions::from(attributes);
        store
            .put_opts(place, PutPayload::from(first), options)
            .await
            .map_err(failed)?;
        return Ok(());
    }
    let options = PutMultipartOptions::from(attributes);
    let begun = store
        .put_multipart_opts(place, options)
        .await
        .map_err(failed)?;
    let mut begun = Begun(Some(begun));
    let mut part = Some(first);
    while let Some(bytes) = part {
        begun.put(bytes).await?;
        part = parts.next().await?;
    }
    begun.complete().await
}

fn failed(error: object_store::Error) -> ArtifactStoreError {
    ArtifactStoreError::Failed(Box::new(error))
}

fn attributes(artifact: &Artifact) -> Attributes {
    let mime_type = &artifact.mime_type;
    let mut attributes = Attributes::new();
    attributes.insert(Attribute::ContentType, mime_type.clone().into());
    if !SHOWN.contains(&mime_type.as_str()) {
        attributes.insert(Attribute::ContentDisposition, "attachment".into());
    }
    let digest = artifact.checksum.trim_start_matches("sha256:").to_owned();
    attributes.insert(Attribute::Metadata("sha256".into()), digest.into());
    attributes
}

/// Content in parts of equal size, the last one excepted.
struct Parts {
    content: Box<dyn Content>,
    /// What came with the last part and belongs to the next one.
    ahead: Vec<u8>,
    ended: bool,
}

impl Parts {
    /// The next part; `None` where there is nothing more. Only once the content has ended well is a part the last one.
    async fn next(&mut self) -> Result<Option<Vec<u8>>, ArtifactStoreError> {
        let mut part = std::mem::take(&mut self.ahead);
        while !self.ended && part.len() <= PART_BYTES {
            match self.content.next().await {
                Ok(Some(chunk)) => part.extend_from_slice(&chunk),
                Ok(None) => self.ended = true,
                Err(error) => return Err(ArtifactStoreError::Content(error)),
            }
        }
        if part.len() > PART_BYTES {
            self.ahead = part.split_off(PART_BYTES);
        }
        Ok((!part.is_empty()).then_some(part))
    }
}

/// A multipart upload that has begun. Dropped before it is complete, it is given up, so that its parts do not stay.
struct Begun(Option<Box<dyn MultipartUpload>>);

impl Begun {
    async fn put(&mut self, part: Vec<u8>) -> Result<(), ArtifactStoreError> {
        match &mut self.0 {
            Some(upload) => upload.put_part(part.into()).await.map_err(failed),
            None => Ok(()),
        }
    }

    async fn complete(mut self) -> Result<(), ArtifactStoreError> {
        if let Some(upload) = &mut self.0 {
            upload.complete().await.map_err(failed)?;
        }
        self.0 = None;
        Ok(())
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        let Some(mut upload) = self.0.take() else {
            return;
        };
        // Without a runtime, and where this fails, a rule of the bucket takes the parts away, if there is one.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move {
                let given_up = timeout(ABORT_TIMEOUT, upload.abort()).await;
                if !matches!(given_up, Ok(Ok(()))) {
                    tracing::debug!("an upload that was given up may have left parts in the store");
                }
            });
        }
    }
}
