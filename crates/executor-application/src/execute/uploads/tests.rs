use std::sync::atomic::AtomicUsize;

use executor_domain::{ExecutionId, SessionId};
use tokio::time::{Instant, advance, sleep};

use super::*;
use crate::{Clock as _, MockArtifactStore, MockWorkspace, fake::StoppedClock};

const TIMEOUT: Duration = Duration::from_secs(30);

/// Content in chunks of two bytes.
struct Bytes(Vec<u8>);

#[async_trait]
impl Content for Bytes {
    fn skip_to(&mut self, _offset: u64) {}

    async fn next(&mut self) -> Result<Option<Vec<u8>>, FilesError> {
        let chunk = self.0.drain(..self.0.len().min(2)).collect::<Vec<_>>();
        Ok((!chunk.is_empty()).then_some(chunk))
    }
}

fn artifact(path: &str, content: &[u8]) -> Artifact {
    let mut checksum = "sha256:".to_owned();
    for byte in Sha256::digest(content) {
        let _ = write!(checksum, "{byte:02x}");
    }
    Artifact {
        path: path.into(),
        size: content.len() as u64,
        mime_type: "text/plain".into(),
        created_at: StoppedClock.now(),
        checksum,
        url: None,
    }
}

fn artifacts(paths: &[&str]) -> Artifacts {
    Artifacts {
        files: paths.iter().map(|path| artifact(path, b"hello")).collect(),
        ..Artifacts::default()
    }
}

fn owner() -> ArtifactOwner {
    ArtifactOwner {
        session: SessionId::parse("s").unwrap(),
        execution: ExecutionId::parse("e").unwrap(),
    }
}

/// A workspace where every file says `hello`, `changed` something else, and `gone` is gone.
fn workspace() -> MockWorkspace {
    let mut workspace = MockWorkspace::new();
    workspace.expect_read().returning(|artifact| {
        let bytes = match artifact.path.as_str() {
            "gone" => return Err(FilesError::NoFile),
            "changed" => b"jello",
            _ => b"hello",
        };
        Ok(Box::new(Bytes(bytes.to_vec())))
    });
    workspace
}

/// What a store does with a file of this name, after it has read its content.
type Does = fn(&str) -> Result<Duration, ArtifactStoreError>;

struct Store {
    does: Does,
    asked: AtomicUsize,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
}

#[async_trait]
impl ArtifactStore for Store {
    async fn store(
        &self,
        owner: &ArtifactOwner,
        artifact: &Artifact,
        mut content: Box<dyn Content>,
    ) -> Result<String, ArtifactStoreError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let now = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_at_once.fetch_max(now, Ordering::SeqCst);
        while content
            .next()
            .await
            .map_err(ArtifactStoreError::Content)?
            .is_some()
        {}
        let took = (self.does)(&artifact.path);
        if let Ok(took) = &took {
            sleep(*took).await;
        }
        self.at_once.fetch_sub(1, Ordering::SeqCst);
        took.map(|_| format!("store/{}/{}", owner.execution, artifact.path))
    }
}

fn uploads(does: Does) -> (Arc<Store>, Uploads) {
    let store = Arc::new(Store {
        does,
        asked: AtomicUsize::new(0),
        at_once: AtomicUsize::new(0),
        most_at_once: AtomicUsize::new(0),
    });
    let uploads = Uploads::new(ArtifactUploads {
        store: Arc::clone(&store) as _,
        timeout: TIMEOUT,
        concurrent: 2,
    });
    (store, uploads)
}

async fn upload(uploads: &Uploads, found: &mut Artifacts) {
    let cancel = CancellationToken::new();
    uploads.upload(owner(), &workspace(), found, &cancel).await;
}

fn urls(found: &Artifacts) -> Vec<Option<&str>> {
    found.files.iter().map(|file| file.url.as_deref()).collect()
}

const AT_ONCE: Does = |_| Ok(Duration::ZERO);

#[tokio::test(start_paused = true)]
async fn what_was_uploaded_has_an_address_and_what_changed_has_none() {
    let (_, uploads) = uploads(AT_ONCE);
    let mut found = artifacts(&["a", "changed", "gone", "b"]);
    upload(&uploads, &mut found).await;
    assert_eq!(
        urls(&found),
        [Some("store/e/a"), None, None, Some("store/e/b")]
    );
    assert_eq!(
        found.not_uploaded,
        [
            "changed: changed after it was listed",
            "gone: changed after it was listed"
        ]
    );
    let totals = UploadTotals {
        stored: 2,
        bytes: 10,
        missed: 2,
    };
    assert_eq!(uploads.totals(), totals);
}

#[tokio::test(start_paused = true)]
async fn many_are_uploaded_at_the_same_time_and_no_more_than_configured() {
    let (store, uploads) = uploads(|_| Ok(Duration::from_secs(1)));
    let mut found = artifacts(&["a", "b", "c", "d", "e"]);
    let begun = Instant::now();
    upload(&uploads, &mut found).await;
    assert!(urls(&found).iter().all(Option::is_some), "{found:?}");
    assert_eq!(store.most_at_once.load(Ordering::SeqCst), 2);
    assert_eq!(begun.elapsed(), Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_costs_its_time_once_and_is_then_left_alone_for_a_while() {
    let (store, uploads) = uploads(|_| Ok(Duration::from_secs(3600)));
    let begun = Instant::now();
    let mut found = artifacts(&["a", "b", "c"]);
    upload(&uploads, &mut found).await;
    assert_eq!(begun.elapsed(), TIMEOUT);
    assert_eq!(found.not_uploaded[2], "c: no time was left");
    assert_eq!(urls(&found), [None; 3]);

    let mut found = artifacts(&["a"]);
    upload(&uploads, &mut found).await;
    assert_eq!(begun.elapsed(), TIMEOUT, "nobody waits");
    assert_eq!(
        found.not_uploaded,
        ["a: the artifact store has failed shortly before"]
    );
    let asked = store.asked.load(Ordering::SeqCst);
    advance(PAUSE).await;
    upload(&uploads, &mut artifacts(&["a"])).await;
    assert_eq!(store.asked.load(Ordering::SeqCst), asked + 1);
}

#[tokio::test(start_paused = true)]
async fn a_slow_store_keeps_what_it_took_and_is_asked_again() {
    let (_, uploads) = uploads(|path| {
        Ok(match path {
            "slow" => Duration::from_secs(3600),
            _ => Duration::from_secs(1),
        })
    });
    for _ in 0..2 {
        let mut found = artifacts(&["a", "slow"]);
        upload(&uploads, &mut found).await;
        assert_eq!(urls(&found), [Some("store/e/a"), None]);
        assert_eq!(found.not_uploaded, ["slow: no time was left"]);
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_failure_the_rest_is_not_tried_but_after_an_odd_file_it_is() {
    let (store, uploads) = uploads(|path| match path {
        "bad" => Err(ArtifactStoreError::Failed("503".into())),
        "odd" => Err(ArtifactStoreError::Unsuitable("too odd")),
        _ => Ok(Duration::ZERO),
    });
    let mut found = artifacts(&["odd", "a"]);
    upload(&uploads, &mut found).await;
    assert_eq!(urls(&found), [None, Some("store/e/a")]);
    assert_eq!(found.not_uploaded, ["odd: too odd"]);

    let names: Vec<String> = (0..300).map(|number| format!("f{number}")).collect();
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    names.insert(0, "bad");
    let mut found = artifacts(&names);
    upload(&uploads, &mut found).await;
    assert!(store.asked.load(Ordering::SeqCst) < 10);
    assert_eq!(found.not_uploaded[0], "bad: the artifact store has failed");
    assert_eq!(found.not_uploaded.len(), MAX_LINES + 1);
    let missed = urls(&found).iter().filter(|url| url.is_none()).count();
    let last = format!("and {} more", missed - MAX_LINES);
    assert_eq!(found.not_uploaded[MAX_LINES], last);
}

#[tokio::test(start_paused = true)]
async fn who_cancels_the_run_does_not_wait_for_the_store() {
    let (_, uploads) = uploads(|_| Ok(Duration::from_secs(3600)));
    let cancel = CancellationToken::new();
    let mut found = artifacts(&["a"]);
    let begun = Instant::now();
    let (workspace, canceller) = (workspace(), cancel.clone());
    tokio::join!(
        uploads.upload(owner(), &workspace, &mut found, &cancel),
        async {
            sleep(Duration::from_secs(1)).await;
            canceller.cancel();
        }
    );
    assert_eq!(begun.elapsed(), Duration::from_secs(1));
    assert_eq!(found.not_uploaded, ["a: the run was cancelled"]);
}

#[tokio::test]
async fn nothing_is_asked_where_nothing_was_made() {
    let uploads = Uploads::new(ArtifactUploads {
        store: Arc::new(MockArtifactStore::new()),
        timeout: TIMEOUT,
        concurrent: 0,
    });
    upload(&uploads, &mut Artifacts::default()).await;
    assert_eq!(uploads.totals(), UploadTotals::default());
}
