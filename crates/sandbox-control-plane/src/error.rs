//! What a caller is told when something is wrong.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;

use crate::StoreError;

/// Why a request was not carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("the token is missing or wrong")]
    Unauthorized,
    #[error("there is nothing here")]
    NotFound,
    #[error("this route has other methods")]
    MethodNotAllowed,
    #[error("the body must be application/json")]
    MediaType,
    #[error("the body has more than {max_bytes} bytes")]
    TooLarge { max_bytes: usize },
    #[error("the body did not arrive in time")]
    Slow,
    #[error("{0}")]
    Invalid(String),
    #[error("the store failed")]
    Store(#[from] StoreError),
    #[error("the work was lost")]
    Lost,
}

impl ApiError {
    const fn status(&self) -> StatusCode {
        match self {
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::MediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Slow => StatusCode::REQUEST_TIMEOUT,
            Self::Invalid(_) => StatusCode::BAD_REQUEST,
            Self::Store(_) | Self::Lost => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = self.status();
        if status.is_server_error() {
            tracing::error!(error = &self as &dyn std::error::Error, "request failed");
        }
        let mut response = (status, Json(json!({"detail": self.to_string()}))).into_response();
        if matches!(self, Self::Unauthorized) {
            // Makes a browser ask for the token, as a password.
            response.headers_mut().insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Basic realm=\"control plane\""),
            );
        }
        response
    }
}
