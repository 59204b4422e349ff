//! Traces, where somebody collects them.

use executor_infra_telemetry::{Otlp, OtlpError, OtlpOptions};

use crate::config::Config;

/// Starts the export of traces where an endpoint is configured.
pub(crate) fn start(config: &Config) -> Result<Option<Otlp>, OtlpError> {
    let Some(endpoint) = &config.otlp_endpoint else {
        return Ok(None);
    };
    let options = OtlpOptions {
        endpoint: endpoint.to_string(),
        service: "sandbox-executor",
        version: env!("CARGO_PKG_VERSION"),
    };
    Otlp::start(&options).map(Some)
}
