//! The routes.

mod execute;
pub(crate) mod executions;
mod health;
mod info;

use axum::{
    Router,
    routing::{get, post},
};

use crate::{ApiState, error::ApiError, middleware::attend};

/// Every route of the API. `GET` routes answer `HEAD` as well.
///
/// Whatever goes wrong is answered in the form of the error table, with the request's id in the header and the body.
/// Dropping a request's future means that its client no longer waits; whether that cancels the run is the use case's
/// to say.
pub fn router(api: ApiState) -> Router {
    Router::new()
        .route("/execute", post(execute::execute))
        .route("/executions", get(executions::list))
        .route(
            "/executions/{execution_id}",
            get(executions::find).delete(executions::cancel),
        )
        .route("/executions/{execution_id}/events", get(executions::follow))
        .route("/health", get(health::health))
        .route("/livez", get(health::livez))
        .route("/info", get(info::info))
        .fallback(async || ApiError::NoSuchRoute)
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed)
        .layer(axum::middleware::from_fn(attend))
        .with_state(api)
}
