//! What the log tells, and what it must not tell.

use std::{
    io,
    sync::{Mutex, Once, PoisonError},
};

use executor_application::{MockSandbox, SandboxError};
use tracing::{Level, subscriber::DefaultGuard};
use tracing_subscriber::fmt::MakeWriter;

use super::*;
use crate::{Access, BearerToken};

/// From now on there is somebody who wants to hear everything. Whether anybody does is asked once, where a line or a span is met
/// first, and a test that listens meanwhile, in a thread of its own, can be missed by that.
pub(super) fn somebody_listens() {
    static LISTENS: Once = Once::new();
    LISTENS.call_once(|| {
        tracing::subscriber::set_global_default(tracing_subscriber::registry()).unwrap();
    });
}

/// Everything that this thread logs, as text.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Starts to listen; stops when the guard is dropped.
    fn listen() -> (Self, DefaultGuard) {
        let log = Self::default();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(Level::TRACE)
            .with_ansi(false)
            .with_writer(log.clone())
            .finish();
        let guard = tracing::subscriber::set_default(subscriber);
        (log, guard)
    }

    fn text(&self) -> String {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8(bytes.clone()).unwrap()
    }

    /// The one line that says this.
    #[track_caller]
    fn line(&self, message: &str) -> String {
        let text = self.text();
        let mut lines = text.lines().filter(|line| line.contains(message));
        match (lines.next(), lines.next()) {
            (Some(line), None) => line.to_owned(),
            _ => panic!("not once `{message}` in:\n{text}"),
        }
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        log.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

fn named(mut request: Request<Body>, id: &str) -> Request<Body> {
    let headers = request.headers_mut();
    headers.insert("x-request-id", id.parse().unwrap());
    headers.insert(header::AUTHORIZATION, "Bearer s3cret".parse().unwrap());
    request
}

#[tokio::test]
async fn one_line_per_request_without_bodies_tokens_and_paths() {
    let (log, _listening) = Log::listen();
    let options = ApiOptions {
        access: Access::Bearer(BearerToken::new("s3cret")),
        ..ApiOptions::default()
    };
    let api = Api::new(Options::default(), options);
    let body = program("e", "echo hunter2").to_string();
    api.send(named(post(body), "r1")).await;
    api.send(named(get("/hunter2"), "r2")).await;

    let answered = log.line("status=200");
    for part in [
        "request{request_id=r1 method=POST route=\"/execute\"}",
        "duration_ms=",
    ] {
        assert!(answered.contains(part), "{answered}");
    }
    let unknown = log.line("status=404");
    assert!(unknown.contains("request_id=r2") && unknown.contains("route=\"unknown\""));
    let text = log.text();
    assert!(
        !text.contains("hunter2") && !text.contains("s3cret"),
        "{text}"
    );
}

#[tokio::test]
async fn our_own_failure_is_logged_with_its_causes() {
    let (log, _listening) = Log::listen();
    let mut sandbox = MockSandbox::new();
    sandbox
        .expect_description()
        .return_const(FakeSandbox::default().description().clone());
    sandbox.expect_run().returning(|_, _| {
        Err(SandboxError::Failed {
            step: "open the door",
            source: "no key".into(),
        })
    });
    let (router, _) = router_on(Arc::new(sandbox), Options::default(), ApiOptions::default());
    let request = named(post(program("e", "").to_string()), "r1");
    router.oneshot(request).await.unwrap();
    let line = log.line("request failed");
    for part in [
        "request_id=r1",
        "the sandbox failed",
        "failed to open the door",
        "no key",
    ] {
        assert!(line.contains(part), "{line}");
    }
}

#[tokio::test]
async fn a_client_that_hangs_up_is_logged_too() {
    let (log, _listening) = Log::listen();
    let api = Api::default();
    let request = named(post(program("e", "sleep 3600000").to_string()), "r1");
    let waiting = api.router.clone().oneshot(request);
    tokio::select! {
        _ = waiting => panic!("an answer"),
        () = until(|| api.sandbox.running() == 1) => {}
    }
    let line = log.line("request abandoned by its client");
    assert!(line.contains("request_id=r1"), "{line}");
}
