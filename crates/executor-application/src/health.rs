//! Whether the executor can do its work now.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Mutex as AsyncMutex,
    time::{Instant, timeout},
};

use crate::{ExecuteCode, Sandbox, Workspaces, chain};

/// How long one look at the sandbox counts. A look starts a real sandbox, and anybody may ask: this bounds what asking
/// can cost to one sandbox per second.
const LOOK_COUNTS_FOR: Duration = Duration::from_secs(1);

/// How long who asks waits for a look. On a host that is busy, or whose guests are at their limits, one takes longer, and
/// who asks gives up: probes wait for a second by default.
const PATIENCE: Duration = Duration::from_millis(500);

/// How old the look before may be for it to answer then. Where looks hang, this is when it shows.
const LOOK_STANDS_FOR: Duration = Duration::from_secs(15);

/// What a look came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// A guest can be run.
    Healthy,
    /// No guest can be run.
    Unhealthy(Unhealthy),
}

/// Why no guest can be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unhealthy {
    /// The daemon is shutting down.
    Draining,
    /// A sandbox could not be started.
    Sandbox(String),
    /// The workspace cannot be written to.
    Workspace(String),
    /// Results cannot be kept.
    Store(String),
}

impl Unhealthy {
    /// One line for clients. What exactly is broken is for the log.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Draining => "draining",
            Self::Sandbox(_) => "a sandbox cannot be started",
            Self::Workspace(_) => "the workspace cannot be written to",
            Self::Store(_) => "results cannot be kept",
        }
    }
}

/// Finds out whether the executor can do its work, by trying.
pub struct CheckHealth {
    executor: ExecuteCode,
    looker: Arc<Looker>,
}

/// Looks, and remembers what it saw.
struct Looker {
    executor: ExecuteCode,
    sandbox: Arc<dyn Sandbox>,
    workspaces: Arc<dyn Workspaces>,
    last: Mutex<Option<(Instant, Health)>>,
    /// Held by who looks.
    looking: AsyncMutex<()>,
}

impl CheckHealth {
    /// A check of this executor and its adapters.
    pub fn new(
        executor: ExecuteCode,
        sandbox: Arc<dyn Sandbox>,
        workspaces: Arc<dyn Workspaces>,
    ) -> Self {
        Self {
            looker: Arc::new(Looker {
                executor: executor.clone(),
                sandbox,
                workspaces,
                last: Mutex::new(None),
                looking: AsyncMutex::new(()),
            }),
            executor,
        }
    }

    /// Tries to start a sandbox and to write to workspace and store, unless somebody did within the last second. Those who
    /// ask at the same time share one look; where it takes longer than half a second, the one before answers, unless that
    /// was 15 seconds ago. Cancel safe: a look that was begun goes on to its end and counts, so that asking and hanging up
    /// costs no more than asking.
    pub async fn check(&self) -> Health {
        if self.executor.is_draining() {
            return Health::Unhealthy(Unhealthy::Draining);
        }
        let looker = Arc::clone(&self.looker);
        let mut look = tokio::spawn(async move { looker.recent().await });
        let health = match timeout(PATIENCE, &mut look).await {
            Ok(health) => health,
            Err(_) => match self.looker.known(LOOK_STANDS_FOR) {
                Some(health) => Ok(health),
                None => look.await,
            },
        };
        health.unwrap_or_else(|lost| Health::Unhealthy(Unhealthy::Sandbox(chain(&lost))))
    }
}

impl Looker {
    /// What was seen last, if that is not longer ago.
    fn known(&self, age: Duration) -> Option<Health> {
        // Nothing can be half-changed in there.
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, health) = last.as_ref()?;
        (at.elapsed() < age).then(|| health.clone())
    }

    async fn recent(&self) -> Health {
        let _looking = self.looking.lock().await;
        if let Some(health) = self.known(LOOK_COUNTS_FOR) {
            return health;
        }
        let health = self.look().await;
        if let Health::Unhealthy(
            Unhealthy::Sandbox(why) | Unhealthy::Workspace(why) | Unhealthy::Store(why),
        ) = &health
        {
            tracing::error!(%why, "unhealthy");
        }
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((Instant::now(), health.clone()));
        health
    }

    async fn look(&self) -> Health {
        if let Err(error) = self.workspaces.check().await {
            return Health::Unhealthy(Unhealthy::Workspace(chain(&error)));
        }
        if let Err(error) = self.executor.check_store().await {
            return Health::Unhealthy(Unhealthy::Store(chain(&error)));
        }
        if let Err(error) = self.sandbox.check().await {
            return Health::Unhealthy(Unhealthy::Sandbox(chain(&error)));
        }
        Health::Healthy
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MockWorkspaces, Options, SandboxError, WorkspaceError, fake};

    fn check(sandbox: Arc<dyn Sandbox>, workspaces: MockWorkspaces) -> CheckHealth {
        let workspaces: Arc<dyn Workspaces> = Arc::new(workspaces);
        let executor = ExecuteCode::new(
            Arc::clone(&sandbox),
            Arc::clone(&workspaces),
            Arc::new(fake::StoppedClock),
            Options::default(),
        );
        CheckHealth::new(executor, sandbox, workspaces)
    }

    fn writable() -> MockWorkspaces {
        let mut workspaces = MockWorkspaces::new();
        workspaces.expect_check().returning(|| Ok(()));
        workspaces
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_counts_for_a_second_and_is_shared() {
        let mut sandbox = crate::MockSandbox::new();
        sandbox.expect_check().times(2).returning(|| Ok(()));
        let health = check(Arc::new(sandbox), writable());
        for _ in 0..100 {
            assert_eq!(health.check().await, Health::Healthy);
        }
        tokio::time::advance(LOOK_COUNTS_FOR).await;
        assert_eq!(health.check().await, Health::Healthy);
    }

    /// A sandbox whose checks after the first one take this long, and fail.
    fn failing_slowly(takes: Duration) -> Arc<dyn Sandbox> {
        struct Slow(Duration, std::sync::atomic::AtomicBool, fake::FakeSandbox);

        #[async_trait::async_trait]
        impl Sandbox for Slow {
            fn description(&self) -> &crate::SandboxDescription {
                self.2.description()
            }

            async fn check(&self) -> Result<(), SandboxError> {
                if !self.1.swap(true, std::sync::atomic::Ordering::SeqCst) {
                    return Ok(());
                }
                tokio::time::sleep(self.0).await;
                Err(SandboxError::Unavailable {
                    reason: "slow".into(),
                })
            }

            async fn run(
                &self,
                job: crate::Job,
                cancel: crate::CancellationToken,
            ) -> Result<executor_domain::Outcome, SandboxError> {
                self.2.run(job, cancel).await
            }
        }
        Arc::new(Slow(takes, false.into(), fake::FakeSandbox::default()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_takes_long_is_answered_for_by_the_one_before_and_counts_once_it_is_there()
    {
        let health = check(failing_slowly(Duration::from_secs(3)), writable());
        assert_eq!(health.check().await, Health::Healthy);
        tokio::time::advance(LOOK_COUNTS_FOR).await;
        let asked = Instant::now();
        assert_eq!(health.check().await, Health::Healthy);
        assert_eq!(asked.elapsed(), PATIENCE);
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert!(matches!(health.check().await, Health::Unhealthy(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_of_long_ago_answers_for_nobody() {
        let health = check(failing_slowly(Duration::from_secs(3)), writable());
        assert_eq!(health.check().await, Health::Healthy);
        tokio::time::advance(LOOK_STANDS_FOR).await;
        assert!(matches!(health.check().await, Health::Unhealthy(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn who_hangs_up_has_looked_nevertheless() {
        let mut sandbox = crate::MockSandbox::new();
        sandbox.expect_check().times(1).returning(|| Ok(()));
        let health = check(Arc::new(sandbox), writable());
        for _ in 0..100 {
            let mut asked = Box::pin(health.check());
            // Polled once, and dropped.
            assert!(futures_poll(&mut asked).await.is_none());
            drop(asked);
        }
        assert_eq!(health.check().await, Health::Healthy);
    }

    /// What a future comes to if it is polled just once.
    async fn futures_poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        tokio::select! {
            biased;
            output = future => Some(output),
            () = std::future::ready(()) => None,
        }
    }

    #[tokio::test]
    async fn says_what_is_broken_to_the_operator_only() {
        let mut sandbox = crate::MockSandbox::new();
        sandbox.expect_check().returning(|| {
            Err(SandboxError::Unavailable {
                reason: "bwrap: secret path".into(),
            })
        });
        let Health::Unhealthy(why) = check(Arc::new(sandbox), writable()).check().await else {
            panic!("healthy");
        };
        assert!(matches!(&why, Unhealthy::Sandbox(detail) if detail.contains("secret path")));
        assert!(!why.reason().contains("secret"));
    }

    #[tokio::test]
    async fn a_workspace_that_cannot_be_written_is_unhealthy() {
        let mut workspaces = MockWorkspaces::new();
        workspaces.expect_check().returning(|| {
            Err(WorkspaceError {
                step: "write a file",
                source: "no space left".into(),
            })
        });
        let Health::Unhealthy(Unhealthy::Workspace(detail)) =
            check(Arc::new(crate::MockSandbox::new()), workspaces)
                .check()
                .await
        else {
            panic!("not the workspace");
        };
        assert_eq!(detail, "failed to write a file: no space left");
    }

    #[tokio::test]
    async fn a_store_that_cannot_keep_results_is_unhealthy() {
        let mut store = crate::MockExecutionStore::new();
        store
            .expect_check()
            .returning(|| Err(crate::StoreError::Full("secret path".into())));
        let sandbox: Arc<dyn Sandbox> = Arc::new(fake::FakeSandbox::default());
        let workspaces: Arc<dyn Workspaces> = Arc::new(writable());
        let executor = ExecuteCode::with_store(
            Arc::clone(&sandbox),
            Arc::clone(&workspaces),
            Arc::new(fake::StoppedClock),
            Arc::new(store),
            Options::default(),
        );
        let health = CheckHealth::new(executor, sandbox, workspaces)
            .check()
            .await;
        let Health::Unhealthy(why) = health else {
            panic!("healthy");
        };
        assert_eq!(
            why,
            Unhealthy::Store("the store is full: secret path".into())
        );
        assert!(!why.reason().contains("secret"));
    }

    #[tokio::test]
    async fn draining_needs_no_look() {
        let health = check(Arc::new(crate::MockSandbox::new()), MockWorkspaces::new());
        health.executor.drain(Duration::ZERO).await;
        assert_eq!(health.check().await, Health::Unhealthy(Unhealthy::Draining));
    }
}
