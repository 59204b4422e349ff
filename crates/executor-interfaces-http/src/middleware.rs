//! What every request passes through: a name, a span, a log line, and an answer whatever happens.

use std::panic::AssertUnwindSafe;

use axum::{
    extract::{MatchedPath, Request},
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use tokio::time::Instant;
use tracing::Instrument;

use crate::{
    error::ApiError,
    request_id::{RequestId, X_REQUEST_ID},
};

/// Names the request, runs it in a span of its own, turns panics into answers, renders errors and logs one line: never
/// bodies, tokens or the path as the client wrote it.
pub(crate) async fn attend(request: Request, next: Next) -> Response {
    let id = RequestId::of(request.headers());
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("unknown", MatchedPath::as_str);
    let span = tracing::info_span!("request", request_id = %id, method = %request.method(), route);
    async move {
        let log = AccessLog::start();
        // What a panic leaves half-done is dropped with the request; shared state guards itself.
        let response = AssertUnwindSafe(next.run(request))
            .catch_unwind()
            .await
            .unwrap_or_else(|_| ApiError::internal("a handler panicked").into_response());
        let response = complete(response, id);
        log.answered(response.status());
        response
    }
    .instrument(span)
    .await
}

/// Renders an error, and adds what every answer has.
fn complete(mut response: Response, id: RequestId) -> Response {
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        if let Some(cause) = error.cause() {
            tracing::error!(error = cause, "request failed");
        }
        let allow = response.headers_mut().remove(header::ALLOW);
        response = error.render(&id);
        if let Some(allow) = allow {
            response.headers_mut().insert(header::ALLOW, allow);
        }
    }
    let headers = response.headers_mut();
    headers.insert(X_REQUEST_ID, id.into_header());
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Writes one line per request, also where the client hangs up and the request is dropped before it is answered.
struct AccessLog {
    since: Instant,
    status: Option<StatusCode>,
}

impl AccessLog {
    fn start() -> Self {
        Self {
            since: Instant::now(),
            status: None,
        }
    }

    fn answered(mut self, status: StatusCode) {
        self.status = Some(status);
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        let duration_ms = self.since.elapsed().as_secs_f64() * 1e3;
        if let Some(status) = self.status {
            tracing::info!(status = status.as_u16(), duration_ms, "request answered");
        } else {
            tracing::info!(duration_ms, "request abandoned by its client");
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::{Router, body::Body, routing::get};
    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_answer_that_tells_nothing() {
        async fn faulty() {
            panic!("secret detail");
        }
        let app = Router::new()
            .route("/", get(faulty))
            .layer(axum::middleware::from_fn(attend));
        let request = Request::builder()
            .header(X_REQUEST_ID, "r1")
            .body(Body::empty())
            .unwrap();
        let response = app.oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(response.headers()[X_REQUEST_ID], "r1");
        let body = axum::body::to_bytes(response.into_body(), 4096)
            .await
            .unwrap();
        let body = String::from_utf8(body.to_vec()).unwrap();
        assert!(body.contains("Executor.InternalError") && body.contains("\"r1\""));
        assert!(!body.contains("secret") && !body.contains("panic"));
    }
}
