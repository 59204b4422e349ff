//! The way to a collector of traces.

use std::{env, error::Error, time::Duration};

use async_trait::async_trait;
use executor_outbound::Outbound;
use http_body_util::{BodyExt as _, Full, Limited};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use tokio::{
    runtime::{Builder, Runtime},
    time::timeout,
};

/// How much of an answer is read: it says that all is well, or names the spans that it does not take.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// How long an export may take (OTLP exporter specification, `OTEL_EXPORTER_OTLP_TIMEOUT`), where the environment does not
/// say so.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// Takes exports to a collector. The exporter's own thread has no runtime, so this one brings a small one along: one thread,
/// which sleeps between exports.
#[derive(Debug)]
pub(crate) struct Collector {
    outbound: Outbound,
    allowed: Duration,
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
}

impl Collector {
    /// The collector at this address. Connects to nobody yet.
    pub(crate) fn at(endpoint: &str) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let allowed = export_timeout(|name| env::var(name).ok());
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("otlp")
            .enable_all()
            .build()?;
        Ok(Self {
            outbound: Outbound::to(&endpoint.parse()?, allowed)?,
            allowed,
            runtime: Some(runtime),
        })
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Whoever drops it may be a task, and must not wait.
            runtime.shutdown_background();
        }
    }
}

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let runtime = self.runtime.as_ref().ok_or("the exporter is closed")?;
        let exchange = exchange(self.outbound.clone(), request.map(Full::new));
        let allowed = self.allowed;
        // The task is polled there, its handle here.
        let exchanged = runtime.spawn(async move { timeout(allowed, exchange).await });
        exchanged.await??
    }
}

async fn exchange(
    outbound: Outbound,
    request: Request<Full<Bytes>>,
) -> Result<Response<Bytes>, HttpError> {
    let (head, body) = outbound.send(request).await?.into_parts();
    let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await?;
    Ok(Response::from_parts(head, body.to_bytes()))
}

/// What the environment says, as the exporter itself reads it: milliseconds, those for traces before those for all.
fn export_timeout(variable: impl Fn(&str) -> Option<String>) -> Duration {
    [
        "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
        "OTEL_EXPORTER_OTLP_TIMEOUT",
    ]
    .into_iter()
    .find_map(|name| variable(name)?.parse().ok())
    .map_or(EXPORT_TIMEOUT, Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_says_how_long_an_export_may_take() {
        let of = |traces: Option<&str>, all: Option<&str>| {
            export_timeout(|name| {
                let value = if name.contains("TRACES") { traces } else { all };
                value.map(str::to_owned)
            })
        };
        assert_eq!(of(None, None), EXPORT_TIMEOUT);
        assert_eq!(of(None, Some("500")), Duration::from_millis(500));
        assert_eq!(of(Some("7"), Some("500")), Duration::from_millis(7));
        assert_eq!(of(Some("soon"), Some("500")), Duration::from_millis(500));
    }
}
