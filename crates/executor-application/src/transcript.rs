//! What a guest has written so far, for whoever wants to read along.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, futures::Notified};

use crate::{OutputListener, OutputStream};

/// How far a reader has come in each of the streams, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Position {
    /// Bytes of standard output.
    pub stdout: u64,
    /// Bytes of standard error.
    pub stderr: u64,
}

impl Position {
    /// How far in this stream.
    pub const fn of(self, stream: OutputStream) -> u64 {
        match stream {
            OutputStream::Stdout => self.stdout,
            OutputStream::Stderr => self.stderr,
        }
    }

    pub(crate) fn advance(&mut self, stream: OutputStream, bytes: usize) {
        let place = match stream {
            OutputStream::Stdout => &mut self.stdout,
            OutputStream::Stderr => &mut self.stderr,
        };
        *place = place.saturating_add(bytes as u64);
    }
}

/// Most that is read at once: a reader that is far behind holds no more than this in its hands.
const MAX_READ: usize = 16 << 10;

/// How often the order between the streams is remembered; each takes 16 bytes. A guest that goes to and fro more often is
/// read in the right order up to here, and stdout first from then on.
const MAX_TURNS: usize = 16 << 10;

/// Everything that a guest has written so far, up to the cap of its run. Writing never waits for a reader, and readers
/// that fall behind cost nothing: all of them read from here.
#[derive(Debug)]
pub(crate) struct Transcript {
    written: Mutex<Written>,
    grown: Notify,
    /// Most bytes of each stream.
    cap: usize,
}

#[derive(Debug, Default)]
struct Written {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    /// Which stream was written to, and how far, in order.
    turns: Vec<(OutputStream, u64)>,
}

/// A reader's place in a transcript.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Bookmark {
    pub(crate) position: Position,
    /// Turns that were read in whole.
    turns: usize,
}

impl Bookmark {
    pub(crate) const fn at(position: Position) -> Self {
        Self { position, turns: 0 }
    }
}

impl Written {
    const fn stream(&self, stream: OutputStream) -> &Vec<u8> {
        match stream {
            OutputStream::Stdout => &self.stdout,
            OutputStream::Stderr => &self.stderr,
        }
    }

    /// What comes next: in which stream, and up to where.
    fn next(&self, bookmark: &mut Bookmark) -> Option<(OutputStream, u64)> {
        while let Some((stream, end)) = self.turns.get(bookmark.turns) {
            if *end > bookmark.position.of(*stream) {
                return Some((*stream, *end));
            }
            // The last one may still grow.
            if bookmark.turns + 1 == self.turns.len() {
                break;
            }
            bookmark.turns += 1;
        }
        [OutputStream::Stdout, OutputStream::Stderr]
            .into_iter()
            .map(|stream| (stream, self.stream(stream).len() as u64))
            .find(|(stream, end)| *end > bookmark.position.of(*stream))
    }
}

impl Transcript {
    pub(crate) fn new(cap: usize) -> Self {
        Self {
            written: Mutex::default(),
            grown: Notify::new(),
            cap,
        }
    }

    /// Reads on from a bookmark, which moves; `None` where there is nothing more yet.
    pub(crate) fn read(&self, bookmark: &mut Bookmark) -> Option<(OutputStream, Vec<u8>)> {
        let written = self.written();
        let (stream, end) = written.next(bookmark)?;
        let piece = piece(written.stream(stream), bookmark.position.of(stream), end)?.to_vec();
        drop(written);
        bookmark.position.advance(stream, piece.len());
        Some((stream, piece))
    }

    /// Is ready once more is written. Enable it before looking whether there is something to read.
    pub(crate) fn grown(&self) -> Notified<'_> {
        self.grown.notified()
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        // Nothing in here panics half-way through a change.
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// At most [`MAX_READ`] bytes of a stream between two places; `None` where there are none.
pub(crate) fn piece(bytes: &[u8], from: u64, to: u64) -> Option<&[u8]> {
    let from = usize::try_from(from).ok()?;
    let to = usize::try_from(to)
        .unwrap_or(usize::MAX)
        .min(bytes.len())
        .min(from.saturating_add(MAX_READ));
    bytes.get(from..to).filter(|piece| !piece.is_empty())
}

impl OutputListener for Transcript {
    fn wrote(&self, stream: OutputStream, bytes: &[u8]) {
        {
            let mut guard = self.written();
            let written = &mut *guard;
            let kept = match stream {
                OutputStream::Stdout => &mut written.stdout,
                OutputStream::Stderr => &mut written.stderr,
            };
            let room = self.cap.saturating_sub(kept.len());
            kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
            let end = kept.len() as u64;
            let turns = &mut written.turns;
            if let Some((_, reached)) = turns.last_mut().filter(|(last, _)| *last == stream) {
                *reached = end;
            } else if turns.len() < MAX_TURNS {
                turns.push((stream, end));
            }
        }
        self.grown.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::OutputStream::{Stderr, Stdout};
    use super::*;

    fn read_all(transcript: &Transcript, bookmark: &mut Bookmark) -> Vec<(OutputStream, String)> {
        std::iter::from_fn(|| transcript.read(bookmark))
            .map(|(stream, bytes)| (stream, String::from_utf8(bytes).unwrap()))
            .collect()
    }

    #[test]
    fn is_read_in_the_order_in_which_it_was_written() {
        let transcript = Transcript::new(100);
        for (stream, text) in [(Stdout, "a"), (Stdout, "b"), (Stderr, "x"), (Stdout, "c")] {
            transcript.wrote(stream, text.as_bytes());
        }
        let mut bookmark = Bookmark::default();
        let read = read_all(&transcript, &mut bookmark);
        let expected = [(Stdout, "ab"), (Stderr, "x"), (Stdout, "c")];
        assert_eq!(read, expected.map(|(stream, text)| (stream, text.into())));
        assert_eq!(
            bookmark.position,
            Position {
                stdout: 3,
                stderr: 1
            }
        );

        // One who has read everything reads what comes later.
        transcript.wrote(Stdout, b"d");
        transcript.wrote(Stderr, b"y");
        let read = read_all(&transcript, &mut bookmark);
        assert_eq!(read, [(Stdout, "d".into()), (Stderr, "y".into())]);
    }

    #[test]
    fn reading_begins_anywhere() {
        let transcript = Transcript::new(100);
        transcript.wrote(Stdout, b"abc");
        transcript.wrote(Stderr, b"xyz");
        let mut later = Bookmark::at(Position {
            stdout: 1,
            stderr: 3,
        });
        assert_eq!(read_all(&transcript, &mut later), [(Stdout, "bc".into())]);
        let mut beyond = Bookmark::at(Position {
            stdout: 7,
            stderr: 8,
        });
        assert_eq!(read_all(&transcript, &mut beyond), []);
    }

    #[test]
    fn keeps_no_more_than_the_cap_of_each_stream() {
        let transcript = Transcript::new(3);
        transcript.wrote(Stdout, b"ab");
        transcript.wrote(Stdout, b"cd");
        transcript.wrote(Stderr, b"wxyz");
        let read = read_all(&transcript, &mut Bookmark::default());
        assert_eq!(read, [(Stdout, "abc".into()), (Stderr, "wxy".into())]);
    }

    #[test]
    fn nothing_is_lost_where_the_order_is_too_long_to_remember() {
        let transcript = Transcript::new(1 << 20);
        let mut bookmark = Bookmark::default();
        let mut read = [0, 0];
        for _ in 0..MAX_TURNS {
            transcript.wrote(Stdout, b"o");
            transcript.wrote(Stderr, b"e");
        }
        while let Some((stream, bytes)) = transcript.read(&mut bookmark) {
            read[usize::from(stream == Stderr)] += bytes.len();
        }
        assert_eq!(read, [MAX_TURNS, MAX_TURNS]);
        assert!(transcript.written().turns.capacity() <= 2 * MAX_TURNS);
    }

    #[tokio::test]
    async fn whoever_waits_is_woken() {
        let transcript = Transcript::new(10);
        let grown = transcript.grown();
        tokio::pin!(grown);
        grown.as_mut().enable();
        transcript.wrote(Stdout, b"a");
        grown.await;
    }
}
