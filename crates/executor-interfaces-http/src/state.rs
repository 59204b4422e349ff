//! What the handlers share.

use std::{sync::Arc, time::Duration};

use executor_application::{CheckHealth, ExecuteCode, ManageSessions};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use crate::Access;

/// What is configurable about the API.
#[derive(Debug, Clone)]
pub struct ApiOptions {
    /// Who may call the guarded routes.
    pub access: Access,
    /// Largest request body, in bytes. A larger one is refused and never held in memory.
    pub max_body_bytes: usize,
    /// Bytes of all request bodies that are being read at the same time. Further ones wait for room, within their own
    /// timeout.
    pub max_bodies_bytes: usize,
    /// Bytes of all large answers that are on their way at the same time. Further ones wait.
    pub max_answers_bytes: usize,
    /// How long a client may take to send a body, from its first byte to its last.
    pub body_timeout: Duration,
    /// Whether `POST /execute` is answered at once, and not with the result, where its caller prefers nothing.
    pub answer_later: bool,
    /// The daemon's version, for people.
    pub version: &'static str,
}

impl Default for ApiOptions {
    /// Anyone may call; bodies of at most 16 MiB, sent within a minute, and of 256 MiB at the same time; answers of 256 MiB
    /// at the same time; whoever runs code waits for the result.
    ///
    /// 16 MiB hold an event of 8 MiB and a program of 1 MiB even if JSON spells each byte of the program with six.
    fn default() -> Self {
        Self {
            access: Access::Anyone,
            max_body_bytes: 16 << 20,
            max_bodies_bytes: 256 << 20,
            max_answers_bytes: 256 << 20,
            body_timeout: Duration::from_secs(60),
            answer_later: false,
            version: env!("CARGO_PKG_VERSION"),
        }
    }
}

/// What the handlers share. Cheap to clone: clones share everything.
#[derive(Clone)]
pub struct ApiState {
    shared: Arc<Shared>,
    sessions: Option<Arc<ManageSessions>>,
}

struct Shared {
    executor: ExecuteCode,
    health: Arc<CheckHealth>,
    options: ApiOptions,
    /// Room for bodies, in units of [`ROOM_UNIT`].
    room: Arc<Semaphore>,
    /// Room for answers, in the same units.
    answers: Arc<Semaphore>,
    started: Instant,
}

/// What room for bodies is counted in, in bytes.
pub(crate) const ROOM_UNIT: usize = 1024;

impl ApiState {
    /// An API on top of these use cases. Its uptime counts from here.
    pub fn new(executor: ExecuteCode, health: Arc<CheckHealth>, options: ApiOptions) -> Self {
        Self {
            shared: Arc::new(Shared {
                executor,
                health,
                room: Arc::new(Semaphore::new(options.max_bodies_bytes.div_ceil(ROOM_UNIT))),
                answers: Arc::new(Semaphore::new(
                    options.max_answers_bytes.div_ceil(ROOM_UNIT),
                )),
                options,
                started: Instant::now(),
            }),
            sessions: None,
        }
    }

    /// The same with sessions to look after. Without, there are no routes for them.
    #[must_use]
    pub fn with_sessions(self, sessions: Arc<ManageSessions>) -> Self {
        Self {
            sessions: Some(sessions),
            ..self
        }
    }

    pub(crate) fn sessions(&self) -> Option<&ManageSessions> {
        self.sessions.as_deref()
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

    /// Waits for room for a body of so many bytes. One that is larger than all the room takes all of it. Cancel safe.
    pub(crate) async fn room(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        take(
            &self.shared.room,
            self.shared.options.max_bodies_bytes,
            bytes,
        )
        .await
    }

    /// The same for an answer.
    pub(crate) async fn room_for_answer(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        take(
            &self.shared.answers,
            self.shared.options.max_answers_bytes,
            bytes,
        )
        .await
    }

    pub(crate) fn uptime(&self) -> Duration {
        self.shared.started.elapsed()
    }
}

/// Takes room for so many of `all` bytes. `None` only if somebody closed the semaphore, which nobody does.
async fn take(room: &Arc<Semaphore>, all: usize, bytes: usize) -> Option<OwnedSemaphorePermit> {
    let wanted = u32::try_from(bytes.min(all).div_ceil(ROOM_UNIT)).unwrap_or(u32::MAX);
    Arc::clone(room).acquire_many_owned(wanted).await.ok()
}
