//! What an operation can be answered with instead of what it was asked for, in the words of the error table.

use std::{collections::BTreeMap, time::Duration};

use utoipa::{
    IntoResponses,
    openapi::{ContentBuilder, Header, HeaderBuilder, Ref, RefOr, Response, ResponseBuilder},
};

use executor_application::{FilesError, Overflow};

use crate::{
    error::{ApiError, FilesProblem},
    problems::Problems,
};

/// The name of the schema that every refusal has.
pub(crate) const SCHEMA: &str = "Error";

/// We can fail: any operation.
pub(crate) struct Fails;

/// Wants the token: any operation but `/health` and `/livez`.
pub(crate) struct Guarded;

/// Takes a command to run something.
pub(crate) struct Submits;

/// Looks for one execution.
pub(crate) struct Finds;

/// Lists what a query asks for.
pub(crate) struct Lists;

/// Is about a session and its files.
pub(crate) struct Sessions;

/// Brings a session something.
pub(crate) struct Uploads;

/// What can be wrong with any request about a session.
fn about_sessions() -> Vec<ApiError> {
    vec![
        ApiError::InvalidFields(Problems::default()),
        ApiError::Unauthorized,
        ApiError::ForeignHost,
        FilesError::NoSession.into(),
        FilesError::NoFile.into(),
        FilesError::InUse.into(),
        FilesError::NotDirectory.into(),
        FilesError::ConditionFailed.into(),
        ApiError::Files(FilesProblem::Range { size: 0 }),
        ApiError::internal(""),
        ApiError::Draining,
    ]
}

impl IntoResponses for Sessions {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        responses(&about_sessions())
    }
}

impl IntoResponses for Uploads {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let mut refusals = about_sessions();
        refusals.extend([
            ApiError::BodyTimeout {
                allowed: Duration::from_secs(1),
            },
            ApiError::Files(FilesProblem::TooLarge { max_bytes: 0 }),
            ApiError::UnsupportedMediaType(""),
            FilesError::Full(Overflow::Disk { available: 0 }).into(),
        ]);
        responses(&refusals)
    }
}

impl IntoResponses for Finds {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        responses(&[
            ApiError::InvalidParameters(Problems::default()),
            ApiError::Unauthorized,
            ApiError::ForeignHost,
            ApiError::NoSuchExecution,
            ApiError::internal(""),
            ApiError::Draining,
        ])
    }
}

impl IntoResponses for Lists {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        responses(&[
            ApiError::InvalidParameters(Problems::default()),
            ApiError::Unauthorized,
            ApiError::ForeignHost,
            ApiError::internal(""),
            ApiError::Draining,
        ])
    }
}

impl IntoResponses for Fails {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        responses(&[ApiError::internal("")])
    }
}

impl IntoResponses for Guarded {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        responses(&[
            ApiError::Unauthorized,
            ApiError::ForeignHost,
            ApiError::internal(""),
        ])
    }
}

impl IntoResponses for Submits {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let some_time = Duration::from_secs(1);
        responses(&[
            ApiError::Malformed("".into()),
            ApiError::InvalidFields(Problems::default()),
            ApiError::Unauthorized,
            ApiError::ForeignHost,
            ApiError::BodyTimeout { allowed: some_time },
            ApiError::Conflict,
            ApiError::BodyTooLarge { max_bytes: 0 },
            ApiError::UnsupportedMediaType(""),
            ApiError::QueueFull {
                retry_after: some_time,
            },
            ApiError::internal(""),
            ApiError::Draining,
        ])
    }
}

/// One response for each status; what several refusals share a status for, it lists.
fn responses(refusals: &[ApiError]) -> BTreeMap<String, RefOr<Response>> {
    let mut by_status: BTreeMap<String, (Vec<String>, &ApiError)> = BTreeMap::new();
    for refusal in refusals {
        let (status, code, description) = refusal.summary();
        let (lines, _) = by_status
            .entry(status.as_str().to_owned())
            .or_insert_with(|| (Vec::new(), refusal));
        lines.push(format!("`{code}`: {description}"));
    }
    by_status
        .into_iter()
        .map(|(status, (lines, refusal))| (status, response(&lines.join(". "), refusal).into()))
        .collect()
}

fn response(description: &str, refusal: &ApiError) -> Response {
    let content = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name(SCHEMA)))
        .build();
    let mut response = ResponseBuilder::new()
        .description(description)
        .content("application/json", content);
    if refusal.retry_after().is_some() {
        response = response.header(
            "Retry-After",
            text_header("In how many seconds to try again"),
        );
    }
    if matches!(refusal, ApiError::Unauthorized) {
        response = response.header(
            "WWW-Authenticate",
            text_header("How to authenticate: `Bearer`"),
        );
    }
    response.build()
}

fn text_header(description: &str) -> Header {
    HeaderBuilder::new().description(Some(description)).build()
}
