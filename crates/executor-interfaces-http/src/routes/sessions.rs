//! `/sessions/{session_id}`: what a session holds, and its removal. The routes of its files are in `files`.

use axum::{
    Router,
    extract::{FromRequestParts, Path, State},
    http::{StatusCode, request::Parts},
    response::{IntoResponse, Response},
    routing::get,
};
use executor_application::{Holdings, ManageSessions};
use executor_domain::SessionId;
use serde::Serialize;

use super::files;
use crate::{
    ApiState,
    auth::Authorized,
    error::ApiError,
    problems::Problems,
    response::{json, rfc3339},
};

/// The routes, if there are sessions to look after.
pub(super) fn routes(api: &ApiState) -> Router<ApiState> {
    if api.sessions().is_none() {
        return Router::new();
    }
    Router::new()
        .route("/sessions/{session_id}", get(describe).delete(remove))
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

#[derive(Serialize)]
struct SessionDto<'a> {
    session_id: &'a str,
    /// Files and directories.
    files: u64,
    bytes: u64,
    /// Whether that is all: counting stops at a bound.
    complete: bool,
    last_used_at: Option<String>,
}

/// What a session holds.
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

/// Stops a session's runs and removes what it holds.
async fn remove(
    _caller: Authorized,
    State(api): State<ApiState>,
    Named(session): Named,
) -> Result<Response, ApiError> {
    sessions(&api)?.remove_session(&session).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
