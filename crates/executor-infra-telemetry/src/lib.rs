//! What operators see of Sandbox Executor: counters in the formats of Prometheus, and traces by OTLP.
//!
//! - [`Counters`] implements the port `Telemetry`: it counts, and writes what it has counted as text;
//! - [`catalogue`] is the list of everything that is counted, from which `docs/observability.md` is made;
//! - [`Otlp`] exports the spans of `tracing` and implements the port `Traces`. Without the feature `otlp` it cannot be
//!   started.
//!
//! Labels are words of ours, route patterns and status codes. None can be made up by a client or a guest, so the number
//! of series is bounded by construction.

pub mod catalogue;
#[cfg(feature = "otlp")]
mod collector;
mod counters;
mod levels;
#[cfg_attr(not(feature = "otlp"), path = "no_otlp.rs")]
mod otlp;
mod process;
mod prometheus;

pub use counters::Counters;
pub use otlp::Otlp;

/// What the collector of traces is told of us, and where it is.
#[derive(Debug, Clone)]
pub struct OtlpOptions {
    /// The collector's base address: `http` or `https`, host, port, with or without a path; `/v1/traces` is added.
    pub endpoint: String,
    /// The service's name, unless `OTEL_SERVICE_NAME` or `OTEL_RESOURCE_ATTRIBUTES` says another one.
    pub service: &'static str,
    /// The service's version.
    pub version: &'static str,
}

/// Why traces cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum OtlpError {
    /// This executable was built without the feature `otlp`.
    #[error("this build cannot export traces: it was made without the feature `otlp`")]
    NotBuiltIn,
    /// The exporter refuses its settings.
    #[error("failed to start the export of traces")]
    Start(#[source] Box<dyn std::error::Error + Send + Sync>),
}
