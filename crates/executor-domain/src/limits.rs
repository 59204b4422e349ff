//! From wishes to permissions: what a caller asks for, what the operator allows, what a guest gets.
//!
//! A wish ([`RequestedLimits`]) and a permission ([`ResourceLimit`]) are different types, and only a [`LimitPolicy`]
//! makes the second. A sandbox takes nothing else, so no path around the ceilings exists.

use alloc::vec::Vec;
use core::{fmt, time::Duration};

use thiserror::Error;

/// One thing that is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Limit {
    /// Wall time as the `timeout` of a request: whole seconds.
    Timeout,
    /// Memory of the whole process tree, swap included: MiB.
    Memory,
    /// CPU time of the whole process tree: milliseconds.
    CpuTime,
    /// Wall time: milliseconds.
    WallTime,
    /// Processes and threads at the same time.
    Processes,
    /// Size of one file: MiB.
    FileSize,
    /// Bytes kept of stdout, and the same number again of stderr.
    Output,
    /// Bytes in the session's workspace: MiB.
    Workspace,
}

impl Limit {
    /// The field of a request that wishes for it.
    pub const fn field(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Memory => "limits.max_memory_mb",
            Self::CpuTime => "limits.max_cpu_time_ms",
            Self::WallTime => "limits.max_wall_time_ms",
            Self::Processes => "limits.max_processes",
            Self::FileSize => "limits.max_file_size_mb",
            Self::Output => "limits.max_output_bytes",
            Self::Workspace => "limits.max_workspace_mb",
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.field())
    }
}

/// A wish outside of what the operator allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("must be between {floor} and {ceiling}, is {wish}")]
pub struct LimitError {
    /// What was wished for.
    pub limit: Limit,
    /// How much of it, in the limit's unit.
    pub wish: u64,
    /// Least that makes sense.
    pub floor: u64,
    /// Most that the operator allows.
    pub ceiling: u64,
}

/// What a caller asks for: any numbers at all. Units as in [`Limit`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RequestedLimits {
    /// Wall time in seconds.
    pub timeout: Option<u64>,
    /// Memory in MiB.
    pub max_memory_mb: Option<u64>,
    /// CPU time in milliseconds.
    pub max_cpu_time_ms: Option<u64>,
    /// Wall time in milliseconds; with `timeout` as well, the shorter one counts.
    pub max_wall_time_ms: Option<u64>,
    /// Processes and threads.
    pub max_processes: Option<u64>,
    /// Size of one file in MiB.
    pub max_file_size_mb: Option<u64>,
    /// Bytes kept of each of stdout and stderr.
    pub max_output_bytes: Option<u64>,
    /// Bytes in the workspace in MiB.
    pub max_workspace_mb: Option<u64>,
}

/// What the operator allows one run: ceilings that are also the defaults, wall time apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitCeilings {
    /// Wall time of a run that asks for none, in seconds.
    pub default_timeout: u64,
    /// Longest wall time, in seconds.
    pub max_timeout: u64,
    /// Memory in MiB.
    pub max_memory_mb: u64,
    /// CPU time in milliseconds; `None`: as much as the granted wall time.
    pub max_cpu_time_ms: Option<u64>,
    /// Processes and threads.
    pub max_processes: u64,
    /// Size of one file in MiB.
    pub max_file_size_mb: u64,
    /// Bytes kept of each of stdout and stderr.
    pub max_output_bytes: u64,
    /// Bytes in the workspace in MiB.
    pub max_workspace_mb: u64,
}

impl LimitCeilings {
    /// Least memory that a run can have, in MiB: with less, an interpreter cannot even say what went wrong.
    pub const FLOOR_MEMORY_MB: u64 = FLOOR_MEMORY_MB;
}

impl Default for LimitCeilings {
    /// The documented defaults: 300 s (at most 3600 s), 512 MiB, 128 processes, files of 100 MiB, 10 MiB of output, a
    /// workspace of 1 GiB.
    fn default() -> Self {
        Self {
            default_timeout: 300,
            max_timeout: 3600,
            max_memory_mb: 512,
            max_cpu_time_ms: None,
            max_processes: 128,
            max_file_size_mb: 100,
            max_output_bytes: 10 << 20,
            max_workspace_mb: 1024,
        }
    }
}

/// The operator's ceilings contradict themselves or the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum InvalidPolicy {
    /// A ceiling outside of what can work.
    #[error("{name} must be between {floor} and {ceiling}, is {value}")]
    Ceiling {
        /// The ceiling's configuration key.
        name: &'static str,
        /// What it was set to.
        value: u64,
        /// Least that can work.
        floor: u64,
        /// Most that can work.
        ceiling: u64,
    },
    /// The default is above the ceiling.
    #[error("default_timeout ({default} s) must not be longer than max_timeout ({max} s)")]
    DefaultAboveCeiling {
        /// `default_timeout`
        default: u64,
        /// `max_timeout`
        max: u64,
    },
}

/// Least memory with which an interpreter starts and can still say what went wrong, in MiB.
const FLOOR_MEMORY_MB: u64 = 16;
/// The API promises timeouts of up to an hour and no more.
const TIMEOUT_CEILING: u64 = 3600;
/// No machine that we know has more; keeps every product of ours far from overflow.
const SANE_CEILING: u64 = 1 << 32;

/// Turns wishes into permissions. The only maker of [`ResourceLimit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitPolicy(LimitCeilings);

impl LimitPolicy {
    /// Accepts ceilings that can work, and says everything that is wrong with others.
    pub fn new(ceilings: LimitCeilings) -> Result<Self, Vec<InvalidPolicy>> {
        let c = &ceilings;
        let mut mistakes: Vec<_> = [
            ("default_timeout", c.default_timeout, 1, TIMEOUT_CEILING),
            ("max_timeout", c.max_timeout, 1, TIMEOUT_CEILING),
            (
                "max_memory_mb",
                c.max_memory_mb,
                FLOOR_MEMORY_MB,
                SANE_CEILING,
            ),
            (
                "max_cpu_time_ms",
                c.max_cpu_time_ms.unwrap_or(1),
                1,
                SANE_CEILING,
            ),
            ("max_processes", c.max_processes, 1, SANE_CEILING),
            ("max_file_size_mb", c.max_file_size_mb, 1, SANE_CEILING),
            ("max_output_bytes", c.max_output_bytes, 1, SANE_CEILING),
            ("max_workspace_mb", c.max_workspace_mb, 1, SANE_CEILING),
        ]
        .into_iter()
        .filter(|(_, value, floor, ceiling)| !(floor..=ceiling).contains(&value))
        .map(|(name, value, floor, ceiling)| InvalidPolicy::Ceiling {
            name,
            value,
            floor,
            ceiling,
        })
        .collect();
        if c.default_timeout > c.max_timeout {
            mistakes.push(InvalidPolicy::DefaultAboveCeiling {
                default: c.default_timeout,
                max: c.max_timeout,
            });
        }
        if mistakes.is_empty() {
            Ok(Self(ceilings))
        } else {
            Err(mistakes)
        }
    }

    /// The ceilings that the policy guards.
    pub const fn ceilings(&self) -> &LimitCeilings {
        &self.0
    }

    /// Grants what is wished for, and the default where nothing is. A wish above its ceiling is refused, not clipped,
    /// so that nobody mistakes a smaller grant for the one they asked for; all refused wishes are named at once.
    pub fn grant(&self, wish: &RequestedLimits) -> Result<ResourceLimit, Vec<LimitError>> {
        let c = &self.0;
        let mut refused = Vec::new();
        let mut take = |limit, wish: Option<u64>, default, floor, ceiling| match wish {
            None => default,
            Some(wish) if (floor..=ceiling).contains(&wish) => wish,
            Some(wish) => {
                refused.push(LimitError {
                    limit,
                    wish,
                    floor,
                    ceiling,
                });
                default
            }
        };

        let max_wall_ms = c.max_timeout * 1000;
        let timeout = take(
            Limit::Timeout,
            wish.timeout,
            c.default_timeout,
            1,
            c.max_timeout,
        );
        let wall_ms = take(
            Limit::WallTime,
            wish.max_wall_time_ms,
            // Without a `timeout` of its own, a longer wish for wall time is not cut by the default timeout.
            if wish.timeout.is_none() {
                max_wall_ms
            } else {
                timeout * 1000
            },
            1,
            max_wall_ms,
        );
        let wall_ms = match (wish.timeout, wish.max_wall_time_ms) {
            (None, Some(_)) => wall_ms,
            _ => wall_ms.min(timeout * 1000),
        };
        let max_cpu_ms = c.max_cpu_time_ms.unwrap_or(max_wall_ms);
        let granted = ResourceLimit {
            max_wall_time_ms: wall_ms,
            max_cpu_time_ms: take(
                Limit::CpuTime,
                wish.max_cpu_time_ms,
                c.max_cpu_time_ms.unwrap_or(wall_ms),
                1,
                max_cpu_ms,
            ),
            max_memory_mb: take(
                Limit::Memory,
                wish.max_memory_mb,
                c.max_memory_mb,
                FLOOR_MEMORY_MB,
                c.max_memory_mb,
            ),
            max_processes: take(
                Limit::Processes,
                wish.max_processes,
                c.max_processes,
                1,
                c.max_processes,
            ),
            max_file_size_mb: take(
                Limit::FileSize,
                wish.max_file_size_mb,
                c.max_file_size_mb,
                1,
                c.max_file_size_mb,
            ),
            max_output_bytes: take(
                Limit::Output,
                wish.max_output_bytes,
                c.max_output_bytes,
                1,
                c.max_output_bytes,
            ),
            max_workspace_mb: take(
                Limit::Workspace,
                wish.max_workspace_mb,
                c.max_workspace_mb,
                1,
                c.max_workspace_mb,
            ),
        };
        if refused.is_empty() {
            Ok(granted)
        } else {
            Err(refused)
        }
    }
}

impl Default for LimitPolicy {
    /// The policy with the documented defaults.
    fn default() -> Self {
        Self(LimitCeilings::default())
    }
}

/// What a guest may use: granted by a [`LimitPolicy`], and made by nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResourceLimit {
    max_memory_mb: u64,
    max_cpu_time_ms: u64,
    max_wall_time_ms: u64,
    max_processes: u64,
    max_file_size_mb: u64,
    max_output_bytes: u64,
    max_workspace_mb: u64,
}

impl ResourceLimit {
    /// Memory of the whole process tree, swap included, in MiB.
    pub const fn max_memory_mb(&self) -> u64 {
        self.max_memory_mb
    }

    /// Memory of the whole process tree, swap included, in bytes.
    pub const fn memory_bytes(&self) -> u64 {
        self.max_memory_mb << 20
    }

    /// CPU time of the whole process tree.
    pub const fn cpu_time(&self) -> Duration {
        Duration::from_millis(self.max_cpu_time_ms)
    }

    /// Wall time from the guest's first instruction to its kill.
    pub const fn wall_time(&self) -> Duration {
        Duration::from_millis(self.max_wall_time_ms)
    }

    /// Processes and threads at the same time.
    pub const fn max_processes(&self) -> u64 {
        self.max_processes
    }

    /// Size of one file, in bytes.
    pub const fn file_size_bytes(&self) -> u64 {
        self.max_file_size_mb << 20
    }

    /// Bytes kept of each of stdout and stderr.
    pub const fn max_output_bytes(&self) -> u64 {
        self.max_output_bytes
    }

    /// Bytes in the session's workspace.
    pub const fn workspace_bytes(&self) -> u64 {
        self.max_workspace_mb << 20
    }
}

#[cfg(test)]
mod tests {
    use alloc::{string::ToString, vec};

    use super::*;

    fn wish(set: impl FnOnce(&mut RequestedLimits)) -> RequestedLimits {
        let mut wish = RequestedLimits::default();
        set(&mut wish);
        wish
    }

    #[test]
    fn who_wishes_for_nothing_gets_the_documented_defaults() {
        let granted = LimitPolicy::default()
            .grant(&RequestedLimits::default())
            .unwrap();
        assert_eq!(granted.wall_time(), Duration::from_secs(300));
        assert_eq!(granted.cpu_time(), Duration::from_secs(300));
        assert_eq!(granted.max_memory_mb(), 512);
        assert_eq!(granted.memory_bytes(), 512 * 1024 * 1024);
        assert_eq!(granted.max_processes(), 128);
        assert_eq!(granted.file_size_bytes(), 100 * 1024 * 1024);
        assert_eq!(granted.max_output_bytes(), 10 * 1024 * 1024);
        assert_eq!(granted.workspace_bytes(), 1024 * 1024 * 1024);
    }

    #[test]
    fn wishes_stand_at_the_ceiling_and_fall_above() {
        let policy = LimitPolicy::default();
        let at = wish(|w| w.max_memory_mb = Some(512));
        assert_eq!(policy.grant(&at).unwrap().max_memory_mb(), 512);
        let above = wish(|w| w.max_memory_mb = Some(513));
        assert_eq!(
            policy.grant(&above),
            Err(vec![LimitError {
                limit: Limit::Memory,
                wish: 513,
                floor: 16,
                ceiling: 512
            }])
        );
    }

    #[test]
    fn every_refused_wish_is_named_at_once() {
        let greedy = RequestedLimits {
            timeout: Some(0),
            max_memory_mb: Some(u64::MAX),
            max_cpu_time_ms: Some(u64::MAX),
            max_wall_time_ms: Some(u64::MAX),
            max_processes: Some(0),
            max_file_size_mb: Some(101),
            max_output_bytes: Some(0),
            max_workspace_mb: Some(0),
        };
        let refused = LimitPolicy::default().grant(&greedy).unwrap_err();
        assert_eq!(refused.len(), 8);
        assert_eq!(refused[0].to_string(), "must be between 1 and 3600, is 0");
    }

    #[test]
    fn the_shorter_of_two_wishes_for_wall_time_counts() {
        let policy = LimitPolicy::default();
        for (timeout, wall_ms, granted_ms) in [
            (Some(2), Some(500), 500),
            (Some(2), Some(5000), 2000),
            (Some(2), None, 2000),
            (None, Some(500), 500),
            (None, Some(1_000_000), 1_000_000),
        ] {
            let granted = policy
                .grant(&wish(|w| {
                    w.timeout = timeout;
                    w.max_wall_time_ms = wall_ms;
                }))
                .unwrap();
            assert_eq!(
                granted.wall_time(),
                Duration::from_millis(granted_ms),
                "{timeout:?} {wall_ms:?}"
            );
        }
    }

    #[test]
    fn cpu_time_follows_wall_time_unless_the_operator_says_otherwise() {
        let short = wish(|w| w.timeout = Some(3));
        let granted = LimitPolicy::default().grant(&short).unwrap();
        assert_eq!(granted.cpu_time(), Duration::from_secs(3));

        let policy = LimitPolicy::new(LimitCeilings {
            max_cpu_time_ms: Some(1000),
            ..LimitCeilings::default()
        })
        .unwrap();
        assert_eq!(
            policy.grant(&short).unwrap().cpu_time(),
            Duration::from_secs(1)
        );
        assert!(
            policy
                .grant(&wish(|w| w.max_cpu_time_ms = Some(1001)))
                .is_err()
        );
    }

    #[test]
    fn ceilings_that_cannot_work_are_all_named() {
        let mistakes = LimitPolicy::new(LimitCeilings {
            default_timeout: 20,
            max_timeout: 10,
            max_memory_mb: 1,
            max_processes: 0,
            ..LimitCeilings::default()
        })
        .unwrap_err();
        assert_eq!(mistakes.len(), 3);
        assert_eq!(
            mistakes[0].to_string(),
            "max_memory_mb must be between 16 and 4294967296, is 1"
        );
    }
}
