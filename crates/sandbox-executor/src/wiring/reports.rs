//! Reports to the control plane, as configured.

use std::sync::Arc;

use executor_application::{ControlPlane, ReportOptions, ReportPorts, Reports};
use executor_infra_control_plane::{
    BearerToken, HttpControlPlane, HttpControlPlaneOptions, Identity,
};

use super::{Adapters, Lasting, StartError};
use crate::config::Config;

/// The control plane that is configured; `None` where reports are switched off. Connects to nobody yet.
pub fn control_plane(config: &Config) -> Result<Option<Arc<dyn ControlPlane>>, StartError> {
    let Some(address) = &config.control_plane else {
        return Ok(None);
    };
    let identity = Identity {
        container_id: config.container_id.clone().unwrap_or_else(host_name),
        pod_name: config.pod_name.clone(),
    };
    let options = HttpControlPlaneOptions {
        prefix: config.control_plane_prefix.clone(),
        // A token that was accepted consists of what a header can carry.
        token: config
            .token
            .as_ref()
            .and_then(|token| BearerToken::new(token.expose()).ok()),
        ..HttpControlPlaneOptions::new(address.to_string(), identity)
    };
    let control_plane = HttpControlPlane::new(options).map_err(StartError::ControlPlane)?;
    Ok(Some(Arc::new(control_plane)))
}

impl Adapters {
    /// Starts to report what this executor does. Must be called inside a tokio runtime.
    pub fn reports(
        &self,
        config: &Config,
        control_plane: Arc<dyn ControlPlane>,
        lasting: &Lasting,
    ) -> Reports {
        let ports = ReportPorts {
            control_plane,
            outbox: Arc::clone(&lasting.outbox),
            clock: Arc::clone(&self.clock),
        };
        let options = ReportOptions {
            heartbeat_interval: config.heartbeat_interval,
            remedy: remedy(config),
            ..ReportOptions::default()
        };
        Reports::start(ports, lasting.executor.running(), options)
    }
}

/// What to do where nobody takes reports: for most who read it, who have no control plane, to say so.
fn remedy(config: &Config) -> String {
    let address = config.control_plane.as_ref().map(ToString::to_string);
    format!(
        "CONTROL_PLANE_URL says where it is, {}; CONTROL_PLANE_URL=none switches reports off",
        address.unwrap_or_default()
    )
}

/// The name of the host, which within a container is the container's id.
fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}
