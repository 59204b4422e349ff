//! What operators see of Sandbox Executor: counters in the formats of Prometheus, and traces by OTLP.
//!
//! - [`Counters`] implements the port `Telemetry`: it counts, and writes what it has counted as text;
//! - [`catalogue`] is the list of everything that is counted, from which `docs/observability.md` is made;
//! - `Otlp` (feature `otlp`) exports the spans of `tracing` and implements the port `Traces`.
//!
//! Labels are words of ours, route patterns and status codes. None can be made up by a client or a guest, so the number
//! of series is bounded by construction.

pub mod catalogue;
mod counters;
mod levels;
#[cfg(feature = "otlp")]
mod otlp;
mod process;
mod prometheus;

pub use counters::Counters;
#[cfg(feature = "otlp")]
pub use otlp::{Otlp, OtlpError, OtlpOptions};
