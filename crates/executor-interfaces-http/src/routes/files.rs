//! `/sessions/{session_id}/files/{path}`: files come and go as streams, in constant memory.

mod conditions;
mod download;
mod query;
mod upload;

use axum::{
    Router,
    extract::{FromRequestParts, Path, State},
    http::{HeaderMap, StatusCode, request::Parts},
    response::{IntoResponse, Response},
    routing::get,
};
use executor_application::{Entry, EntryKind, FilesError, Found, ListQuery, Listing};
use executor_domain::{SessionId, WorkspacePath};
use serde::Serialize;

use self::query::Query;
use super::sessions::{Named, not_text, sessions};
use crate::{
    ApiState,
    auth::Authorized,
    error::ApiError,
    problems::Problems,
    response::{json, rfc3339},
};

pub(super) fn routes() -> Router<ApiState> {
    let root = || get(list_root).put(upload::put_root);
    Router::new()
        .route("/sessions/{session_id}/files", root())
        .route("/sessions/{session_id}/files/", root())
        .route(
            "/sessions/{session_id}/files/{*path}",
            get(fetch).put(upload::put).delete(remove),
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

#[derive(Serialize)]
struct EntryDto<'a> {
    path: &'a str,
    r#type: &'static str,
    size: u64,
    mime_type: &'a str,
    modified_at: Option<String>,
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

#[derive(Serialize)]
struct ListingDto<'a> {
    entries: Vec<EntryDto<'a>>,
    /// What to send as `cursor` for the next page; `null` on the last one.
    next_cursor: Option<&'a str>,
    /// One line for each thing that is not shown and why; absent where nothing is, which is nearly always.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    skipped: &'a [String],
}

/// The workspace as a list or as an archive.
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
async fn fetch(
    _caller: Authorized,
    State(api): State<ApiState>,
    Named(session): Named,
    NamedFile { path, directory }: NamedFile,
    query: Query,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
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

async fn remove(
    _caller: Authorized,
    State(api): State<ApiState>,
    Named(session): Named,
    NamedFile { path, .. }: NamedFile,
    query: Query,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let condition = conditions::for_change(&headers)?;
    sessions(&api)?
        .remove(&session, &path, condition, query.recursive)
        .await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
