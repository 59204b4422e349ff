//! Exports the spans of `tracing` as traces: OTLP, protobuf over HTTP.
//!
//! Settings beyond the endpoint are the standard variables, which the OpenTelemetry SDK reads itself
//! (`docs/observability.md` lists them). A collector that is slow or away costs a bounded queue in memory and no run any time:
//! spans are sent in batches by a thread of their own, and dropped where the queue is full.

use std::{sync::Arc, time::Duration};

use executor_application::Traces;
use executor_domain::TraceParent;
use opentelemetry::{
    Context, Key, KeyValue, SpanId, TraceFlags, TraceId,
    trace::{SpanContext, TraceContextExt as _, TraceState, TracerProvider as _},
};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use tracing::{Span, level_filters::LevelFilter};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::{Layer, Registry, filter::Targets};

use crate::{OtlpError, OtlpOptions, collector::Collector};

/// How long the last spans may take to get out when the daemon ends.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// Exports spans to a collector.
#[derive(Debug)]
pub struct Otlp {
    provider: SdkTracerProvider,
}

impl Otlp {
    /// Makes the exporter and starts its thread. Nothing is sent yet, so a collector that is not there is no error.
    ///
    /// # Errors
    ///
    /// The endpoint is no address or one that cannot be connected to from here, or a thread cannot be started.
    pub fn start(options: &OtlpOptions) -> Result<Self, OtlpError> {
        let endpoint = format!("{}/v1/traces", options.endpoint.trim_end_matches('/'));
        let collector = Collector::at(&endpoint).map_err(OtlpError::Start)?;
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(collector)
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(endpoint)
            .build()
            .map_err(|error| OtlpError::Start(error.into()))?;
        let provider = SdkTracerProvider::builder()
            .with_resource(resource(options))
            .with_batch_exporter(exporter)
            .build();
        Ok(Self { provider })
    }

    /// The layer that turns spans of ours into spans of a trace: those of level `info` and above, whatever is logged.
    /// What libraries trace stays out, the exporter's own requests above all.
    pub fn layer(&self) -> Box<dyn Layer<Registry> + Send + Sync> {
        let ours = Targets::new()
            .with_target("executor_", LevelFilter::INFO)
            .with_target("sandbox_executor", LevelFilter::INFO);
        tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer("sandbox-executor"))
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_filter(ours)
            .boxed()
    }

    /// Links our spans with the traces of others.
    pub fn traces(&self) -> Arc<dyn Traces> {
        Arc::new(Links)
    }

    /// Sends what is left, and ends. Blocks for at most three seconds; what is not out by then is lost.
    pub fn stop(self) {
        if let Err(error) = self.provider.shutdown_with_timeout(LAST_WORDS) {
            tracing::warn!(%error, "the last spans were not exported");
        }
    }
}

fn resource(options: &OtlpOptions) -> Resource {
    const SERVICE_NAME: &str = "service.name";
    let version = KeyValue::new("service.version", options.version);
    let found = Resource::builder().with_attribute(version.clone()).build();
    // The SDK's own word for "nobody said" (semantic conventions, "service").
    let is_named = found
        .get(&Key::from_static_str(SERVICE_NAME))
        .is_some_and(|name| !name.as_str().starts_with("unknown_service"));
    if is_named {
        return found;
    }
    Resource::builder()
        .with_attribute(version)
        .with_service_name(options.service)
        .build()
}

/// Reads and writes what the layer knows of a span. Where the layer is not there, or the span is not exported, nothing
/// happens.
struct Links;

impl Traces for Links {
    fn adopt(&self, span: &Span, parent: TraceParent) {
        let parent = SpanContext::new(
            TraceId::from_bytes(parent.trace_id().to_be_bytes()),
            SpanId::from_bytes(parent.span_id().to_be_bytes()),
            TraceFlags::new(parent.flags()),
            true,
            TraceState::NONE,
        );
        if let Err(error) = span.set_parent(Context::new().with_remote_span_context(parent)) {
            tracing::debug!(%error, "a span has no place in its caller's trace");
        }
    }

    fn name_of(&self, span: &Span) -> Option<TraceParent> {
        let context = span.context();
        let context = context.span();
        let named = context.span_context();
        TraceParent::new(
            u128::from_be_bytes(named.trace_id().to_bytes()),
            u64::from_be_bytes(named.span_id().to_bytes()),
            named.trace_flags().to_u8(),
        )
    }
}

#[cfg(test)]
mod tests;
