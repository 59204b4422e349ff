//! `POST /execute`

use axum::{extract::State, http::StatusCode, response::Response};

use crate::{ApiState, answer, auth::Authorized, body::JsonBody, error::ApiError, request};

/// Runs code and answers when the run has ended. Whatever the guest did wrong is an answer of 200.
pub(super) async fn execute(
    _caller: Authorized,
    State(api): State<ApiState>,
    body: JsonBody,
) -> Result<Response, ApiError> {
    let command = request::parse(&body.text, api.executor().policy())?;
    // A run can take an hour, and the command has what it needs.
    drop(body);
    let execution = api.executor().execute(command).await?;
    answer::execution(&api, StatusCode::OK, execution).await
}
