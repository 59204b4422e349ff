//! Answers that can be large: how much room they take, and how long.

use axum::{
    body::Bytes,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use executor_domain::{Ending, Execution, State};
use tokio::sync::OwnedSemaphorePermit;

use crate::{ApiState, error::ApiError, response::ExecutionDto};

/// Answers of up to this many bytes need no room. Each belongs to a connection, of which there are a few thousand.
const FREE_BYTES: usize = 64 << 10;
/// Above this, an answer is not written by those who serve connections: it takes milliseconds.
const LONG_WORK_BYTES: usize = 1 << 20;

/// An execution in JSON. What a guest wrote can be large, and there can be many who want it at the same time, so a large
/// answer takes room among all of them, waits for it, and gives it back when its last byte has left or its client has.
pub(crate) async fn execution(
    api: &ApiState,
    status: StatusCode,
    execution: Execution,
) -> Result<Response, ApiError> {
    let bound = longest(&execution);
    let write = move || {
        let mut bytes = Vec::with_capacity(bound);
        serde_json::to_writer(&mut bytes, &ExecutionDto::from(&execution))?;
        serde_json::Result::Ok(bytes)
    };
    let bytes = if bound <= FREE_BYTES {
        Bytes::from(write().map_err(ApiError::internal)?)
    } else {
        let room = api.room_for_answer(bound).await;
        let written = if bound <= LONG_WORK_BYTES {
            write()
        } else {
            tokio::task::spawn_blocking(write)
                .await
                .map_err(ApiError::internal)?
        };
        Bytes::from_owner(Held {
            bytes: written.map_err(ApiError::internal)?,
            _room: room,
        })
    };
    Ok((status, [(header::CONTENT_TYPE, "application/json")], bytes).into_response())
}

/// Bytes with the room that they take.
struct Held {
    bytes: Vec<u8>,
    _room: Option<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// How many bytes an execution takes in JSON at most.
fn longest(execution: &Execution) -> usize {
    const FLAT: usize = 2048;
    let State::Finished {
        outcome, artifacts, ..
    } = execution.state()
    else {
        return FLAT;
    };
    let ending = match &outcome.ending {
        // Copied as it is.
        Ending::Completed { return_value } => return_value.as_str().len(),
        Ending::Failed { error, .. } => {
            let trace: usize = error.stack_trace.iter().map(|line| text(line)).sum();
            text(&error.error_type) + text(&error.message) + trace
        }
        _ => 0,
    };
    // Names of fields, numbers and dates of one artifact take less than this.
    let files: usize = artifacts
        .files
        .iter()
        .map(|file| 256 + text(&file.path) + text(&file.mime_type) + text(&file.checksum))
        .sum();
    let skipped: usize = artifacts.skipped.iter().map(|line| text(line)).sum();
    FLAT + ending
        + files
        + skipped
        + escaped(&outcome.stdout.bytes)
        + escaped(&outcome.stderr.bytes)
}

/// How many bytes a text takes in JSON at most, with quotes and a comma.
fn text(text: &str) -> usize {
    escaped(text.as_bytes()) + 3
}

/// How many bytes these take inside of a JSON string at most. Each byte that is not UTF-8 can become U+FFFD, three bytes.
fn escaped(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .map(|byte| match byte {
            0..=0x1f => 6,
            b'"' | b'\\' => 2,
            0x80.. => 3,
            _ => 1,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use executor_domain::{
        Artifacts, CapturedOutput, CrashCause, ExecutionId, Outcome, SessionId, Start, Timestamp,
        Usage,
    };

    use super::*;

    #[test]
    fn no_output_is_longer_than_expected() {
        let now = Timestamp::from_unix_micros(0);
        let all: Vec<u8> = (0..=255).collect();
        for bytes in [
            all.repeat(10),
            vec![1; 3000],
            vec![0xff; 3000],
            "é€😀".repeat(500).into(),
        ] {
            let id = ExecutionId::parse(&"e".repeat(128)).unwrap();
            let session = SessionId::parse(&"s".repeat(128)).unwrap();
            let mut execution = Execution::accept(id, session, now);
            execution.start(now).unwrap();
            let output = CapturedOutput {
                bytes,
                truncated_bytes: 7,
            };
            let outcome = Outcome {
                ending: Ending::Crashed(CrashCause::Memory),
                stdout: output.clone(),
                stderr: output,
                usage: Usage::default(),
                start: Start::Cold,
                limits_hit: Vec::new(),
            };
            execution
                .finish(now, outcome, Artifacts::default())
                .unwrap();
            let length = serde_json::to_vec(&ExecutionDto::from(&execution))
                .unwrap()
                .len();
            assert!(length <= longest(&execution), "{length}");
        }
    }
}
