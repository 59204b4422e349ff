//! What kind of content a file has: told by its first bytes, refined by its name.

/// How much of a file is looked at: what `infer` reads by itself, enough for every signature that it knows.
pub(crate) const HEAD_BYTES: usize = 8 * 1024;

/// The media type of a file. `head` is its beginning; `whole`: there is no more than that.
///
/// Content decides between binary and text, so that a name cannot dress up one as the other. Within that the name
/// decides where it is the better witness: among texts, and for what is packed as a ZIP archive. It remains a hint: the
/// guest chose both.
pub(crate) fn media_type(path: &str, head: &[u8], whole: bool) -> String {
    let by_name = mime_guess::from_path(path).first_raw();
    let by_content = infer::get(head)
        .map(|kind| kind.mime_type())
        // A text's first bytes (`<?xml`, `#!`) say less than its name.
        .filter(|found| !found.starts_with("text/"));
    let found = match (by_content, by_name) {
        (Some("application/zip"), Some(name)) if !is_text_type(name) => name,
        (Some(found), _) => found,
        (None, name) if is_text(head, whole) => name
            .filter(|name| !is_media(name))
            .or_else(|| infer::get(head).map(|kind| kind.mime_type()))
            .unwrap_or("text/plain"),
        (None, Some(name)) if !is_text_type(name) => name,
        (None, _) => "application/octet-stream",
    };
    found.to_owned()
}

/// The media type that a name promises, where nobody looks at the content.
pub(crate) fn by_name(path: &str) -> &'static str {
    mime_guess::from_path(path)
        .first_raw()
        .unwrap_or("application/octet-stream")
}

/// Whether bytes are UTF-8 without NUL; the last character may be cut off where the file goes on.
fn is_text(head: &[u8], whole: bool) -> bool {
    let complete = match str::from_utf8(head) {
        Ok(_) => true,
        Err(error) => !whole && error.error_len().is_none(),
    };
    complete && !head.contains(&0)
}

/// Whether a type promises text.
fn is_text_type(name: &str) -> bool {
    name.starts_with("text/")
        || name.ends_with("+xml")
        || name.ends_with("+json")
        || matches!(
            name,
            "application/json" | "application/xml" | "application/javascript"
        )
}

/// Whether a type promises what no text is. SVG is a text; `.ts` is TypeScript here, not a video.
fn is_media(name: &str) -> bool {
    ["image/", "audio/", "video/", "font/"]
        .iter()
        .any(|kind| name.starts_with(kind))
        && !is_text_type(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_first_then_name() {
        let png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR";
        let zip = b"PK\x03\x04\x14\0\0\0\0\0";
        for (path, content, expected) in [
            ("a.png", &png[..], "image/png"),
            ("a.txt", png, "image/png"),
            ("a", b"hello\n", "text/plain"),
            ("a", b"", "text/plain"),
            ("a.csv", b"a,b\n1,2\n", "text/csv"),
            ("a.json", b"{}", "application/json"),
            ("a.svg", b"<?xml version=\"1.0\"?><svg/>", "image/svg+xml"),
            ("a.html", b"<html></html>", "text/html"),
            ("page", b"<!DOCTYPE html><html></html>", "text/html"),
            ("run", b"#!/bin/sh\n", "text/x-shellscript"),
            ("a.png", b"no picture", "text/plain"),
            ("a.ts", b"let x: number;", "text/plain"),
            ("a.zip", zip, "application/zip"),
            ("a", zip, "application/zip"),
            ("a.jar", zip, "application/java-archive"),
            ("a.txt", zip, "application/zip"),
            ("a.html", b"\0\x01\x02", "application/octet-stream"),
            ("a", b"\xff\x80\x01", "application/octet-stream"),
            ("größe.csv", "größe\n".as_bytes(), "text/csv"),
        ] {
            assert_eq!(media_type(path, content, true), expected, "{path}");
        }
    }

    #[test]
    fn a_character_may_be_cut_off_only_where_the_file_goes_on() {
        let cut = &"größ".as_bytes()[..5];
        assert_eq!(media_type("a", cut, false), "text/plain");
        assert_eq!(media_type("a", cut, true), "application/octet-stream");
    }
}
