//! `/sessions/{session_id}`: what a session holds, and its removal. The routes of its files are in `files`.

use axum::{
    extract::{FromRequestParts, Path, State},
    http::{StatusCode, request::Parts},
    response::{IntoResponse, Response},
};
use executor_application::{Holdings, ManageSessions};
use executor_domain::SessionId;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::files;
use crate::{
    ApiState,
    auth::Authorized,
    error::ApiError,
    openapi::Sessions,
    problems::Problems,
    response::{json, rfc3339},
};

pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(describe, remove))
        .merge(files::routes())
}

/// The session that a request's path names.
pub(super) struct Named(pub(super) SessionId);

impl FromRequestParts<ApiState> for Named {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &ApiState) -> Result<Self, ApiError> {
        // A path may have more parameters than this one.
        let parameters: Path<std::collections::HashMap<String, String>> =
            Path::from_request_parts(parts, api)
                .await
                .map_err(|_| not_text())?;
        let text = parameters.get("session_id").map_or("", String::as_str);
        match SessionId::parse(text) {
            Ok(session) => Ok(Self(session)),
            Err(why) => Err(ApiError::InvalidFields(Problems::one("session_id", why))),
        }
    }
}

/// What a path is whose escapes are no UTF-8.
pub(super) fn not_text() -> ApiError {
    ApiError::InvalidFields(Problems::one("the path", "must be UTF-8"))
}

/// The use case. Its routes are there only where it is.
pub(super) fn sessions(api: &ApiState) -> Result<&ManageSessions, ApiError> {
    api.sessions().ok_or(ApiError::NoSuchRoute)
}

/// What a session holds.
#[derive(Serialize, ToSchema)]
#[schema(as = Session)]
struct SessionDto<'a> {
    /// Its name
    session_id: &'a str,
    /// Files and directories
    files: u64,
    /// What they take on the disk
    bytes: u64,
    /// Whether that is all: counting stops at a bound
    complete: bool,
    /// When something last ran in it or was stored there, in RFC 3339
    last_used_at: Option<String>,
}

/// What a session holds.
#[utoipa::path(
    operation_id = "describe_session",
    get,
    path = "/sessions/{session_id}",
    tag = "sessions",
    params(
        ("session_id" = String, Path, description = "The session"),
    ),
    responses(
        (status = 200, description = "What it holds", body = SessionDto<'static>),
        Sessions,
    ),
    security(("bearer" = [])),
)]
async fn describe(
    _caller: Authorized,
    State(api): State<ApiState>,
    Named(session): Named,
) -> Result<Response, ApiError> {
    let Holdings {
        files,
        bytes,
        complete,
        last_used_at,
    } = sessions(&api)?.describe(&session).await?;
    let dto = SessionDto {
        session_id: session.as_str(),
        files,
        bytes,
        complete,
        last_used_at: rfc3339(last_used_at),
    };
    json(StatusCode::OK, &dto).map_err(ApiError::internal)
}

/// Stop a session's runs and remove what it holds.
#[utoipa::path(
    operation_id = "remove_session",
    delete,
    path = "/sessions/{session_id}",
    tag = "sessions",
    params(
        ("session_id" = String, Path, description = "The session"),
    ),
    responses(
        (status = 204, description = "It is gone"),
        Sessions,
    ),
    security(("bearer" = [])),
)]
async fn remove(
    _caller: Authorized,
    State(api): State<ApiState>,
    Named(session): Named,
) -> Result<Response, ApiError> {
    sessions(&api)?.remove_session(&session).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
