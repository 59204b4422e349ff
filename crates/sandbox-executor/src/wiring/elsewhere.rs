//! Isolation where there is none: everywhere but on Linux and macOS. Nothing runs without it.

use std::sync::Arc;

use executor_application::Sandbox;

use super::Finding;
use crate::config::Config;

/// There is no isolation adapter for this operating system.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error(
    "there is no isolation for {}. Remedy: run the daemon on Linux or macOS, or in a Linux virtual machine",
    std::env::consts::OS
)]
pub struct IsolationError;

/// Refuses.
#[expect(clippy::unused_async, reason = "the other platforms wait here")]
pub(super) async fn start(_config: &Config) -> Result<Arc<dyn Sandbox>, IsolationError> {
    Err(IsolationError)
}

/// Says that there is nothing to look at.
pub async fn examine(_config: &Config) -> Vec<Finding> {
    vec![Finding {
        name: "platform".into(),
        passed: false,
        essential: true,
        detail: IsolationError.to_string(),
    }]
}
