//! Bodies of requests, within bounds of size and time.

use axum::{
    body::{Body, HttpBody as _},
    http::{HeaderMap, header},
};
use http_body_util::BodyExt as _;
use serde::de::DeserializeOwned;
use tokio::{sync::Semaphore, time::timeout};

use crate::{error::ApiError, routes::ControlPlaneOptions};

/// What room for bodies is counted in, in bytes: a semaphore has fewer permits than a machine has bytes.
pub(crate) const ROOM_UNIT: usize = 1024;

/// Largest body of a report that is no result.
pub(crate) const MAX_SMALL_BODY: usize = 64 << 10;

/// Reads a body of at most so many bytes that claims to be JSON. Waits for room among all bodies that are read at the same
/// time, within the time that the body has.
pub(crate) async fn read(
    headers: &HeaderMap,
    body: Body,
    max_bytes: usize,
    room: &Semaphore,
    options: &ControlPlaneOptions,
) -> Result<Vec<u8>, ApiError> {
    let media_type = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .unwrap_or_default();
    // Also what keeps a form on some web page from reporting: it cannot send this type to another origin.
    if !media_type.trim().eq_ignore_ascii_case("application/json") {
        return Err(ApiError::MediaType);
    }
    let announced = body.size_hint().upper().unwrap_or(u64::MAX);
    let announced = usize::try_from(announced).unwrap_or(usize::MAX);
    if announced > max_bytes && body.size_hint().exact().is_some() {
        return Err(ApiError::TooLarge { max_bytes });
    }
    let units = announced
        .min(max_bytes)
        .min(options.max_bodies_bytes)
        .div_ceil(ROOM_UNIT);
    let units = u32::try_from(units).unwrap_or(u32::MAX);
    timeout(options.body_timeout, async {
        // Nobody closes the semaphore.
        let _room = room.acquire_many(units).await;
        whole(body, max_bytes).await
    })
    .await
    .map_err(|_| ApiError::Slow)?
}

async fn whole(mut body: Body, max_bytes: usize) -> Result<Vec<u8>, ApiError> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| ApiError::Invalid("the body broke off".into()))?;
        if let Ok(data) = frame.into_data() {
            if data.len() > max_bytes - bytes.len() {
                return Err(ApiError::TooLarge { max_bytes });
            }
            bytes.extend_from_slice(&data);
        }
    }
    Ok(bytes)
}

/// Parses a body.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(bytes)
        .map_err(|error| ApiError::Invalid(format!("the body is wrong: {error}")))
}
