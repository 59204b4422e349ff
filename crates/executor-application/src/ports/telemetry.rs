//! Who is told what happens, so that operators can see it: counters, and traces that span programs.
//!
//! What is told carries no ids, no code and no output: what counts must stay few, and what a guest says is nobody's.

use std::{fmt, sync::Arc, time::Duration};

use executor_domain::{Execution, Language, TraceParent};
use tracing::Span;

use super::{Outbox, OutboxLevels};
use crate::{Removals, RunFailure};

/// A run that has ended, whatever its guest did.
#[derive(Debug, Clone, Copy)]
pub struct EndedRun<'a> {
    /// The execution; it has an outcome.
    pub execution: &'a Execution,
    /// The language of its guest.
    pub language: Language,
    /// How long it waited for a slot.
    pub waited: Duration,
    /// How long the sandbox had it, the guest's own time included; `None` where it never came to that.
    pub sandboxed: Option<Duration>,
}

/// A request that was answered, or abandoned by its client.
#[derive(Debug, Clone, Copy)]
pub struct AnsweredRequest<'a> {
    /// The route as the router spells it (`/executions/{execution_id}`), never the path as the client wrote it.
    pub route: &'a str,
    /// The method, or `other`: clients can make methods up.
    pub method: &'static str,
    /// The status; `None`: the client was gone before there was one.
    pub status: Option<u16>,
    /// From its head to the head of its answer.
    pub took: Duration,
}

/// Slots of a warm pool that wait for a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WarmSlots {
    /// The language that they are for.
    pub language: Language,
    /// How many are ready now.
    pub ready: usize,
}

/// Artifacts that were to be uploaded, since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UploadTotals {
    /// Those that were.
    pub stored: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those that were not.
    pub missed: u64,
}

/// What is looked at when somebody asks, rather than told when it happens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Levels {
    /// Guests that run.
    pub running: usize,
    /// Executions that wait for a slot.
    pub waiting: usize,
    /// Guests that can run at the same time.
    pub max_running: usize,
    /// Executions that can wait.
    pub max_waiting: usize,
    /// Warm slots by language; none where there is no pool.
    pub warm_slots: Vec<WarmSlots>,
    /// Reports on their way to the control plane; `None` where there is no outbox.
    pub outbox: Option<OutboxLevels>,
    /// Artifacts that were uploaded; `None` where none are.
    pub uploads: Option<UploadTotals>,
    /// Sessions that were removed; `None` where nobody looks after them.
    pub removals: Option<Removals>,
}

/// How counters are written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextFormat {
    /// Prometheus text format, version 0.0.4.
    Prometheus,
    /// `OpenMetrics` 1.0.
    OpenMetrics,
}

/// Counts what happens. No method may block or fail: a counter that is in the way is worse than none.
#[cfg_attr(any(test, feature = "mocks"), mockall::automock)]
#[allow(
    clippy::elidable_lifetime_names,
    reason = "mockall wants lifetimes named"
)]
pub trait Telemetry: Send + Sync {
    /// A run has ended.
    fn execution_ended<'a>(&self, ended: &EndedRun<'a>);

    /// We failed a run.
    fn execution_failed(&self, language: Language, failure: &RunFailure);

    /// A request was answered or abandoned.
    fn request_answered<'a>(&self, request: &AnsweredRequest<'a>);

    /// Everything counted so far, together with these levels. May read a few small files of `/proc`.
    fn text(&self, levels: &Levels, format: TextFormat) -> String;
}

/// Links spans of `tracing` with traces of other programs.
#[cfg_attr(any(test, feature = "mocks"), mockall::automock)]
pub trait Traces: Send + Sync {
    /// Makes a span that has not been entered yet a child of somebody else's step.
    fn adopt(&self, span: &Span, parent: TraceParent);

    /// What others are to call this span; `None` where it is not exported.
    fn name_of(&self, span: &Span) -> Option<TraceParent>;
}

/// Who is told what happens. By default nobody.
#[derive(Clone)]
pub struct Instruments {
    /// Counts.
    pub telemetry: Arc<dyn Telemetry>,
    /// Links traces.
    pub traces: Arc<dyn Traces>,
    /// Whose backlog is shown; `None`: nothing is reported.
    pub outbox: Option<Arc<dyn Outbox>>,
}

impl Default for Instruments {
    fn default() -> Self {
        Self {
            telemetry: Arc::new(Nobody),
            traces: Arc::new(Nobody),
            outbox: None,
        }
    }
}

impl fmt::Debug for Instruments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Instruments(…)")
    }
}

/// Listens to nothing.
struct Nobody;

impl Telemetry for Nobody {
    fn execution_ended(&self, _: &EndedRun<'_>) {}

    fn execution_failed(&self, _: Language, _: &RunFailure) {}

    fn request_answered(&self, _: &AnsweredRequest<'_>) {}

    fn text(&self, _: &Levels, _: TextFormat) -> String {
        String::new()
    }
}

impl Traces for Nobody {
    fn adopt(&self, _: &Span, _: TraceParent) {}

    fn name_of(&self, _: &Span) -> Option<TraceParent> {
        None
    }
}
