//! `GET /openapi.json` and `GET /docs`: the API, described for programs and for people.

use axum::{
    extract::State,
    http::{HeaderMap, HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
};
use uuid::Uuid;

use crate::{
    ApiState,
    auth::Authorized,
    error::ApiError,
    openapi::{self, Guarded},
};

/// This description.
///
/// `OpenAPI` 3.1. The limits in it are those of this daemon.
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "description",
    responses(
        (status = 200, description = "The description", body = Object, content_type = "application/json"),
        Guarded,
    ),
    security(("bearer" = [])),
)]
pub(super) async fn openapi_json(
    _caller: Authorized,
    State(api): State<ApiState>,
) -> Result<Response, ApiError> {
    let document = openapi::document(api.executor().policy().ceilings());
    crate::response::json(StatusCode::OK, &document).map_err(ApiError::internal)
}

/// The page: its own style and script and nothing from elsewhere.
const PAGE: &str = include_str!("docs.html");

/// Where the page names the number that its style and script carry.
const NONCE: &str = "{{nonce}}";

/// A page to read this description and to try the API.
///
/// Works without a network. Browsers cannot send a token with the first request, so they get the page together with the
/// 401; it asks for the token and uses it for everything else.
#[utoipa::path(
    get,
    path = "/docs",
    tag = "description",
    responses(
        (status = 200, description = "The page", body = String, content_type = "text/html"),
        Guarded,
    ),
    security(("bearer" = [])),
)]
pub(super) async fn docs(
    caller: Result<Authorized, ApiError>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let status = match caller {
        Ok(_) => StatusCode::OK,
        // The page itself is no secret: it is in the source, and knows nothing of this daemon.
        Err(ApiError::Unauthorized) if is_browser(&headers) => StatusCode::UNAUTHORIZED,
        Err(refusal) => return Err(refusal),
    };
    let nonce = Uuid::new_v4().simple().to_string();
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let headers: [(HeaderName, &str); 3] = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, &policy),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    let mut response = (status, headers, PAGE.replace(NONCE, &nonce)).into_response();
    if status == StatusCode::UNAUTHORIZED {
        let scheme = header::HeaderValue::from_static("Bearer");
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, scheme);
    }
    Ok(response)
}

/// Browsers name HTML when somebody opens a page; programs do not.
fn is_browser(headers: &HeaderMap) -> bool {
    headers.get_all(header::ACCEPT).iter().any(|accepted| {
        accepted
            .to_str()
            .is_ok_and(|text| text.contains("text/html"))
    })
}
