//! Reads what a guest writes: a bounded part of it is kept, all of it is read.

use executor_application::{Listener, OutputStream};
use executor_domain::CapturedOutput;
use tokio::io::{AsyncRead, AsyncReadExt};

/// How much is read at once: what a pipe holds by default on Linux.
const CHUNK: usize = 64 << 10;

/// Who hears what is kept of a stream.
pub(crate) struct Hearer<'a> {
    pub listener: &'a Listener,
    pub stream: OutputStream,
}

/// Reads a stream to its end and keeps the first `cap` bytes, which are passed on as they come. Past the cap it goes on
/// reading and counts, so that a guest never blocks on a full pipe. Cancel safe: what was read so far is in `kept`.
pub(crate) async fn capture(
    mut stream: impl AsyncRead + Unpin,
    cap: usize,
    kept: &mut CapturedOutput,
    hearer: Hearer<'_>,
) {
    let mut surplus = Vec::new();
    loop {
        let room = cap - kept.bytes.len();
        let read = if room > 0 {
            if kept.bytes.capacity() == kept.bytes.len() {
                // Grows with what is there, so that a silent guest costs nothing and a loud one few copies.
                let grow = kept.bytes.len().clamp(4096, CHUNK.max(cap / 4));
                kept.bytes.reserve(grow.min(room));
            }
            let limit = room as u64;
            (&mut stream).take(limit).read_buf(&mut kept.bytes).await
        } else {
            surplus.clear();
            surplus.reserve(CHUNK);
            stream.read_buf(&mut surplus).await
        };
        match read {
            // An error on a pipe of ours means that there is nothing more to read, whatever it says.
            Ok(0) | Err(_) => {
                // It is kept for a day. What was reserved and not needed is not.
                kept.bytes.shrink_to_fit();
                return;
            }
            Ok(read) if room == 0 => {
                if !kept.is_truncated() {
                    hearer.listener.truncated(hearer.stream);
                }
                kept.truncated_bytes += read as u64;
            }
            Ok(read) => {
                let new = &kept.bytes[kept.bytes.len() - read..];
                hearer.listener.wrote(hearer.stream, new);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use executor_application::OutputListener;
    use tokio::io::AsyncWriteExt;

    use super::*;

    const NOBODY: Hearer<'_> = Hearer {
        listener: &Listener::none(),
        stream: OutputStream::Stdout,
    };

    async fn captured(input: &[u8], cap: usize) -> CapturedOutput {
        let mut kept = CapturedOutput::default();
        capture(input, cap, &mut kept, NOBODY).await;
        kept
    }

    #[tokio::test]
    async fn stands_at_the_cap_and_cuts_one_byte_above() {
        for cap in [1, 4095, 4096, 4097, 100_000, 1_000_000] {
            let input = vec![b'x'; cap + 1];
            let at = captured(&input[..cap], cap).await;
            assert_eq!((at.bytes.len(), at.truncated_bytes), (cap, 0), "cap {cap}");
            let above = captured(&input, cap).await;
            assert_eq!(
                (above.bytes.len(), above.truncated_bytes),
                (cap, 1),
                "cap {cap}"
            );
        }
    }

    #[tokio::test]
    async fn never_takes_much_more_memory_than_it_keeps() {
        let kept = captured(&vec![b'x'; 10 << 20], 1 << 20).await;
        assert!(
            kept.bytes.capacity() <= 2 << 20,
            "{}",
            kept.bytes.capacity()
        );
    }

    #[tokio::test]
    async fn goes_on_reading_past_the_cap() {
        let (mut guest, ours) = tokio::io::duplex(64);
        let mut kept = CapturedOutput::default();
        let write = async move {
            guest.write_all(&vec![b'x'; 100_000]).await.unwrap();
        };
        tokio::join!(write, capture(ours, 10, &mut kept, NOBODY));
        assert_eq!((kept.bytes.len(), kept.truncated_bytes), (10, 99_990));
    }

    #[tokio::test]
    async fn what_is_kept_is_heard_at_once_and_that_it_was_cut_once() {
        #[derive(Default)]
        struct Ear(Mutex<Vec<u8>>);
        impl OutputListener for Ear {
            fn wrote(&self, stream: OutputStream, bytes: &[u8]) {
                assert_eq!(stream, OutputStream::Stderr);
                self.0.lock().unwrap().extend_from_slice(bytes);
            }

            fn truncated(&self, stream: OutputStream) {
                assert_eq!(stream, OutputStream::Stderr);
                self.0.lock().unwrap().extend_from_slice(b"|cut");
            }
        }
        let ear = Arc::new(Ear::default());
        let listener = Listener::new(Arc::clone(&ear) as _);
        let (mut guest, ours) = tokio::io::duplex(64);
        let mut kept = CapturedOutput::default();
        let hearer = Hearer {
            listener: &listener,
            stream: OutputStream::Stderr,
        };
        let write = async move {
            guest.write_all(b"first").await.unwrap();
            while ear.0.lock().unwrap().is_empty() {
                tokio::task::yield_now().await;
            }
            guest.write_all(b"second").await.unwrap();
            while !ear.0.lock().unwrap().ends_with(b"|cut") {
                tokio::task::yield_now().await;
            }
            guest.write_all(b"third").await.unwrap();
            drop(guest);
            ear
        };
        let (ear, ()) = tokio::join!(write, capture(ours, 8, &mut kept, hearer));
        assert_eq!(*ear.0.lock().unwrap(), b"firstsec|cut");
        assert_eq!(kept.bytes, b"firstsec");
    }
}
