//! What the suites share: content, and servers at the other end.
#![allow(dead_code, reason = "each suite uses a part")]
#![allow(clippy::unwrap_used, reason = "this is how a test fails")]

use std::time::Duration;

use async_trait::async_trait;
use executor_application::{
    ArtifactOwner, ArtifactStore as _, ArtifactStoreError, Content, FilesError,
};
use executor_domain::{Artifact, ExecutionId, SessionId, Timestamp};
use executor_infra_object_store::{Credentials, S3ArtifactStore, S3Options};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

pub(crate) const BUCKET: &str = "artifacts";
pub(crate) const ACCESS_KEY: &str = "an-access-key";
pub(crate) const SECRET_KEY: &str = "a-secret-key";

/// Content of this many bytes, each of them told by its place, in chunks as the workspace makes them.
pub(crate) struct Counting {
    next: u64,
    end: u64,
    /// Where it ends with an error instead.
    fails_at: Option<u64>,
}

impl Counting {
    pub(crate) fn bytes(end: u64) -> Box<dyn Content> {
        Box::new(Self {
            next: 0,
            end,
            fails_at: None,
        })
    }

    pub(crate) fn failing(at: u64) -> Box<dyn Content> {
        Box::new(Self {
            next: 0,
            end: u64::MAX,
            fails_at: Some(at),
        })
    }
}

/// What is between these places of such content: 0 to 250, again and again, which no part or chunk is a multiple of.
pub(crate) fn bytes(start: u64, end: u64) -> Vec<u8> {
    let cycle: Vec<u8> = (0..251).collect();
    let skipped = usize::try_from(start % 251).unwrap();
    let length = usize::try_from(end - start).unwrap();
    let mut bytes = cycle.repeat((skipped + length).div_ceil(251));
    bytes.truncate(skipped + length);
    bytes.split_off(skipped)
}

#[async_trait]
impl Content for Counting {
    fn skip_to(&mut self, offset: u64) {
        self.next = offset;
    }

    async fn next(&mut self) -> Result<Option<Vec<u8>>, FilesError> {
        if self.fails_at.is_some_and(|place| self.next >= place) {
            return Err(FilesError::ConditionFailed);
        }
        let end = self.end.min(self.next + (1 << 20));
        let chunk = bytes(self.next, end);
        self.next = end;
        Ok((!chunk.is_empty()).then_some(chunk))
    }
}

pub(crate) fn artifact(path: &str, size: u64) -> Artifact {
    Artifact {
        path: path.into(),
        size,
        mime_type: "text/html".into(),
        created_at: Timestamp::from_unix_micros(0),
        checksum: "sha256:00ff".into(),
        url: None,
    }
}

pub(crate) fn owner() -> ArtifactOwner {
    ArtifactOwner {
        session: SessionId::parse("session-1").unwrap(),
        execution: ExecutionId::parse("execution-1").unwrap(),
    }
}

pub(crate) fn options(endpoint: &str) -> S3Options {
    S3Options {
        endpoint: endpoint.into(),
        bucket: BUCKET.into(),
        prefix: Some("team/runs".into()),
        region: "eu-central-1".into(),
        credentials: Credentials {
            access_key: ACCESS_KEY.into(),
            secret_key: SECRET_KEY.into(),
        },
        public_url: None,
        retry_for: Duration::from_secs(60),
    }
}

pub(crate) fn store(options: S3Options) -> S3ArtifactStore {
    S3ArtifactStore::new(options).unwrap()
}

/// Stores so many bytes under this name.
pub(crate) async fn put(
    store: &S3ArtifactStore,
    path: &str,
    bytes: u64,
) -> Result<String, ArtifactStoreError> {
    let artifact = artifact(path, bytes);
    store
        .store(&owner(), &artifact, Counting::bytes(bytes))
        .await
}

/// Reads a request whole, and returns its first line; `None` where the client is gone.
pub(crate) async fn request(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let length = head
        .lines()
        .filter_map(|line| line.split_once(": "))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .map_or(0, |(_, length)| length.parse().unwrap());
    let mut body = stream.take(length);
    let read = tokio::io::copy(&mut body, &mut tokio::io::sink()).await;
    (read.ok()? == length).then(|| head.lines().next().unwrap().to_owned())
}

/// Answers, with more lines of a head and a body.
pub(crate) async fn answer(stream: &mut TcpStream, status: &str, more: &str, body: &str) {
    let length = body.len();
    let answer = format!("HTTP/1.1 {status}\r\n{more}Content-Length: {length}\r\n\r\n{body}");
    // Whoever is gone wants no answer.
    let _ = stream.write_all(answer.as_bytes()).await;
}
