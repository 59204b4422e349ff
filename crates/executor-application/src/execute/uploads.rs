//! Artifacts on their way to an artifact store, between the end of a guest and the answer.
//!
//! Whatever the store does, the run waits no longer than it was told to: what was not stored by then is said, and the
//! result is what it would have been. See `docs/adr/0025-artifacts-in-object-storage.md`.

use std::{
    fmt::{self, Write as _},
    mem,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use executor_domain::{Artifact, Artifacts};
use sha2::{Digest, Sha256};
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::{
    ArtifactOwner, ArtifactStore, ArtifactStoreError, Content, FilesError, UploadTotals, Workspace,
};

/// How long a store that has failed is left alone: the runs of that time do not wait for it.
const PAUSE: Duration = Duration::from_secs(10);

/// Lines about what was not uploaded.
const MAX_LINES: usize = 100;

/// Where artifacts go after a run, and how long that may take.
#[derive(Clone)]
pub struct ArtifactUploads {
    /// Takes them.
    pub store: Arc<dyn ArtifactStore>,
    /// How long a run may be kept waiting for all of its artifacts.
    pub timeout: Duration,
    /// Files of all runs that are uploaded at the same time; at least 1.
    pub concurrent: usize,
}

impl fmt::Debug for ArtifactUploads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArtifactUploads")
            .field("timeout", &self.timeout)
            .field("concurrent", &self.concurrent)
            .finish_non_exhaustive()
    }
}

/// Uploads artifacts, of all runs.
pub(super) struct Uploads {
    options: ArtifactUploads,
    permits: Arc<Semaphore>,
    /// Until when the store is left alone.
    paused_until: Mutex<Option<Instant>>,
    stored: AtomicU64,
    stored_bytes: AtomicU64,
    missed: AtomicU64,
}

/// Why an artifact has no address, for those who read the result. What the store said in particular is for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Changed,
    Unreadable,
    Unsuitable(&'static str),
    Failed,
    Paused,
    Late,
    Cancelled,
}

impl Why {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Changed => "changed after it was listed",
            Self::Unreadable => "cannot be read",
            Self::Unsuitable(what) => what,
            Self::Failed => "the artifact store has failed",
            Self::Paused => "the artifact store has failed shortly before",
            Self::Late => "no time was left",
            Self::Cancelled => "the run was cancelled",
        }
    }
}

/// What became of the artifacts of one run, by their place in the list.
type Fates = Vec<Result<String, Why>>;

impl Uploads {
    pub(super) fn new(options: ArtifactUploads) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(options.concurrent.max(1))),
            options,
            paused_until: Mutex::new(None),
            stored: AtomicU64::new(0),
            stored_bytes: AtomicU64::new(0),
            missed: AtomicU64::new(0),
        }
    }

    /// What was uploaded since the start.
    pub(super) fn totals(&self) -> UploadTotals {
        UploadTotals {
            stored: self.stored.load(Ordering::Relaxed),
            bytes: self.stored_bytes.load(Ordering::Relaxed),
            missed: self.missed.load(Ordering::Relaxed),
        }
    }

    /// Uploads what a run left behind, and notes in there what became of it. Takes no longer than the configured time,
    /// and ends at once where the run is cancelled.
    pub(super) async fn upload(
        &self,
        owner: ArtifactOwner,
        workspace: &dyn Workspace,
        artifacts: &mut Artifacts,
        cancel: &CancellationToken,
    ) {
        if artifacts.files.is_empty() {
            return;
        }
        let mut fates: Fates = vec![Err(Why::Late); artifacts.files.len()];
        if self.is_paused() {
            fates.fill(Err(Why::Paused));
        } else {
            let deadline = Instant::now() + self.options.timeout;
            let owner = Arc::new(owner);
            let all = self.upload_all(&owner, workspace, &artifacts.files, &mut fates);
            let ended = tokio::select! {
                biased;
                () = cancel.cancelled() => None,
                ended = timeout_at(deadline, all) => Some(ended),
            };
            let is_unfinished = |fate: &Result<String, Why>| *fate == Err(Why::Late);
            match ended {
                None => fates
                    .iter_mut()
                    .filter(|fate| is_unfinished(fate))
                    .for_each(|fate| *fate = Err(Why::Cancelled)),
                // A store that took nothing in all that time is as good as away; one that took a part is slow.
                Some(Err(_)) if fates.iter().all(Result::is_err) => self.pause(),
                Some(_) if fates.contains(&Err(Why::Failed)) => self.pause(),
                Some(_) => {}
            }
        }
        self.note(artifacts, fates);
    }

    /// Uploads one file after the other, several at the same time. Ends early where the store has failed. Dropping the
    /// future gives up what is under way.
    async fn upload_all(
        &self,
        owner: &Arc<ArtifactOwner>,
        workspace: &dyn Workspace,
        files: &[Artifact],
        fates: &mut Fates,
    ) {
        let mut uploads = JoinSet::new();
        for (place, artifact) in files.iter().enumerate() {
            // Nobody closes the semaphore.
            let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else {
                return;
            };
            while let Some(Ok((place, fate))) = uploads.try_join_next() {
                fates[place] = fate;
            }
            if fates.contains(&Err(Why::Failed)) {
                break;
            }
            let content = match workspace.read(artifact).await {
                Ok(content) => Box::new(Exactly::new(content, artifact)),
                Err(error) => {
                    fates[place] = Err(unread(&error));
                    continue;
                }
            };
            let (store, owner) = (Arc::clone(&self.options.store), Arc::clone(owner));
            let artifact = artifact.clone();
            uploads.spawn(async move {
                let stored = store.store(&owner, &artifact, content).await;
                drop(permit);
                (
                    place,
                    stored.map_err(|error| why(&owner, &artifact, &error)),
                )
            });
        }
        while let Some(ended) = uploads.join_next().await {
            // A panic in there is logged by whoever catches it, and the artifact has no address.
            if let Ok((place, fate)) = ended {
                fates[place] = fate;
            }
        }
        if fates.contains(&Err(Why::Failed)) {
            for fate in fates.iter_mut().filter(|fate| **fate == Err(Why::Late)) {
                *fate = Err(Why::Failed);
            }
        }
    }

    /// Writes down what became of each artifact.
    fn note(&self, artifacts: &mut Artifacts, fates: Fates) {
        let mut missed = 0;
        for (artifact, fate) in artifacts.files.iter_mut().zip(fates) {
            match fate {
                Ok(url) => {
                    self.stored.fetch_add(1, Ordering::Relaxed);
                    self.stored_bytes
                        .fetch_add(artifact.size, Ordering::Relaxed);
                    artifact.url = Some(url);
                }
                Err(why) => {
                    missed += 1;
                    if artifacts.not_uploaded.len() < MAX_LINES {
                        let line = format!("{}: {}", artifact.path, why.as_str());
                        artifacts.not_uploaded.push(line);
                    }
                }
            }
        }
        if missed == 0 {
            return;
        }
        self.missed.fetch_add(missed, Ordering::Relaxed);
        let of = artifacts.files.len();
        tracing::warn!(missed, of, "artifacts were not uploaded");
        let lines = artifacts.not_uploaded.len() as u64;
        if missed > lines {
            let more = format!("and {} more", missed - lines);
            artifacts.not_uploaded.push(more);
        }
    }

    fn is_paused(&self) -> bool {
        self.pausing().is_some_and(|until| Instant::now() < until)
    }

    fn pause(&self) {
        *self.pausing() = Some(Instant::now() + PAUSE);
    }

    fn pausing(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        // There is nothing in it that could be half-changed.
        self.paused_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn why(owner: &ArtifactOwner, artifact: &Artifact, error: &ArtifactStoreError) -> Why {
    tracing::warn!(
        execution_id = %owner.execution,
        path = artifact.path,
        error = crate::chain(error),
        "an artifact could not be uploaded"
    );
    match error {
        ArtifactStoreError::Content(error) => unread(error),
        ArtifactStoreError::Unsuitable(what) => Why::Unsuitable(what),
        ArtifactStoreError::Failed(_) => Why::Failed,
    }
}

/// Why a file that was there just now cannot be read.
const fn unread(error: &FilesError) -> Why {
    match error {
        FilesError::NoFile
        | FilesError::IsDirectory
        | FilesError::NotDirectory
        | FilesError::NotReadable(_)
        | FilesError::ConditionFailed => Why::Changed,
        _ => Why::Unreadable,
    }
}

/// The content that an artifact's checksum was made of, or an error before its end: another run of the session may have
/// changed the file since.
struct Exactly {
    content: Box<dyn Content>,
    hash: Sha256,
    bytes_left: u64,
    checksum: String,
}

impl Exactly {
    fn new(content: Box<dyn Content>, artifact: &Artifact) -> Self {
        Self {
            content,
            hash: Sha256::new(),
            bytes_left: artifact.size,
            checksum: artifact.checksum.clone(),
        }
    }
}

#[async_trait]
impl Content for Exactly {
    fn skip_to(&mut self, offset: u64) {
        // Nobody asks for a part, and a part has no checksum: what is skipped is missing at the end.
        self.content.skip_to(offset);
    }

    async fn next(&mut self) -> Result<Option<Vec<u8>>, FilesError> {
        let chunk = self.content.next().await?;
        if let Some(bytes) = &chunk {
            self.hash.update(bytes);
            self.bytes_left = self
                .bytes_left
                .checked_sub(bytes.len() as u64)
                .ok_or(FilesError::ConditionFailed)?;
            return Ok(chunk);
        }
        let mut checksum = "sha256:".to_owned();
        for byte in mem::take(&mut self.hash).finalize() {
            // Writing to a String cannot fail.
            let _ = write!(checksum, "{byte:02x}");
        }
        if self.bytes_left > 0 || checksum != self.checksum {
            return Err(FilesError::ConditionFailed);
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests;
