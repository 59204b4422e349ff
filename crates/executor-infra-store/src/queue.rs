//! What is to be written and read, on its way to a thread.

use std::sync::{
    Arc,
    mpsc::{Receiver, Sender, channel},
};

use executor_application::{Fingerprint, StoreError};
use executor_domain::{Execution, ExecutionId};
use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::{codec::Encoded, error::closed, rows::Unreadable};

/// Most orders that wait for a thread; further ones wait in their own futures.
const MAX_WAITING: usize = 1024;

/// Something to be written.
#[derive(Debug)]
pub(crate) enum Write {
    Accept(Execution, Fingerprint),
    Finish(Box<Encoded>),
    Forget(ExecutionId),
    Delivered(ExecutionId),
    Refused(ExecutionId, String),
    SetAside(Unreadable),
    /// Nothing that stays, but for real.
    Check,
}

impl Write {
    /// What is being done, for an error.
    pub(crate) const fn step(&self) -> &'static str {
        match self {
            Self::Accept(..) => "keep an accepted execution",
            Self::Finish(_) => "keep a result",
            Self::Forget(_) => "forget an execution",
            Self::Delivered(_) => "note a delivered report",
            Self::Refused(..) => "note a refused report",
            Self::SetAside(_) => "set an unreadable execution aside",
            Self::Check => "write to the store",
        }
    }

    /// Roughly how much it writes.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Finish(encoded) => encoded.bytes(),
            _ => 0,
        }
    }
}

/// What has become of a write.
pub(crate) type Answer = oneshot::Sender<Result<(), StoreError>>;

/// An order to a thread.
pub(crate) enum Order {
    Write(Write, Answer, OwnedSemaphorePermit),
    Read(
        Box<dyn FnOnce(&Connection) + Send>,
        Option<OwnedSemaphorePermit>,
    ),
    /// Sweep now, and not only when it is time.
    #[cfg(test)]
    Tend(oneshot::Sender<()>),
    Close(oneshot::Sender<()>),
}

/// The way to a thread.
#[derive(Debug, Clone)]
pub(crate) struct Queue {
    sender: Sender<Order>,
    room: Arc<Semaphore>,
}

impl Queue {
    pub(crate) fn new() -> (Self, Receiver<Order>) {
        let (sender, receiver) = channel();
        let queue = Self {
            sender,
            room: Arc::new(Semaphore::new(MAX_WAITING)),
        };
        (queue, receiver)
    }

    /// Has something written, and waits until it is committed. Once begun, it goes on whoever waits.
    pub(crate) async fn write(&self, write: Write) -> Result<(), StoreError> {
        let step = write.step();
        let room = self.room(step).await?;
        let (answer, answered) = oneshot::channel();
        self.sender
            .send(Order::Write(write, answer, room))
            .map_err(|_| closed(step))?;
        answered.await.map_err(|_| closed(step))?
    }

    /// Has something read.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        step: &'static str,
        read: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let room = self.room(step).await?;
        let (answer, answered) = oneshot::channel();
        let read = Box::new(move |connection: &Connection| {
            // Whoever has gone gets no answer.
            let _ = answer.send(read(connection));
        });
        self.sender
            .send(Order::Read(read, Some(room)))
            .map_err(|_| closed(step))?;
        answered.await.map_err(|_| closed(step))?
    }

    /// Has everything that was ordered done, and the thread end.
    pub(crate) async fn close(&self) {
        self.room.close();
        let (answer, answered) = oneshot::channel();
        if self.sender.send(Order::Close(answer)).is_ok() {
            // An error means that the thread has ended otherwise.
            let _ = answered.await;
        }
    }

    #[cfg(test)]
    pub(crate) async fn tend(&self) {
        let (answer, answered) = oneshot::channel();
        self.sender.send(Order::Tend(answer)).unwrap();
        answered.await.unwrap();
    }

    async fn room(&self, step: &'static str) -> Result<OwnedSemaphorePermit, StoreError> {
        let room = Arc::clone(&self.room);
        room.acquire_owned().await.map_err(|_| closed(step))
    }
}
