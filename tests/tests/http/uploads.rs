//! Artifacts on their way to an object store. What the adapter makes of a real server, and of a broken one, is in its own
//! suite; here is what callers, the control plane and operators see.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::support::{
    daemon::{Answer, Daemon, alive_becomes, marker, request, request_with},
    tls,
};

/// What objects hold, by their key.
type Objects = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

/// A store that takes what comes in one request, and reads without ever answering what is called `slow`.
struct Store {
    url: String,
    objects: Objects,
    _tasks: JoinSet<()>,
}

impl Store {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let objects = Objects::default();
        let mut tasks = JoinSet::new();
        let taken = Arc::clone(&objects);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(take(stream, Arc::clone(&taken)));
            }
        });
        Self {
            url,
            objects,
            _tasks: tasks,
        }
    }

    fn daemon(&self, timeout: &str) -> Daemon {
        uploading(&self.url, timeout, &[])
    }

    fn object(&self, key: &str) -> Option<Vec<u8>> {
        self.objects.lock().unwrap().get(key).cloned()
    }
}

/// A daemon that uploads to there.
fn uploading(url: &str, timeout: &str, more: &[(&str, &str)]) -> Daemon {
    let mut settings = vec![
        ("S3_ENDPOINT", url),
        ("S3_BUCKET", "bucket"),
        ("S3_PREFIX", "team"),
        ("S3_ACCESS_KEY", ACCESS_KEY),
        ("S3_SECRET_KEY", SECRET_KEY),
        ("S3_UPLOAD_TIMEOUT", timeout),
    ];
    settings.extend(more);
    Daemon::with(&settings)
}

const ACCESS_KEY: &str = "an-access-key";
const SECRET_KEY: &str = "hunter2";

async fn take(mut stream: TcpStream, objects: Objects) {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let head = String::from_utf8(head).unwrap();
        let path = head.split(' ').nth(1).unwrap();
        assert!(
            head.contains("AWS4-HMAC-SHA256 Credential=an-access-key/"),
            "{head}"
        );
        assert!(!head.contains("hunter2"), "{head}");
        let length = head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        let mut body = vec![0; length.unwrap().1.parse().unwrap()];
        if stream.read_exact(&mut body).await.is_err() {
            return;
        }
        if path.contains("slow") {
            std::future::pending::<()>().await;
        }
        objects.lock().unwrap().insert(path.to_owned(), body);
        let answer = b"HTTP/1.1 200 OK\r\nETag: \"e\"\r\nContent-Length: 0\r\n\r\n";
        stream.write_all(answer).await.unwrap();
    }
}

#[tokio::test]
async fn artifacts_are_uploaded_and_everybody_is_told_where_they_are() {
    let store = Store::start().await;
    let daemon = store.daemon("30s");
    let code =
        "mkdir plots; printf picture > plots/a.png; printf hidden > .x; ln -s /etc/passwd link";
    let run = request_with("shell", code, json!({"execution_id": "run-1"}));
    let answer = daemon.execute(&run).await.completed();
    let artifacts = answer["artifacts"].as_array().unwrap();
    assert_eq!(artifacts.len(), 1, "{answer:#}");
    let key = "/bucket/team/session-1/run-1/plots/a.png";
    assert_eq!(artifacts[0]["url"], format!("{}{key}", store.url));
    assert_eq!(store.object(key).unwrap(), b"picture");
    assert!(answer.get("artifacts_not_uploaded").is_none());
    // What is asked for again is what was answered, also by another process.
    assert_eq!(daemon.ended("run-1").await, answer);
    let mut daemon = daemon;
    daemon.kill_and_start();
    assert_eq!(daemon.ended("run-1").await, answer);
    assert_eq!(store.objects.lock().unwrap().len(), 1);
    assert!(!daemon.log().contains("hunter2"));
}

#[tokio::test]
async fn a_store_that_hangs_keeps_no_run_longer_than_configured() {
    let store = Store::start().await;
    let daemon = store.daemon("2s");
    let begun = Instant::now();
    let run = request("shell", "echo x > a; echo y > slow");
    let answer = daemon.execute(&run).await.completed();
    assert!(begun.elapsed() > Duration::from_secs(2), "it waited");
    let artifacts = answer["artifacts"].as_array().unwrap();
    assert!(artifacts[0]["url"].is_string(), "{answer:#}");
    assert!(artifacts[1].get("url").is_none(), "{answer:#}");
    assert_eq!(
        answer["artifacts_not_uploaded"],
        json!(["slow: no time was left"])
    );
    daemon
        .counts(&[
            "sandbox_artifacts_uploaded_total 1",
            "sandbox_artifacts_uploaded_bytes_total 2",
            "sandbox_artifacts_not_uploaded_total 1",
        ])
        .await;
    assert!(daemon.log().contains("artifacts were not uploaded"));
    // The file itself is where it always is.
    assert_eq!(fs::read_to_string(daemon.file("slow")).unwrap(), "y\n");
}

#[tokio::test]
async fn nobody_waits_for_the_store_of_a_run_that_is_cancelled() {
    let store = Store::start().await;
    let daemon = store.daemon("1h");
    let marker = marker();
    let code = format!("echo x > slow; sleep {marker}");
    let run = request("shell", &code);
    let waiting = daemon.spawn(&run);
    alive_becomes(&marker, 1).await;
    let id = run["execution_id"].as_str().unwrap();
    Answer::to(daemon.delete(id)).await.ran();
    let cancelled = waiting.await.unwrap().ran();
    assert_eq!(cancelled["status"], "cancelled");
    assert_eq!(
        cancelled["artifacts_not_uploaded"],
        json!(["slow: the run was cancelled"])
    );
}

/// A real S3 server on a directory, which checks signatures, as `localhost` and over TLS with the certificate of the fixtures.
struct SecureStore {
    directory: tempfile::TempDir,
    port: u16,
    /// Handshakes that failed.
    hung_up_on: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl SecureStore {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("bucket")).unwrap();
        let mut service = S3ServiceBuilder::new(s3s_fs::FileSystem::new(directory.path()).unwrap());
        service.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let service = service.build();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let acceptor = tls::acceptor();
        let hung_up_on = Arc::new(AtomicUsize::new(0));
        let failed = Arc::clone(&hung_up_on);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (service, acceptor, failed) =
                    (service.clone(), acceptor.clone(), Arc::clone(&failed));
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else {
                        failed.fetch_add(1, Ordering::SeqCst);
                        return;
                    };
                    // Clients may leave as they like.
                    let _ = auto::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self {
            directory,
            port,
            hung_up_on,
            _tasks: tasks,
        }
    }

    fn bucket(&self) -> PathBuf {
        self.directory.path().join("bucket")
    }

    fn is_empty(&self) -> bool {
        fs::read_dir(self.bucket()).unwrap().next().is_none()
    }
}

#[tokio::test]
async fn over_tls_artifacts_go_only_to_a_store_that_the_host_trusts() {
    let store = SecureStore::start().await;
    let url = format!("https://localhost:{}", store.port);
    let authority = tls::fixture("authority.pem");
    let trusting = [("SSL_CERT_FILE", authority.to_str().unwrap())];
    let code = "printf small > a.txt; head -c 12000000 /dev/zero > large";

    // Nobody vouches for it, or for this name of it.
    let by_address = format!("https://127.0.0.1:{}", store.port);
    for (url, more, why) in [
        (&url, &[][..], "UnknownIssuer"),
        (&by_address, &trusting[..], "not valid for name"),
    ] {
        let daemon = uploading(url, "30s", more);
        let answer = daemon.execute(&request("shell", code)).await.completed();
        let missed = answer["artifacts_not_uploaded"].as_array().unwrap();
        assert_eq!(missed.len(), 2, "{answer:#}");
        assert!(answer["artifacts"][0].get("url").is_none(), "{answer:#}");
        assert!(daemon.log().contains(why), "{}", daemon.log());
        assert!(store.hung_up_on.swap(0, Ordering::SeqCst) > 0);
        assert!(store.is_empty());
    }

    let daemon = uploading(&url, "60s", &trusting);
    let run = request_with("shell", code, json!({"execution_id": "run-1"}));
    let answer = daemon.execute(&run).await.completed();
    assert!(
        answer.get("artifacts_not_uploaded").is_none(),
        "{answer:#}\n{}",
        daemon.log()
    );
    let of_run = store.bucket().join("team/session-1/run-1");
    for (artifact, name) in answer["artifacts"]
        .as_array()
        .unwrap()
        .iter()
        .zip(["a.txt", "large"])
    {
        assert_eq!(
            artifact["url"],
            format!("{url}/bucket/team/session-1/run-1/{name}")
        );
        assert_eq!(
            fs::read(of_run.join(name)).unwrap(),
            fs::read(daemon.file(name)).unwrap(),
            "{name}"
        );
    }
    assert_eq!(answer["artifacts"].as_array().unwrap().len(), 2);
    assert_eq!(store.hung_up_on.load(Ordering::SeqCst), 0);
}
