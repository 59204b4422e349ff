//! What every request passes through: a name, a span, a log line, and an answer whatever happens.

use std::{panic::AssertUnwindSafe, sync::Arc};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use executor_application::{AnsweredRequest, Telemetry};
use futures_util::FutureExt;
use tokio::time::Instant;
use tracing::Instrument;

use crate::{
    ApiState,
    error::ApiError,
    request_id::{RequestId, X_REQUEST_ID},
    trace,
};

/// Names the request, runs it in a span of its own, turns panics into answers, renders errors, logs one line and counts:
/// never bodies, tokens or the path as the client wrote it.
pub(crate) async fn attend(State(api): State<ApiState>, request: Request, next: Next) -> Response {
    let id = RequestId::of(request.headers());
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let route = matched.as_ref().map_or(NO_ROUTE, MatchedPath::as_str);
    let span = tracing::info_span!("request", request_id = %id, method = %request.method(), route);
    let instruments = api.executor().instruments();
    if let Some(parent) = trace::parent_of(request.headers()) {
        instruments.traces.adopt(&span, parent);
    }
    let telemetry = Arc::clone(&instruments.telemetry);
    let method = known(request.method());
    async move {
        let log = AccessLog::start(telemetry, method, matched);
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

/// The route of requests that match none: what clients make up is not repeated.
const NO_ROUTE: &str = "unknown";

/// A method by its name, or `other`: clients can make methods up, and each would be counted on its own.
fn known(method: &Method) -> &'static str {
    const KNOWN: [(&Method, &str); 7] = [
        (&Method::GET, "GET"),
        (&Method::HEAD, "HEAD"),
        (&Method::POST, "POST"),
        (&Method::PUT, "PUT"),
        (&Method::PATCH, "PATCH"),
        (&Method::DELETE, "DELETE"),
        (&Method::OPTIONS, "OPTIONS"),
    ];
    KNOWN
        .iter()
        .find(|(known, _)| *known == method)
        .map_or("other", |(_, name)| name)
}

/// Renders an error, and adds what every answer has.
fn complete(mut response: Response, id: RequestId) -> Response {
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        if let Some(cause) = error.cause() {
            tracing::error!(error = executor_application::chain(cause), "request failed");
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

/// Writes one line per request and counts it, also where the client hangs up and the request is dropped before it is
/// answered.
struct AccessLog {
    since: Instant,
    status: Option<StatusCode>,
    telemetry: Arc<dyn Telemetry>,
    method: &'static str,
    route: Option<MatchedPath>,
}

impl AccessLog {
    fn start(
        telemetry: Arc<dyn Telemetry>,
        method: &'static str,
        route: Option<MatchedPath>,
    ) -> Self {
        Self {
            since: Instant::now(),
            status: None,
            telemetry,
            method,
            route,
        }
    }

    fn answered(mut self, status: StatusCode) {
        self.status = Some(status);
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        let took = self.since.elapsed();
        self.telemetry.request_answered(&AnsweredRequest {
            route: self.route.as_ref().map_or(NO_ROUTE, MatchedPath::as_str),
            method: self.method,
            status: self.status.map(|status| status.as_u16()),
            took,
        });
        let duration_ms = took.as_secs_f64() * 1e3;
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
        let api = crate::tests::Api::default().state;
        let app = Router::new()
            .route("/", get(faulty))
            .layer(axum::middleware::from_fn_with_state(api, attend));
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
