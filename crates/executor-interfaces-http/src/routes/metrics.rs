//! `GET /metrics`: what operators count.

use axum::{
    extract::State,
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use executor_application::{Levels, ManageSessions, TextFormat};

use crate::{ApiState, auth::Authorized, error::ApiError, openapi::Guarded};

/// Everything that is counted.
///
/// In Prometheus text format, or in `OpenMetrics` where the request asks for that. `docs/observability.md` lists what there
/// is.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "operation",
    responses(
        (status = 200, description = "The counters", content(
            (String = "text/plain"),
            (String = "application/openmetrics-text"),
        )),
        Guarded,
    ),
    security(("bearer" = [])),
)]
pub(super) async fn metrics(
    _caller: Authorized,
    State(api): State<ApiState>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let (format, content_type) = wanted(&headers);
    let executor = api.executor();
    let levels = Levels {
        removals: api.sessions().map(ManageSessions::removals),
        ..executor.levels()
    };
    let text = executor.instruments().telemetry.text(&levels, format);
    Ok(([(header::CONTENT_TYPE, content_type)], text).into_response())
}

/// `OpenMetrics` for those who name it, as Prometheus itself does; the older format for everybody else. Whoever names it
/// understands it, so weights are not looked at.
fn wanted(headers: &HeaderMap) -> (TextFormat, &'static str) {
    let open_metrics = headers.get_all(header::ACCEPT).iter().any(|accepted| {
        accepted
            .to_str()
            .is_ok_and(|text| text.contains("application/openmetrics-text"))
    });
    if open_metrics {
        (
            TextFormat::OpenMetrics,
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        )
    } else {
        (
            TextFormat::Prometheus,
            "text/plain; version=0.0.4; charset=utf-8",
        )
    }
}
