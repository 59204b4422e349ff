//! Isolation on macOS: Seatbelt.

use std::{env, io, sync::Arc};

use executor_application::Sandbox;
use executor_infra_isolation::seatbelt::{self, SeatbeltConfig, SeatbeltSandbox, StartError};

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
    /// This executable, which is started again for each run, cannot be found.
    #[error("failed to find this executable")]
    Executable(#[source] io::Error),
}

/// Makes the sandbox ready and proves by a real run that it holds.
pub(super) async fn start(config: &Config) -> Result<Arc<dyn Sandbox>, IsolationError> {
    let sandbox = SeatbeltSandbox::start(seatbelt_config(config)?).await?;
    Ok(Arc::new(sandbox))
}

/// Tries everything that the sandbox needs. Takes some tenths of a second.
pub async fn examine(config: &Config) -> Vec<Finding> {
    match seatbelt_config(config) {
        Ok(config) => seatbelt::examine(config)
            .await
            .into_iter()
            .map(Finding::from)
            .collect(),
        Err(error) => vec![Finding {
            name: "sandbox".into(),
            passed: false,
            essential: true,
            detail: error.to_string(),
        }],
    }
}

/// The path of sandbox-exec is no setting: a wall that a variable can move is none.
fn seatbelt_config(config: &Config) -> Result<SeatbeltConfig, IsolationError> {
    let limits = probe_limits(config).ok_or(IsolationError::Limits)?;
    let stages = env::current_exe().map_err(IsolationError::Executable)?;
    Ok(SeatbeltConfig {
        guest_user: (config.guest.uid, config.guest.gid),
        ..SeatbeltConfig::new(stages, limits)
    })
}
