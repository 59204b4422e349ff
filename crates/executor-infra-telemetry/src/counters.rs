//! Counts what happens.

use std::{fmt, sync::Mutex, sync::PoisonError, time::Duration, time::SystemTime};

use executor_application::{AnsweredRequest, EndedRun, Levels, RunFailure, Telemetry, TextFormat};
use executor_domain::{CapturedOutput, Language, LimitHit, Start, Status};
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};

use crate::{
    catalogue::{self, Metric},
    levels, process,
    prometheus::to_prometheus,
};

/// A word of ours: from a fixed set, so that series cannot multiply.
type Word = &'static str;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ExecutionLabels {
    language: Word,
    status: Word,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabels {
    language: Word,
    part: Word,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StartLabels {
    start: Word,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabels {
    limit: Word,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StreamLabels {
    stream: Word,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: Word,
    route: String,
    status: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: String,
}

/// Guests live from milliseconds to an hour.
const LIFE: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    300.0, 900.0, 3600.0,
];

/// A warm sandbox takes about a millisecond, a cold one tens, a loaded host more.
const STARTUP: &[f64] = &[
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0,
];

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

fn lives() -> Histogram {
    Histogram::new(LIFE.iter().copied())
}

fn startups() -> Histogram {
    Histogram::new(STARTUP.iter().copied())
}

/// Counts what happens since it was made, and writes it down. Counting is a few atomic additions under a read lock.
pub struct Counters {
    registry: Registry,
    version: Word,
    started: SystemTime,
    executions: Family<ExecutionLabels, Counter>,
    failures: Family<FailureLabels, Counter>,
    duration: Histograms<StartLabels>,
    startup: Histograms<StartLabels>,
    queue_wait: Histogram,
    limits_hit: Family<LimitLabels, Counter>,
    output_bytes: Family<StreamLabels, Counter>,
    output_truncated: Family<StreamLabels, Counter>,
    output_truncated_bytes: Family<StreamLabels, Counter>,
    requests: Family<RequestLabels, Counter>,
    request_duration: Histograms<RouteLabels>,
    /// How long the last text was: the next one is about as long.
    last_length: Mutex<usize>,
}

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Counters(…)")
    }
}

impl Counters {
    /// Counters at 0, of a daemon of this version that starts now.
    pub fn new(version: &'static str) -> Self {
        let counters = Self {
            registry: Registry::default(),
            version,
            started: SystemTime::now(),
            executions: Family::default(),
            failures: Family::default(),
            duration: Family::new_with_constructor(lives),
            startup: Family::new_with_constructor(startups),
            queue_wait: lives(),
            limits_hit: Family::default(),
            output_bytes: Family::default(),
            output_truncated: Family::default(),
            output_truncated_bytes: Family::default(),
            requests: Family::default(),
            request_duration: Family::new_with_constructor(lives),
            last_length: Mutex::new(0),
        };
        counters.begin_at_zero();
        counters.registered()
    }

    /// A series that appears with its first event hides that event from `rate()`: what is known ahead is there ahead.
    fn begin_at_zero(&self) {
        for language in Language::ALL {
            let language = language.as_str();
            for status in [
                Status::Completed,
                Status::Failed,
                Status::Timeout,
                Status::Crashed,
                Status::Cancelled,
            ] {
                let status = status.as_str();
                drop(
                    self.executions
                        .get_or_create(&ExecutionLabels { language, status }),
                );
            }
        }
        for limit in [
            LimitHit::Memory,
            LimitHit::Processes,
            LimitHit::CpuTime,
            LimitHit::WallTime,
            LimitHit::Output,
            LimitHit::ResultSize,
            LimitHit::Workspace,
        ] {
            let limit = limit.as_str();
            drop(self.limits_hit.get_or_create(&LimitLabels { limit }));
        }
        for start in [Start::Warm, Start::Forked, Start::Cold] {
            let start = start.as_str();
            drop(self.duration.get_or_create(&StartLabels { start }));
            drop(self.startup.get_or_create(&StartLabels { start }));
        }
        for stream in ["stdout", "stderr"] {
            drop(self.output_bytes.get_or_create(&StreamLabels { stream }));
            for counter in [&self.output_truncated, &self.output_truncated_bytes] {
                drop(counter.get_or_create(&StreamLabels { stream }));
            }
        }
    }

    fn registered(mut self) -> Self {
        fn add(
            registry: &mut Registry,
            metric: &Metric,
            counter: impl prometheus_client::registry::Metric,
        ) {
            registry.register(metric.name, metric.help, counter);
        }
        let registry = &mut self.registry;
        add(registry, &catalogue::EXECUTIONS, self.executions.clone());
        add(registry, &catalogue::FAILURES, self.failures.clone());
        add(registry, &catalogue::DURATION, self.duration.clone());
        add(registry, &catalogue::STARTUP, self.startup.clone());
        add(registry, &catalogue::QUEUE_WAIT, self.queue_wait.clone());
        add(registry, &catalogue::LIMITS_HIT, self.limits_hit.clone());
        add(
            registry,
            &catalogue::OUTPUT_BYTES,
            self.output_bytes.clone(),
        );
        add(
            registry,
            &catalogue::OUTPUT_TRUNCATED,
            self.output_truncated.clone(),
        );
        add(
            registry,
            &catalogue::OUTPUT_TRUNCATED_BYTES,
            self.output_truncated_bytes.clone(),
        );
        add(registry, &catalogue::REQUESTS, self.requests.clone());
        add(
            registry,
            &catalogue::REQUEST_DURATION,
            self.request_duration.clone(),
        );
        self
    }

    fn note_output(&self, stream: Word, output: &CapturedOutput) {
        let labels = StreamLabels { stream };
        self.output_bytes
            .get_or_create(&labels)
            .inc_by(output.bytes.len() as u64);
        if output.is_truncated() {
            self.output_truncated.get_or_create(&labels).inc();
            self.output_truncated_bytes
                .get_or_create(&labels)
                .inc_by(output.truncated_bytes);
        }
    }
}

impl Telemetry for Counters {
    fn execution_ended(&self, ended: &EndedRun<'_>) {
        self.executions
            .get_or_create(&ExecutionLabels {
                language: ended.language.as_str(),
                status: ended.execution.status().as_str(),
            })
            .inc();
        self.queue_wait.observe(ended.waited.as_secs_f64());
        // What never ran has an outcome too, with figures that nobody measured.
        let (Some(outcome), Some(sandboxed)) = (ended.execution.outcome(), ended.sandboxed) else {
            return;
        };
        let start = StartLabels {
            start: outcome.start.as_str(),
        };
        let own = outcome.usage.wall_time;
        self.duration
            .get_or_create(&start)
            .observe(own.as_secs_f64());
        self.startup
            .get_or_create(&start)
            .observe(sandboxed.saturating_sub(own).as_secs_f64());
        for limit in &outcome.limits_hit {
            let limit = limit.as_str();
            self.limits_hit.get_or_create(&LimitLabels { limit }).inc();
        }
        self.note_output("stdout", &outcome.stdout);
        self.note_output("stderr", &outcome.stderr);
    }

    fn execution_failed(&self, language: Language, failure: &RunFailure) {
        self.failures
            .get_or_create(&FailureLabels {
                language: language.as_str(),
                part: failure.part(),
            })
            .inc();
    }

    fn request_answered(&self, request: &AnsweredRequest<'_>) {
        let route = request.route.to_owned();
        self.request_duration
            .get_or_create(&RouteLabels {
                route: route.clone(),
            })
            .observe(request.took.as_secs_f64());
        self.requests
            .get_or_create(&RequestLabels {
                method: request.method,
                route,
                status: request
                    .status
                    .map_or_else(|| "abandoned".to_owned(), |status| status.to_string()),
            })
            .inc();
    }

    fn text(&self, levels: &Levels, format: TextFormat) -> String {
        let mut last_length = self
            .last_length
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut text = String::with_capacity(*last_length + 1024);
        let uptime_origin = self
            .started
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        let now = levels::registry(levels, self.version, process::look(), uptime_origin);
        // Writing to a string does not fail; a metric that cannot be encoded would be missing at the end.
        let written = text::encode_registry(&mut text, &self.registry)
            .and_then(|()| text::encode_registry(&mut text, &now))
            .and_then(|()| text::encode_eof(&mut text));
        if let Err(error) = written {
            tracing::error!(%error, "cannot write the counters down");
        }
        *last_length = text.len();
        match format {
            TextFormat::OpenMetrics => text,
            TextFormat::Prometheus => to_prometheus(&text),
        }
    }
}

#[cfg(test)]
mod tests;
