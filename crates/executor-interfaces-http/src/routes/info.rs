//! `GET /info`: what this daemon is made of and what it allows.

use axum::{extract::State, http::StatusCode, response::Response};
use executor_application::{Capacity, LanguageSupport, Wall, WallState, WarmPool};
use executor_domain::LimitCeilings;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    ApiState,
    auth::Authorized,
    error::ApiError,
    openapi::{Guarded, words},
    response::json,
};

/// What this daemon is made of and what it allows.
#[derive(Serialize, ToSchema)]
#[schema(as = Info)]
struct InfoDto<'a> {
    /// The daemon's version
    version: &'static str,
    /// The operating system: `Linux` or `Darwin`
    platform: &'static str,
    /// What isolates guests: `bubblewrap` or `seatbelt`
    isolation: &'static str,
    /// What the isolation tool says of its version
    isolation_version: &'a str,
    /// Where workspaces are on the host
    workspace_path: String,
    /// Guests that run now
    active_executions: usize,
    /// Every wall between guests and host, standing or not
    walls: Vec<WallDto<'a>>,
    /// What a run may use
    limits: LimitsDto,
    /// Languages that this host can run
    languages: Vec<LanguageDto<'a>>,
    /// Sandboxes made ahead of their jobs
    warm_pools: Vec<WarmPoolDto>,
    /// How many executions run and wait
    capacity: CapacityDto,
    /// The largest request body
    max_body_bytes: usize,
}

/// A wall between guests and host.
#[derive(Serialize, ToSchema)]
#[schema(as = Wall)]
struct WallDto<'a> {
    /// Its name, for programs
    name: &'static str,
    /// Whether it stands
    on: bool,
    /// What it is made of, or why it does not stand.
    detail: &'a str,
}

/// What a run may use.
#[derive(Serialize, ToSchema)]
#[schema(as = Limits)]
struct LimitsDto {
    /// What a run gets that wishes for nothing.
    defaults: LimitDto,
    /// Most that a run can wish for.
    ceilings: LimitDto,
}

/// Limits under the names and in the units of a request.
#[derive(Serialize, ToSchema)]
#[schema(as = LimitSet)]
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

/// A language that this host can run.
#[derive(Serialize, ToSchema)]
#[schema(as = LanguageSupport)]
struct LanguageDto<'a> {
    /// The language
    #[schema(schema_with = words::language)]
    language: &'static str,
    /// The interpreter, as guests see it
    interpreter: &'a str,
    /// What the interpreter says of its version
    version: &'a str,
}

/// Sandboxes made ahead of their jobs.
#[derive(Serialize, ToSchema)]
#[schema(as = WarmPool)]
struct WarmPoolDto {
    /// The language of their guests
    language: &'static str,
    /// How many wait for a job
    ready: usize,
    /// How many should, at this load
    target: usize,
    /// How many may
    max: usize,
    /// How runs started so far
    starts: StartsDto,
    /// Why runs start cold, where they do
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<String>,
}

/// How runs started so far, under the names of `metrics.start`.
#[derive(Serialize, ToSchema)]
#[schema(as = Starts)]
struct StartsDto {
    /// In a sandbox made ahead
    warm: u64,
    /// In one forked on demand
    forked: u64,
    /// In a new one
    cold: u64,
}

/// How many executions run and wait.
#[derive(Serialize, ToSchema)]
#[schema(as = Capacity)]
struct CapacityDto {
    /// Most that run at the same time
    running: usize,
    /// Most that wait
    queued: usize,
}

/// What this daemon is made of and what it allows.
#[utoipa::path(
    get,
    path = "/info",
    tag = "operation",
    responses(
        (status = 200, description = "What it is", body = InfoDto<'static>),
        Guarded,
    ),
    security(("bearer" = [])),
)]
pub(super) async fn info(
    _caller: Authorized,
    State(api): State<ApiState>,
) -> Result<Response, ApiError> {
    let executor = api.executor();
    let sandbox = executor.sandbox();
    let quota = executor.workspace_quota();
    let info = InfoDto {
        version: api.options().version,
        platform: sandbox.platform,
        isolation: sandbox.isolation,
        isolation_version: &sandbox.tool_version,
        workspace_path: executor.workspace_root().display().to_string(),
        active_executions: executor.active(),
        walls: sandbox
            .walls
            .iter()
            .chain([&quota])
            .map(WallDto::from)
            .collect(),
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
