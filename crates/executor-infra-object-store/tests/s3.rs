//! The adapter against an S3 server that checks signatures, and through a middleman who breaks things.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "this is how a test fails"
)]

mod support;

use std::{
    collections::VecDeque,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use executor_application::{ArtifactStore as _, ArtifactStoreError};
use executor_infra_object_store::{OptionsError, S3ArtifactStore, S3Options};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use support::{
    ACCESS_KEY, BUCKET, Counting, SECRET_KEY, answer, artifact, bytes, options, owner, put,
    request, store,
};

/// What the middleman does with a connection.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    /// Reads the request and answers with this status.
    Status(&'static str),
    /// Reads so many bytes and hangs up.
    CutOff(usize),
    /// Reads and never answers.
    Hangs,
    /// Answers with a body that has no end.
    Endless,
    /// Sends the client to somewhere else.
    Redirects,
}

/// An S3 server on a directory, and a middleman in front of it.
struct Place {
    directory: TempDir,
    address: SocketAddr,
    faults: Arc<Mutex<VecDeque<Fault>>>,
    /// What happens once those are used up.
    always: Arc<Mutex<Option<Fault>>>,
    connections: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Place {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join(BUCKET)).unwrap();
        let mut tasks = JoinSet::new();
        let server = serve(&directory, &mut tasks).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let faults = Arc::<Mutex<VecDeque<Fault>>>::default();
        let always = Arc::<Mutex<Option<Fault>>>::default();
        let connections = Arc::new(AtomicUsize::new(0));
        let (queue, rest, count) = (faults.clone(), always.clone(), connections.clone());
        tasks.spawn(async move {
            let mut conversations = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                let fault = queue.lock().unwrap().pop_front();
                let fault = fault.or(*rest.lock().unwrap());
                conversations.spawn(converse(stream, fault, server, address));
            }
        });
        Self {
            directory,
            address,
            faults,
            always,
            connections,
            _tasks: tasks,
        }
    }

    fn options(&self) -> S3Options {
        options(&format!("http://{}", self.address))
    }

    fn store(&self) -> S3ArtifactStore {
        store(self.options())
    }

    /// The same, which gives up soon.
    fn impatient(&self) -> S3ArtifactStore {
        store(S3Options {
            retry_for: Duration::from_secs(1),
            ..self.options()
        })
    }

    fn then(&self, faults: &[Fault]) {
        *self.faults.lock().unwrap() = faults.iter().copied().collect();
    }

    fn always(&self, fault: Fault) {
        *self.always.lock().unwrap() = Some(fault);
    }

    /// Where an artifact of [`owner`] is kept.
    fn object(&self, path: &str) -> PathBuf {
        let key = format!("{BUCKET}/team/runs/session-1/execution-1/{path}");
        self.directory.path().join(key)
    }

    fn has(&self, path: &str, length: u64) -> bool {
        fs::read(self.object(path)).is_ok_and(|found| found == bytes(0, length))
    }

    /// Whether the server has a part of an upload.
    fn has_parts(&self) -> bool {
        fs::read_dir(self.directory.path()).unwrap().any(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            name.starts_with(".upload_id-")
        })
    }

    /// Whether the server knows of an upload that has neither ended nor been given up. A part that arrives just then may stay
    /// with it, as with any store.
    fn has_begun_uploads(&self) -> bool {
        fs::read_dir(self.directory.path()).unwrap().any(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            name.starts_with(".upload-") && Path::new(&name).extension() == Some("json".as_ref())
        })
    }
}

async fn serve(directory: &TempDir, tasks: &mut JoinSet<()>) -> SocketAddr {
    let files = s3s_fs::FileSystem::new(directory.path()).unwrap();
    let mut service = S3ServiceBuilder::new(files);
    service.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
    let service = service.build();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = service.clone();
            connections.spawn(async move {
                // Clients may leave as they like.
                let _ = auto::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    address
}

async fn converse(
    mut client: TcpStream,
    fault: Option<Fault>,
    server: SocketAddr,
    middleman: SocketAddr,
) {
    match fault {
        None => {
            let mut server = TcpStream::connect(server).await.unwrap();
            let _ = copy_bidirectional(&mut client, &mut server).await;
        }
        Some(Fault::CutOff(bytes)) => {
            let mut read = vec![0; bytes];
            let _ = client.read_exact(&mut read).await;
        }
        Some(fault) => {
            if request(&mut client).await.is_none() {
                return;
            }
            match fault {
                Fault::Status(status) => {
                    answer(&mut client, status, "Connection: close\r\n", "busy").await;
                }
                Fault::Redirects => {
                    let more = format!("Location: http://{middleman}/elsewhere\r\n");
                    answer(&mut client, "307 Temporary Redirect", &more, "").await;
                }
                Fault::Endless => {
                    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
                    let _ = client.write_all(head.as_bytes()).await;
                    let chunk = [b"10000\r\n", &*b"x".repeat(0x10000), b"\r\n"].concat();
                    while client.write_all(&chunk).await.is_ok() {}
                }
                Fault::Hangs | Fault::CutOff(_) => std::future::pending().await,
            }
        }
    }
}

/// Waits until something is true, for as long as a hanging machine may take.
async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn files_of_any_size_and_name_are_stored_as_they_are() {
    const PART: u64 = 5 << 20;
    let place = Place::new().await;
    let store = place.store();
    for (name, bytes) in [
        ("empty", 0),
        ("small", 10),
        ("plots/summary.png", 1000),
        ("a part", PART),
        ("a part and a byte", PART + 1),
        ("two parts", 2 * PART),
        ("large", 2 * PART + 12_345),
        ("größe + 100%.txt", 5),
    ] {
        let stored = put(&store, name, bytes).await;
        let url = stored.unwrap_or_else(|error| panic!("{name}: {error:?}"));
        assert!(place.has(name, bytes), "{name}");
        let base = format!(
            "http://{}/{BUCKET}/team/runs/session-1/execution-1/",
            place.address
        );
        assert!(url.starts_with(&base), "{url}");
        assert!(url.bytes().all(|byte| byte.is_ascii_graphic()), "{url}");
    }
    assert!(!place.has_begun_uploads(), "every upload has ended");

    let public = S3Options {
        public_url: Some("https://files.example.com".into()),
        prefix: None,
        ..place.options()
    };
    let public = support::store(public);
    assert_eq!(
        put(&public, "a b", 3).await.unwrap(),
        "https://files.example.com/session-1/execution-1/a%20b"
    );
}

#[tokio::test]
async fn what_has_no_place_in_a_store_is_said_and_nobody_is_asked() {
    let place = Place::new().await;
    let long = "x".repeat(1000);
    let refused = put(&place.store(), &long, 1).await;
    assert!(matches!(refused, Err(ArtifactStoreError::Unsuitable(_))));
    assert_eq!(place.connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn who_has_another_key_stores_nothing_and_is_not_repeated() {
    let place = Place::new().await;
    let mut options = place.options();
    options.credentials.secret_key = "another-secret".into();
    assert!(!format!("{options:?}").contains("another-secret"));
    let refused = put(&store(options), "f", 10).await;
    let Err(ArtifactStoreError::Failed(error)) = refused else {
        panic!("{refused:?}");
    };
    assert!(!error.to_string().contains("another-secret"), "{error}");
    assert!(!place.object("f").exists());
    assert_eq!(place.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn content_that_ends_with_an_error_is_not_stored_whatever_came_before() {
    let place = Place::new().await;
    for at in [0, 10, 12 << 20] {
        let stored = place
            .store()
            .store(&owner(), &artifact("f", 20 << 20), Counting::failing(at))
            .await;
        assert!(
            matches!(stored, Err(ArtifactStoreError::Content(_))),
            "{at}: {stored:?}"
        );
        assert!(!place.object("f").exists(), "{at}");
    }
    eventually("it is given up", || !place.has_begun_uploads()).await;
}

#[tokio::test]
async fn an_upload_that_nobody_waits_for_any_more_leaves_nothing() {
    let place = Arc::new(Place::new().await);
    let store = place.store();
    let task = tokio::spawn(async move {
        let endless = Counting::bytes(u64::MAX);
        store.store(&owner(), &artifact("f", 1), endless).await
    });
    // From its first part on, whoever uploads knows what it would have to give up.
    eventually("it has begun", || place.has_parts()).await;
    task.abort();
    eventually("it is given up", || !place.has_begun_uploads()).await;
    assert!(!place.object("f").exists());
}

#[tokio::test]
async fn a_store_that_recovers_gets_everything() {
    let place = Place::new().await;
    let busy = [Fault::Status("503 Slow Down"), Fault::Status("500 Oops")];
    let broken = [Fault::CutOff(0), Fault::CutOff(200), Fault::CutOff(1 << 20)];
    for (faults, size, retry_for) in [
        (&busy[..], 10, 60),
        (&busy[..], 11 << 20, 60),
        (&broken[..2], 10, 60),
        (&broken[..], 11 << 20, 60),
        // An attempt may take a third.
        (&[Fault::Hangs], 10, 6),
    ] {
        place.then(faults);
        let store = store(S3Options {
            retry_for: Duration::from_secs(retry_for),
            ..place.options()
        });
        let stored = put(&store, "f", size).await;
        assert!(stored.is_ok(), "{faults:?}: {stored:?}");
        assert!(place.has("f", size), "{faults:?}");
        assert!(place.faults.lock().unwrap().is_empty(), "{faults:?}");
        fs::remove_file(place.object("f")).unwrap();
    }
}

#[tokio::test]
async fn a_store_that_does_not_recover_is_given_up() {
    // What will not change is not tried again, and nobody is sent elsewhere.
    for (fault, final_at_once) in [
        (Fault::Status("503 Slow Down"), false),
        (Fault::CutOff(0), false),
        (Fault::Hangs, false),
        (Fault::Status("403 Forbidden"), true),
        (Fault::Endless, true),
        (Fault::Redirects, true),
    ] {
        let place = Place::new().await;
        place.always(fault);
        let store = if final_at_once {
            place.store()
        } else {
            place.impatient()
        };
        let stored = put(&store, "f", 10).await;
        assert!(
            matches!(stored, Err(ArtifactStoreError::Failed(_))),
            "{fault:?}: {stored:?}"
        );
        assert!(!place.object("f").exists(), "{fault:?}");
        let connections = place.connections.load(Ordering::SeqCst);
        assert_eq!(connections == 1, final_at_once, "{fault:?}: {connections}");
    }
}

#[test]
fn an_address_that_is_none_is_refused() {
    for bad in ["", "store:9000", "ftp://store", "/store"] {
        let refused = S3ArtifactStore::new(options(bad));
        assert!(matches!(refused, Err(OptionsError::Url { .. })), "{bad}");
    }
    #[cfg(not(feature = "tls"))]
    assert!(matches!(
        S3ArtifactStore::new(options("https://store")),
        Err(OptionsError::Outbound(_))
    ));
    #[cfg(feature = "tls")]
    assert!(S3ArtifactStore::new(options("https://store")).is_ok());
}
