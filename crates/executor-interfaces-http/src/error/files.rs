//! The rows of the error table that are about sessions and their files.

use std::{borrow::Cow, error::Error, sync::Arc};

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use executor_application::{FilesError, Overflow};

use super::{ApiError, Row};

/// Why a request about files is not answered with what it asked for.
#[derive(Debug, Clone)]
pub(crate) enum FilesProblem {
    /// The session, or whoever keeps its files, says no.
    Refused(Arc<FilesError>),
    /// No part of the file is in the range.
    Range {
        /// Bytes of the file.
        size: u64,
    },
    /// The body is too large for any workspace.
    TooLarge {
        /// Most that a workspace may take.
        max_bytes: u64,
    },
}

impl From<FilesError> for ApiError {
    fn from(error: FilesError) -> Self {
        Self::Files(FilesProblem::Refused(Arc::new(error)))
    }
}

impl FilesProblem {
    pub(super) fn row(&self) -> Row {
        let error = match self {
            Self::Refused(error) => error,
            Self::Range { .. } => {
                return Row::new(
                    StatusCode::RANGE_NOT_SATISFIABLE,
                    "Executor.RangeNotSatisfiable",
                    "No part of the file is in the range",
                    "Ask for a range within the size in the Content-Range header",
                );
            }
            Self::TooLarge { .. } => return full(),
        };
        match &**error {
            FilesError::NoSession => Row::new(
                StatusCode::NOT_FOUND,
                "Executor.NotFound",
                "There is no such session",
                "Run something in the session or upload a file first",
            ),
            FilesError::NoFile => Row::new(
                StatusCode::NOT_FOUND,
                "Executor.NotFound",
                "There is no such file",
                "List the files of the session",
            ),
            FilesError::IsDirectory
            | FilesError::NotDirectory
            | FilesError::NotReadable(_)
            | FilesError::NotEmpty => Row::new(
                StatusCode::CONFLICT,
                "Executor.Conflict",
                "The path stands for something else",
                "List the files of the session",
            ),
            FilesError::InUse => Row::new(
                StatusCode::CONFLICT,
                "Executor.Conflict",
                "The session is in use",
                "Send the request again when its runs have ended",
            ),
            FilesError::ConditionFailed => Row::new(
                StatusCode::PRECONDITION_FAILED,
                "Executor.PreconditionFailed",
                "The file is not as the condition wants it",
                "Fetch the file and its ETag again",
            ),
            FilesError::Full(Overflow::Disk { .. }) => Row::new(
                StatusCode::INSUFFICIENT_STORAGE,
                "Executor.InsufficientStorage",
                "The executor's disk is full",
                "Remove sessions that are not needed any more",
            ),
            FilesError::Full(_) => full(),
            FilesError::Archive(_) => Row::new(
                StatusCode::BAD_REQUEST,
                "Executor.ValidationError",
                "The archive cannot be taken",
                "Send a tar or ZIP archive of plain files and directories with relative paths",
            ),
            FilesError::Failed(_) => Row::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "Executor.InternalError",
                "The executor failed",
                "Send the request again; if that does not help, report the request_id to the operator",
            ),
        }
    }

    pub(super) fn detail(&self) -> Cow<'static, str> {
        match self {
            Self::Refused(error) if self.cause().is_none() => error.to_string().into(),
            Self::Refused(_) => "the cause is in the executor's log under the request_id".into(),
            Self::Range { size } => format!("the file has {size} bytes").into(),
            Self::TooLarge { max_bytes } => {
                format!("a workspace may take {max_bytes} bytes").into()
            }
        }
    }

    pub(super) fn cause(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Refused(error) => match &**error {
                FilesError::Failed(cause) => Some(cause),
                _ => None,
            },
            Self::Range { .. } | Self::TooLarge { .. } => None,
        }
    }

    pub(super) fn add_headers(&self, headers: &mut HeaderMap) {
        if let Self::Range { size } = self
            && let Ok(value) = HeaderValue::from_str(&format!("bytes */{size}"))
        {
            headers.insert(header::CONTENT_RANGE, value);
        }
        if self.row().status == StatusCode::PAYLOAD_TOO_LARGE {
            // What is left of the body is not waited for, so no other request can follow it.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }
}

fn full() -> Row {
    Row::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "Executor.QuotaExceeded",
        "The session's workspace would become too large",
        "Remove files that are not needed any more, or send less",
    )
}
