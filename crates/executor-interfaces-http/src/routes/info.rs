//! `GET /info`: what this daemon is made of and what it allows.

use axum::{extract::State, http::StatusCode, response::Response};
use executor_application::{Capacity, LanguageSupport, Wall, WallState, WarmPool};
use executor_domain::LimitCeilings;
use serde::Serialize;

use crate::{ApiState, auth::Authorized, error::ApiError, response::json};

#[derive(Serialize)]
struct InfoDto<'a> {
    version: &'static str,
    platform: &'static str,
    isolation: &'static str,
    isolation_version: &'a str,
    workspace_path: String,
    active_executions: usize,
    walls: Vec<WallDto<'a>>,
    limits: LimitsDto,
    languages: Vec<LanguageDto<'a>>,
    warm_pools: Vec<WarmPoolDto>,
    capacity: CapacityDto,
    max_body_bytes: usize,
}

#[derive(Serialize)]
struct WallDto<'a> {
    name: &'static str,
    on: bool,
    /// What it is made of, or why it does not stand.
    detail: &'a str,
}

#[derive(Serialize)]
struct LimitsDto {
    /// What a run gets that wishes for nothing.
    defaults: LimitDto,
    /// Most that a run can wish for.
    ceilings: LimitDto,
}

/// Limits under the names and in the units of a request.
#[derive(Serialize)]
struct LimitDto {
    timeout: u64,
    max_memory_mb: u64,
    max_cpu_time_ms: u64,
    max_wall_time_ms: u64,
    max_processes: u64,
    max_file_size_mb: u64,
    max_output_bytes: u64,
    max_workspace_mb: u64,
}

#[derive(Serialize)]
struct LanguageDto<'a> {
    language: &'static str,
    interpreter: &'a str,
    version: &'a str,
}

#[derive(Serialize)]
struct WarmPoolDto {
    language: &'static str,
    /// Sandboxes that wait for a job, how many should, and how many may at most.
    ready: usize,
    target: usize,
    max: usize,
    starts: StartsDto,
    /// Why runs start cold, where they do.
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<String>,
}

/// How runs started so far, under the names of `metrics.start`.
#[derive(Serialize)]
struct StartsDto {
    warm: u64,
    forked: u64,
    cold: u64,
}

#[derive(Serialize)]
struct CapacityDto {
    running: usize,
    queued: usize,
}

/// What this daemon is made of and what it allows.
pub(super) async fn info(
    _caller: Authorized,
    State(api): State<ApiState>,
) -> Result<Response, ApiError> {
    let executor = api.executor();
    let sandbox = executor.sandbox();
    let info = InfoDto {
        version: api.options().version,
        platform: sandbox.platform,
        isolation: sandbox.isolation,
        isolation_version: &sandbox.tool_version,
        workspace_path: executor.workspace_root().display().to_string(),
        active_executions: executor.active(),
        walls: sandbox.walls.iter().map(WallDto::from).collect(),
        limits: LimitsDto::from(executor.policy().ceilings()),
        languages: sandbox.languages.iter().map(LanguageDto::from).collect(),
        warm_pools: executor
            .warm_pools()
            .into_iter()
            .map(WarmPoolDto::from)
            .collect(),
        capacity: CapacityDto::from(executor.capacity()),
        max_body_bytes: api.options().max_body_bytes,
    };
    json(StatusCode::OK, &info).map_err(ApiError::internal)
}

impl<'a> From<&'a Wall> for WallDto<'a> {
    fn from(wall: &'a Wall) -> Self {
        let (WallState::On(detail) | WallState::Off(detail)) = &wall.state;
        Self {
            name: wall.name,
            on: wall.is_on(),
            detail,
        }
    }
}

impl From<&LimitCeilings> for LimitsDto {
    fn from(ceilings: &LimitCeilings) -> Self {
        let within = |timeout: u64| LimitDto {
            timeout,
            max_memory_mb: ceilings.max_memory_mb,
            max_cpu_time_ms: ceilings.max_cpu_time_ms.unwrap_or(timeout * 1000),
            max_wall_time_ms: timeout * 1000,
            max_processes: ceilings.max_processes,
            max_file_size_mb: ceilings.max_file_size_mb,
            max_output_bytes: ceilings.max_output_bytes,
            max_workspace_mb: ceilings.max_workspace_mb,
        };
        Self {
            defaults: within(ceilings.default_timeout),
            ceilings: within(ceilings.max_timeout),
        }
    }
}

impl<'a> From<&'a LanguageSupport> for LanguageDto<'a> {
    fn from(support: &'a LanguageSupport) -> Self {
        Self {
            language: support.language.as_str(),
            interpreter: &support.interpreter,
            version: &support.version,
        }
    }
}

impl From<WarmPool> for WarmPoolDto {
    fn from(pool: WarmPool) -> Self {
        Self {
            language: pool.language.as_str(),
            ready: pool.ready,
            target: pool.target,
            max: pool.max,
            starts: StartsDto {
                warm: pool.warm,
                forked: pool.forked,
                cold: pool.cold,
            },
            trouble: pool.trouble,
        }
    }
}

impl From<Capacity> for CapacityDto {
    fn from(
        Capacity {
            running, queued, ..
        }: Capacity,
    ) -> Self {
        Self { running, queued }
    }
}

#[cfg(test)]
mod tests {
    use executor_domain::{LimitPolicy, RequestedLimits};

    use super::*;

    /// The defaults that are shown are those that a run gets, and the ceilings those that it can wish for.
    fn agrees_with_the_policy(ceilings: LimitCeilings) {
        let policy = LimitPolicy::new(ceilings).unwrap();
        let shown = LimitsDto::from(policy.ceilings());
        let granted = policy.grant(&RequestedLimits::default()).unwrap();
        let defaults = &shown.defaults;
        assert_eq!(
            u128::from(defaults.timeout) * 1000,
            granted.wall_time().as_millis()
        );
        assert_eq!(
            u128::from(defaults.max_wall_time_ms),
            granted.wall_time().as_millis()
        );
        assert_eq!(
            u128::from(defaults.max_cpu_time_ms),
            granted.cpu_time().as_millis()
        );
        assert_eq!(defaults.max_memory_mb, granted.max_memory_mb());
        assert_eq!(defaults.max_processes, granted.max_processes());
        assert_eq!(defaults.max_file_size_mb << 20, granted.file_size_bytes());
        assert_eq!(defaults.max_output_bytes, granted.max_output_bytes());
        assert_eq!(defaults.max_workspace_mb << 20, granted.workspace_bytes());

        let most = RequestedLimits {
            timeout: Some(shown.ceilings.timeout),
            max_memory_mb: Some(shown.ceilings.max_memory_mb),
            max_cpu_time_ms: Some(shown.ceilings.max_cpu_time_ms),
            max_wall_time_ms: Some(shown.ceilings.max_wall_time_ms),
            max_processes: Some(shown.ceilings.max_processes),
            max_file_size_mb: Some(shown.ceilings.max_file_size_mb),
            max_output_bytes: Some(shown.ceilings.max_output_bytes),
            max_workspace_mb: Some(shown.ceilings.max_workspace_mb),
        };
        assert!(policy.grant(&most).is_ok());
    }

    #[test]
    fn limits_are_those_of_the_policy() {
        agrees_with_the_policy(LimitCeilings::default());
        agrees_with_the_policy(LimitCeilings {
            max_cpu_time_ms: Some(1234),
            ..LimitCeilings::default()
        });
    }
}
