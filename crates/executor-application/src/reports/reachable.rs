//! Whether the control plane takes reports, said once each way and not once per attempt.

use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the control plane takes reports, as the log knows it.
#[derive(Debug, Default)]
pub(crate) struct Reachable {
    away: AtomicBool,
    /// What an operator can do about it.
    remedy: String,
}

impl Reachable {
    pub(crate) const fn new(remedy: String) -> Self {
        Self {
            away: AtomicBool::new(false),
            remedy,
        }
    }

    /// Whether the last attempt that counted has failed.
    pub(crate) fn is_away(&self) -> bool {
        self.away.load(Ordering::Relaxed)
    }

    /// An attempt failed that may succeed later.
    pub(crate) fn failed(&self, reason: &str) {
        if self.away.swap(true, Ordering::Relaxed) {
            tracing::debug!(reason, "the control plane still does not take reports");
        } else {
            tracing::warn!(
                reason,
                remedy = self.remedy,
                "the control plane does not take reports; they are kept, and tried again until it does"
            );
        }
    }

    /// An attempt succeeded, or was refused for good: somebody is there.
    pub(crate) fn took(&self) {
        if self.away.swap(false, Ordering::Relaxed) {
            tracing::info!("the control plane takes reports again");
        }
    }
}
