//! `GET /health` and `GET /livez`: open to everybody, since whoever starts and routes asks without a token.

use axum::{extract::State, http::StatusCode, response::Response};
use executor_application::Health;
use serde::Serialize;

use crate::{ApiState, error::ApiError, response::json};

#[derive(Serialize)]
struct HealthDto {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    version: &'static str,
    isolation: &'static str,
    platform: &'static str,
    uptime_seconds: u64,
    active_executions: usize,
}

/// Whether code can be run now, found out by trying.
pub(super) async fn health(State(api): State<ApiState>) -> Result<Response, ApiError> {
    let (code, status, reason) = match api.health().check().await {
        Health::Healthy => (StatusCode::OK, "healthy", None),
        Health::Unhealthy(why) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "unhealthy",
            Some(why.reason()),
        ),
    };
    let sandbox = api.executor().sandbox();
    let health = HealthDto {
        status,
        reason,
        version: api.options().version,
        isolation: sandbox.isolation,
        platform: sandbox.platform,
        uptime_seconds: api.uptime().as_secs(),
        active_executions: api.executor().active(),
    };
    json(code, &health).map_err(ApiError::internal)
}

#[derive(Serialize)]
struct LiveDto {
    status: &'static str,
}

/// That the process answers, and nothing else.
pub(super) async fn livez() -> Result<Response, ApiError> {
    json(StatusCode::OK, &LiveDto { status: "alive" }).map_err(ApiError::internal)
}
