//! `POST /execute`

use axum::{
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::Response,
};
use executor_application::{Position, Submission};
use executor_domain::{Execution, Status};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    ApiState, answer,
    auth::Authorized,
    body::JsonBody,
    error::ApiError,
    events,
    openapi::Submits,
    prefer::Answering,
    request,
    response::{ExecutionDto, json},
    trace::CallersTrace,
};

/// RFC 7240, section 3.
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// Run code.
///
/// Answers when the run has ended; with `Prefer: respond-async` at once; with `Accept: text/event-stream` as it happens.
/// Whatever the guest did wrong is an answer of 200.
#[utoipa::path(
    post,
    path = "/execute",
    tag = "executions",
    params(
        ("Prefer" = Option<String>, Header, description = "`respond-async`: answer at once. `wait=N`: answer at once if the run takes more than N seconds (RFC 7240)"),
    ),
    request_body(
        content = ref("#/components/schemas/ExecuteRequest"),
        content_type = "application/json",
    ),
    responses(
        (status = 200, description = "The run has ended; or what happens in it, for whoever accepts `text/event-stream`; or, where the daemon answers at once by default, that it was accepted", content(
            (ExecutionDto<'static> = "application/json"),
            (String = "text/event-stream"),
        )),
        (status = 202, description = "Accepted; `Location` is where its result will be", body = AcceptedDto<'static>, headers(
            ("Location" = String, description = "The path of the execution"),
            ("Preference-Applied" = String, description = "What was asked for and done (RFC 7240)"),
        )),
        Submits,
    ),
    security(("bearer" = [])),
)]
pub(super) async fn execute(
    _caller: Authorized,
    State(api): State<ApiState>,
    CallersTrace(trace_parent): CallersTrace,
    headers: HeaderMap,
    body: JsonBody,
) -> Result<Response, ApiError> {
    let mut command = request::parse(&body.text, api.executor().policy())?;
    command.trace_parent = trace_parent;
    // A run can take an hour, and the command has what it needs.
    drop(body);
    let submission = api.executor().submit(command).await?;
    match Answering::of(&headers, api.options().answer_later) {
        Answering::Result => result(&api, submission.finished().await?).await,
        Answering::Later { wait, asked } => {
            let accepted = submission.keep().await?;
            let Some(wait) = wait else {
                return later(&accepted, asked.then_some("respond-async"));
            };
            match tokio::time::timeout(wait, submission.finished()).await {
                Ok(finished) => Ok(applied(result(&api, finished?).await?, "wait")),
                Err(_) => later(
                    &accepted,
                    Some(if asked { "respond-async, wait" } else { "wait" }),
                ),
            }
        }
        Answering::Stream => stream(&submission).await,
    }
}

async fn result(api: &ApiState, execution: Execution) -> Result<Response, ApiError> {
    answer::execution(api, StatusCode::OK, execution).await
}

/// Goes on whoever reads: who has lost the connection can read on elsewhere.
async fn stream(submission: &Submission) -> Result<Response, ApiError> {
    let accepted = submission.keep().await?;
    let response = events::answer(submission.events(Position::default()));
    located(response, &accepted)
}

/// That a run was accepted.
#[derive(Serialize, ToSchema)]
#[schema(as = Accepted)]
struct AcceptedDto<'a> {
    /// Its name
    execution_id: &'a str,
    /// `pending`, or its final status where it has ended by now
    status: &'static str,
    /// The same for people
    message: &'static str,
}

/// 202 where the caller has asked for it, 200 where this is how the daemon answers.
fn later(execution: &Execution, preference: Option<&'static str>) -> Result<Response, ApiError> {
    let asked = preference.is_some_and(|applied| applied.starts_with("respond-async"));
    let code = if asked {
        StatusCode::ACCEPTED
    } else {
        StatusCode::OK
    };
    // Accepted is what it was when we answered for it, even if its guest runs by now.
    let status = match execution.status() {
        Status::Running => Status::Pending,
        other => other,
    };
    let accepted = AcceptedDto {
        execution_id: execution.id().as_str(),
        status: status.as_str(),
        message: status.message(),
    };
    let response = json(code, &accepted).map_err(ApiError::internal)?;
    let response = located(response, execution)?;
    match preference {
        Some(preference) => Ok(applied(response, preference)),
        None => Ok(response),
    }
}

/// Says where the execution is to be found. Ids need no escaping in a path.
fn located(mut response: Response, execution: &Execution) -> Result<Response, ApiError> {
    let place = format!("/executions/{}", execution.id());
    let place = HeaderValue::try_from(place).map_err(ApiError::internal)?;
    response.headers_mut().insert(header::LOCATION, place);
    Ok(response)
}

fn applied(mut response: Response, preference: &'static str) -> Response {
    let preference = HeaderValue::from_static(preference);
    response
        .headers_mut()
        .insert(PREFERENCE_APPLIED, preference);
    response
}
