//! Reports as executors send them. Fields that are not known are let through: executors may know more than we do.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::error::ApiError;

/// Longest name of a container or pod, in bytes: that of a host (RFC 1035), which Kubernetes takes over.
const MAX_NAME: usize = 253;

/// `POST …/containers/ready`
#[derive(Debug, Deserialize)]
pub(crate) struct Ready {
    pub(crate) container_id: String,
    pub(crate) pod_name: Option<String>,
    pub(crate) executor_port: u16,
    pub(crate) ready_at: Option<String>,
}

/// `POST …/containers/exited`
#[derive(Debug, Deserialize)]
pub(crate) struct Exited {
    pub(crate) container_id: String,
    pub(crate) pod_name: Option<String>,
    pub(crate) executor_port: u16,
    pub(crate) exit_code: i32,
    pub(crate) exit_reason: ExitReason,
    pub(crate) exited_at: Option<String>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ExitReason {
    Normal,
    Sigterm,
    Sigkill,
    OomKilled,
    Error,
}

impl ExitReason {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Sigterm => "sigterm",
            Self::Sigkill => "sigkill",
            Self::OomKilled => "oom_killed",
            Self::Error => "error",
        }
    }
}

/// `POST …/executions/{id}/heartbeat`. What it says of the time is the sender's clock; ours counts.
#[derive(Debug, Deserialize)]
pub(crate) struct Heartbeat {
    #[serde(rename = "timestamp")]
    pub(crate) _timestamp: String,
    #[serde(rename = "progress")]
    pub(crate) _progress: Option<Box<RawValue>>,
}

/// `POST …/executions/{id}/result`, as far as it is looked at: the whole is kept as it came.
#[derive(Debug, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) status: Status,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) exit_code: i32,
    pub(crate) execution_time: f64,
    #[serde(rename = "return_value")]
    pub(crate) _return_value: Option<Box<RawValue>>,
    #[serde(rename = "metrics")]
    pub(crate) _metrics: Option<Metrics>,
    #[serde(default)]
    pub(crate) artifacts: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Metrics {
    #[serde(rename = "duration_ms")]
    _duration_ms: f64,
    #[serde(rename = "cpu_time_ms")]
    _cpu_time_ms: Option<f64>,
    #[serde(rename = "peak_memory_mb")]
    _peak_memory_mb: Option<f64>,
    #[serde(rename = "io_read_bytes")]
    _io_read_bytes: Option<u64>,
    #[serde(rename = "io_write_bytes")]
    _io_write_bytes: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    Success,
    Failed,
    Timeout,
    Crashed,
}

impl Status {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Timeout => "timeout",
            Self::Crashed => "crashed",
        }
    }
}

/// Checks the names by which a container is known.
pub(crate) fn check_names(container: &str, pod: Option<&str>) -> Result<(), ApiError> {
    let fits = |name: &str| !name.is_empty() && name.len() <= MAX_NAME;
    if fits(container) && pod.is_none_or(fits) {
        Ok(())
    } else {
        Err(ApiError::Invalid(format!(
            "container_id and pod_name must have 1 to {MAX_NAME} bytes"
        )))
    }
}
