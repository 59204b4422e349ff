//! What is looked at when somebody asks: a registry that lives for one text.

use std::time::Duration;

use executor_application::Levels;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::{ConstGauge, Gauge},
    },
    registry::{Metric as Figure, Registry},
};

use crate::{
    catalogue::{self, Metric},
    process::Process,
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LanguageLabels {
    language: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VersionLabels {
    version: &'static str,
}

/// A registry under the names of the catalogue.
struct Sheet(Registry);

impl Sheet {
    fn add(&mut self, metric: &Metric, figure: impl Figure) {
        self.0.register(metric.name, metric.help, figure);
    }

    fn count(&mut self, metric: &Metric, count: usize) {
        self.add(metric, ConstGauge::new(count as u64));
    }
}

/// Everything as it is now; `started`: when the daemon did, since 1970.
pub(crate) fn registry(
    levels: &Levels,
    version: &'static str,
    process: Option<Process>,
    started: Duration,
) -> Registry {
    let mut sheet = Sheet(Registry::default());
    sheet.count(&catalogue::ACTIVE, levels.running);
    sheet.count(&catalogue::QUEUED, levels.waiting);
    sheet.count(&catalogue::ACTIVE_LIMIT, levels.max_running);
    sheet.count(&catalogue::QUEUED_LIMIT, levels.max_waiting);
    if !levels.warm_slots.is_empty() {
        let slots = Family::<LanguageLabels, Gauge>::default();
        for slot in &levels.warm_slots {
            let language = slot.language.as_str();
            slots
                .get_or_create(&LanguageLabels { language })
                .set(i64::try_from(slot.ready).unwrap_or(i64::MAX));
        }
        sheet.add(&catalogue::WARM_SLOTS, slots);
    }
    if let Some(outbox) = levels.outbox {
        sheet.add(&catalogue::UNDELIVERED, ConstGauge::new(outbox.undelivered));
        let lost = Family::<ReasonLabels, Counter>::default();
        for (reason, count) in [
            ("refused", outbox.refused),
            ("dropped", outbox.dropped),
            ("unreadable", outbox.unreadable),
        ] {
            lost.get_or_create(&ReasonLabels { reason }).inc_by(count);
        }
        sheet.add(&catalogue::LOST, lost);
    }
    if let Some(removals) = &levels.removals {
        let sessions = Family::<ReasonLabels, Counter>::default();
        let bytes = Family::<ReasonLabels, Counter>::default();
        for (reason, removed) in removals.by_reason() {
            let labels = ReasonLabels { reason };
            sessions.get_or_create(&labels).inc_by(removed.sessions);
            bytes.get_or_create(&labels).inc_by(removed.bytes);
        }
        sheet.add(&catalogue::SESSIONS_REMOVED, sessions);
        sheet.add(&catalogue::SESSIONS_REMOVED_BYTES, bytes);
    }
    if let Some(uploads) = levels.uploads {
        let mut total = |metric, total: u64| sheet.add(metric, ConstCounter::new(total));
        total(&catalogue::ARTIFACTS_UPLOADED, uploads.stored);
        total(&catalogue::ARTIFACTS_UPLOADED_BYTES, uploads.bytes);
        total(&catalogue::ARTIFACTS_NOT_UPLOADED, uploads.missed);
    }
    let build = Family::<VersionLabels, Gauge>::default();
    build.get_or_create(&VersionLabels { version }).set(1);
    sheet.add(&catalogue::BUILD, build);
    sheet.add(
        &catalogue::PROCESS_START,
        ConstGauge::new(started.as_secs_f64()),
    );
    if let Some(process) = process {
        sheet.add(
            &catalogue::PROCESS_CPU,
            ConstCounter::new(process.cpu_seconds),
        );
        sheet.add(
            &catalogue::PROCESS_MEMORY,
            ConstGauge::new(process.resident_bytes),
        );
        sheet.add(
            &catalogue::PROCESS_FDS,
            ConstGauge::new(process.open_descriptors),
        );
        sheet.add(
            &catalogue::PROCESS_MAX_FDS,
            ConstGauge::new(process.max_descriptors),
        );
    }
    sheet.0
}
