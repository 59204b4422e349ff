//! What the handlers share.

use std::{sync::Arc, time::Duration};

use executor_application::{CheckHealth, ExecuteCode};
use tokio::time::Instant;

use crate::Access;

/// What is configurable about the API.
#[derive(Debug, Clone)]
pub struct ApiOptions {
    /// Who may call the guarded routes.
    pub access: Access,
    /// Largest request body, in bytes. A larger one is refused and never held in memory.
    pub max_body_bytes: usize,
    /// How long a client may take to send a body, from its first byte to its last.
    pub body_timeout: Duration,
    /// The daemon's version, for people.
    pub version: &'static str,
}

impl Default for ApiOptions {
    /// Anyone may call; bodies of at most 16 MiB, sent within a minute.
    ///
    /// 16 MiB hold an event of 8 MiB and a program of 1 MiB even if JSON spells each byte of the program with six.
    fn default() -> Self {
        Self {
            access: Access::Anyone,
            max_body_bytes: 16 << 20,
            body_timeout: Duration::from_secs(60),
            version: env!("CARGO_PKG_VERSION"),
        }
    }
}

/// What the handlers share. Cheap to clone: clones share everything.
#[derive(Clone)]
pub struct ApiState {
    shared: Arc<Shared>,
}

struct Shared {
    executor: ExecuteCode,
    health: Arc<CheckHealth>,
    options: ApiOptions,
    started: Instant,
}

impl ApiState {
    /// An API on top of these use cases. Its uptime counts from here.
    pub fn new(executor: ExecuteCode, health: Arc<CheckHealth>, options: ApiOptions) -> Self {
        Self {
            shared: Arc::new(Shared {
                executor,
                health,
                options,
                started: Instant::now(),
            }),
        }
    }

    pub(crate) fn executor(&self) -> &ExecuteCode {
        &self.shared.executor
    }

    pub(crate) fn health(&self) -> &CheckHealth {
        &self.shared.health
    }

    pub(crate) fn options(&self) -> &ApiOptions {
        &self.shared.options
    }

    pub(crate) fn uptime(&self) -> Duration {
        self.shared.started.elapsed()
    }
}
