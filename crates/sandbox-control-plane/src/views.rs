//! Lists and their items as JSON.

use chrono::{DateTime, SecondsFormat};
use serde::Serialize;

use crate::store::{ContainerRow, ExecutionRow, Millis};

/// Executions, newest first. `next_cursor` asks for the next page; `null` where there is none.
#[derive(Serialize)]
pub(crate) struct ExecutionsView<'a> {
    items: Vec<ExecutionView<'a>>,
    next_cursor: Option<i64>,
}

impl<'a> ExecutionsView<'a> {
    pub(crate) fn new(rows: &'a [ExecutionRow], limit: u32) -> Self {
        Self {
            items: rows.iter().map(ExecutionView::from).collect(),
            next_cursor: next(rows.len(), limit, rows.last().map(|row| row.number)),
        }
    }
}

/// One execution.
#[derive(Serialize)]
pub(crate) struct ExecutionView<'a> {
    execution_id: &'a str,
    status: &'a str,
    heartbeats: i64,
    first_seen_at: Option<String>,
    last_heartbeat_at: Option<String>,
    ended_at: Option<String>,
    exit_code: Option<i64>,
    execution_time: Option<f64>,
    artifacts: Option<i64>,
}

impl<'a> From<&'a ExecutionRow> for ExecutionView<'a> {
    fn from(row: &'a ExecutionRow) -> Self {
        Self {
            execution_id: &row.id,
            status: &row.status,
            heartbeats: row.heartbeats,
            first_seen_at: rfc3339(row.first_seen),
            last_heartbeat_at: row.last_heartbeat.and_then(rfc3339),
            ended_at: row.ended.and_then(rfc3339),
            exit_code: row.exit_code,
            execution_time: row.execution_time,
            artifacts: row.artifacts,
        }
    }
}

/// Containers, newest first.
#[derive(Serialize)]
pub(crate) struct ContainersView<'a> {
    items: Vec<ContainerView<'a>>,
    next_cursor: Option<i64>,
}

impl<'a> ContainersView<'a> {
    pub(crate) fn new(rows: &'a [ContainerRow], limit: u32) -> Self {
        Self {
            items: rows.iter().map(ContainerView::from).collect(),
            next_cursor: next(rows.len(), limit, rows.last().map(|row| row.number)),
        }
    }
}

#[derive(Serialize)]
struct ContainerView<'a> {
    container_id: &'a str,
    pod_name: Option<&'a str>,
    executor_port: i64,
    state: &'a str,
    ready_at: Option<&'a str>,
    exited_at: Option<&'a str>,
    exit_code: Option<i64>,
    exit_reason: Option<&'a str>,
}

impl<'a> From<&'a ContainerRow> for ContainerView<'a> {
    fn from(row: &'a ContainerRow) -> Self {
        Self {
            container_id: &row.id,
            pod_name: row.pod_name.as_deref(),
            executor_port: row.executor_port,
            state: &row.state,
            ready_at: row.ready_at.as_deref(),
            exited_at: row.exited_at.as_deref(),
            exit_code: row.exit_code,
            exit_reason: row.exit_reason.as_deref(),
        }
    }
}

/// A full page may have another one after it.
fn next(found: usize, limit: u32, last: Option<i64>) -> Option<i64> {
    last.filter(|_| found >= usize::try_from(limit).unwrap_or(usize::MAX))
}

/// RFC 3339 in UTC; `None` for a time that no calendar has.
pub(crate) fn rfc3339(time: Millis) -> Option<String> {
    DateTime::from_timestamp_millis(time)
        .map(|time| time.to_rfc3339_opts(SecondsFormat::Millis, true))
}
