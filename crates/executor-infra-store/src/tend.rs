//! Keeps the store bounded: what is too old goes, and what is too much, oldest first.
//!
//! Large results (more than 1 MiB) take half of the cap at most where others want room: the oldest of them go first, so that
//! a few guests that print much do not push out what everybody else has been told is kept.
//!
//! A report that waits keeps its execution beyond its age, since the control plane may be away for longer than that. What
//! bounds it is the cap: where only executions with waiting reports are left, the oldest goes, and that is counted and
//! logged.

use std::sync::atomic::Ordering;

use rusqlite::{Connection, TransactionBehavior};

use crate::{
    rows::{self, Candidate, Effect},
    writer::{Writer, pragma},
};

/// Executions that go in one transaction: others want to write, too.
const MAX_SWEEP: usize = 64;
/// Pages that are given back to the file system after a sweep.
const MAX_VACUUM: i64 = 4096;

impl Writer {
    pub(crate) fn is_over_the_cap(&self) -> bool {
        self.totals.bytes > self.options.cap()
    }

    /// Removes some of what has to go. Returns whether there is more.
    pub(crate) fn tend(&mut self) -> bool {
        match self.sweep() {
            Ok(swept) => swept == MAX_SWEEP,
            Err(error) => {
                // It stays as it is until the next time.
                tracing::error!(%error, "the store cannot be tidied up");
                false
            }
        }
    }

    fn sweep(&mut self) -> rusqlite::Result<usize> {
        let now = self.time.now();
        let mut bytes = self.totals.bytes;
        let mut dropped = 0;
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut sum = Effect::default();
        let mut swept = 0;
        while swept < MAX_SWEEP {
            let too_much = bytes > self.options.cap();
            // What ended last stays: somebody has just been told that it is there.
            let may_go = |candidate: &Candidate| candidate.ended != self.totals.ended;
            let too_old = |candidate: &Candidate| {
                now.saturating_sub(candidate.kept_at) >= self.options.ttl_seconds()
            };
            let settled = match rows::oldest(&transaction, false)? {
                Some(oldest) if too_old(&oldest) => Some(oldest),
                Some(oldest) if too_much => too_large(&transaction, self.options.cap())?
                    .filter(may_go)
                    .or(Some(oldest).filter(may_go)),
                _ => None,
            };
            let goes = match settled {
                Some(settled) => settled,
                None if too_much => {
                    let Some(waiting) = rows::oldest(&transaction, true)?.filter(may_go) else {
                        break;
                    };
                    dropped += 1;
                    waiting
                }
                None => break,
            };
            let effect = rows::remove(&transaction, goes.number)?;
            bytes += effect.bytes;
            sum.bytes += effect.bytes;
            sum.waiting += effect.waiting;
            sum.forgotten.extend(effect.forgotten);
            swept += 1;
        }
        transaction.commit()?;
        self.note(&sum);
        if dropped > 0 {
            let total = self.shared.dropped.fetch_add(dropped, Ordering::Relaxed) + dropped;
            tracing::error!(
                dropped,
                total,
                cap_bytes = self.options.max_bytes,
                "undelivered reports were given up to keep the store below its cap"
            );
        }
        if swept > 0 {
            pragma(
                &self.connection,
                &format!("incremental_vacuum({MAX_VACUUM})"),
            )?;
        }
        Ok(swept)
    }
}

/// The oldest of the large results, where these take more than half of the cap.
fn too_large(connection: &Connection, cap: i64) -> rusqlite::Result<Option<Candidate>> {
    if rows::large_bytes(connection)? > cap / 2 {
        rows::oldest_large(connection)
    } else {
        Ok(None)
    }
}
