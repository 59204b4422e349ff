//! What a client may read of an error: one table.

mod files;

use std::{borrow::Cow, error::Error, sync::Arc, time::Duration};

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use executor_application::{ExecuteError, RunFailure, SandboxError, StoreError};
use serde::Serialize;
use utoipa::ToSchema;

pub(crate) use self::files::FilesProblem;
use crate::{
    problems::Problems, request, request_id::RequestId, response::json, routes::executions,
};

/// When to come back to a daemon that is draining or broken: by then whoever restarts it has noticed.
const RETRY_UNAVAILABLE: Duration = Duration::from_secs(5);

/// Why we failed, for the log alone.
pub(crate) type Cause = Arc<dyn Error + Send + Sync>;

/// Why a request is not answered with what it asked for.
#[derive(Debug, Clone)]
pub(crate) enum ApiError {
    /// The body is not one JSON object; this is what it is.
    Malformed(Cow<'static, str>),
    /// The body does not end as its head says, or is not framed as HTTP wants it.
    BrokenBody,
    /// Fields are missing, unknown or invalid.
    InvalidFields(Problems),
    /// Parameters of a query, or headers, are unknown or invalid.
    InvalidParameters(Problems),
    /// The token is missing or wrong.
    Unauthorized,
    /// The request names another host than this one.
    ForeignHost,
    /// There is no such execution.
    NoSuchExecution,
    /// There is no such route.
    NoSuchRoute,
    /// The route has no such method.
    MethodNotAllowed,
    /// The body did not arrive in time.
    BodyTimeout {
        /// How long there was.
        allowed: Duration,
    },
    /// The execution id belongs to another request.
    Conflict,
    /// The body is too large.
    BodyTooLarge {
        /// Largest allowed body.
        max_bytes: usize,
    },
    /// The body is not JSON, or not as we read it; this is what is wrong.
    UnsupportedMediaType(&'static str),
    /// All running and waiting slots are taken.
    QueueFull {
        /// When to come back.
        retry_after: Duration,
    },
    /// The daemon is shutting down.
    Draining,
    /// A sandbox cannot be started.
    SandboxUnavailable(Cause),
    /// There is no room for results.
    StoreFull(Cause),
    /// What is kept of the execution is damaged.
    RecordUnreadable(Cause),
    /// It is about a session and its files.
    Files(FilesProblem),
    /// We failed.
    Internal(Cause),
}

/// One row of the table.
struct Row {
    status: StatusCode,
    code: &'static str,
    description: &'static str,
    solution: Cow<'static, str>,
}

impl Row {
    fn new(
        status: StatusCode,
        code: &'static str,
        description: &'static str,
        solution: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            status,
            code,
            description,
            solution: solution.into(),
        }
    }

    /// For an execution that is kept and damaged: asking again does not help.
    fn unreadable() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "Executor.InternalError",
            "What is kept of the execution cannot be read",
            "Run the code again under a new execution_id; report the request_id to the operator if the result matters",
        )
    }
}

impl ApiError {
    /// We failed because of this.
    pub(crate) fn internal(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Internal(Arc::from(cause.into()))
    }

    /// The table.
    fn row(&self) -> Row {
        match self {
            Self::Malformed(_) | Self::BrokenBody => Row::new(
                StatusCode::BAD_REQUEST,
                "Executor.ValidationError",
                "The request body cannot be read",
                "Send one JSON object in UTF-8",
            ),
            Self::InvalidFields(_) => Row::new(
                StatusCode::BAD_REQUEST,
                "Executor.ValidationError",
                "The request has invalid fields",
                format!(
                    "Correct the named fields; the request may have {}",
                    request::FIELDS.join(", ")
                ),
            ),
            Self::InvalidParameters(_) => Row::new(
                StatusCode::BAD_REQUEST,
                "Executor.ValidationError",
                "The request has invalid parameters",
                format!(
                    "Correct what is named; a list may have the parameters {}",
                    executions::PARAMETERS.join(", ")
                ),
            ),
            Self::Unauthorized => Row::new(
                StatusCode::UNAUTHORIZED,
                "Executor.Unauthorized",
                "The request is not authorized",
                "Send the daemon's token as `Authorization: Bearer …`",
            ),
            Self::ForeignHost => Row::new(
                StatusCode::FORBIDDEN,
                "Executor.Forbidden",
                "The request is not meant for this host",
                "Call the daemon by its address or as localhost, or set INTERNAL_API_TOKEN",
            ),
            Self::NoSuchExecution => Row::new(
                StatusCode::NOT_FOUND,
                "Executor.NotFound",
                "There is no such execution",
                "Check the execution_id; results are forgotten after a while",
            ),
            Self::NoSuchRoute => Row::new(
                StatusCode::NOT_FOUND,
                "Executor.NotFound",
                "There is no such route",
                "Check the path of the request",
            ),
            Self::MethodNotAllowed => Row::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "Executor.MethodNotAllowed",
                "The route does not have this method",
                "Use a method that the Allow header names",
            ),
            Self::BodyTimeout { .. } => Row::new(
                StatusCode::REQUEST_TIMEOUT,
                "Executor.RequestTimeout",
                "The request body did not arrive in time",
                "Send the request again, faster",
            ),
            Self::Conflict => Row::new(
                StatusCode::CONFLICT,
                "Executor.Conflict",
                "The execution id is taken by another request",
                "Use a new execution_id, or repeat the first request as it was",
            ),
            Self::BodyTooLarge { .. } => Row::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "Executor.PayloadTooLarge",
                "The request body is too large",
                "Send less, or hand large data over as files of the session",
            ),
            Self::UnsupportedMediaType(_) => Row::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "Executor.UnsupportedMediaType",
                "The request body is not plain JSON",
                "Send `Content-Type: application/json` and no Content-Encoding",
            ),
            Self::QueueFull { .. } => Row::new(
                StatusCode::TOO_MANY_REQUESTS,
                "Executor.QueueFull",
                "All running and waiting slots are taken",
                "Send the request again after the time in the Retry-After header",
            ),
            Self::Draining | Self::SandboxUnavailable(_) | Self::StoreFull(_) => Row::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "Executor.Unavailable",
                "The executor cannot run code now",
                "Send the request again after the time in the Retry-After header, or to another instance",
            ),
            Self::Files(problem) => problem.row(),
            Self::RecordUnreadable(_) => Row::unreadable(),
            Self::Internal(_) => Row::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "Executor.InternalError",
                "The executor failed",
                "Send the request again; if that does not help, report the request_id to the operator",
            ),
        }
    }

    /// Its row for whoever describes the API: status, code and description.
    pub(crate) fn summary(&self) -> (StatusCode, &'static str, &'static str) {
        let row = self.row();
        (row.status, row.code, row.description)
    }

    /// What is wrong with this request in particular.
    pub(crate) fn detail(&self) -> Cow<'static, str> {
        match self {
            Self::Malformed(detail) => detail.clone(),
            Self::BrokenBody => "the body broke off, or is not framed as HTTP wants it".into(),
            Self::InvalidFields(problems) | Self::InvalidParameters(problems) => {
                problems.to_string().into()
            }
            Self::Unauthorized => "the token is missing or wrong".into(),
            Self::ForeignHost => {
                "without a token, this daemon serves this host alone, and the Host header \
                                  names another one"
                    .into()
            }
            Self::NoSuchExecution => "no execution of this id is known".into(),
            Self::NoSuchRoute => "no route matches the path".into(),
            Self::MethodNotAllowed => "the path exists, but not with this method".into(),
            Self::BodyTimeout { allowed } => format!(
                "the body was not complete after {} s",
                allowed.as_secs_f64()
            )
            .into(),
            Self::Conflict => "the same execution_id was used with another body".into(),
            Self::BodyTooLarge { max_bytes } => {
                format!("the body must be at most {max_bytes} bytes long").into()
            }
            Self::UnsupportedMediaType(detail) => (*detail).into(),
            Self::QueueFull { retry_after } => {
                format!("try again in {} s", whole_seconds(*retry_after)).into()
            }
            Self::Draining => "the executor is shutting down".into(),
            Self::SandboxUnavailable(_) => "a sandbox cannot be started".into(),
            Self::StoreFull(_) => "there is no room for results".into(),
            Self::Files(problem) => problem.detail(),
            Self::RecordUnreadable(_) => {
                "the record of this execution is damaged; others are not affected".into()
            }
            Self::Internal(_) => "the cause is in the executor's log under the request_id".into(),
        }
    }

    /// When to come back, for refusals that pass.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::QueueFull { retry_after } => Some(*retry_after),
            Self::Draining | Self::SandboxUnavailable(_) | Self::StoreFull(_) => {
                Some(RETRY_UNAVAILABLE)
            }
            _ => None,
        }
    }

    /// What the log is told and the client is not.
    pub(crate) fn cause(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::SandboxUnavailable(cause)
            | Self::StoreFull(cause)
            | Self::RecordUnreadable(cause)
            | Self::Internal(cause) => Some(cause.as_ref()),
            Self::Files(problem) => problem.cause(),
            _ => None,
        }
    }

    /// The answer, in the table's form.
    pub(crate) fn render(&self, request_id: &RequestId) -> Response {
        let row = self.row();
        let mut response = json(
            row.status,
            &ErrorDto {
                error_code: row.code,
                description: row.description,
                error_detail: &self.detail(),
                solution: &row.solution,
                request_id: request_id.as_str(),
            },
        )
        .unwrap_or_else(|_| row.status.into_response());
        let headers = response.headers_mut();
        if let Some(retry_after) = self.retry_after() {
            headers.insert(header::RETRY_AFTER, whole_seconds(retry_after).into());
        }
        if matches!(self, Self::Unauthorized) {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Self::Files(problem) = self {
            problem.add_headers(headers);
        }
        if matches!(
            self,
            Self::BrokenBody | Self::BodyTooLarge { .. } | Self::BodyTimeout { .. }
        ) {
            // Nobody knows or waits for where the body ends, so no other request can follow it.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// HTTP counts in seconds; less than one would mean "at once".
fn whole_seconds(time: Duration) -> u64 {
    let up = u64::from(time.subsec_nanos() > 0);
    time.as_secs().saturating_add(up).max(1)
}

/// Why a request was not answered with what it asked for.
#[derive(Serialize, ToSchema)]
pub(crate) struct ErrorDto<'a> {
    /// What kind of error it is, for programs
    error_code: &'static str,
    /// The same for people
    description: &'static str,
    /// What is wrong with this request in particular
    error_detail: &'a str,
    /// What to do about it
    solution: &'a str,
    /// The name of the request, as in the header and in the log
    request_id: &'a str,
}

impl From<ExecuteError> for ApiError {
    fn from(error: ExecuteError) -> Self {
        match error {
            ExecuteError::Limits(refused) => {
                let mut problems = Problems::default();
                problems.add_limits(&refused);
                Self::InvalidFields(problems)
            }
            ExecuteError::LanguageUnavailable(language) => Self::InvalidFields(Problems::one(
                "language",
                format_args!("is {language}, for which this host has no interpreter"),
            )),
            ExecuteError::OtherSession { bound } => Self::InvalidFields(Problems::one(
                "session_id",
                format_args!("must be {bound}: this executor is bound to that session"),
            )),
            ExecuteError::Conflict => Self::Conflict,
            ExecuteError::Busy { retry_after } => Self::QueueFull { retry_after },
            ExecuteError::Draining => Self::Draining,
            ExecuteError::Failed(failure) => match *failure {
                RunFailure::Sandbox(SandboxError::Unavailable { .. }) => {
                    Self::SandboxUnavailable(failure)
                }
                RunFailure::Store(StoreError::Full(_)) => Self::StoreFull(failure),
                RunFailure::Store(StoreError::Unreadable(_)) => Self::RecordUnreadable(failure),
                _ => Self::Internal(failure),
            },
        }
    }
}

/// Leaves the answer's body open: the middleware, which knows the request's id, [renders](ApiError::render) it.
impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.row().status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_never_says_at_once_nor_too_early() {
        for (time, seconds) in [(0, 1), (1, 1), (999, 1), (1000, 1), (1001, 2), (60_000, 60)] {
            assert_eq!(
                whole_seconds(Duration::from_millis(time)),
                seconds,
                "{time} ms"
            );
        }
        assert_eq!(whole_seconds(Duration::MAX), u64::MAX);
    }
}
