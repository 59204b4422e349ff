//! Bodies of requests: plain JSON text within bounds of size and time.

use axum::{
    body::{Body, HttpBody},
    extract::{FromRequest, Request},
    http::{HeaderMap, header},
};
use http_body_util::BodyExt;
use tokio::sync::OwnedSemaphorePermit;

use crate::{ApiState, error::ApiError};

/// First guess at a body's length. What the client promises is not reserved before it arrives.
const FIRST_RESERVE: usize = 16 << 10;

/// How much of every body needs no room, so that ordinary requests never wait for those who announce large ones. At most
/// this much for each connection, of which there are a few thousand.
const FREE_BYTES: usize = 64 << 10;

/// A body that claims to be JSON, in whole, as text. Whether it is JSON, its parser finds out.
pub(crate) struct JsonBody {
    pub(crate) text: String,
    /// The room that it takes among all bodies.
    _room: Option<OwnedSemaphorePermit>,
}

impl FromRequest<ApiState> for JsonBody {
    type Rejection = ApiError;

    /// Checks the head, then reads the body. At most the cap is ever in memory, and no longer than the body timeout.
    async fn from_request(request: Request, api: &ApiState) -> Result<Self, ApiError> {
        let options = api.options();
        let (head, body) = request.into_parts();
        check_media_type(&head.headers)?;
        let allowed = options.body_timeout;
        let max_bytes = options.max_body_bytes;
        let announced = announced(&body, max_bytes)?;
        let in_time = tokio::time::timeout(allowed, read(body, max_bytes, || api.room(announced)));
        let (bytes, room) = in_time
            .await
            .map_err(|_| ApiError::BodyTimeout { allowed })??;
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Self { text, _room: room }),
            Err(error) => Err(ApiError::Malformed(
                format!(
                    "the body is not UTF-8 at byte {}",
                    error.utf8_error().valid_up_to()
                )
                .into(),
            )),
        }
    }
}

/// `application/json` and whatever builds on it, in UTF-8 and not compressed: a small compressed body can be a large
/// one.
pub(crate) fn check_media_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let refuse = |why| Err(ApiError::UnsupportedMediaType(why));
    for encoding in headers.get_all(header::CONTENT_ENCODING) {
        if !encoding.as_bytes().eq_ignore_ascii_case(b"identity") {
            return refuse("the body has a Content-Encoding");
        }
    }
    let Some(content_type) = headers.get(header::CONTENT_TYPE) else {
        return refuse("there is no Content-Type");
    };
    let content_type = content_type
        .to_str()
        .unwrap_or_default()
        .to_ascii_lowercase();
    let mut parts = content_type.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default();
    let is_json = essence == "application/json"
        || (essence.starts_with("application/") && essence.ends_with("+json"));
    if !is_json {
        return refuse("the Content-Type is not application/json");
    }
    let charset = parts.find_map(|parameter| parameter.strip_prefix("charset="));
    match charset.map(|name| name.trim_matches('"')) {
        None | Some("utf-8" | "utf8") => Ok(()),
        Some(_) => refuse("the charset is not UTF-8"),
    }
}

/// How long a body may become: its announced length, or the cap where it has none.
fn announced(body: &Body, max_bytes: usize) -> Result<usize, ApiError> {
    let Some(length) = body.size_hint().exact() else {
        return Ok(max_bytes);
    };
    usize::try_from(length)
        .ok()
        .filter(|length| *length <= max_bytes)
        .ok_or(ApiError::BodyTooLarge { max_bytes })
}

/// Reads a body in whole, and stops as soon as it turns out to be too large. Takes room for all of it once more than
/// [`FREE_BYTES`] have really come: what is only announced takes nothing.
async fn read<Room: Future<Output = Option<OwnedSemaphorePermit>>>(
    mut body: Body,
    max_bytes: usize,
    take_room: impl Fn() -> Room,
) -> Result<(Vec<u8>, Option<OwnedSemaphorePermit>), ApiError> {
    let mut room = None;
    let mut bytes = Vec::with_capacity(max_bytes.min(FIRST_RESERVE));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| ApiError::BrokenBody)?;
        // Trailers say nothing that we would want to know.
        if let Ok(data) = frame.into_data() {
            if data.len() > max_bytes - bytes.len() {
                return Err(ApiError::BodyTooLarge { max_bytes });
            }
            if room.is_none() && bytes.len() + data.len() > FREE_BYTES {
                room = take_room().await;
            }
            bytes.extend_from_slice(&data);
        }
    }
    Ok((bytes, room))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts(content_type: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, content_type.parse().unwrap());
        check_media_type(&headers).is_ok()
    }

    #[test]
    fn json_in_utf8_is_accepted_in_every_spelling() {
        for good in [
            "application/json",
            "Application/JSON",
            "application/json; charset=utf-8",
            "application/json;charset=\"UTF-8\"",
            "application/json ; profile=x",
            "application/cloudevents+json",
        ] {
            assert!(accepts(good), "{good}");
        }
        for bad in [
            "",
            "text/plain",
            "text/json",
            "application/jsonp",
            "application/xml",
            "application/x-www-form-urlencoded",
            "application/json; charset=latin1",
            "multipart/form-data",
        ] {
            assert!(!accepts(bad), "{bad}");
        }
    }
}
