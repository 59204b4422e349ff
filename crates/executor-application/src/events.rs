//! An execution as it happens, for one reader: from any place on, to its end.

use std::{pin::pin, sync::Arc};

use executor_domain::{Execution, Status};
use tokio::sync::watch;

use crate::{
    OutputStream,
    ledger::{Live, Progress},
    transcript::{Bookmark, Position, Transcript, piece},
};

/// Something that happened to an execution.
#[derive(Debug, Clone, PartialEq)]
pub enum ExecutionEvent {
    /// It has come this far in its life: pending, then running, where its guest was ever started. Before any output, and
    /// none is left out, however short it was; the end is another event.
    Status(Status),
    /// Its guest has written this: at most some KiB, not necessarily whole characters.
    Output {
        /// Where to.
        stream: OutputStream,
        /// What.
        bytes: Vec<u8>,
    },
    /// The guest has written more to this stream than is kept: nothing more of it comes, though the run may go on.
    Truncated {
        /// Which one.
        stream: OutputStream,
    },
    /// It has ended. The last event, and always the last.
    Ended(Execution),
}

/// Reads the events of one execution. A reader that falls behind neither slows the guest down nor takes memory: what it
/// has not read waits in the execution's own buffer, bounded by the output cap.
pub struct Events {
    /// A run that was under way when reading began.
    followed: Option<Followed>,
    /// The execution as it was last seen.
    seen: Execution,
    /// The last stage of its life that the reader was told.
    told: Option<Status>,
    bookmark: Bookmark,
    over: bool,
}

struct Followed {
    progress: watch::Receiver<Progress>,
    transcript: Arc<Transcript>,
}

impl Events {
    /// Reads a run that is under way.
    pub(crate) fn of_live(live: Live, from: Position) -> Self {
        let seen = live.progress.borrow().execution.clone();
        let followed = Followed {
            progress: live.progress,
            transcript: live.transcript,
        };
        Self {
            followed: Some(followed),
            ..Self::of_ended(seen, from)
        }
    }

    /// Reads an execution that has ended.
    pub(crate) fn of_ended(seen: Execution, from: Position) -> Self {
        // Who has read output was told before that it ran.
        let told = (from != Position::default()).then_some(Status::Running);
        Self {
            followed: None,
            seen,
            told,
            bookmark: Bookmark::at(from),
            over: false,
        }
    }

    /// How far this reader has come: whoever begins to read from here misses nothing and gets nothing twice.
    pub const fn position(&self) -> Position {
        self.bookmark.position
    }

    /// The execution as this reader last saw it.
    pub const fn execution(&self) -> &Execution {
        &self.seen
    }

    /// Waits for the next event; `None` after the last one. Cancel safe.
    pub async fn next(&mut self) -> Option<ExecutionEvent> {
        if self.over {
            return None;
        }
        if let Some(followed) = &mut self.followed {
            loop {
                // Both are armed before we look, so that nothing happens unseen in between.
                let mut grown = pin!(followed.transcript.grown());
                grown.as_mut().enable();
                let (is_over, execution) = {
                    let progress = followed.progress.borrow_and_update();
                    (progress.is_over(), progress.execution.clone())
                };
                self.seen = execution;
                if let Some(stage) = untold(self.told, &self.seen) {
                    self.told = Some(stage);
                    return Some(ExecutionEvent::Status(stage));
                }
                if let Some(event) = followed.transcript.read(&mut self.bookmark) {
                    return Some(event);
                }
                if is_over {
                    break;
                }
                tokio::select! {
                    () = grown => {}
                    // Whoever sends says that it is over before it goes.
                    Ok(()) = followed.progress.changed() => {}
                }
            }
        }
        if let Some(stage) = untold(self.told, &self.seen) {
            self.told = Some(stage);
            return Some(ExecutionEvent::Status(stage));
        }
        if let Some(event) = self.rest() {
            return Some(event);
        }
        self.over = true;
        Some(ExecutionEvent::Ended(self.seen.clone()))
    }

    /// What the result holds beyond the bookmark.
    fn rest(&mut self) -> Option<ExecutionEvent> {
        let outcome = self.seen.outcome()?;
        let position = &mut self.bookmark.position;
        [
            (OutputStream::Stdout, &outcome.stdout),
            (OutputStream::Stderr, &outcome.stderr),
        ]
        .into_iter()
        .find_map(|(stream, output)| {
            let from = position.of(stream);
            let piece = piece(&output.bytes, output.is_truncated(), from, u64::MAX)?;
            position.advance(stream, piece.length());
            Some(piece.into_event(stream))
        })
    }
}

/// The stage of this execution's life that comes next for one who was told this one.
fn untold(told: Option<Status>, execution: &Execution) -> Option<Status> {
    match told {
        None => Some(Status::Pending),
        Some(Status::Pending) if execution.has_started() => Some(Status::Running),
        Some(_) => None,
    }
}
