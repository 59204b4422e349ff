//! The use case: look after sessions. Bring and fetch their files, remove them, and clean up after those that nobody
//! uses any more.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use executor_domain::{SessionId, Timestamp, WorkspacePath};
use tokio::time::Instant;

use crate::{
    ArchiveFormat, Clock, Condition, Content, DiskUse, ExecuteCode, FilesError, Found, Holdings,
    ListQuery, Listing, SessionFiles, SessionUse, Upload,
};

/// How long a session that is to be removed may be kept busy by others: runs that are submitted meanwhile, another
/// process.
const REMOVAL_LIMIT: Duration = Duration::from_secs(10);

/// How long to leave whoever keeps a session busy before trying again.
const REMOVAL_PAUSE: Duration = Duration::from_millis(20);

/// When sessions are removed by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CleanUp {
    /// How long a session is kept that nobody uses.
    pub ttl: Duration,
    /// How full the disk may become, in percent, before sessions are removed sooner: those first that were not used
    /// for longest. 100: never.
    pub high_water_percent: u8,
    /// A session that was used within this time is not removed for the disk's sake: whoever works with it is likely to
    /// be between two steps.
    pub spared: Duration,
    /// Time between two looks.
    pub period: Duration,
}

impl Default for CleanUp {
    /// A day; 90 percent, but not within 10 minutes of its last use; a look each minute.
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(24 * 3600),
            high_water_percent: 90,
            spared: Duration::from_secs(600),
            period: Duration::from_secs(60),
        }
    }
}

/// Sessions that were removed since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    /// How many.
    pub sessions: u64,
    /// What they took on the disk.
    pub bytes: u64,
}

/// Sessions that were removed since the start, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removals {
    /// Nobody had used them for the time that they are kept.
    pub idle: Removed,
    /// The disk was too full.
    pub disk: Removed,
    /// Somebody asked for it.
    pub requested: Removed,
}

impl Removals {
    /// Each reason, in one word, and what was removed for it.
    pub const fn by_reason(&self) -> [(&'static str, Removed); 3] {
        [
            (Why::Idle.as_str(), self.idle),
            (Why::Disk.as_str(), self.disk),
            (Why::Requested.as_str(), self.requested),
        ]
    }
}

/// Why a session is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Idle,
    Disk,
    Requested,
}

impl Why {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Disk => "disk",
            Self::Requested => "requested",
        }
    }
}

/// Looks after sessions.
pub struct ManageSessions {
    files: Arc<dyn SessionFiles>,
    executor: ExecuteCode,
    clock: Arc<dyn Clock>,
    clean_up: CleanUp,
    removed: Mutex<Removals>,
}

impl ManageSessions {
    /// A use case on top of these adapters, for the sessions of this executor.
    pub fn new(
        files: Arc<dyn SessionFiles>,
        executor: ExecuteCode,
        clock: Arc<dyn Clock>,
        clean_up: CleanUp,
    ) -> Self {
        Self {
            files,
            executor,
            clock,
            clean_up,
            removed: Mutex::default(),
        }
    }

    /// What a session holds.
    pub async fn describe(&self, session: &SessionId) -> Result<Holdings, FilesError> {
        self.serves(session)?;
        self.files.describe(session).await
    }

    /// Part of a directory.
    pub async fn list(&self, session: &SessionId, query: ListQuery) -> Result<Listing, FilesError> {
        self.serves(session)?;
        self.files.list(session, query).await
    }

    /// What is under a path.
    pub async fn find(
        &self,
        session: &SessionId,
        path: &WorkspacePath,
    ) -> Result<Found, FilesError> {
        self.serves(session)?;
        self.files.find(session, path).await
    }

    /// Begins to write a file. The session is made if there is none.
    pub async fn create(
        &self,
        session: &SessionId,
        path: &WorkspacePath,
        condition: Condition,
    ) -> Result<Box<dyn Upload>, FilesError> {
        self.serves(session)?;
        let max_bytes = self.max_bytes();
        self.files.create(session, path, condition, max_bytes).await
    }

    /// Removes a file or a directory.
    pub async fn remove(
        &self,
        session: &SessionId,
        path: &WorkspacePath,
        condition: Condition,
        recursive: bool,
    ) -> Result<(), FilesError> {
        self.serves(session)?;
        self.files.remove(session, path, condition, recursive).await
    }

    /// A directory as one file.
    pub async fn pack(
        &self,
        session: &SessionId,
        directory: Option<WorkspacePath>,
        format: ArchiveFormat,
    ) -> Result<Box<dyn Content>, FilesError> {
        self.serves(session)?;
        self.files.pack(session, directory, format).await
    }

    /// Begins to take an archive that is unpacked into a directory. The session is made if there is none.
    pub async fn unpack(
        &self,
        session: &SessionId,
        directory: Option<WorkspacePath>,
        format: ArchiveFormat,
    ) -> Result<Box<dyn Upload>, FilesError> {
        self.serves(session)?;
        let max_bytes = self.max_bytes();
        self.files
            .unpack(session, directory, format, max_bytes)
            .await
    }

    /// Stops a session's runs and removes everything that it holds. When the future is dropped, runs may have been
    /// stopped and the session still be there, in whole.
    pub async fn remove_session(&self, session: &SessionId) -> Result<(), FilesError> {
        self.serves(session)?;
        let deadline = Instant::now() + REMOVAL_LIMIT;
        loop {
            self.executor.stop_session(session).await;
            match self.remove_for(session, Why::Requested, None).await {
                Err(FilesError::InUse) if Instant::now() < deadline => {
                    tokio::time::sleep(REMOVAL_PAUSE).await;
                }
                decided => return decided,
            }
        }
    }

    /// Removes sessions that nobody uses any more, from time to time, for ever. Dropping the future stops that.
    pub async fn keep_clean(&self) {
        let mut ticks = tokio::time::interval(self.clean_up.period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Err(error) = self.clean_up().await {
                tracing::error!(
                    error = crate::chain(&error),
                    "sessions cannot be cleaned up"
                );
            }
        }
    }

    /// Looks once for sessions that are to be removed by themselves, and removes them.
    pub async fn clean_up(&self) -> Result<(), FilesError> {
        let now = self.clock.now();
        let mut sessions = self.files.sessions().await?;
        sessions.sort_by_key(|session| session.last_used_at);
        let mut kept = Vec::new();
        for session in sessions {
            if now.since(session.last_used_at) >= self.clean_up.ttl {
                self.remove_unused(&session, Why::Idle).await;
            } else {
                kept.push(session);
            }
        }
        let spared = |session: &SessionUse| now.since(session.last_used_at) < self.clean_up.spared;
        for session in kept.iter().take_while(|session| !spared(session)) {
            if !self.is_too_full(self.files.disk().await?) {
                break;
            }
            self.remove_unused(session, Why::Disk).await;
        }
        Ok(())
    }

    /// Sessions that were removed since the start.
    pub fn removals(&self) -> Removals {
        *self.lock_removed()
    }

    fn lock_removed(&self) -> MutexGuard<'_, Removals> {
        // Nothing in here panics half-way through a change.
        self.removed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes a session that was not used since it was looked at. Whatever stands in the way is for the next look.
    async fn remove_unused(&self, session: &SessionUse, why: Why) {
        let unused_since = Some(session.last_used_at);
        match self.remove_for(&session.session, why, unused_since).await {
            // Used meanwhile, or removed by somebody else.
            Ok(())
            | Err(FilesError::InUse | FilesError::ConditionFailed | FilesError::NoSession) => {}
            Err(error) => tracing::error!(
                session_id = %session.session,
                error = crate::chain(&error),
                "a session cannot be removed"
            ),
        }
    }

    async fn remove_for(
        &self,
        session: &SessionId,
        why: Why,
        unused_since: Option<Timestamp>,
    ) -> Result<(), FilesError> {
        let bytes = self.files.remove_session(session, unused_since).await?;
        {
            let mut removed = self.lock_removed();
            let removed = match why {
                Why::Idle => &mut removed.idle,
                Why::Disk => &mut removed.disk,
                Why::Requested => &mut removed.requested,
            };
            removed.sessions += 1;
            removed.bytes += bytes;
        }
        tracing::info!(session_id = %session, why = why.as_str(), bytes, "session removed");
        Ok(())
    }

    fn is_too_full(&self, disk: DiskUse) -> bool {
        let used = disk.total.saturating_sub(disk.available);
        let mark = u128::from(self.clean_up.high_water_percent);
        mark < 100 && u128::from(used) * 100 >= u128::from(disk.total) * mark
    }

    /// Whether the executor serves this session: one that is bound to another one has no such session.
    fn serves(&self, session: &SessionId) -> Result<(), FilesError> {
        match self.executor.only_session() {
            Some(bound) if bound != session => Err(FilesError::NoSession),
            _ => Ok(()),
        }
    }

    /// What a workspace may take: what a run may let it take at most.
    fn max_bytes(&self) -> u64 {
        self.executor.policy().ceilings().max_workspace_mb << 20
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        MockClock, MockSessionFiles, Options,
        fake::{FakeSandbox, NoWorkspaces, StoppedClock},
    };

    const HOUR: Duration = Duration::from_secs(3600);

    fn session(name: &str) -> SessionId {
        SessionId::parse(name).unwrap()
    }

    fn executor(options: Options) -> ExecuteCode {
        ExecuteCode::new(
            Arc::new(FakeSandbox::default()),
            Arc::new(NoWorkspaces),
            Arc::new(StoppedClock),
            options,
        )
    }

    /// Sessions by the hours since their last use, on a disk of 100 bytes where each of them takes so many.
    fn world(
        sessions: &[(&str, u64, u64)],
        other: u64,
    ) -> (ManageSessions, Arc<Mutex<Vec<String>>>) {
        let now = Timestamp::from_unix_micros(1_767_225_600_000_000);
        let uses: Vec<SessionUse> = sessions
            .iter()
            .map(|(name, hours, _)| SessionUse {
                session: session(name),
                last_used_at: Timestamp::from_unix_micros(
                    now.unix_micros() - i64::try_from(hours * 3_600_000_000).unwrap(),
                ),
            })
            .collect();
        let sizes: Vec<(String, u64)> = sessions
            .iter()
            .map(|(name, _, bytes)| ((*name).to_owned(), *bytes))
            .collect();
        let removed = Arc::new(Mutex::new(Vec::new()));
        let mut files = MockSessionFiles::new();
        files.expect_sessions().returning(move || Ok(uses.clone()));
        let (gone, held) = (Arc::clone(&removed), sizes.clone());
        files.expect_remove_session().returning(move |session, _| {
            if session.as_str().starts_with("busy") {
                return Err(FilesError::InUse);
            }
            gone.lock().unwrap().push(session.as_str().to_owned());
            let size = held.iter().find(|(name, _)| name == session.as_str());
            Ok(size.unwrap().1)
        });
        let gone = Arc::clone(&removed);
        files.expect_disk().returning(move || {
            let gone = gone.lock().unwrap();
            let taken: u64 = sizes
                .iter()
                .filter(|(name, _)| !gone.contains(name))
                .map(|(_, bytes)| bytes)
                .sum();
            Ok(DiskUse {
                total: 100,
                available: 100 - taken - other,
            })
        });
        let mut clock = MockClock::new();
        clock.expect_now().return_const(now);
        let manage = ManageSessions::new(
            Arc::new(files),
            executor(Options::default()),
            Arc::new(clock),
            CleanUp {
                ttl: 24 * HOUR,
                high_water_percent: 90,
                spared: HOUR,
                period: HOUR,
            },
        );
        (manage, removed)
    }

    #[tokio::test]
    async fn idle_sessions_are_removed_and_used_ones_are_not() {
        let (manage, removed) = world(
            &[
                ("young", 23, 1),
                ("old", 24, 1),
                ("busy", 90, 1),
                ("older", 25, 1),
            ],
            0,
        );
        manage.clean_up().await.unwrap();
        assert_eq!(*removed.lock().unwrap(), ["older", "old"]);
        let idle = Removed {
            sessions: 2,
            bytes: 2,
        };
        assert_eq!(manage.removals().idle, idle);
        assert_eq!(manage.removals().by_reason()[0], ("idle", idle));
    }

    #[tokio::test]
    async fn a_full_disk_takes_what_was_not_used_for_longest_and_no_more() {
        let (manage, removed) = world(
            &[
                ("c", 3, 20),
                ("a", 5, 20),
                ("busy-b", 4, 20),
                ("d", 2, 20),
                ("e", 0, 20),
            ],
            0,
        );
        manage.clean_up().await.unwrap();
        // 100 of 100 bytes: one is enough to come below 90.
        assert_eq!(*removed.lock().unwrap(), ["a"]);
        let disk = Removed {
            sessions: 1,
            bytes: 20,
        };
        assert_eq!(manage.removals().disk, disk);
    }

    #[tokio::test]
    async fn what_was_used_just_now_is_spared_whoever_fills_the_disk() {
        let (manage, removed) = world(&[("now", 0, 1), ("before", 1, 1)], 98);
        manage.clean_up().await.unwrap();
        assert_eq!(*removed.lock().unwrap(), ["before"]);
    }

    #[tokio::test]
    async fn below_the_mark_nothing_is_removed() {
        let (manage, removed) = world(&[("a", 5, 20)], 69);
        manage.clean_up().await.unwrap();
        assert!(removed.lock().unwrap().is_empty());
        let (manage, removed) = world(&[("a", 5, 20)], 70);
        manage.clean_up().await.unwrap();
        assert_eq!(*removed.lock().unwrap(), ["a"]);
    }

    #[tokio::test]
    async fn a_bound_executor_has_no_other_session() {
        let options = Options {
            only_session: Some(session("mine")),
            ..Options::default()
        };
        let mut files = MockSessionFiles::new();
        files
            .expect_describe()
            .times(1)
            .returning(|_| Err(FilesError::NoFile));
        let manage = ManageSessions::new(
            Arc::new(files),
            executor(options),
            Arc::new(StoppedClock),
            CleanUp::default(),
        );
        let described = manage.describe(&session("other")).await;
        assert!(matches!(described, Err(FilesError::NoSession)));
        let described = manage.describe(&session("mine")).await;
        assert!(matches!(described, Err(FilesError::NoFile)));
        let removed = manage.remove_session(&session("other")).await;
        assert!(matches!(removed, Err(FilesError::NoSession)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_removal_tries_again_while_the_session_is_used_but_not_for_ever() {
        let mut files = MockSessionFiles::new();
        let mut tries = 0;
        files.expect_remove_session().returning(move |_, _| {
            tries += 1;
            if tries < 3 {
                Err(FilesError::InUse)
            } else {
                Ok(1)
            }
        });
        let manage = |files| {
            ManageSessions::new(
                Arc::new(files),
                executor(Options::default()),
                Arc::new(StoppedClock),
                CleanUp::default(),
            )
        };
        let patient = manage(files);
        patient.remove_session(&session("s")).await.unwrap();
        assert_eq!(patient.removals().requested.sessions, 1);

        let mut files = MockSessionFiles::new();
        files
            .expect_remove_session()
            .returning(|_, _| Err(FilesError::InUse));
        let removed = manage(files).remove_session(&session("s")).await;
        assert!(matches!(removed, Err(FilesError::InUse)));
    }
}
