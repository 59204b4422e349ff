//! Files and archives on their way in.

use std::time::Duration;

use axum::{
    body::{Body, HttpBody},
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use executor_application::{Condition, Stored, Upload};
use executor_domain::{SessionId, WorkspacePath};
use http_body_util::BodyExt;
use serde::Serialize;
use tokio::time::{Instant, timeout_at};
use utoipa::ToSchema;

use super::{
    super::sessions::{Named, sessions},
    EntryDto, NamedFile, conditions,
    query::Query,
};
use crate::{
    ApiState,
    auth::Authorized,
    error::{ApiError, FilesProblem},
    openapi::Uploads,
    problems::Problems,
    response::json,
};

/// Bytes a second that an upload has to bring, beyond the time that every body has.
const SLOWEST: u64 = 16 << 10;

/// What came of an archive.
#[derive(Serialize, ToSchema)]
#[schema(as = Unpacked)]
struct UnpackedDto {
    /// Files that came out of it
    files: usize,
}

/// What an upload is answered with, for the description alone.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "each of them is answered as itself")]
enum UploadAnswer<'a> {
    File(EntryDto<'a>),
    Archive(UnpackedDto),
}

/// Put a file in its place, or unpack an archive into a directory.
#[utoipa::path(
    operation_id = "put_file",
    put,
    path = "/sessions/{session_id}/files/{*path}",
    tag = "sessions",
    params(
        ("session_id" = String, Path, description = "The session",
            min_length = 1, max_length = 128, pattern = "^[A-Za-z0-9_-][A-Za-z0-9._-]*$"),
        ("path" = String, Path, description = "The path within the workspace, `/` between its parts"),
        ("archive" = Option<String>, Query, description = "`tar` or `zip`: the body is unpacked there",
            pattern = "^(tar|zip)$"),
        ("If-Match" = Option<String>, Header, description = "The `ETag` of the file that is replaced"),
    ),
    request_body(content = String, content_type = "application/octet-stream"),
    responses(
        (status = 200, description = "The file was replaced, or the archive unpacked", body = UploadAnswer<'static>),
        (status = 201, description = "The file is new", body = EntryDto<'static>),
        Uploads,
    ),
    security(("bearer" = [])),
)]
pub(super) async fn put(
    _caller: Authorized,
    State(api): State<ApiState>,
    Named(session): Named,
    NamedFile { path, directory }: NamedFile,
    query: Query,
    request: Request,
) -> Result<Response, ApiError> {
    let (head, body) = request.into_parts();
    if query.archive.is_some() {
        return unpack(&api, &session, Some(path), &query, &head.headers, body).await;
    }
    if directory {
        return Err(ApiError::InvalidFields(Problems::one(
            "path",
            "must not end with a slash, unless an archive is unpacked there",
        )));
    }
    check_head(&api, &head.headers, &body)?;
    let condition = conditions::for_change(&head.headers)?;
    let upload = sessions(&api)?.create(&session, &path, condition).await?;
    receive(&api, upload, body).await
}

/// Unpack an archive into the workspace.
#[utoipa::path(
    operation_id = "put_archive",
    put,
    path = "/sessions/{session_id}/files",
    tag = "sessions",
    params(
        ("session_id" = String, Path, description = "The session",
            min_length = 1, max_length = 128, pattern = "^[A-Za-z0-9_-][A-Za-z0-9._-]*$"),
        ("archive" = String, Query, description = "`tar` or `zip`",
            pattern = "^(tar|zip)$"),
    ),
    request_body(content = String, content_type = "application/octet-stream"),
    responses(
        (status = 200, description = "The archive was unpacked", body = UnpackedDto),
        Uploads,
    ),
    security(("bearer" = [])),
)]
pub(super) async fn put_root(
    _caller: Authorized,
    State(api): State<ApiState>,
    Named(session): Named,
    query: Query,
    request: Request,
) -> Result<Response, ApiError> {
    let (head, body) = request.into_parts();
    unpack(&api, &session, None, &query, &head.headers, body).await
}

async fn unpack(
    api: &ApiState,
    session: &SessionId,
    directory: Option<WorkspacePath>,
    query: &Query,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let Some(format) = query.archive else {
        return Err(ApiError::InvalidFields(Problems::one(
            "archive",
            "is required where there is no path: tar or zip",
        )));
    };
    check_head(api, headers, &body)?;
    if conditions::for_change(headers)? != Condition::Always {
        return Err(ApiError::InvalidFields(Problems::one(
            "If-Match",
            "cannot be used with an archive",
        )));
    }
    let upload = sessions(api)?.unpack(session, directory, format).await?;
    receive(api, upload, body).await
}

/// Refuses what we would have to understand to store it rightly, and what no workspace could hold.
fn check_head(api: &ApiState, headers: &HeaderMap, body: &Body) -> Result<(), ApiError> {
    for encoding in headers.get_all(header::CONTENT_ENCODING) {
        if !encoding.as_bytes().eq_ignore_ascii_case(b"identity") {
            return Err(ApiError::UnsupportedMediaType(
                "the body has a Content-Encoding",
            ));
        }
    }
    // RFC 9110, section 14.5: a part must not be taken for the whole.
    if headers.contains_key(header::CONTENT_RANGE) {
        return Err(ApiError::InvalidFields(Problems::one(
            "Content-Range",
            "cannot be used: files are replaced in whole",
        )));
    }
    let max_bytes = api.executor().policy().ceilings().max_workspace_mb << 20;
    if body.size_hint().lower() > max_bytes {
        return Err(ApiError::Files(FilesProblem::TooLarge { max_bytes }));
    }
    Ok(())
}

/// Hands a body on as it comes, in constant memory, and commits it. Whatever goes wrong leaves things as they were.
async fn receive(
    api: &ApiState,
    mut upload: Box<dyn Upload>,
    mut body: Body,
) -> Result<Response, ApiError> {
    let allowed = api.options().body_timeout;
    let started = Instant::now();
    let mut received = 0;
    loop {
        let time = allowed + Duration::from_secs(received / SLOWEST);
        let frame = timeout_at(started + time, body.frame())
            .await
            .map_err(|_| ApiError::BodyTimeout { allowed: time })?;
        let Some(frame) = frame else {
            break;
        };
        let frame = frame.map_err(|_| ApiError::BrokenBody)?;
        // Trailers say nothing that we would want to know.
        if let Ok(data) = frame.into_data() {
            received += data.len() as u64;
            upload.write(&data).await?;
        }
    }
    let (status, entry) = match upload.commit().await? {
        Stored::Created(entry) => (StatusCode::CREATED, entry),
        Stored::Replaced(entry) => (StatusCode::OK, entry),
        Stored::Unpacked(files) => {
            return json(StatusCode::OK, &UnpackedDto { files }).map_err(ApiError::internal);
        }
    };
    let mut response = json(status, &EntryDto::from(&entry)).map_err(ApiError::internal)?;
    if let Ok(etag) = HeaderValue::from_str(&conditions::quoted(&entry.etag)) {
        response.headers_mut().insert(header::ETAG, etag);
    }
    Ok(response.into_response())
}
