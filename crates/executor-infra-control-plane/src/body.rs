//! Bodies of reports. Their fields are what the control planes that exist read: none is renamed, and `docs/control-plane.md`
//! lists them.

use std::{borrow::Cow, collections::BTreeMap, time::Duration};

use chrono::{DateTime, SecondsFormat};
use executor_application::{ExitReason, Report};
use executor_domain::{Artifacts, Ending, Execution, Outcome, State, Status, Timestamp};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::client::Identity;

/// A report on its way: where it goes below the prefix, under which headers, and what it says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) path: String,
    /// `Idempotency-Key`
    pub(crate) key: Option<String>,
    /// `traceparent`
    pub(crate) trace_parent: Option<String>,
    pub(crate) body: Vec<u8>,
}

/// Why a report cannot be written down. Neither happens to what the application sends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MessageError {
    #[error("the execution has not ended")]
    NotEnded,
    #[error("it has no JSON form")]
    Json(#[from] serde_json::Error),
}

impl Message {
    pub(crate) fn of(report: &Report, identity: &Identity) -> Result<Self, MessageError> {
        match report {
            Report::Ready { port, at } => Self::new(
                "containers/ready".into(),
                &ReadyBody {
                    event_type: "ready",
                    container_id: &identity.container_id,
                    pod_name: identity.pod_name.as_deref(),
                    executor_port: *port,
                    ready_at: rfc3339(*at),
                },
            ),
            Report::Exited {
                port,
                exit_code,
                reason,
                at,
            } => Self::new(
                "containers/exited".into(),
                &ExitedBody {
                    event_type: "exited",
                    container_id: &identity.container_id,
                    pod_name: identity.pod_name.as_deref(),
                    executor_port: *port,
                    exit_code: *exit_code,
                    exit_reason: exit_reason(*reason),
                    exited_at: rfc3339(*at),
                },
            ),
            Report::Heartbeat { execution, at } => Self::of_execution(
                execution,
                "heartbeat",
                &HeartbeatBody {
                    timestamp: rfc3339(*at),
                    progress: None,
                },
            ),
            Report::Result(execution) => {
                let body = ResultBody::of(execution).ok_or(MessageError::NotEnded)?;
                Ok(Self {
                    key: Some(execution.id().to_string()),
                    ..Self::of_execution(execution, "result", &body)?
                })
            }
        }
    }

    fn of_execution(
        execution: &Execution,
        what: &str,
        body: &impl Serialize,
    ) -> Result<Self, MessageError> {
        // An id is safe in a path: its grammar knows nothing that a path would need escaped.
        let path = format!("executions/{}/{what}", execution.id());
        Ok(Self {
            trace_parent: execution.trace_parent().map(|step| step.to_string()),
            ..Self::new(path, body)?
        })
    }

    fn new(path: String, body: &impl Serialize) -> Result<Self, MessageError> {
        Ok(Self {
            path,
            key: None,
            trace_parent: None,
            body: serde_json::to_vec(body)?,
        })
    }
}

#[derive(Serialize)]
struct ReadyBody<'a> {
    event_type: &'static str,
    container_id: &'a str,
    pod_name: Option<&'a str>,
    executor_port: u16,
    ready_at: Option<String>,
}

#[derive(Serialize)]
struct ExitedBody<'a> {
    event_type: &'static str,
    container_id: &'a str,
    pod_name: Option<&'a str>,
    executor_port: u16,
    exit_code: i32,
    exit_reason: &'static str,
    exited_at: Option<String>,
}

#[derive(Serialize)]
struct HeartbeatBody {
    timestamp: Option<String>,
    /// What a guest has done of its work, only the guest knows; the field is there for control planes that look for it.
    progress: Option<&'static str>,
}

#[derive(Serialize)]
struct ResultBody<'a> {
    status: &'static str,
    stdout: Cow<'a, str>,
    stderr: Cow<'a, str>,
    exit_code: i32,
    /// Seconds.
    execution_time: f64,
    /// Copied as text: neither its depth nor its size is looked at again.
    return_value: Option<&'a RawValue>,
    metrics: MetricsBody,
    artifacts: Vec<&'a str>,
    /// Where those can be fetched from that were uploaded, by path; absent where none was.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    artifact_urls: BTreeMap<&'a str, &'a str>,
}

#[derive(Serialize)]
struct MetricsBody {
    duration_ms: f64,
    cpu_time_ms: Option<f64>,
    peak_memory_mb: Option<f64>,
    io_read_bytes: Option<u64>,
    io_write_bytes: Option<u64>,
}

impl<'a> ResultBody<'a> {
    /// `None` for an execution that has not ended.
    fn of(execution: &'a Execution) -> Option<Self> {
        let State::Finished {
            outcome, artifacts, ..
        } = execution.state()
        else {
            return None;
        };
        Some(Self::new(status(execution.status())?, outcome, artifacts))
    }

    fn new(status: &'static str, outcome: &'a Outcome, artifacts: &'a Artifacts) -> Self {
        let usage = &outcome.usage;
        Self {
            status,
            stdout: outcome.stdout.text(),
            stderr: outcome.stderr.text(),
            exit_code: outcome.ending.exit_code(),
            execution_time: micros(usage.wall_time) / 1e6,
            return_value: match &outcome.ending {
                Ending::Completed { return_value } => Some(return_value.as_raw()),
                _ => None,
            },
            metrics: MetricsBody {
                duration_ms: millis(usage.wall_time),
                cpu_time_ms: usage.cpu_time.map(millis),
                peak_memory_mb: usage.peak_memory_bytes.map(mebibytes),
                io_read_bytes: usage.io_read_bytes,
                io_write_bytes: usage.io_write_bytes,
            },
            artifacts: artifacts
                .files
                .iter()
                .map(|file| file.path.as_str())
                .collect(),
            artifact_urls: artifacts
                .files
                .iter()
                .filter_map(|file| Some((file.path.as_str(), file.url.as_deref()?)))
                .collect(),
        }
    }
}

/// The status as control planes know it; `None` for what has not ended.
///
/// They have no word for a run that was cancelled. It is `failed` and not `crashed`: a crash may be worth another try, what
/// somebody cancelled is not.
const fn status(status: Status) -> Option<&'static str> {
    Some(match status {
        Status::Completed => "success",
        Status::Failed | Status::Cancelled => "failed",
        Status::Timeout => "timeout",
        Status::Crashed => "crashed",
        Status::Pending | Status::Running => return None,
    })
}

const fn exit_reason(reason: ExitReason) -> &'static str {
    match reason {
        ExitReason::Normal => "normal",
        ExitReason::Terminated => "sigterm",
        ExitReason::Error => "error",
    }
}

/// RFC 3339 in UTC with microseconds; `None` for a time beyond what its four-digit years can say.
fn rfc3339(time: Timestamp) -> Option<String> {
    DateTime::from_timestamp_micros(time.unix_micros())
        .map(|time| time.to_rfc3339_opts(SecondsFormat::Micros, true))
}

/// Whole microseconds: what clocks resolve, without the noise of binary fractions.
fn micros(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round()
}

fn millis(time: Duration) -> f64 {
    micros(time) / 1e3
}

/// MiB to a hundredth.
fn mebibytes(bytes: u64) -> f64 {
    let kibibytes = u32::try_from(bytes >> 10).unwrap_or(u32::MAX);
    (f64::from(kibibytes) / 1024.0 * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use executor_domain::{
        Artifact, CapturedOutput, Clock, CrashCause, ExecutionId, GuestError, JsonText, Reason,
        SessionId, Start, TraceParent, Usage,
    };
    use serde_json::{Value, json};

    use super::*;

    const NOON: Timestamp = Timestamp::from_unix_micros(1_767_268_800_000_000);

    fn identity() -> Identity {
        Identity {
            container_id: "c-1".into(),
            pod_name: None,
        }
    }

    fn message(report: &Report) -> (String, Option<String>, Value) {
        let message = Message::of(report, &identity()).unwrap();
        let body = serde_json::from_slice(&message.body).unwrap();
        (message.path, message.key, body)
    }

    fn accepted() -> Execution {
        let id = ExecutionId::parse("exec_002").unwrap();
        Execution::accept(id, SessionId::parse("s").unwrap(), NOON)
    }

    fn finished(ending: Ending) -> Execution {
        let outcome = Outcome {
            ending,
            stdout: CapturedOutput {
                bytes: b"hi\xff\n".to_vec(),
                truncated_bytes: 0,
            },
            stderr: CapturedOutput {
                bytes: "☃".as_bytes()[..2].to_vec(),
                truncated_bytes: 7,
            },
            usage: Usage {
                wall_time: Duration::from_nanos(2_134_499),
                cpu_time: Some(Duration::from_micros(1_300)),
                peak_memory_bytes: Some((9 << 20) + (820 << 10)),
                io_read_bytes: Some(0),
                io_write_bytes: None,
            },
            start: Start::Warm,
            limits_hit: Vec::new(),
        };
        let artifacts = Artifacts {
            files: vec![Artifact {
                path: "plots/summary.png".into(),
                size: 524_288,
                mime_type: "image/png".into(),
                created_at: NOON,
                checksum: "sha256:00".into(),
                url: None,
            }],
            skipped: vec!["a link".into()],
            not_uploaded: Vec::new(),
        };
        let mut execution = accepted();
        execution.start(NOON).unwrap();
        execution.finish(NOON, outcome, artifacts).unwrap();
        execution
    }

    fn completed(value: &str) -> Ending {
        Ending::Completed {
            return_value: JsonText::parse(value.into()).unwrap(),
        }
    }

    #[test]
    fn a_result_has_exactly_the_fields_of_the_contract() {
        let (path, key, body) = message(&Report::Result(finished(completed(r#"{"a":[1]}"#))));
        assert_eq!(path, "executions/exec_002/result");
        assert_eq!(key.as_deref(), Some("exec_002"));
        assert_eq!(
            body,
            json!({
                "status": "success", "stdout": "hi\u{fffd}\n", "stderr": "", "exit_code": 0,
                "execution_time": 0.002_134, "return_value": {"a": [1]},
                "metrics": {"duration_ms": 2.134, "cpu_time_ms": 1.3, "peak_memory_mb": 9.8,
                            "io_read_bytes": 0, "io_write_bytes": null},
                "artifacts": ["plots/summary.png"],
            })
        );
    }

    #[test]
    fn every_ending_has_a_status_that_control_planes_know() {
        let failed = Ending::Failed {
            exit_code: 3,
            error: GuestError::new("E", String::new(), Reason::ExitCode),
        };
        let timed_out = Ending::TimedOut {
            clock: Clock::Cpu,
            allowed: Duration::from_secs(1),
        };
        for (ending, status, exit_code) in [
            (completed("null"), "success", 0),
            (failed, "failed", 3),
            (timed_out, "timeout", -1),
            (Ending::Crashed(CrashCause::Signal(11)), "crashed", -1),
            (Ending::Crashed(CrashCause::ExecutorLost), "crashed", -1),
            (Ending::Cancelled, "failed", -1),
        ] {
            let (_, _, body) = message(&Report::Result(finished(ending)));
            assert_eq!(body["status"], status);
            assert_eq!(body["exit_code"], exit_code);
            assert_eq!(body["return_value"], Value::Null);
        }
    }

    #[test]
    fn where_artifacts_are_is_reported_by_their_paths() {
        let mut execution = accepted();
        execution.start(NOON).unwrap();
        let file = |path: &str, url: Option<&str>| Artifact {
            path: path.into(),
            size: 1,
            mime_type: "image/png".into(),
            created_at: NOON,
            checksum: "sha256:00".into(),
            url: url.map(str::to_owned),
        };
        let artifacts = Artifacts {
            files: vec![file("a.png", Some("https://store/a.png")), file("b", None)],
            ..Artifacts::default()
        };
        let outcome = Outcome::clone(finished(completed("null")).outcome().unwrap());
        execution.finish(NOON, outcome, artifacts).unwrap();
        let (_, _, body) = message(&Report::Result(execution));
        assert_eq!(body["artifacts"], json!(["a.png", "b"]));
        assert_eq!(
            body["artifact_urls"],
            json!({"a.png": "https://store/a.png"})
        );
    }

    #[test]
    fn a_traced_execution_is_reported_as_a_step_of_its_trace() {
        const STEP: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let mut execution = finished(completed("null"));
        let headers = |execution: &Execution| {
            let execution = execution.clone();
            let beat = Report::Heartbeat {
                execution: execution.clone(),
                at: NOON,
            };
            [beat, Report::Result(execution)]
                .map(|report| Message::of(&report, &identity()).unwrap().trace_parent)
        };
        assert_eq!(headers(&execution), [None, None]);
        execution.trace(TraceParent::parse(STEP).unwrap());
        assert_eq!(headers(&execution), [STEP; 2].map(|step| Some(step.into())));
    }

    #[test]
    fn a_live_execution_is_no_result() {
        let report = Report::Result(accepted());
        assert!(matches!(
            Message::of(&report, &identity()),
            Err(MessageError::NotEnded)
        ));
    }

    #[test]
    fn a_deep_return_value_costs_no_stack() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let report = Report::Result(finished(completed(&deep)));
        let message = Message::of(&report, &identity()).unwrap();
        assert!(String::from_utf8(message.body).unwrap().contains(&deep));
    }

    #[test]
    fn the_daemons_own_reports_have_exactly_the_fields_of_the_contract() {
        let (path, key, body) = message(&Report::Ready {
            port: 8080,
            at: NOON,
        });
        assert_eq!((path.as_str(), key), ("containers/ready", None));
        assert_eq!(
            body,
            json!({"event_type": "ready", "container_id": "c-1", "pod_name": null,
                   "executor_port": 8080, "ready_at": "2026-01-01T12:00:00.000000Z"})
        );

        for (reason, code, name) in [
            (ExitReason::Terminated, 143, "sigterm"),
            (ExitReason::Normal, 0, "normal"),
            (ExitReason::Error, 70, "error"),
        ] {
            let (path, _, body) = message(&Report::Exited {
                port: 8080,
                exit_code: code,
                reason,
                at: NOON,
            });
            assert_eq!(path, "containers/exited");
            assert_eq!(
                body,
                json!({"event_type": "exited", "container_id": "c-1", "pod_name": null,
                       "executor_port": 8080, "exit_code": code, "exit_reason": name,
                       "exited_at": "2026-01-01T12:00:00.000000Z"})
            );
        }

        let mut running = accepted();
        running.start(NOON).unwrap();
        let (path, key, body) = message(&Report::Heartbeat {
            execution: running,
            at: NOON,
        });
        assert_eq!(
            (path.as_str(), key),
            ("executions/exec_002/heartbeat", None)
        );
        assert_eq!(
            body,
            json!({"timestamp": "2026-01-01T12:00:00.000000Z", "progress": null})
        );
    }
}
