//! What a guest has written so far, for whoever wants to read along.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, futures::Notified};

use crate::{ExecutionEvent, OutputListener, OutputStream};

/// How far a reader has come in each of the streams, in bytes. That a stream was cut counts as one more byte at its end:
/// so whoever has been told is not told again.
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
    stdout: Kept,
    stderr: Kept,
    /// Which stream was written to, and how far, in order.
    turns: Vec<(OutputStream, u64)>,
}

/// What is kept of one stream.
#[derive(Debug, Default)]
struct Kept {
    bytes: Vec<u8>,
    is_truncated: bool,
}

impl Kept {
    /// The position of one who has read all of it.
    fn end(&self) -> u64 {
        self.bytes.len() as u64 + u64::from(self.is_truncated)
    }
}

/// What comes next in a stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    Bytes(&'a [u8]),
    /// It was cut here.
    Truncated,
}

impl Piece<'_> {
    /// How far it takes a reader.
    pub(crate) const fn length(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Truncated => 1,
        }
    }

    pub(crate) fn into_event(self, stream: OutputStream) -> ExecutionEvent {
        match self {
            Self::Bytes(bytes) => ExecutionEvent::Output {
                stream,
                bytes: bytes.to_vec(),
            },
            Self::Truncated => ExecutionEvent::Truncated { stream },
        }
    }
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
    const fn stream(&self, stream: OutputStream) -> &Kept {
        match stream {
            OutputStream::Stdout => &self.stdout,
            OutputStream::Stderr => &self.stderr,
        }
    }

    const fn stream_mut(&mut self, stream: OutputStream) -> &mut Kept {
        match stream {
            OutputStream::Stdout => &mut self.stdout,
            OutputStream::Stderr => &mut self.stderr,
        }
    }

    /// This stream has grown just now.
    fn turn(&mut self, stream: OutputStream) {
        let end = self.stream(stream).end();
        let turns = &mut self.turns;
        if let Some((_, reached)) = turns.last_mut().filter(|(last, _)| *last == stream) {
            *reached = end;
        } else if turns.len() < MAX_TURNS {
            turns.push((stream, end));
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
            .map(|stream| (stream, self.stream(stream).end()))
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
    pub(crate) fn read(&self, bookmark: &mut Bookmark) -> Option<ExecutionEvent> {
        let written = self.written();
        let (stream, end) = written.next(bookmark)?;
        let kept = written.stream(stream);
        let from = bookmark.position.of(stream);
        let piece = piece(&kept.bytes, kept.is_truncated, from, end)?;
        bookmark.position.advance(stream, piece.length());
        Some(piece.into_event(stream))
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

/// What comes next between two places of a stream, at most [`MAX_READ`] bytes of it; `None` where there is nothing.
pub(crate) fn piece(bytes: &[u8], is_truncated: bool, from: u64, to: u64) -> Option<Piece<'_>> {
    let from = usize::try_from(from).ok()?;
    if from == bytes.len() {
        return is_truncated.then_some(Piece::Truncated);
    }
    let to = usize::try_from(to)
        .unwrap_or(usize::MAX)
        .min(bytes.len())
        .min(from.saturating_add(MAX_READ));
    let piece = bytes.get(from..to).filter(|piece| !piece.is_empty());
    piece.map(Piece::Bytes)
}

impl OutputListener for Transcript {
    fn wrote(&self, stream: OutputStream, bytes: &[u8]) {
        {
            let mut written = self.written();
            let kept = written.stream_mut(stream);
            // Nobody writes to a stream that was cut; if somebody did, readers would be told the end twice.
            if !kept.is_truncated {
                let room = self.cap.saturating_sub(kept.bytes.len());
                kept.bytes
                    .extend_from_slice(&bytes[..bytes.len().min(room)]);
                written.turn(stream);
            }
        }
        self.grown.notify_waiters();
    }

    fn truncated(&self, stream: OutputStream) {
        {
            let mut written = self.written();
            written.stream_mut(stream).is_truncated = true;
            written.turn(stream);
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
            .map(|event| match event {
                ExecutionEvent::Output { stream, bytes } => {
                    (stream, String::from_utf8(bytes).unwrap())
                }
                ExecutionEvent::Truncated { stream } => (stream, "(cut)".into()),
                other => panic!("{other:?}"),
            })
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
    fn that_a_stream_was_cut_is_read_once_and_in_its_place() {
        let transcript = Transcript::new(3);
        transcript.wrote(Stdout, b"abc");
        transcript.wrote(Stderr, b"x");
        transcript.truncated(Stdout);
        transcript.wrote(Stderr, b"y");
        let mut bookmark = Bookmark::default();
        let expected = [
            (Stdout, "abc"),
            (Stderr, "x"),
            (Stdout, "(cut)"),
            (Stderr, "y"),
        ];
        let expected = expected.map(|(stream, text)| (stream, text.to_owned()));
        assert_eq!(read_all(&transcript, &mut bookmark), expected);
        transcript.wrote(Stdout, b"d");
        assert_eq!(read_all(&transcript, &mut bookmark), []);

        // Whoever begins before the cut is told, whoever begins behind it has been.
        for (stdout, told) in [(3, true), (4, false), (5, false)] {
            let mut later = Bookmark::at(Position { stdout, stderr: 2 });
            let read = read_all(&transcript, &mut later);
            assert_eq!(read == [(Stdout, "(cut)".into())], told, "{stdout}");
            assert_eq!(read.is_empty(), !told, "{stdout}");
        }
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
        for (stream, text) in read_all(&transcript, &mut bookmark) {
            read[usize::from(stream == Stderr)] += text.len();
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
