//! The real executable: as a daemon that a test talks to over HTTP, and as a command.

use std::{
    env,
    fs::{self, Permissions},
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{self, Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU64, Ordering},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use reqwest::{Body, Client, Method, RequestBuilder, StatusCode, header::HeaderMap};
use serde_json::{Value, json};

use super::{alive, eventually, executable};

/// Keeps every language warm, as daemons do by default and those of most tests do not.
pub(crate) const ALL_WARM: (&str, &str) = ("WARM_POOL_LANGUAGES", "python,javascript,shell");

/// The executable, without the environment of the tests, and silent about a control plane that no test has. It keeps only shells
/// warm: that is what most tests run, and their daemons start in a third of the time.
///
/// `SUITE_SETTINGS` (`NAME=value`, one a line) are settings of every daemon of a pass: those that a test asks for come before them.
pub(crate) fn command() -> Command {
    let mut command = Command::new(executable());
    command
        .env_clear()
        .env("CONTROL_PLANE_URL", "none")
        .env("WARM_POOL_LANGUAGES", "shell");
    let of_pass = env::var("SUITE_SETTINGS").unwrap_or_default();
    command.envs(of_pass.lines().filter_map(|line| line.split_once('=')));
    command
}

/// A directory that guests can walk through, whoever they are on the host, and nobody can list. Removed on drop.
pub(crate) fn passable_directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o711)).unwrap();
    directory
}

/// A number that no other call has returned, in this process or another one that runs now.
fn unique() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!(
        "{}{:05}",
        process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

/// A time that sleep(1) takes, longer than any test, and that no other process on this host has on its command line:
/// guests that carry it can be found there, and nowhere else, since code never travels in a command line.
pub(crate) fn marker() -> String {
    format!("86400.{}", unique())
}

/// A request that runs this code, under an id of its own, in session `session-1`.
pub(crate) fn request(language: &str, code: &str) -> Value {
    json!({
        "execution_id": format!("execution-{}", unique()),
        "session_id": "session-1",
        "language": language,
        "code": code,
    })
}

/// The same with more fields, or others.
pub(crate) fn request_with(language: &str, code: &str, more: Value) -> Value {
    let mut request = request(language, code);
    let Value::Object(more) = more else {
        panic!("not an object: {more}");
    };
    request.as_object_mut().unwrap().extend(more);
    request
}

/// An answer of the daemon.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    /// Sends a request and reads the whole answer, which must be JSON.
    pub(crate) async fn to(request: RequestBuilder) -> Self {
        let response = request.send().await.unwrap();
        Self {
            status: response.status(),
            headers: response.headers().clone(),
            body: response.json().await.unwrap(),
        }
    }

    /// The answer to a run, whatever became of it.
    pub(crate) fn ran(self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{self:?}");
        self.body
    }

    /// The answer to a run that must have completed.
    pub(crate) fn completed(self) -> Value {
        let run = self.ran();
        assert_eq!(run["status"], "completed", "{run:#}");
        run
    }

    /// The detail of a refusal that must be of this status and code.
    pub(crate) fn refusal(&self, status: u16, code: &str) -> &str {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        assert_eq!(self.body["error_code"], code, "{self:?}");
        assert_eq!(
            self.body["request_id"],
            self.headers["x-request-id"].to_str().unwrap()
        );
        self.body["error_detail"].as_str().unwrap()
    }
}

/// A daemon of one test: a process, a free port, workspaces. Killed and reaped on drop; the kernel takes its guests with it.
pub(crate) struct Daemon {
    child: Child,
    url: String,
    client: Client,
    settings: Vec<(String, String)>,
    directory: tempfile::TempDir,
}

impl Daemon {
    /// With default settings, but for what [`command`] says.
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    /// With these settings. Returns once it listens.
    pub(crate) fn with(settings: &[(&str, &str)]) -> Self {
        let directory = passable_directory();
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let settings: Vec<_> = settings.iter().map(own).collect();
        let (child, url) = listening(directory.path(), &settings);
        Self {
            child,
            url,
            client: Client::builder().no_proxy().build().unwrap(),
            settings,
            directory,
        }
    }

    /// Kills it, as nothing can be prepared for, and starts it again where it was. Returns once it listens.
    pub(crate) fn kill_and_start(&mut self) {
        self.child.kill().unwrap();
        self.start_again();
    }

    /// Waits for its end and starts it again where it was. Returns once it listens.
    pub(crate) fn start_again(&mut self) {
        self.child.wait().unwrap();
        (self.child, self.url) = listening(self.directory.path(), &self.settings);
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where it keeps the files of sessions.
    pub(crate) fn workspaces(&self) -> PathBuf {
        self.directory.path().join("workspaces")
    }

    /// Where it keeps executions and results.
    pub(crate) fn state(&self) -> PathBuf {
        self.workspaces().join(".state")
    }

    /// A file of the session that [`request`] runs in.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.workspaces().join("session-1").join(name)
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap()
    }

    /// `host:port`.
    pub(crate) fn address(&self) -> &str {
        self.url.strip_prefix("http://").unwrap()
    }

    /// Any request, yet to be sent.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url))
    }

    /// A request to this path, yet to be sent.
    pub(crate) fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(format!("{}{path}", self.url))
    }

    /// A request to cancel the execution of this id, yet to be sent.
    pub(crate) fn delete(&self, id: &str) -> RequestBuilder {
        self.client.delete(format!("{}/executions/{id}", self.url))
    }

    /// The execution of this id, once it has ended.
    pub(crate) async fn ended(&self, id: &str) -> Value {
        let deadline = tokio::time::Instant::now() + super::PATIENCE;
        loop {
            let found = Answer::to(self.get(&format!("/executions/{id}"))).await;
            assert_eq!(found.status, StatusCode::OK, "{found:?}");
            if !matches!(found.body["status"].as_str(), Some("pending" | "running")) {
                return found.body;
            }
            assert!(tokio::time::Instant::now() < deadline, "{found:?}");
            tokio::time::sleep(super::PAUSE).await;
        }
    }

    /// A request to run something, yet to be sent.
    pub(crate) fn post(&self, body: &Value) -> RequestBuilder {
        self.client.post(format!("{}/execute", self.url)).json(body)
    }

    /// Any body that claims to be of this media type, yet to be sent to where code is run.
    pub(crate) fn post_text(&self, media_type: &str, body: impl Into<Body>) -> RequestBuilder {
        let post = self.client.post(format!("{}/execute", self.url));
        post.header("content-type", media_type).body(body)
    }

    /// Runs something and waits for the answer.
    pub(crate) async fn execute(&self, body: &Value) -> Answer {
        Answer::to(self.post(body)).await
    }

    /// Runs something in the background.
    pub(crate) fn spawn(&self, body: &Value) -> tokio::task::JoinHandle<Answer> {
        tokio::spawn(Answer::to(self.post(body)))
    }

    /// What `GET /health` says now.
    pub(crate) async fn health(&self) -> Answer {
        Answer::to(self.get("/health")).await
    }

    /// Asks for its health until the answer is this one. What it found out counts for a second.
    pub(crate) async fn health_becomes(&self, status: u16, reason: &Value) {
        let deadline = tokio::time::Instant::now() + super::PATIENCE;
        loop {
            let health = self.health().await;
            if health.status.as_u16() == status && health.body["reason"] == *reason {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "{health:?}");
            tokio::time::sleep(super::PAUSE).await;
        }
    }

    /// What `GET /metrics` says now, in the format that is sent where nobody asks for another one.
    pub(crate) async fn metrics(&self) -> String {
        let answer = self.get("/metrics").send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(
            answer.headers()["content-type"],
            "text/plain; version=0.0.4; charset=utf-8"
        );
        answer.text().await.unwrap()
    }

    /// Each of these is a line of its metrics now.
    pub(crate) async fn counts(&self, lines: &[&str]) {
        let metrics = self.metrics().await;
        for line in lines {
            assert!(
                metrics.lines().any(|found| found == *line),
                "{line}\n{metrics}"
            );
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid().cast_signed()), signal).unwrap();
    }

    /// Waits until it has ended.
    pub(crate) async fn exit(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("the daemon ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        status.unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Ended or not, there is nobody to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a daemon on this directory, and returns it with its URL once it listens.
fn listening(directory: &Path, settings: &[(String, String)]) -> (Child, String) {
    let mut log = fs::File::options();
    let log = log.create(true).append(true).open(directory.join("log"));
    let mut child = command()
        .env("EXECUTOR_PORT", "0")
        .env("WORKSPACE_PATH", directory.join("workspaces"))
        .envs(settings.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log.unwrap())
        .spawn()
        .unwrap();
    // Either a line or, where the daemon gives up, the end.
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    let Some(url) = line.trim_end().strip_prefix("listening on ") else {
        child.wait().unwrap();
        let log = fs::read_to_string(directory.join("log")).unwrap();
        panic!("the daemon does not listen: {line:?}\n{log}");
    };
    let url = url.to_owned();
    (child, url)
}

/// Waits until so many guest processes carry this marker: they really run.
pub(crate) async fn alive_becomes(marker: &str, count: usize) {
    eventually("guests run", || alive(marker).len() >= count).await;
}

/// Waits until a file is there.
pub(crate) async fn appears(path: &Path) {
    eventually("a file appears", || path.exists()).await;
}
