//! What a run has used, as far as somebody counted.

use std::time::Duration;

/// What a run has used so far: its whole process tree, also of processes that are gone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// User and system time; `None` if it is not accounted.
    pub cpu: Option<Duration>,
    /// Highest memory use in bytes, page cache included; `None` if it is not accounted. On v2
    /// before Linux 5.19 it is the highest that was seen when asking.
    pub peak_memory_bytes: Option<u64>,
    /// Processes killed because memory ran out.
    pub oom_kills: u64,
    /// Times a process or thread was refused because there were too many.
    pub pids_refused: u64,
    /// Bytes read from block devices; `None` unless the v2 `io` controller is on.
    pub io_read_bytes: Option<u64>,
    /// Bytes written to block devices; `None` unless the v2 `io` controller is on.
    pub io_write_bytes: Option<u64>,
}
