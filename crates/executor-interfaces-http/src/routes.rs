//! The routes.

mod execute;
mod files;
mod health;
mod info;
mod sessions;

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
        .route("/health", get(health::health))
        .route("/livez", get(health::livez))
        .route("/info", get(info::info))
        .merge(sessions::routes(&api))
        .fallback(async || ApiError::NoSuchRoute)
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed)
        .layer(axum::middleware::from_fn(attend))
        .with_state(api)
}
