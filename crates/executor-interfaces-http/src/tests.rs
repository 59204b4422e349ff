//! The API as its clients see it: through the router, and over real sockets.

mod api;
mod description;
mod executions;
mod log;
mod metrics;
mod socket;

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Request, Response, StatusCode, header},
};
use executor_application::{
    CheckHealth, ExecuteCode, Options, Sandbox, Workspaces,
    fake::{FakeSandbox, NoWorkspaces, StoppedClock},
};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::{ApiOptions, ApiState, router};

/// An API on top of the fake sandbox.
pub(crate) struct Api {
    router: Router,
    pub(crate) state: ApiState,
    executor: ExecuteCode,
    sandbox: Arc<FakeSandbox>,
}

impl Api {
    fn new(options: Options, api: ApiOptions) -> Self {
        let sandbox = Arc::new(FakeSandbox::default());
        let state = state_on(Arc::clone(&sandbox) as Arc<dyn Sandbox>, options, api);
        let executor = state.executor().clone();
        Self {
            router: router(state.clone()),
            state,
            executor,
            sandbox,
        }
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        Answer::of(self.router.clone().oneshot(request).await.unwrap()).await
    }
}

impl Default for Api {
    fn default() -> Self {
        Self::new(Options::default(), ApiOptions::default())
    }
}

fn router_on(
    sandbox: Arc<dyn Sandbox>,
    options: Options,
    api: ApiOptions,
) -> (Router, ExecuteCode) {
    let state = state_on(sandbox, options, api);
    let executor = state.executor().clone();
    (router(state), executor)
}

fn state_on(sandbox: Arc<dyn Sandbox>, options: Options, api: ApiOptions) -> ApiState {
    log::somebody_listens();
    let workspaces: Arc<dyn Workspaces> = Arc::new(NoWorkspaces);
    let executor = ExecuteCode::new(
        Arc::clone(&sandbox),
        Arc::clone(&workspaces),
        Arc::new(StoppedClock),
        options,
    );
    let health = CheckHealth::new(executor.clone(), sandbox, workspaces);
    ApiState::new(executor, Arc::new(health), api)
}

/// An answer that was read in whole.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    async fn of(response: Response<Body>) -> Self {
        let (head, body) = response.into_parts();
        Self {
            status: head.status,
            headers: head.headers,
            body: axum::body::to_bytes(body, usize::MAX).await.unwrap().into(),
        }
    }

    fn json(&self) -> Value {
        assert_eq!(self.header("content-type"), "application/json");
        serde_json::from_slice(&self.body).unwrap()
    }

    fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    /// The row of the error table that this is: checks what is the same in all of them.
    #[track_caller]
    fn assert_error(&self, status: u16, code: &str) -> Value {
        let body = self.json();
        assert_eq!(
            (self.status.as_u16(), body["error_code"].as_str()),
            (status, Some(code)),
            "{body}"
        );
        let mut fields: Vec<_> = body.as_object().unwrap().keys().collect();
        fields.sort();
        assert_eq!(
            fields,
            [
                "description",
                "error_code",
                "error_detail",
                "request_id",
                "solution"
            ]
        );
        for field in fields {
            assert!(!body[field].as_str().unwrap().is_empty(), "{field}");
        }
        assert_eq!(body["request_id"], self.header("x-request-id"));
        body
    }
}

/// The body of a request that runs a program of the fake's language.
fn program(id: &str, code: &str) -> Value {
    json!({"execution_id": id, "session_id": "s", "language": "python", "code": code})
}

fn post(body: impl Into<Body>) -> Request<Body> {
    Request::post("/execute")
        .header(header::CONTENT_TYPE, "application/json")
        .body(body.into())
        .unwrap()
}

fn get(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).unwrap()
}

/// Lets every other task go on until something is true. Real sockets need the reactor to turn in between, which yielding
/// lets it do.
async fn until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        tokio::task::yield_now().await;
    }
}
