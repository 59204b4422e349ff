//! Answers: an execution as the API shows it.

use std::{borrow::Cow, time::Duration};

use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, SecondsFormat};
use executor_domain::{
    Artifact, CapturedOutput, Ending, Execution, GuestError, LimitHit, Outcome, State, Timestamp,
};
use serde::Serialize;
use serde_json::value::RawValue;

/// An answer in JSON.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> serde_json::Result<Response> {
    let body = serde_json::to_vec(value)?;
    Ok((status, [(header::CONTENT_TYPE, "application/json")], body).into_response())
}

/// An execution as the API answers it, for whoever shows one without a server.
///
/// # Errors
///
/// None that is known: every field has a JSON form.
pub fn execution_json(execution: &Execution) -> serde_json::Result<String> {
    serde_json::to_string(&ExecutionDto::from(execution))
}

/// An execution as the API shows it. What is not there, or not yet, is `null`.
#[derive(Serialize)]
pub(crate) struct ExecutionDto<'a> {
    execution_id: &'a str,
    session_id: &'a str,
    status: &'static str,
    message: &'static str,
    /// Copied as text: neither its depth nor its size is looked at again.
    return_value: Option<&'a RawValue>,
    stdout: Cow<'a, str>,
    stderr: Cow<'a, str>,
    stdout_truncated: bool,
    stderr_truncated: bool,
    exit_code: i32,
    signal: Option<i32>,
    error: Option<GuestErrorDto>,
    metrics: Option<MetricsDto>,
    artifacts: Vec<ArtifactDto<'a>>,
    /// One line for each thing that is missing from `artifacts` and why; absent where nothing is, which is nearly
    /// always.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    artifacts_skipped: &'a [String],
    started_at: Option<String>,
    completed_at: Option<String>,
}

#[derive(Serialize)]
struct GuestErrorDto {
    error_type: String,
    error_message: String,
    stack_trace: Vec<String>,
    reason: &'static str,
}

#[derive(Serialize)]
struct MetricsDto {
    duration_ms: f64,
    cpu_time_ms: Option<f64>,
    peak_memory_mb: Option<f64>,
    io_read_bytes: Option<u64>,
    io_write_bytes: Option<u64>,
    start: &'static str,
    limits_hit: Vec<&'static str>,
}

#[derive(Serialize)]
struct ArtifactDto<'a> {
    path: &'a str,
    size: u64,
    mime_type: &'a str,
    r#type: &'static str,
    created_at: Option<String>,
    checksum: &'a str,
}

impl<'a> From<&'a Execution> for ExecutionDto<'a> {
    fn from(execution: &'a Execution) -> Self {
        let status = execution.status();
        let mut dto = Self {
            execution_id: execution.id().as_str(),
            session_id: execution.session().as_str(),
            status: status.as_str(),
            message: status.message(),
            return_value: None,
            stdout: Cow::Borrowed(""),
            stderr: Cow::Borrowed(""),
            stdout_truncated: false,
            stderr_truncated: false,
            exit_code: -1,
            signal: None,
            error: None,
            metrics: None,
            artifacts: Vec::new(),
            artifacts_skipped: &[],
            started_at: None,
            completed_at: None,
        };
        match execution.state() {
            State::Pending => {}
            State::Running { started_at } => dto.started_at = rfc3339(*started_at),
            State::Finished {
                started_at,
                completed_at,
                outcome,
                artifacts,
            } => {
                dto.add_outcome(outcome);
                dto.artifacts = artifacts.files.iter().map(ArtifactDto::from).collect();
                dto.artifacts_skipped = &artifacts.skipped;
                dto.started_at = started_at.and_then(rfc3339);
                dto.completed_at = rfc3339(*completed_at);
            }
        }
        dto
    }
}

impl<'a> ExecutionDto<'a> {
    fn add_outcome(&mut self, outcome: &'a Outcome) {
        if let Ending::Completed { return_value } = &outcome.ending {
            self.return_value = Some(return_value.as_raw());
        }
        self.stdout = text(&outcome.stdout);
        self.stderr = text(&outcome.stderr);
        self.stdout_truncated = outcome.stdout.truncated;
        self.stderr_truncated = outcome.stderr.truncated;
        self.exit_code = outcome.ending.exit_code();
        self.signal = outcome.ending.signal();
        self.error = outcome.ending.error().map(GuestErrorDto::from);
        self.metrics = Some(MetricsDto::from(outcome));
    }
}

impl From<GuestError> for GuestErrorDto {
    fn from(error: GuestError) -> Self {
        Self {
            error_type: error.error_type,
            error_message: error.message,
            stack_trace: error.stack_trace,
            reason: error.reason.as_str(),
        }
    }
}

impl From<&Outcome> for MetricsDto {
    fn from(outcome: &Outcome) -> Self {
        let usage = &outcome.usage;
        Self {
            duration_ms: millis(usage.wall_time),
            cpu_time_ms: usage.cpu_time.map(millis),
            peak_memory_mb: usage.peak_memory_bytes.map(mebibytes),
            io_read_bytes: usage.io_read_bytes,
            io_write_bytes: usage.io_write_bytes,
            start: outcome.start.as_str(),
            limits_hit: outcome
                .limits_hit
                .iter()
                .copied()
                .map(LimitHit::as_str)
                .collect(),
        }
    }
}

impl<'a> From<&'a Artifact> for ArtifactDto<'a> {
    fn from(artifact: &'a Artifact) -> Self {
        Self {
            path: &artifact.path,
            size: artifact.size,
            mime_type: &artifact.mime_type,
            r#type: artifact.kind().as_str(),
            created_at: rfc3339(artifact.created_at),
            checksum: &artifact.checksum,
        }
    }
}

/// Output as text: what is not UTF-8 becomes U+FFFD. Where output was cut in the middle of a character, the rest of that
/// character is left out, since the guest did write it well.
fn text(output: &CapturedOutput) -> Cow<'_, str> {
    let bytes = &output.bytes;
    let kept = if output.truncated {
        &bytes[..bytes.len() - unfinished_tail(bytes)]
    } else {
        bytes
    };
    String::from_utf8_lossy(kept)
}

/// Length of the character that begins at the end of the text and does not end there: 0 to 3 bytes.
fn unfinished_tail(bytes: &[u8]) -> usize {
    (1..=bytes.len().min(3))
        .find(|length| {
            let tail = &bytes[bytes.len() - length..];
            std::str::from_utf8(tail)
                .is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
        })
        .unwrap_or(0)
}

/// RFC 3339 in UTC with microseconds; `None` for a time beyond what its four-digit years can say.
pub(crate) fn rfc3339(time: Timestamp) -> Option<String> {
    DateTime::from_timestamp_micros(time.unix_micros())
        .map(|time| time.to_rfc3339_opts(SecondsFormat::Micros, true))
}

/// Milliseconds to the microsecond: what clocks resolve, without the noise of binary fractions.
fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// MiB to a hundredth.
fn mebibytes(bytes: u64) -> f64 {
    let kibibytes = u32::try_from(bytes >> 10).unwrap_or(u32::MAX);
    (f64::from(kibibytes) / 1024.0 * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use executor_domain::{Artifacts, Clock, ExecutionId, JsonText, SessionId, Start, Usage};
    use serde_json::{Value, json};

    use super::*;

    const NOON: Timestamp = Timestamp::from_unix_micros(1_767_268_800_000_000);

    fn outcome(ending: Ending) -> Outcome {
        Outcome {
            ending,
            stdout: CapturedOutput::default(),
            stderr: CapturedOutput::default(),
            usage: Usage::default(),
            start: Start::Warm,
            limits_hit: Vec::new(),
        }
    }

    fn accepted() -> Execution {
        Execution::accept(
            ExecutionId::parse("exec_002").unwrap(),
            SessionId::parse("session_001").unwrap(),
            NOON,
        )
    }

    fn finished(outcome: Outcome, artifacts: Artifacts) -> Execution {
        let mut execution = accepted();
        execution.start(NOON).unwrap();
        let end = Timestamp::from_unix_micros(NOON.unix_micros() + 2_134);
        execution.finish(end, outcome, artifacts).unwrap();
        execution
    }

    fn shown(execution: &Execution) -> Value {
        serde_json::to_value(ExecutionDto::from(execution)).unwrap()
    }

    #[test]
    fn a_full_answer_has_every_field_of_the_contract() {
        let outcome = Outcome {
            stdout: CapturedOutput {
                bytes: b"hi\n".to_vec(),
                truncated: false,
            },
            stderr: CapturedOutput {
                bytes: vec![b'a', 0xff],
                truncated: true,
            },
            usage: Usage {
                wall_time: Duration::from_nanos(2_134_499),
                cpu_time: Some(Duration::from_micros(1_300)),
                peak_memory_bytes: Some((9 << 20) + (820 << 10)),
                io_read_bytes: Some(0),
                io_write_bytes: Some(4096),
            },
            limits_hit: vec![LimitHit::Processes, LimitHit::Output],
            ..outcome(Ending::Completed {
                return_value: JsonText::parse(r#"{"greeting":"Hello, Alice!"}"#.into()).unwrap(),
            })
        };
        let artifacts = Artifacts {
            files: vec![Artifact {
                path: "plots/summary.png".into(),
                size: 524_288,
                mime_type: "image/png".into(),
                created_at: NOON,
                checksum: "sha256:00".into(),
            }],
            skipped: vec!["a link".into()],
        };
        assert_eq!(
            shown(&finished(outcome, artifacts)),
            json!({
                "execution_id": "exec_002", "session_id": "session_001",
                "status": "completed", "message": "Execution completed",
                "return_value": {"greeting": "Hello, Alice!"},
                "stdout": "hi\n", "stderr": "a\u{fffd}",
                "stdout_truncated": false, "stderr_truncated": true,
                "exit_code": 0, "signal": null, "error": null,
                "metrics": {"duration_ms": 2.134, "cpu_time_ms": 1.3, "peak_memory_mb": 9.8,
                            "io_read_bytes": 0, "io_write_bytes": 4096, "start": "warm",
                            "limits_hit": ["pids", "output"]},
                "artifacts": [{"path": "plots/summary.png", "size": 524_288, "mime_type": "image/png",
                               "type": "artifact", "created_at": "2026-01-01T12:00:00.000000Z",
                               "checksum": "sha256:00"}],
                "artifacts_skipped": ["a link"],
                "started_at": "2026-01-01T12:00:00.000000Z",
                "completed_at": "2026-01-01T12:00:00.002134Z",
            })
        );
    }

    #[test]
    fn what_is_absent_is_null() {
        let timeout = outcome(Ending::TimedOut {
            clock: Clock::Wall,
            allowed: Duration::from_secs(3),
        });
        let shown = shown(&finished(timeout, Artifacts::default()));
        assert_eq!(shown["status"], "timeout");
        assert_eq!(shown["exit_code"], -1);
        assert_eq!(shown["return_value"], Value::Null);
        assert_eq!(shown["metrics"]["cpu_time_ms"], Value::Null);
        assert_eq!(shown["artifacts"], json!([]));
        assert_eq!(shown.get("artifacts_skipped"), None);
        assert_eq!(
            shown["error"],
            json!({"error_type": "Timeout", "error_message": "Task timed out after 3.00 seconds",
                   "stack_trace": [], "reason": "wall_time"})
        );
    }

    #[test]
    fn what_has_not_ended_shows_how_far_it_is() {
        let mut execution = accepted();
        assert_eq!(shown(&execution)["status"], "pending");
        assert_eq!(shown(&execution)["started_at"], Value::Null);
        execution.start(NOON).unwrap();
        assert_eq!(shown(&execution)["status"], "running");
        assert_eq!(shown(&execution)["metrics"], Value::Null);
        assert_eq!(
            shown(&execution)["started_at"],
            "2026-01-01T12:00:00.000000Z"
        );
    }

    #[test]
    fn a_deep_return_value_costs_no_stack() {
        const LEVELS: usize = 100_000;
        let deep = format!("{}{}", "[".repeat(LEVELS), "]".repeat(LEVELS));
        let ending = Ending::Completed {
            return_value: JsonText::parse(deep.clone()).unwrap(),
        };
        let execution = finished(outcome(ending), Artifacts::default());
        let text = serde_json::to_string(&ExecutionDto::from(&execution)).unwrap();
        assert!(text.contains(&deep));
    }

    #[test]
    fn a_cut_character_is_left_out_and_a_broken_one_is_shown() {
        let show = |bytes: &[u8], truncated| {
            text(&CapturedOutput {
                bytes: bytes.to_vec(),
                truncated,
            })
            .into_owned()
        };
        let snowman = "☃".as_bytes();
        let astral = "𝄞".as_bytes();
        assert_eq!(show(&snowman[..1], true), "");
        assert_eq!(show(&[b"a", &snowman[..2]].concat(), true), "a");
        assert_eq!(show(&[b"a", &astral[..3]].concat(), true), "a");
        assert_eq!(show(&[snowman, astral].concat(), true), "☃𝄞");
        assert_eq!(show(b"a\xff", true), "a\u{fffd}");
        assert_eq!(
            show(b"a\x80\x80\x80\x80", true),
            "a\u{fffd}\u{fffd}\u{fffd}\u{fffd}"
        );
        assert_eq!(show(&snowman[..2], false), "\u{fffd}");
        assert_eq!(show(b"", true), "");
    }

    #[test]
    fn numbers_are_rounded_to_what_means_something() {
        for (nanos, shown) in [(0, 0.0), (499, 0.0), (500, 0.001), (1_234_567, 1.235)] {
            assert!((millis(Duration::from_nanos(nanos)) - shown).abs() < 1e-9);
        }
        for (bytes, shown) in [
            (0, 0.0),
            (1 << 20, 1.0),
            (1_572_864, 1.5),
            (u64::MAX, 4_194_304.0),
        ] {
            assert!((mebibytes(bytes) - shown).abs() < 1e-6, "{bytes}");
        }
    }

    #[test]
    fn a_time_that_no_calendar_has_is_null() {
        assert_eq!(rfc3339(Timestamp::from_unix_micros(i64::MAX)), None);
    }
}
