//! Isolation on Linux: Bubblewrap.

use std::sync::Arc;

use executor_application::Sandbox;
use executor_infra_isolation::{
    BwrapConfig, BwrapSandbox, StartError, WarmOptions, cgroup::Wished,
};

use super::{Finding, probe_limits};
use crate::config::Config;

/// Why no sandbox can be started here, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum IsolationError {
    /// The host does not allow it, or lacks something.
    #[error(transparent)]
    Host(#[from] StartError),
    /// The ceilings leave nothing for a guest of our own, which no accepted configuration does.
    #[error("the configured limits leave nothing for a guest")]
    Limits,
}

/// Makes the sandbox ready and proves by a real run that it holds.
pub(super) async fn start(config: &Config) -> Result<Arc<dyn Sandbox>, IsolationError> {
    let sandbox = BwrapSandbox::start(bwrap(config)?).await?;
    Ok(Arc::new(sandbox))
}

/// Tries everything that the sandbox needs. Takes some tenths of a second.
pub async fn examine(config: &Config) -> Vec<Finding> {
    match bwrap(config) {
        Ok(bwrap) => executor_infra_isolation::examine(bwrap)
            .await
            .into_iter()
            .map(Finding::from)
            .collect(),
        Err(error) => vec![Finding {
            name: "limits".into(),
            passed: false,
            essential: true,
            detail: error.to_string(),
        }],
    }
}

fn bwrap(config: &Config) -> Result<BwrapConfig, IsolationError> {
    let limits = probe_limits(config).ok_or(IsolationError::Limits)?;
    Ok(BwrapConfig {
        bwrap: config.bwrap_path.clone(),
        guest_user: (config.guest.uid, config.guest.gid),
        cgroup_parent: config.cgroup_parent.clone(),
        together: Wished {
            memory_bytes: config.max_total_memory,
            pids_max: config.max_total_processes,
        },
        warm: warm(config),
        ..BwrapConfig::new(limits)
    })
}

fn warm(config: &Config) -> WarmOptions {
    if !config.warm.on {
        return WarmOptions::off();
    }
    WarmOptions {
        languages: config.warm.languages.clone(),
        min_slots: config.warm.min,
        max_slots: config.warm.max,
        python_preload: config.warm.python_preload.clone(),
        node_preload: config.warm.node_preload.clone(),
        library: config.warm.library.clone(),
    }
}
