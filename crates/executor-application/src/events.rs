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
    /// It is here in its life; never the end.
    Status(Status),
    /// Its guest has written this: at most some KiB, not necessarily whole characters.
    Output {
        /// Where to.
        stream: OutputStream,
        /// What.
        bytes: Vec<u8>,
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
    said: Option<Status>,
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
    pub(crate) const fn of_ended(seen: Execution, from: Position) -> Self {
        Self {
            followed: None,
            seen,
            said: None,
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
                let status = execution.status();
                self.seen = execution;
                if !is_over && self.said != Some(status) {
                    self.said = Some(status);
                    return Some(ExecutionEvent::Status(status));
                }
                if let Some((stream, bytes)) = followed.transcript.read(&mut self.bookmark) {
                    return Some(ExecutionEvent::Output { stream, bytes });
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
        if let Some((stream, bytes)) = self.rest() {
            self.bookmark.position.advance(stream, bytes.len());
            return Some(ExecutionEvent::Output { stream, bytes });
        }
        self.over = true;
        Some(ExecutionEvent::Ended(self.seen.clone()))
    }

    /// What the result holds beyond the bookmark.
    fn rest(&self) -> Option<(OutputStream, Vec<u8>)> {
        let outcome = self.seen.outcome()?;
        [
            (OutputStream::Stdout, &outcome.stdout.bytes),
            (OutputStream::Stderr, &outcome.stderr.bytes),
        ]
        .into_iter()
        .find_map(|(stream, bytes)| {
            let piece = piece(bytes, self.bookmark.position.of(stream), u64::MAX)?;
            Some((stream, piece.to_vec()))
        })
    }
}
