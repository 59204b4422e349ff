//! From what a run came to, to columns and back. What a guest can make large has columns of its own; the rest is one JSON
//! object, whose form is the store's own and changes only with its version (`open::VERSION`, and a test that compares).

use std::time::Duration;

use executor_domain::{
    Artifact, Artifacts, CapturedOutput, Clock, CrashCause, Ending, Execution, GuestError,
    JsonText, LimitHit, Outcome, Reason, Start, State, Timestamp, TraceParent, Usage,
};
use serde::{Deserialize, Serialize};

/// A result, ready for its columns.
#[derive(Debug)]
pub(crate) struct Encoded {
    pub started_at: Option<i64>,
    pub completed_at: i64,
    pub facts: String,
    pub execution: Execution,
}

impl Encoded {
    /// What the guest returned, as JSON text.
    pub(crate) fn value(&self) -> Option<&str> {
        match &self.execution.outcome()?.ending {
            Ending::Completed { return_value } => Some(return_value.as_str()),
            _ => None,
        }
    }

    pub(crate) fn stdout(&self) -> &[u8] {
        self.execution
            .outcome()
            .map_or(&[], |outcome| &outcome.stdout.bytes)
    }

    pub(crate) fn stderr(&self) -> &[u8] {
        self.execution
            .outcome()
            .map_or(&[], |outcome| &outcome.stderr.bytes)
    }

    /// Bytes that its columns take.
    pub(crate) fn bytes(&self) -> usize {
        let value = self.value().map_or(0, str::len);
        self.facts.len() + value + self.stdout().len() + self.stderr().len()
    }
}

/// `None`: the execution has not ended.
pub(crate) fn encode(execution: &Execution) -> Option<serde_json::Result<Encoded>> {
    let State::Finished {
        started_at,
        completed_at,
        outcome,
        artifacts,
    } = execution.state()
    else {
        return None;
    };
    let facts = Facts {
        trace_parent: execution.trace_parent().map(|step| step.to_string()),
        ..Facts::new(outcome, artifacts)
    };
    let facts = serde_json::to_string(&facts);
    Some(facts.map(|facts| Encoded {
        started_at: started_at.map(Timestamp::unix_micros),
        completed_at: completed_at.unix_micros(),
        facts,
        execution: execution.clone(),
    }))
}

/// The columns of a result.
pub(crate) struct Columns {
    pub facts: String,
    pub value: Option<String>,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

/// What was encoded.
pub(crate) struct Decoded {
    pub outcome: Outcome,
    pub artifacts: Artifacts,
    pub trace_parent: Option<TraceParent>,
}

/// An error means that it is not what we wrote.
pub(crate) fn decode(columns: Columns) -> Result<Decoded, String> {
    let facts: Facts = serde_json::from_str(&columns.facts).map_err(|error| error.to_string())?;
    let trace_parent = match &facts.trace_parent {
        None => None,
        Some(step) => Some(TraceParent::parse(step).map_err(|error| error.to_string())?),
    };
    let ending = facts.ending.into_domain(columns.value)?;
    let outcome = Outcome {
        ending,
        stdout: CapturedOutput {
            bytes: columns.stdout,
            truncated_bytes: facts.stdout_truncated,
        },
        stderr: CapturedOutput {
            bytes: columns.stderr,
            truncated_bytes: facts.stderr_truncated,
        },
        usage: Usage {
            wall_time: Duration::from_nanos(facts.wall_nanos),
            cpu_time: facts.cpu_nanos.map(Duration::from_nanos),
            peak_memory_bytes: facts.peak_memory_bytes,
            io_read_bytes: facts.io_read_bytes,
            io_write_bytes: facts.io_write_bytes,
        },
        start: facts.start,
        limits_hit: facts.limits_hit.into_iter().map(|hit| hit.0).collect(),
    };
    let artifacts = Artifacts {
        files: facts.artifacts.into_iter().map(Artifact::from).collect(),
        skipped: facts.skipped,
        not_uploaded: facts.not_uploaded,
    };
    Ok(Decoded {
        outcome,
        artifacts,
        trace_parent,
    })
}

#[derive(Serialize, Deserialize)]
struct Facts {
    ending: EndingFacts,
    /// Bytes that were lost.
    stdout_truncated: u64,
    stderr_truncated: u64,
    wall_nanos: u64,
    cpu_nanos: Option<u64>,
    peak_memory_bytes: Option<u64>,
    io_read_bytes: Option<u64>,
    io_write_bytes: Option<u64>,
    #[serde(with = "StartName")]
    start: Start,
    limits_hit: Vec<LimitHitFact>,
    artifacts: Vec<ArtifactFacts>,
    skipped: Vec<String>,
    /// Absent where there are none, and in what earlier versions wrote.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    not_uploaded: Vec<String>,
    /// Absent where the execution belongs to no trace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trace_parent: Option<String>,
}

impl Facts {
    fn new(outcome: &Outcome, artifacts: &Artifacts) -> Self {
        let usage = &outcome.usage;
        Self {
            ending: EndingFacts::from(&outcome.ending),
            stdout_truncated: outcome.stdout.truncated_bytes,
            stderr_truncated: outcome.stderr.truncated_bytes,
            wall_nanos: nanos(usage.wall_time),
            cpu_nanos: usage.cpu_time.map(nanos),
            peak_memory_bytes: usage.peak_memory_bytes,
            io_read_bytes: usage.io_read_bytes,
            io_write_bytes: usage.io_write_bytes,
            start: outcome.start,
            limits_hit: outcome
                .limits_hit
                .iter()
                .copied()
                .map(LimitHitFact)
                .collect(),
            artifacts: artifacts.files.iter().map(ArtifactFacts::from).collect(),
            skipped: artifacts.skipped.clone(),
            not_uploaded: artifacts.not_uploaded.clone(),
            trace_parent: None,
        }
    }
}

/// Five centuries of them, and nothing is rounded: what was answered once is answered again to the last digit.
fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum EndingFacts {
    /// The value has a column of its own.
    Completed,
    Failed {
        exit_code: i32,
        error_type: String,
        message: String,
        stack_trace: Vec<String>,
        #[serde(with = "ReasonName")]
        reason: Reason,
    },
    TimedOut {
        #[serde(with = "ClockName")]
        clock: Clock,
        allowed_nanos: u64,
    },
    Signal {
        number: i32,
    },
    Memory,
    ExecutorLost,
    Cancelled,
}

impl From<&Ending> for EndingFacts {
    fn from(ending: &Ending) -> Self {
        match ending {
            Ending::Completed { .. } => Self::Completed,
            Ending::Failed { exit_code, error } => Self::Failed {
                exit_code: *exit_code,
                error_type: error.error_type.clone(),
                message: error.message.clone(),
                stack_trace: error.stack_trace.clone(),
                reason: error.reason,
            },
            Ending::TimedOut { clock, allowed } => Self::TimedOut {
                clock: *clock,
                allowed_nanos: nanos(*allowed),
            },
            Ending::Crashed(CrashCause::Signal(number)) => Self::Signal { number: *number },
            Ending::Crashed(CrashCause::Memory) => Self::Memory,
            Ending::Crashed(CrashCause::ExecutorLost) => Self::ExecutorLost,
            Ending::Cancelled => Self::Cancelled,
        }
    }
}

impl EndingFacts {
    fn into_domain(self, value: Option<String>) -> Result<Ending, String> {
        Ok(match self {
            Self::Completed => {
                let value = value.ok_or("a completed execution has no value")?;
                let return_value = JsonText::parse(value).map_err(|error| error.to_string())?;
                Ending::Completed { return_value }
            }
            Self::Failed {
                exit_code,
                error_type,
                message,
                stack_trace,
                reason,
            } => Ending::Failed {
                exit_code,
                error: GuestError {
                    error_type,
                    message,
                    stack_trace,
                    reason,
                },
            },
            Self::TimedOut {
                clock,
                allowed_nanos,
            } => Ending::TimedOut {
                clock,
                allowed: Duration::from_nanos(allowed_nanos),
            },
            Self::Signal { number } => Ending::Crashed(CrashCause::Signal(number)),
            Self::Memory => Ending::Crashed(CrashCause::Memory),
            Self::ExecutorLost => Ending::Crashed(CrashCause::ExecutorLost),
            Self::Cancelled => Ending::Cancelled,
        })
    }
}

#[derive(Serialize, Deserialize)]
struct LimitHitFact(#[serde(with = "LimitHitName")] LimitHit);

#[derive(Serialize, Deserialize)]
struct ArtifactFacts {
    path: String,
    size: u64,
    mime_type: String,
    created_at: i64,
    checksum: String,
    /// Absent where it was not uploaded, and in what earlier versions wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    url: Option<String>,
}

impl From<&Artifact> for ArtifactFacts {
    fn from(artifact: &Artifact) -> Self {
        Self {
            path: artifact.path.clone(),
            size: artifact.size,
            mime_type: artifact.mime_type.clone(),
            created_at: artifact.created_at.unix_micros(),
            checksum: artifact.checksum.clone(),
            url: artifact.url.clone(),
        }
    }
}

impl From<ArtifactFacts> for Artifact {
    fn from(facts: ArtifactFacts) -> Self {
        Self {
            path: facts.path,
            size: facts.size,
            mime_type: facts.mime_type,
            created_at: Timestamp::from_unix_micros(facts.created_at),
            checksum: facts.checksum,
            url: facts.url,
        }
    }
}

// The domain's own enums by name: serde checks that none is missing.

#[derive(Serialize, Deserialize)]
#[serde(remote = "Start", rename_all = "snake_case")]
enum StartName {
    Warm,
    Forked,
    Cold,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Clock", rename_all = "snake_case")]
enum ClockName {
    Wall,
    Cpu,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "LimitHit", rename_all = "snake_case")]
enum LimitHitName {
    Memory,
    Processes,
    CpuTime,
    WallTime,
    Output,
    ResultSize,
    Workspace,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Reason", rename_all = "snake_case")]
enum ReasonName {
    HandlerError,
    HandlerNotFound,
    SyntaxError,
    NotSerializable,
    ResultTooLarge,
    ExitCode,
    Signal,
    WallTime,
    CpuTime,
    Memory,
    Output,
    WorkspaceQuota,
    Cancelled,
    ExecutorLost,
}
