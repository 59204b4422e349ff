//! Looking at what is under a name, and whether it is as somebody wants it.

use std::os::fd::BorrowedFd;

use executor_application::{Condition, FilesError};
use rustix::{
    fs::{AtFlags, FileType, statat},
    io::{Errno, Result},
};

use crate::metadata::Metadata;

/// What is under a name; `None`: nothing. Follows no link.
pub(super) fn look(directory: BorrowedFd<'_>, name: &str) -> Result<Option<Metadata>> {
    match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(Metadata::from(stat))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether what was found is what is wanted.
pub(super) fn check(
    condition: &Condition,
    found: Option<&Metadata>,
) -> std::result::Result<(), FilesError> {
    let holds = match condition {
        Condition::Always => true,
        Condition::Absent => found.is_none(),
        Condition::Present => found.is_some(),
        Condition::Etag(etags) => {
            found.is_some_and(|found| etags.iter().any(|etag| *etag == found.etag()))
        }
    };
    if holds {
        Ok(())
    } else {
        Err(FilesError::ConditionFailed)
    }
}

/// What is there, for a person, where it is neither file nor directory.
pub(super) fn oddity(kind: FileType) -> &'static str {
    match kind {
        FileType::Symlink => "a symbolic link, which is not followed",
        FileType::Fifo => "a FIFO, which is not read",
        FileType::Socket => "a socket, which is not read",
        FileType::BlockDevice | FileType::CharacterDevice => "a device, which is not read",
        _ => "no regular file",
    }
}
