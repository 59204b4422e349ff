//! `/executions`: what became of them, as it happens and afterwards.

use std::fmt;

use axum::{
    extract::{
        Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
    http::{HeaderMap, HeaderName, StatusCode},
    response::Response,
};
use executor_application::{Cursor, Position, Query as ListQuery, Summary};
use executor_domain::{ExecutionId, SessionId, Status};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    ApiState, answer,
    auth::Authorized,
    error::ApiError,
    events,
    openapi::{Finds, Lists},
    problems::Problems,
    response::{ExecutionDto, json, rfc3339},
};

/// HTML Standard, section 9.2.4.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

const DEFAULT_LIMIT: usize = 50;
const MAX_LIMIT: usize = 1000;

/// Every parameter that a list may have.
pub(crate) const PARAMETERS: &[&str] = &["session_id", "status", "limit", "cursor"];

/// An execution: where it is in its life, and its whole result once it has ended.
///
/// Survives a restart of the daemon.
#[utoipa::path(
    operation_id = "find_execution",
    get,
    path = "/executions/{execution_id}",
    tag = "executions",
    params(
        ("execution_id" = String, Path, description = "Its name"),
    ),
    responses(
        (status = 200, description = "The execution", body = ExecutionDto<'static>),
        Finds,
    ),
    security(("bearer" = [])),
)]
pub(super) async fn find(
    _caller: Authorized,
    State(api): State<ApiState>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let found = api.executor().find(&named(id)?).await?;
    let execution = found.ok_or(ApiError::NoSuchExecution)?;
    answer::execution(&api, StatusCode::OK, execution).await
}

/// Cancel an execution.
///
/// Every process of the guest is dead before the answer. Idempotent: what has ended stays as it is.
#[utoipa::path(
    operation_id = "cancel_execution",
    delete,
    path = "/executions/{execution_id}",
    tag = "executions",
    params(
        ("execution_id" = String, Path, description = "Its name"),
    ),
    responses(
        (status = 200, description = "The execution, which has ended", body = ExecutionDto<'static>),
        Finds,
    ),
    security(("bearer" = [])),
)]
pub(super) async fn cancel(
    _caller: Authorized,
    State(api): State<ApiState>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let ended = api.executor().cancel(&named(id)?).await?;
    let execution = ended.ok_or(ApiError::NoSuchExecution)?;
    answer::execution(&api, StatusCode::OK, execution).await
}

/// An execution as it happens, as server-sent events.
///
/// `stdout`, `stderr`, `status`, and at the end exactly one `result`.
#[utoipa::path(
    operation_id = "follow_execution",
    get,
    path = "/executions/{execution_id}/events",
    tag = "executions",
    params(
        ("execution_id" = String, Path, description = "Its name"),
        ("Last-Event-ID" = Option<String>, Header, description = "The id of the last event that was seen: goes on after it"),
    ),
    responses(
        (status = 200, description = "The events", body = String, content_type = "text/event-stream"),
        Finds,
    ),
    security(("bearer" = [])),
)]
pub(super) async fn follow(
    _caller: Authorized,
    State(api): State<ApiState>,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let id = named(id)?;
    let from = match headers.get(LAST_EVENT_ID) {
        None => Position::default(),
        // A browser that has not seen an event yet may send nothing like that.
        Some(value) if value.is_empty() => Position::default(),
        Some(value) => value
            .to_str()
            .ok()
            .and_then(events::position)
            .ok_or_else(|| {
                ApiError::InvalidParameters(Problems::one(
                    "Last-Event-ID",
                    "must be the id of an event, such as 120.0",
                ))
            })?,
    };
    let events = api.executor().events(&id, from).await?;
    Ok(events::answer(events.ok_or(ApiError::NoSuchExecution)?))
}

/// One page of executions.
#[derive(Serialize, ToSchema)]
#[schema(as = Executions)]
struct ListDto<'a> {
    /// Newest first
    executions: Vec<SummaryDto<'a>>,
    /// What to send as `cursor` for the next page
    next_cursor: Option<String>,
}

/// An execution in short.
#[derive(Serialize, ToSchema)]
#[schema(as = Summary)]
struct SummaryDto<'a> {
    /// Its name
    execution_id: &'a str,
    /// The session whose workspace it uses
    session_id: &'a str,
    /// Where it is in its life
    status: &'static str,
    /// The same for people
    message: &'static str,
    /// When it was accepted, in RFC 3339
    accepted_at: Option<String>,
    /// When its guest started
    started_at: Option<String>,
    /// When it ended
    completed_at: Option<String>,
}

impl<'a> From<&'a Summary> for SummaryDto<'a> {
    fn from(summary: &'a Summary) -> Self {
        Self {
            execution_id: summary.id.as_str(),
            session_id: summary.session.as_str(),
            status: summary.status.as_str(),
            message: summary.status.message(),
            accepted_at: rfc3339(summary.accepted_at),
            started_at: summary.started_at.and_then(rfc3339),
            completed_at: summary.completed_at.and_then(rfc3339),
        }
    }
}

/// Executions, newest first.
#[utoipa::path(
    operation_id = "list_executions",
    get,
    path = "/executions",
    tag = "executions",
    params(
        ("session_id" = Option<String>, Query, description = "Only those of this session"),
        ("status" = Option<String>, Query, description = "Only those with this status"),
        ("limit" = Option<u64>, Query, description = "How many at most: 1 to 1000, 50 if nothing is said"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses(
        (status = 200, description = "One page of them", body = ListDto<'static>),
        Lists,
    ),
    security(("bearer" = [])),
)]
pub(super) async fn list(
    _caller: Authorized,
    State(api): State<ApiState>,
    parameters: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(parameters) = parameters
        .map_err(|_| ApiError::InvalidParameters(Problems::one("the query", "cannot be read")))?;
    let page = api.executor().list(query(&parameters)?).await?;
    let list = ListDto {
        executions: page.items.iter().map(SummaryDto::from).collect(),
        next_cursor: page.next.map(|cursor| cursor.number().to_string()),
    };
    json(StatusCode::OK, &list).map_err(ApiError::internal)
}

fn query(parameters: &[(String, String)]) -> Result<ListQuery, ApiError> {
    let mut problems = Problems::default();
    let mut query = ListQuery {
        session: None,
        status: None,
        before: None,
        limit: DEFAULT_LIMIT,
    };
    for (n, (name, value)) in parameters.iter().enumerate() {
        if parameters[..n].iter().any(|(earlier, _)| earlier == name) {
            problems.add(name, "is given more than once");
            continue;
        }
        let mut refuse = |problem: &dyn fmt::Display| problems.add(name, problem);
        match name.as_str() {
            "session_id" => match SessionId::parse(value) {
                Ok(session) => query.session = Some(session),
                Err(error) => refuse(&error),
            },
            "status" => match Status::ALL.into_iter().find(|s| s.as_str() == value) {
                Some(status) => query.status = Some(status),
                None => refuse(&format_args!(
                    "must be one of {}",
                    Status::ALL.map(Status::as_str).join(", ")
                )),
            },
            "limit" => match value.parse() {
                Ok(limit @ 1..=MAX_LIMIT) => query.limit = limit,
                _ => refuse(&format_args!(
                    "must be a whole number between 1 and {MAX_LIMIT}"
                )),
            },
            "cursor" => match value.parse() {
                Ok(number) => query.before = Some(Cursor::new(number)),
                Err(_) => refuse(&"must be a next_cursor of an earlier answer"),
            },
            _ => refuse(&"is not a parameter of this request"),
        }
    }
    if problems.is_empty() {
        Ok(query)
    } else {
        Err(ApiError::InvalidParameters(problems))
    }
}

/// The id in the path. What cannot be an id is the id of nothing.
fn named(id: Result<Path<String>, PathRejection>) -> Result<ExecutionId, ApiError> {
    id.ok()
        .and_then(|Path(id)| ExecutionId::parse(&id).ok())
        .ok_or(ApiError::NoSuchExecution)
}
