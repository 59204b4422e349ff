//! A door for the fuzz targets of `fuzz/`: what reads names and content that a guest or an archive has chosen.
//!
//! It is there with the feature `fuzzing` alone, is no part of the API, and nothing here decides anything.

use executor_domain::WorkspacePath;

use crate::{files::unpack::member, media_type, names};

/// Where an entry of an archive goes that is unpacked into this directory, relative to it; `None`: it is refused, or is
/// the directory itself.
pub fn archive_member(name: &[u8], directory: Option<&WorkspacePath>) -> Option<WorkspacePath> {
    member(name, directory).ok().flatten()
}

/// A name that a guest has chosen, where it is one that is reported.
pub fn reported_name(name: &[u8]) -> Option<&str> {
    names::as_text(name).ok()
}

/// Any name, for a person.
pub fn shown_name(name: &[u8]) -> String {
    names::escaped(name)
}

/// The media type of a file with this path and beginning; `whole`: there is no more than that.
pub fn media_type(path: &str, head: &[u8], whole: bool) -> String {
    media_type::media_type(path, &head[..head.len().min(media_type::HEAD_BYTES)], whole)
}
