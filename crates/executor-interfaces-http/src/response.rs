//! Answers: an execution as the API shows it.

use std::{borrow::Cow, time::Duration};

use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, SecondsFormat};
use executor_domain::{
    Artifact, Ending, Execution, GuestError, LimitHit, Outcome, State, Timestamp,
};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::openapi::words;

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

/// An execution. What is not there, or not yet, is `null`.
#[derive(Serialize, ToSchema)]
#[schema(as = Execution)]
pub(crate) struct ExecutionDto<'a> {
    /// Its name
    execution_id: &'a str,
    /// The session whose workspace it used
    session_id: &'a str,
    /// Where it is in its life
    #[schema(schema_with = words::status)]
    status: &'static str,
    /// The same for people
    message: &'static str,
    /// What the handler returned: any JSON.
    // Copied as text: neither its depth nor its size is looked at again.
    #[schema(value_type = Value)]
    return_value: Option<&'a RawValue>,
    /// What the guest wrote to stdout; what is not UTF-8 becomes U+FFFD
    stdout: Cow<'a, str>,
    /// What the guest wrote to stderr; what is not UTF-8 becomes U+FFFD
    stderr: Cow<'a, str>,
    /// Whether the guest wrote more to stdout than was kept
    stdout_truncated: bool,
    /// Whether the guest wrote more to stderr than was kept
    stderr_truncated: bool,
    /// How many bytes of stdout were not kept
    stdout_truncated_bytes: u64,
    /// How many bytes of stderr were not kept
    stderr_truncated_bytes: u64,
    /// The exit code of the guest's process; -1 where there is none
    exit_code: i32,
    /// The signal that the guest died of
    #[schema(required)]
    signal: Option<i32>,
    /// Why it did not complete
    #[schema(required)]
    error: Option<GuestErrorDto>,
    /// What it used, once it has ended
    #[schema(required)]
    metrics: Option<MetricsDto>,
    /// Files that it created or changed
    artifacts: Vec<ArtifactDto<'a>>,
    /// One line for each thing that is missing from `artifacts` and why; absent where nothing is.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    #[schema(value_type = Vec<String>, required = false)]
    artifacts_skipped: &'a [String],
    /// One line for each artifact that was to be uploaded and has no `url`, and why; absent where there is none.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    #[schema(value_type = Vec<String>, required = false)]
    artifacts_not_uploaded: &'a [String],
    /// When its guest started: RFC 3339 in UTC
    #[schema(format = DateTime, required)]
    started_at: Option<String>,
    /// When it ended: RFC 3339 in UTC
    #[schema(format = DateTime, required)]
    completed_at: Option<String>,
}

/// Why a guest did not complete.
#[derive(Serialize, ToSchema)]
#[schema(as = GuestError)]
struct GuestErrorDto {
    /// The exception's type in the guest's own words, or the name of a limit
    error_type: String,
    /// What it says
    error_message: String,
    /// The guest's own frames, outermost first
    stack_trace: Vec<String>,
    /// Why, for programs
    #[schema(schema_with = words::reason)]
    reason: &'static str,
}

/// What a guest used: its process tree, not the daemon.
#[derive(Serialize, ToSchema)]
#[schema(as = Metrics)]
struct MetricsDto {
    /// Wall time, from the guest's first instruction to its end
    duration_ms: f64,
    /// CPU time, user and system
    #[schema(required)]
    cpu_time_ms: Option<f64>,
    /// Most memory in use at any time, in MiB
    #[schema(required)]
    peak_memory_mb: Option<f64>,
    /// Bytes read from block devices
    #[schema(required)]
    io_read_bytes: Option<u64>,
    /// Bytes written to block devices
    #[schema(required)]
    io_write_bytes: Option<u64>,
    /// How its sandbox was started
    #[schema(schema_with = words::start)]
    start: &'static str,
    /// Limits that it ran into, whether or not they ended it
    #[schema(schema_with = words::limits_hit)]
    limits_hit: Vec<&'static str>,
}

/// A file that a run created or changed.
#[derive(Serialize, ToSchema)]
#[schema(as = Artifact)]
struct ArtifactDto<'a> {
    /// Its path in the workspace
    path: &'a str,
    /// Its size in bytes
    size: u64,
    /// Its media type, by content and name
    mime_type: &'a str,
    /// `log` for `*.log`, `output` below `output/` or `outputs/`
    #[schema(schema_with = words::artifact_kind)]
    r#type: &'static str,
    /// When it was last changed: RFC 3339 in UTC
    #[schema(format = DateTime, required)]
    created_at: Option<String>,
    /// `sha256:` and the digest of its content
    checksum: &'a str,
    /// Where it can be fetched from beyond its session; absent where it was not uploaded
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    url: Option<&'a str>,
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
            stdout_truncated_bytes: 0,
            stderr_truncated_bytes: 0,
            exit_code: -1,
            signal: None,
            error: None,
            metrics: None,
            artifacts: Vec::new(),
            artifacts_skipped: &[],
            artifacts_not_uploaded: &[],
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
                dto.artifacts_not_uploaded = &artifacts.not_uploaded;
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
        self.stdout = outcome.stdout.text();
        self.stderr = outcome.stderr.text();
        self.stdout_truncated = outcome.stdout.is_truncated();
        self.stderr_truncated = outcome.stderr.is_truncated();
        self.stdout_truncated_bytes = outcome.stdout.truncated_bytes;
        self.stderr_truncated_bytes = outcome.stderr.truncated_bytes;
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
            url: artifact.url.as_deref(),
        }
    }
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
    use executor_domain::{
        Artifacts, CapturedOutput, Clock, ExecutionId, JsonText, SessionId, Start, Usage,
    };
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
                truncated_bytes: 0,
            },
            stderr: CapturedOutput {
                bytes: vec![b'a', 0xff],
                truncated_bytes: 7,
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
                url: Some("https://store/a".into()),
            }],
            skipped: vec!["a link".into()],
            not_uploaded: vec!["b: no time was left".into()],
        };
        assert_eq!(
            shown(&finished(outcome, artifacts)),
            json!({
                "execution_id": "exec_002", "session_id": "session_001",
                "status": "completed", "message": "Execution completed",
                "return_value": {"greeting": "Hello, Alice!"},
                "stdout": "hi\n", "stderr": "a\u{fffd}",
                "stdout_truncated": false, "stderr_truncated": true,
                "stdout_truncated_bytes": 0, "stderr_truncated_bytes": 7,
                "exit_code": 0, "signal": null, "error": null,
                "metrics": {"duration_ms": 2.134, "cpu_time_ms": 1.3, "peak_memory_mb": 9.8,
                            "io_read_bytes": 0, "io_write_bytes": 4096, "start": "warm",
                            "limits_hit": ["pids", "output"]},
                "artifacts": [{"path": "plots/summary.png", "size": 524_288, "mime_type": "image/png",
                               "type": "artifact", "created_at": "2026-01-01T12:00:00.000000Z",
                               "checksum": "sha256:00", "url": "https://store/a"}],
                "artifacts_skipped": ["a link"],
                "artifacts_not_uploaded": ["b: no time was left"],
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
