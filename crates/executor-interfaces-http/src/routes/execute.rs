//! `POST /execute`

use axum::{extract::State, http::StatusCode, response::Response};

use crate::{
    ApiState,
    auth::Authorized,
    body::JsonBody,
    error::ApiError,
    openapi::Submits,
    request,
    response::{ExecutionDto, json},
    trace::CallersTrace,
};

/// Run code.
///
/// Answers when the run has ended. Whatever the guest did wrong is an answer of 200.
#[utoipa::path(
    post,
    path = "/execute",
    tag = "executions",
    request_body(
        content = ref("#/components/schemas/ExecuteRequest"),
        content_type = "application/json",
    ),
    responses(
        (status = 200, description = "The run has ended", body = ExecutionDto<'static>),
        Submits,
    ),
    security(("bearer" = [])),
)]
pub(super) async fn execute(
    _caller: Authorized,
    State(api): State<ApiState>,
    CallersTrace(trace_parent): CallersTrace,
    body: JsonBody,
) -> Result<Response, ApiError> {
    let mut command = request::parse(&body.text, api.executor().policy())?;
    command.trace_parent = trace_parent;
    // A run can take an hour, and the command has what it needs.
    drop(body);
    let execution = api.executor().execute(command).await?;
    json(StatusCode::OK, &ExecutionDto::from(&execution)).map_err(ApiError::internal)
}
