//! The routes.

mod description;
mod execute;
pub(crate) mod executions;
pub(crate) mod files;
mod health;
mod info;
mod metrics;
mod sessions;

use axum::Router;
use utoipa::openapi::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{ApiState, error::ApiError, middleware::attend};

/// Every route, with the description that stands at its handler. A route that is added with `routes!` is in the API's
/// description by that alone; `.route` would bypass it, and a test looks for that.
fn described() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(execute::execute))
        .routes(routes!(executions::list))
        .routes(routes!(executions::find, executions::cancel))
        .routes(routes!(executions::follow))
        .merge(sessions::routes())
        .routes(routes!(health::health))
        .routes(routes!(health::livez))
        .routes(routes!(info::info))
        .routes(routes!(metrics::metrics))
        .routes(routes!(description::openapi_json))
        .routes(routes!(description::docs))
}

/// What the descriptions at the handlers come to, without what is the same for all of them.
pub(crate) fn descriptions() -> OpenApi {
    described().into_openapi()
}

/// Every route of the API. `GET` routes answer `HEAD` as well.
///
/// Whatever goes wrong is answered in the form of the error table, with the request's id in the header and the body.
/// Dropping a request's future means that its client no longer waits; whether that cancels the run is the use case's
/// to say.
pub fn router(api: ApiState) -> Router {
    let (routes, _) = described().split_for_parts();
    routes
        .fallback(async || ApiError::NoSuchRoute)
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed)
        .layer(axum::middleware::from_fn_with_state(api.clone(), attend))
        .with_state(api)
}
