//! Notices that a workspace becomes too large, while somebody writes to it and without any privilege.
//!
//! To walk over a workspace costs a microsecond for each file in it, so that is not done all the time. What is done all
//! the time is to ask the file system how much is free, which costs a microsecond in all: as long as the disk has not
//! lost as much as the workspace has left, the workspace cannot have grown by that much. Only when it has lost half of
//! that does a walk find out who took it. A walk now and then catches what hides behind somebody else's removals. While
//! somebody writes, the questions come as often as that writer could use up what is left.
//!
//! What this misses and by how much it is late: `docs/adr/0018-workspace-quota.md`.

use std::{
    collections::HashMap,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use executor_application::Overflow;
use executor_domain::SessionId;
use rustix::fs::fstatvfs;
use tokio::time::{Instant, sleep};

use crate::usage::{Allowance, Usage, measure};

/// Time between two questions to the file system, while nobody writes.
const TICK: Duration = Duration::from_millis(10);

/// The same at least, however fast somebody writes.
const SHORTEST_TICK: Duration = Duration::from_millis(2);

/// Time between two walks that nothing gave a reason for.
const WALK_ANYWAY: Duration = Duration::from_millis(500);

/// A walk may take this part of the time at most, so that a workspace of many files does not take a processor.
const WALK_SHARE: u32 = 10;

/// The same for the walks over a workspace that grows and may be too large already: it is about to be noticed.
const URGENT_WALK_SHARE: u32 = 2;

/// A loss of the disk that is not worth a walk: other people write as well.
const NEGLIGIBLE: Free = Free {
    bytes: 1 << 20,
    files: 64,
};

/// How long, and for how many runs, what was counted once is believed where the disk shows no change.
const BELIEVED_FOR: Duration = Duration::from_secs(60);
const BELIEVED_RUNS: u32 = 16;

/// What the disk must have left. Where less is left, whoever has filled it is ended, whatever its workspace seems to
/// take: files that have no name any more, for one, are in no walk.
const RESERVE_BYTES: u64 = 256 << 20;

/// What the disk must have lost since a run began for that run to be suspected of having filled it.
const SUSPICIOUS_BYTES: u64 = 64 << 20;

/// What a disk has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Free {
    bytes: u64,
    files: u64,
}

impl Free {
    /// `None` where the file system does not tell.
    fn on(directory: &OwnedFd) -> Option<Self> {
        let disk = fstatvfs(directory).ok()?;
        Some(Self {
            bytes: disk.f_bfree.saturating_mul(disk.f_frsize),
            files: disk.f_ffree,
        })
    }

    /// What was lost from there to here.
    const fn lost_since(self, earlier: Self) -> Self {
        Self {
            bytes: earlier.bytes.saturating_sub(self.bytes),
            files: earlier.files.saturating_sub(self.files),
        }
    }

    const fn exceeds(self, other: Self) -> bool {
        self.bytes > other.bytes || self.files > other.files
    }
}

/// What was counted, and when.
#[derive(Debug, Clone, Copy)]
struct Counted {
    usage: Usage,
    at: Instant,
    /// What the disk had left just before.
    free: Option<Free>,
    /// Runs that began since.
    runs: u32,
}

impl Counted {
    /// How much the disk may lose before it is counted again.
    fn worth_a_walk(&self, allowance: Allowance) -> Free {
        Free {
            bytes: (allowance.bytes.saturating_sub(self.usage.bytes) / 2).max(NEGLIGIBLE.bytes),
            files: (allowance.files.saturating_sub(self.usage.files) / 2).max(NEGLIGIBLE.files),
        }
    }

    /// What a workspace can still take, if it has taken everything that the disk has lost since.
    fn left(&self, free: Option<Free>, allowance: Allowance) -> u64 {
        let left = allowance.bytes.saturating_sub(self.usage.bytes);
        match (free, self.free) {
            (Some(now), Some(then)) => left.saturating_sub(now.lost_since(then).bytes),
            _ => left,
        }
    }

    /// What a workspace takes at most; `None` where that would be a guess too wild.
    fn at_most(&self, now: Free) -> Option<Usage> {
        let lost = now.lost_since(self.free?);
        let believed =
            self.usage.complete && self.runs <= BELIEVED_RUNS && self.at.elapsed() < BELIEVED_FOR;
        believed.then(|| Usage {
            bytes: self.usage.bytes.saturating_add(lost.bytes),
            files: self.usage.files.saturating_add(lost.files),
            ..self.usage
        })
    }

    /// Whether the disk has lost what is worth a walk; `true` also where it does not tell.
    fn is_doubtful(&self, free: Option<Free>, allowance: Allowance) -> bool {
        match (free, self.free) {
            (Some(now), Some(then)) => now.lost_since(then).exceeds(self.worth_a_walk(allowance)),
            _ => true,
        }
    }
}

/// What sessions take, as far as it was counted.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    counted: Mutex<HashMap<SessionId, Counted>>,
    /// Bytes of uploads that are on their way into a session.
    staged: Mutex<HashMap<SessionId, u64>>,
}

impl Accounts {
    /// A session's files were changed from outside of a run, or are gone: what was counted is worth nothing.
    pub(crate) fn forget(&self, session: &SessionId) {
        self.lock().remove(session);
    }

    /// A session that was made just now, on the disk of this directory, takes nothing yet.
    pub(crate) fn begin(&self, session: &SessionId, directory: &OwnedFd) {
        let counted = Counted {
            usage: Usage {
                complete: true,
                ..Usage::default()
            },
            at: Instant::now(),
            free: Free::on(directory),
            runs: 0,
        };
        self.lock().insert(session.clone(), counted);
    }

    /// Counts what a session takes, and remembers it. Blocks.
    pub(crate) fn count(
        &self,
        session: &SessionId,
        workspace: &OwnedFd,
        max_files: u64,
    ) -> rustix::io::Result<Usage> {
        // Before the walk: what is written during the walk is lost from here on.
        let free = Free::on(workspace);
        let at = Instant::now();
        let usage = measure(workspace.as_fd(), max_files)?;
        let counted = Counted {
            usage,
            at,
            free,
            runs: 0,
        };
        self.lock().insert(session.clone(), counted);
        Ok(usage)
    }

    /// So much has come into a session from outside of a run. It may be counted twice, since the disk has lost it as well:
    /// that is on the safe side.
    pub(crate) fn add(&self, session: &SessionId, bytes: u64, files: u64) {
        if let Some(counted) = self.lock().get_mut(session) {
            counted.usage.bytes = counted.usage.bytes.saturating_add(bytes);
            counted.usage.files = counted.usage.files.saturating_add(files);
        }
    }

    /// What a session takes at most, if nobody has to count for that: what was counted shortly before, and everything that
    /// the disk has lost since.
    pub(crate) fn at_most(&self, session: &SessionId, directory: &OwnedFd) -> Option<Usage> {
        self.get(session)?.at_most(Free::on(directory)?)
    }

    /// What was counted, if a run that begins now can still believe it.
    fn believed(
        &self,
        session: &SessionId,
        free: Option<Free>,
        allowance: Allowance,
    ) -> Option<Counted> {
        let mut accounts = self.lock();
        let counted = accounts.get_mut(session)?;
        counted.runs += 1;
        let believed = counted.runs <= BELIEVED_RUNS
            && counted.at.elapsed() < BELIEVED_FOR
            // What is known too large may be a guess by then.
            && allowance.exceeded_by(&counted.usage).is_none()
            && !counted.is_doubtful(free, allowance);
        believed.then_some(*counted)
    }

    fn get(&self, session: &SessionId) -> Option<Counted> {
        self.lock().get(session).copied()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<SessionId, Counted>> {
        // Nothing in here panics half-way through a change.
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So many bytes more are on their way into a session.
    pub(crate) fn stage(&self, session: &SessionId, bytes: u64) {
        let mut staged = self.staged.lock().unwrap_or_else(PoisonError::into_inner);
        *staged.entry(session.clone()).or_default() += bytes;
    }

    /// So many have arrived, or will not come.
    pub(crate) fn unstage(&self, session: &SessionId, bytes: u64) {
        let mut staged = self.staged.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(total) = staged.get_mut(session) {
            *total = total.saturating_sub(bytes);
            if *total == 0 {
                staged.remove(session);
            }
        }
    }

    /// How many are on their way.
    pub(crate) fn staged(&self, session: &SessionId) -> u64 {
        let staged = self.staged.lock().unwrap_or_else(PoisonError::into_inner);
        staged.get(session).copied().unwrap_or_default()
    }
}

/// One run's view of its workspace's size.
pub(crate) struct Watch {
    pub(crate) accounts: Arc<Accounts>,
    pub(crate) session: SessionId,
    pub(crate) workspace: Arc<OwnedFd>,
    pub(crate) allowance: Allowance,
}

impl Watch {
    /// Waits until the workspace takes too much. Cancel safe: a walk that is under way is carried to its end, and what
    /// it counted is remembered, so that many short runs do not go unnoticed.
    ///
    /// A run that begins in a workspace which is too large already may make it smaller, but not larger, as long as it
    /// is not much too large. So whoever filled it can clean up, and many short runs cannot make it grow for ever.
    pub(crate) async fn overflows(mut self) -> Overflow {
        let began_with = Free::on(&self.workspace);
        let mut counted = match self
            .accounts
            .believed(&self.session, began_with, self.allowance)
        {
            Some(counted) => counted,
            None => self.count().await,
        };
        let tolerated = self.tolerated();
        if let Some(overflow) = tolerated.exceeded_by(&counted.usage) {
            return overflow;
        }
        self.allowance.bytes = self.allowance.bytes.max(counted.usage.bytes);
        self.allowance.files = self.allowance.files.max(counted.usage.files);
        // What was counted for an earlier run is believed for a while, or it would have been counted again.
        let mut walked_at = Instant::now();
        let mut walked_for = Duration::ZERO;
        let mut grows = false;
        let mut pace = Pace::new(began_with);
        let mut pause = TICK;
        loop {
            sleep(pause).await;
            let free = Free::on(&self.workspace);
            if let Some(overflow) = disk_overflow(free, began_with) {
                return overflow;
            }
            let since = walked_at.elapsed();
            let left = counted.left(free, self.allowance);
            pause = pace.pause(free, left);
            let due = since >= WALK_ANYWAY || counted.is_doubtful(free, self.allowance);
            let share = if grows && left == 0 {
                URGENT_WALK_SHARE
            } else {
                WALK_SHARE
            };
            if !due || since < walked_for * share {
                continue;
            }
            walked_at = Instant::now();
            let before = counted.usage.bytes;
            counted = self.count().await;
            grows = counted.usage.bytes > before;
            walked_for = walked_at.elapsed();
            if let Some(overflow) = self.allowance.exceeded_by(&counted.usage) {
                return overflow;
            }
        }
    }

    /// Counts on a thread for blocking work.
    async fn count(&self) -> Counted {
        let (accounts, session) = (Arc::clone(&self.accounts), self.session.clone());
        let workspace = Arc::clone(&self.workspace);
        let max_files = self.tolerated().files;
        let counting = tokio::task::spawn_blocking(move || {
            if let Err(error) = accounts.count(&session, &workspace, max_files) {
                tracing::warn!(session_id = %session, %error, "a workspace cannot be counted");
            }
        });
        // A panic in there is logged by whoever catches it.
        let _ = counting.await;
        self.accounts.get(&self.session).unwrap_or(Counted {
            usage: Usage::default(),
            at: Instant::now(),
            free: Free::on(&self.workspace),
            runs: 0,
        })
    }

    /// What a workspace may take when a run begins: an eighth more than it may grow to, and at least what a fast writer
    /// is ahead of the walks.
    const fn tolerated(&self) -> Allowance {
        let Allowance { bytes, files } = self.allowance;
        let more_bytes = if bytes / 8 > 64 << 20 {
            bytes / 8
        } else {
            64 << 20
        };
        Allowance {
            bytes: bytes + more_bytes,
            files: files + files / 8 + 1024,
        }
    }
}

/// How fast the disk loses what it has, and so how soon it has to be asked again.
struct Pace {
    at: Instant,
    free: Option<Free>,
}

impl Pace {
    fn new(free: Option<Free>) -> Self {
        Self {
            at: Instant::now(),
            free,
        }
    }

    /// How long to wait, where the disk has this much now and the workspace has this much left.
    fn pause(&mut self, free: Option<Free>, left: u64) -> Duration {
        let lost = match (free, self.free) {
            (Some(now), Some(then)) => now.lost_since(then).bytes,
            _ => 0,
        };
        let since = self.at.elapsed();
        *self = Self::new(free);
        until_half_is_gone(left, lost, since)
    }
}

/// How long a writer that has written `lost` within `since` takes for half of what is left, as far as that matters.
fn until_half_is_gone(left: u64, lost: u64, since: Duration) -> Duration {
    if lost == 0 {
        return TICK;
    }
    let nanos = since.as_nanos().saturating_mul(u128::from(left / 2)) / u128::from(lost);
    u64::try_from(nanos)
        .map_or(TICK, Duration::from_nanos)
        .clamp(SHORTEST_TICK, TICK)
}

/// The disk itself is nearly full, and has lost much since the run began.
fn disk_overflow(now: Option<Free>, began_with: Option<Free>) -> Option<Overflow> {
    let (now, then) = (now?, began_with?);
    let lost = now.lost_since(then).bytes;
    (now.bytes < RESERVE_BYTES && lost > SUSPICIOUS_BYTES).then_some(Overflow::Disk {
        available: now.bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn free(bytes: u64) -> Free {
        Free { bytes, files: 1000 }
    }

    fn counted(bytes: u64) -> Counted {
        Counted {
            usage: Usage {
                bytes,
                files: 1,
                too_deep: false,
                complete: true,
            },
            at: Instant::now(),
            free: Some(free(100 << 20)),
            runs: 0,
        }
    }

    #[tokio::test]
    async fn a_loss_of_half_of_what_is_left_is_worth_a_walk() {
        let allowance = Allowance {
            bytes: 20 << 20,
            files: 1000,
        };
        let fresh = counted(10 << 20);
        assert!(!fresh.is_doubtful(Some(free(95 << 20)), allowance));
        assert!(fresh.is_doubtful(Some(free((95 << 20) - 1)), allowance));
        // Others have removed something.
        assert!(!fresh.is_doubtful(Some(free(200 << 20)), allowance));
        // Nothing is left: not every byte that anybody writes is worth a walk.
        let full = counted(20 << 20);
        assert!(!full.is_doubtful(Some(free(99 << 20)), allowance));
        assert!(full.is_doubtful(Some(free((99 << 20) - 1)), allowance));
        assert!(full.is_doubtful(None, allowance));
    }

    #[test]
    fn the_disk_is_asked_more_often_the_sooner_a_workspace_can_be_full() {
        const MIB: u64 = 1 << 20;
        let ms = Duration::from_millis;
        assert_eq!(until_half_is_gone(0, 0, ms(10)), TICK);
        // 1 MiB in a millisecond.
        assert_eq!(until_half_is_gone(100 * MIB, 10 * MIB, ms(10)), TICK);
        assert_eq!(until_half_is_gone(8 * MIB, 10 * MIB, ms(10)), ms(4));
        assert_eq!(until_half_is_gone(0, 10 * MIB, ms(10)), SHORTEST_TICK);
        assert_eq!(until_half_is_gone(u64::MAX, 1, Duration::MAX), TICK);
    }

    #[tokio::test]
    async fn what_is_left_is_what_the_disk_has_not_lost() {
        let allowance = Allowance {
            bytes: 20 << 20,
            files: 1000,
        };
        let half = counted(10 << 20);
        assert_eq!(half.left(Some(free(100 << 20)), allowance), 10 << 20);
        assert_eq!(half.left(Some(free(97 << 20)), allowance), 7 << 20);
        assert_eq!(half.left(Some(free(0)), allowance), 0);
        assert_eq!(half.left(None, allowance), 10 << 20);
    }

    #[tokio::test]
    async fn a_guess_is_rather_too_much_than_too_little() {
        let counted = counted(10 << 20);
        let guess = |counted: Counted, now| counted.at_most(now).map(|usage| usage.bytes >> 20);
        assert_eq!(guess(counted, free(100 << 20)), Some(10));
        assert_eq!(guess(counted, free(93 << 20)), Some(17));
        assert_eq!(guess(counted, free(200 << 20)), Some(10));
        let accounts = Accounts::default();
        let session = SessionId::parse("s").unwrap();
        accounts.lock().insert(session.clone(), counted);
        accounts.add(&session, 5 << 20, 2);
        let grown = accounts.get(&session).unwrap();
        assert_eq!(guess(grown, free(93 << 20)), Some(22));
        assert_eq!(grown.at_most(free(0)).unwrap().files, 3);
        // Nobody has counted everything, or lately, or knows what the disk had.
        for odd in [
            Counted {
                free: None,
                ..counted
            },
            Counted {
                runs: BELIEVED_RUNS + 1,
                ..counted
            },
            Counted {
                usage: Usage {
                    complete: false,
                    ..counted.usage
                },
                ..counted
            },
        ] {
            assert_eq!(guess(odd, free(100 << 20)), None, "{odd:?}");
        }
    }

    #[test]
    fn a_full_disk_ends_who_may_have_filled_it() {
        let reserve = RESERVE_BYTES;
        let full = |now, then| disk_overflow(Some(free(now)), Some(free(then))).is_some();
        assert!(full(reserve - 1, reserve + SUSPICIOUS_BYTES));
        assert!(!full(reserve, reserve + SUSPICIOUS_BYTES + 1));
        assert!(!full(reserve - 1, reserve - 1));
        assert!(!full(1, SUSPICIOUS_BYTES + 1));
        assert!(full(1, SUSPICIOUS_BYTES + 2));
    }
}
