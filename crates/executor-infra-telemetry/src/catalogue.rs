//! Everything that is counted: the one table of names. Registration and documentation are made from it.

use std::fmt::Write as _;

/// What kind of figure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; starts at 0 with the daemon. Its name ends in `_total` on the wire.
    Counter,
    /// As it is now.
    Gauge,
    /// How often which size occurred.
    Histogram,
}

/// One thing that is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// Its name, for a counter without `_total`.
    pub name: &'static str,
    /// What kind of figure it is.
    pub kind: Kind,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// What it says, without a full stop.
    pub help: &'static str,
}

impl Metric {
    const fn new(
        name: &'static str,
        kind: Kind,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Self {
        Self {
            name,
            kind,
            labels,
            help,
        }
    }
}

macro_rules! catalogue {
    ($($(#[$doc:meta])* $constant:ident = $name:literal, $kind:ident, [$($label:literal),*], $help:literal;)*) => {
        $(
            pub(crate) const $constant: Metric =
                Metric::new($name, Kind::$kind, &[$($label),*], $help);
        )*

        /// Everything that is counted, in the order of the documentation.
        pub const ALL: &[Metric] = &[$($constant),*];
    };
}

catalogue! {
    EXECUTIONS = "sandbox_executions", Counter, ["language", "status"],
        "Executions that ended, by what they came to";
    FAILURES = "sandbox_execution_failures", Counter, ["language", "part"],
        "Executions that the executor itself failed, by the part that failed";
    DURATION = "sandbox_execution_duration_seconds", Histogram, ["start"],
        "Wall time of guests, from their first instruction to their end";
    STARTUP = "sandbox_startup_seconds", Histogram, ["start"],
        "What a run takes beyond its guest's own time: making or taking a sandbox, and clearing it away";
    QUEUE_WAIT = "sandbox_queue_wait_seconds", Histogram, [],
        "How long executions waited for a slot";
    LIMITS_HIT = "sandbox_limits_hit", Counter, ["limit"],
        "Limits that guests ran into, whether or not that ended them";
    OUTPUT_BYTES = "sandbox_output_bytes", Counter, ["stream"],
        "Bytes kept of what guests wrote";
    OUTPUT_TRUNCATED = "sandbox_output_truncated", Counter, ["stream"],
        "Streams that were cut because a guest wrote more than is kept";
    OUTPUT_TRUNCATED_BYTES = "sandbox_output_truncated_bytes", Counter, ["stream"],
        "Bytes that were not kept of streams that were cut";
    ACTIVE = "sandbox_executions_active", Gauge, [],
        "Guests that run";
    QUEUED = "sandbox_executions_queued", Gauge, [],
        "Executions that wait for a slot";
    ACTIVE_LIMIT = "sandbox_executions_active_limit", Gauge, [],
        "Guests that can run at the same time";
    QUEUED_LIMIT = "sandbox_executions_queued_limit", Gauge, [],
        "Executions that can wait for a slot";
    WARM_SLOTS = "sandbox_warm_slots_ready", Gauge, ["language"],
        "Sandboxes made ahead that wait for a job; only where there is a warm pool";
    UNDELIVERED = "sandbox_undelivered_reports", Gauge, [],
        "Reports that the control plane has not got yet; only where there is an outbox";
    LOST = "sandbox_lost_reports", Counter, ["reason"],
        "Results that the control plane never gets: it `refused` them, they were `dropped` undelivered to keep the store below its cap, or what is kept of them is damaged and `unreadable`; only where there is an outbox";
    SESSIONS_REMOVED = "sandbox_sessions_removed", Counter, ["reason"],
        "Sessions that were removed with their files: nobody used them, the disk was too full, or somebody asked for it";
    SESSIONS_REMOVED_BYTES = "sandbox_sessions_removed_bytes", Counter, ["reason"],
        "What those sessions took on the disk";
    ARTIFACTS_UPLOADED = "sandbox_artifacts_uploaded", Counter, [],
        "Artifacts that were uploaded; only where there is an artifact store, as the next two";
    ARTIFACTS_UPLOADED_BYTES = "sandbox_artifacts_uploaded_bytes", Counter, [],
        "Bytes of artifacts that were uploaded";
    ARTIFACTS_NOT_UPLOADED = "sandbox_artifacts_not_uploaded", Counter, [],
        "Artifacts that were to be uploaded and were not";
    REQUESTS = "sandbox_http_requests", Counter, ["method", "route", "status"],
        "Requests by route pattern and status; the status is `abandoned` where the client left first";
    REQUEST_DURATION = "sandbox_http_request_duration_seconds", Histogram, ["route"],
        "From the head of a request to the head of its answer";
    BUILD = "sandbox_build_info", Gauge, ["version"],
        "Always 1; the label says which version runs";
    PROCESS_START = "process_start_time_seconds", Gauge, [],
        "When the daemon started, in seconds since 1970";
    PROCESS_CPU = "process_cpu_seconds", Counter, [],
        "CPU time of the daemon itself, without its guests; Linux only";
    PROCESS_MEMORY = "process_resident_memory_bytes", Gauge, [],
        "Memory of the daemon itself, without its guests; Linux only";
    PROCESS_FDS = "process_open_fds", Gauge, [],
        "Descriptors that the daemon has open; Linux only";
    PROCESS_MAX_FDS = "process_max_fds", Gauge, [],
        "Descriptors that the daemon may have open; Linux only";
}

/// The table of `docs/observability.md`.
pub fn markdown() -> String {
    let mut table = "| Name | Kind | Labels | |\n| --- | --- | --- | --- |\n".to_owned();
    for metric in ALL {
        let (suffix, kind) = match metric.kind {
            Kind::Counter => ("_total", "counter"),
            Kind::Gauge => ("", "gauge"),
            Kind::Histogram => ("", "histogram"),
        };
        let labels: Vec<_> = metric
            .labels
            .iter()
            .map(|label| format!("`{label}`"))
            .collect();
        let _ = writeln!(
            table,
            "| `{}{suffix}` | {kind} | {} | {} |",
            metric.name,
            labels.join(", "),
            metric.help,
        );
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_has_this_table() {
        let page = include_str!("../../../docs/observability.md");
        assert!(
            page.contains(&markdown()),
            "docs/observability.md must have this table:\n{}",
            markdown()
        );
    }
}
