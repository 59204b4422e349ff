//! `/sessions/{session_id}/files/{path}`: files come and go as streams, in constant memory.

pub(crate) mod conditions;
mod download;
pub(crate) mod query;
mod upload;

use axum::{
    extract::{FromRequestParts, Path, State},
    http::{HeaderMap, Method, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
    routing::get,
};
use executor_application::{Entry, EntryKind, FilesError, Found, ListQuery, Listing};
use executor_domain::{SessionId, WorkspacePath};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use self::query::Query;
use super::sessions::{Named, not_text, sessions};
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
        .routes(routes!(list_root, upload::put_root))
        .routes(routes!(fetch, upload::put, remove))
        // Another spelling of the first, for those who write directories with a slash.
        .route(
            "/sessions/{session_id}/files/",
            get(list_root).put(upload::put_root),
        )
}

/// The file or directory that a request's path names.
struct NamedFile {
    path: WorkspacePath,
    /// It ends with a slash, so that it can be nothing but a directory.
    directory: bool,
}

impl FromRequestParts<ApiState> for NamedFile {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &ApiState) -> Result<Self, ApiError> {
        let Path((_, text)): Path<(String, String)> = Path::from_request_parts(parts, api)
            .await
            .map_err(|_| not_text())?;
        let plain = text.strip_suffix('/');
        match WorkspacePath::parse(plain.unwrap_or(&text)) {
            Ok(path) => Ok(Self {
                path,
                directory: plain.is_some(),
            }),
            Err(why) => Err(ApiError::InvalidFields(Problems::one("path", why))),
        }
    }
}

/// A file or directory.
#[derive(Serialize, ToSchema)]
#[schema(as = Entry)]
struct EntryDto<'a> {
    /// Its path within the workspace
    path: &'a str,
    /// `file` or `directory`
    r#type: &'static str,
    /// In bytes
    size: u64,
    /// By content and name
    mime_type: &'a str,
    /// In RFC 3339
    modified_at: Option<String>,
    /// What `If-Match` and `If-None-Match` take
    etag: String,
}

impl<'a> From<&'a Entry> for EntryDto<'a> {
    fn from(entry: &'a Entry) -> Self {
        Self {
            path: entry.path.as_str(),
            r#type: match entry.kind {
                EntryKind::File => "file",
                EntryKind::Directory => "directory",
            },
            size: entry.size,
            mime_type: &entry.mime_type,
            modified_at: rfc3339(entry.modified_at),
            etag: conditions::quoted(&entry.etag),
        }
    }
}

/// One page of files.
#[derive(Serialize, ToSchema)]
#[schema(as = Files)]
struct ListingDto<'a> {
    /// By path
    entries: Vec<EntryDto<'a>>,
    /// What to send as `cursor` for the next page; `null` on the last one.
    next_cursor: Option<&'a str>,
    /// One line for each thing that is not shown and why; absent where nothing is, which is nearly always.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    skipped: &'a [String],
}

/// The workspace as a list or as an archive.
#[utoipa::path(
    operation_id = "list_files",
    get,
    path = "/sessions/{session_id}/files",
    tag = "sessions",
    params(
        ("session_id" = String, Path, description = "The session",
            min_length = 1, max_length = 128, pattern = "^[A-Za-z0-9_-][A-Za-z0-9._-]*$"),
        ("recursive" = Option<bool>, Query, description = "Whether what is in directories is listed as well"),
        ("limit" = Option<u64>, Query, description = "How many at most; 100 if nothing is said",
            minimum = 1, maximum = 1000),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
        ("archive" = Option<String>, Query, description = "`tar` or `zip`: the whole directory as one file",
            pattern = "^(tar|zip)$"),
    ),
    responses(
        (status = 200, description = "One page of the list, or the archive", content(
            (ListingDto<'static> = "application/json"),
            (String = "application/x-tar"),
            (String = "application/zip"),
        )),
        Sessions,
    ),
    security(("bearer" = [])),
)]
async fn list_root(
    _caller: Authorized,
    State(api): State<ApiState>,
    Named(session): Named,
    query: Query,
) -> Result<Response, ApiError> {
    match query.archive {
        Some(format) => download::archive(&api, &session, None, format).await,
        None => list(&api, &session, None, query).await,
    }
}

/// A file, or a directory as a list or as an archive.
#[utoipa::path(
    operation_id = "fetch_file",
    get,
    path = "/sessions/{session_id}/files/{*path}",
    tag = "sessions",
    params(
        ("session_id" = String, Path, description = "The session",
            min_length = 1, max_length = 128, pattern = "^[A-Za-z0-9_-][A-Za-z0-9._-]*$"),
        ("path" = String, Path, description = "The path within the workspace, `/` between its parts"),
        ("recursive" = Option<bool>, Query, description = "Whether what is in directories is listed as well"),
        ("limit" = Option<u64>, Query, description = "How many at most; 100 if nothing is said",
            minimum = 1, maximum = 1000),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
        ("archive" = Option<String>, Query, description = "`tar` or `zip`: the whole directory as one file",
            pattern = "^(tar|zip)$"),
        ("Range" = Option<String>, Header, description = "The part of the file that is wanted (RFC 9110, section 14)"),
        ("If-None-Match" = Option<String>, Header, description = "The `ETag` that is known already"),
    ),
    responses(
        (status = 200, description = "The file with its own media type, one page of the list, or the archive", content(
            (String = "*/*"),
        )),
        (status = 206, description = "Part of the file", body = String, content_type = "*/*"),
        (status = 304, description = "The file is as it was"),
        Sessions,
    ),
    security(("bearer" = [])),
)]
async fn fetch(
    _caller: Authorized,
    State(api): State<ApiState>,
    Named(session): Named,
    NamedFile { path, directory }: NamedFile,
    query: Query,
    method: Method,
    mut headers: HeaderMap,
) -> Result<Response, ApiError> {
    if method != Method::GET {
        // Parts are defined for GET alone (RFC 9110, section 14.2).
        headers.remove(header::RANGE);
    }
    if let Some(format) = query.archive {
        return download::archive(&api, &session, Some(path), format).await;
    }
    if directory {
        return list(&api, &session, Some(path), query).await;
    }
    match sessions(&api)?.find(&session, &path).await {
        Ok(Found::File(entry, content)) => download::file(&entry, content, &headers),
        Ok(Found::Directory(_)) => list(&api, &session, Some(path), query).await,
        // Nothing can be below a file.
        Err(FilesError::NotDirectory) => Err(FilesError::NoFile.into()),
        Err(other) => Err(other.into()),
    }
}

async fn list(
    api: &ApiState,
    session: &SessionId,
    directory: Option<WorkspacePath>,
    query: Query,
) -> Result<Response, ApiError> {
    let query = ListQuery {
        directory,
        recursive: query.recursive,
        limit: query.limit,
        after: query.cursor,
    };
    let Listing {
        entries,
        more,
        skipped,
    } = sessions(api)?.list(session, query).await?;
    let dto = ListingDto {
        next_cursor: entries
            .last()
            .filter(|_| more)
            .map(|entry| entry.path.as_str()),
        entries: entries.iter().map(EntryDto::from).collect(),
        skipped: &skipped,
    };
    json(StatusCode::OK, &dto).map_err(ApiError::internal)
}

/// Remove a file or a directory.
#[utoipa::path(
    operation_id = "remove_file",
    delete,
    path = "/sessions/{session_id}/files/{*path}",
    tag = "sessions",
    params(
        ("session_id" = String, Path, description = "The session",
            min_length = 1, max_length = 128, pattern = "^[A-Za-z0-9_-][A-Za-z0-9._-]*$"),
        ("path" = String, Path, description = "The path within the workspace, `/` between its parts"),
        ("recursive" = Option<bool>, Query, description = "Whether a directory goes with all that is in it"),
        ("If-Match" = Option<String>, Header, description = "The `ETag` that it must have"),
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
    NamedFile { path, directory }: NamedFile,
    query: Query,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let condition = conditions::for_change(&headers)?;
    let sessions = sessions(&api)?;
    if directory && matches!(sessions.find(&session, &path).await?, Found::File(..)) {
        return Err(FilesError::NoFile.into());
    }
    sessions
        .remove(&session, &path, condition, query.recursive)
        .await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
