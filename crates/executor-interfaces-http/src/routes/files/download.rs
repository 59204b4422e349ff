//! Files and archives on their way out.

use std::fmt::Write as _;

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use chrono::DateTime;
use executor_application::{ArchiveFormat, Content, Entry, FilesError};
use executor_domain::{SessionId, Timestamp, WorkspacePath};
use futures_util::stream::try_unfold;

use super::{
    super::sessions::sessions,
    conditions::{self, Verdict},
};
use crate::{
    ApiState,
    error::{ApiError, FilesProblem},
};

/// What a browser may do with a file that a guest wrote: show it, and nothing else. No script of it runs, and it is of
/// nobody's origin.
const POLICY: &str =
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:";

/// What is shown where it is opened. Everything else is for keeping: a page or a script of a guest's on the API's own
/// origin would be one policy header away from acting for whoever looks at it.
const SHOWN: [&str; 12] = [
    "image/png",
    "image/jpeg",
    "image/gif",
    "image/webp",
    "image/bmp",
    "image/svg+xml",
    "text/plain",
    "text/csv",
    "text/markdown",
    "application/json",
    "audio/mpeg",
    "video/mp4",
];

/// A file, or the part of it that was asked for.
pub(super) fn file(
    entry: &Entry,
    mut content: Box<dyn Content>,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let (status, start, length) = match conditions::judge(headers, &entry.etag, entry.size)? {
        Verdict::Whole => (StatusCode::OK, 0, entry.size),
        Verdict::Part { start, length } => (StatusCode::PARTIAL_CONTENT, start, length),
        Verdict::Failed => return Err(FilesError::ConditionFailed.into()),
        Verdict::OutOfRange => {
            return Err(ApiError::Files(FilesProblem::Range { size: entry.size }));
        }
        Verdict::NotModified => {
            let mut response = StatusCode::NOT_MODIFIED.into_response();
            add_validators(response.headers_mut(), entry);
            return Ok(response);
        }
    };
    if start > 0 {
        content.skip_to(start);
    }
    let mut response = Response::new(body(content, Some(length)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    add_validators(headers, entry);
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::CONTENT_LENGTH, length.into());
    if status == StatusCode::PARTIAL_CONTENT {
        let end = start + length - 1;
        let range = format!("bytes {start}-{end}/{}", entry.size);
        insert(headers, header::CONTENT_RANGE, &range);
    }
    let mime_type = &entry.mime_type;
    if mime_type.starts_with("text/") {
        // What is not UTF-8 is no text here.
        let with_charset = format!("{mime_type}; charset=utf-8");
        insert(headers, header::CONTENT_TYPE, &with_charset);
    } else {
        insert(headers, header::CONTENT_TYPE, mime_type);
    }
    let shown = SHOWN.contains(&mime_type.as_str());
    let how = if shown { "inline" } else { "attachment" };
    insert(
        headers,
        header::CONTENT_DISPOSITION,
        &disposition(how, entry.path.name()),
    );
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(POLICY),
    );
    Ok(response)
}

/// A directory as one file.
pub(super) async fn archive(
    api: &ApiState,
    session: &SessionId,
    directory: Option<WorkspacePath>,
    format: ArchiveFormat,
) -> Result<Response, ApiError> {
    let (extension, media_type) = match format {
        ArchiveFormat::Tar => ("tar", "application/x-tar"),
        ArchiveFormat::Zip => ("zip", "application/zip"),
    };
    let name = directory
        .as_ref()
        .map_or(session.as_str(), WorkspacePath::name);
    let name = format!("{name}.{extension}");
    let content = sessions(api)?.pack(session, directory, format).await?;
    let mut response = Response::new(body(content, None));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    insert(
        headers,
        header::CONTENT_DISPOSITION,
        &disposition("attachment", &name),
    );
    Ok(response)
}

fn add_validators(headers: &mut HeaderMap, entry: &Entry) {
    insert(headers, header::ETAG, &conditions::quoted(&entry.etag));
    if let Some(time) = http_date(entry.modified_at) {
        insert(headers, header::LAST_MODIFIED, &time);
    }
    // It may be kept, and must be asked about before it is shown again: the next run may change it.
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("private, no-cache"),
    );
}

/// Content as a body. Where it ends early, the connection breaks off, so that nobody takes a part for the whole.
fn body(content: Box<dyn Content>, length: Option<u64>) -> Body {
    let left = length.unwrap_or(u64::MAX);
    Body::from_stream(try_unfold((content, left), async |(mut content, left)| {
        if left == 0 {
            return Ok(None);
        }
        let next = content.next().await.inspect_err(|error| {
            tracing::warn!(
                error = executor_application::chain(error),
                "a file broke off while it was sent"
            );
        })?;
        Ok::<_, FilesError>(next.map(|mut chunk| {
            chunk.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            let left = left - chunk.len() as u64;
            (Bytes::from(chunk), (content, left))
        }))
    }))
}

/// Inserts what may not be a legal header: then it is left out.
fn insert(headers: &mut HeaderMap, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// How a file is to be handled, and its name (RFC 6266): in ASCII for old clients, in UTF-8 for the others.
fn disposition(how: &str, name: &str) -> String {
    let plain: String = name
        .chars()
        .map(|c| match c {
            '"' | '\\' | '%' | '/' => '_',
            c if c.is_ascii_graphic() || c == ' ' => c,
            _ => '_',
        })
        .collect();
    let mut value = format!("{how}; filename=\"{plain}\"");
    if plain != name {
        value.push_str("; filename*=UTF-8''");
        for byte in name.bytes() {
            // attr-char of RFC 8187, section 3.2.1.
            if byte.is_ascii_alphanumeric() || b"!#$&+-.^_`|~".contains(&byte) {
                value.push(char::from(byte));
            } else {
                // Writing to a String cannot fail.
                let _ = write!(value, "%{byte:02X}");
            }
        }
    }
    value
}

/// As HTTP writes time (RFC 9110, section 5.6.7).
fn http_date(time: Timestamp) -> Option<String> {
    DateTime::from_timestamp_micros(time.unix_micros())
        .map(|time| time.format("%a, %d %b %Y %H:%M:%S GMT").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_in_headers() {
        for (name, expected) in [
            ("a b.png", "inline; filename=\"a b.png\""),
            (
                "größe.png",
                "inline; filename=\"gr__e.png\"; filename*=UTF-8''gr%C3%B6%C3%9Fe.png",
            ),
            (
                "a\"b\\c%d",
                "inline; filename=\"a_b_c_d\"; filename*=UTF-8''a%22b%5Cc%25d",
            ),
        ] {
            assert_eq!(disposition("inline", name), expected);
        }
    }

    #[test]
    fn time_is_told_as_http_tells_it() {
        assert_eq!(
            http_date(Timestamp::from_unix_micros(784_111_777_000_000)).unwrap(),
            "Sun, 06 Nov 1994 08:49:37 GMT"
        );
    }
}
