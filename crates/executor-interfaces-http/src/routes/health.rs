//! `GET /health` and `GET /livez`: open to everybody, since whoever starts and routes asks without a token.

use axum::{extract::State, http::StatusCode, response::Response};
use executor_application::Health;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{ApiState, error::ApiError, openapi::Fails, response::json};

/// Whether code can be run.
#[derive(Serialize, ToSchema)]
#[schema(as = Health)]
struct HealthDto {
    /// `healthy` or `unhealthy`
    status: &'static str,
    /// Why no code can be run
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    /// The daemon's version
    version: &'static str,
    /// What isolates guests: `bubblewrap` or `seatbelt`
    isolation: &'static str,
    /// The operating system: `Linux` or `Darwin`
    platform: &'static str,
    /// How long the daemon has been up
    uptime_seconds: u64,
    /// Guests that run now
    active_executions: usize,
}

/// Whether code can be run now.
///
/// Found out by trying, at most once a second.
#[utoipa::path(
    get,
    path = "/health",
    tag = "operation",
    responses(
        (status = 200, description = "Code can be run", body = HealthDto),
        (status = 503, description = "No code can be run; `reason` says why", body = HealthDto),
        Fails,
    ),
    security(()),
)]
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

/// That the process answers.
#[derive(Serialize, ToSchema)]
#[schema(as = Live)]
struct LiveDto {
    /// `alive`
    status: &'static str,
}

/// Whether the process answers.
///
/// And nothing else.
#[utoipa::path(
    get,
    path = "/livez",
    tag = "operation",
    responses(
        (status = 200, description = "It does", body = LiveDto),
        Fails,
    ),
    security(()),
)]
pub(super) async fn livez() -> Result<Response, ApiError> {
    json(StatusCode::OK, &LiveDto { status: "alive" }).map_err(ApiError::internal)
}
