//! A connection whose peer cannot hold it for ever.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// Bytes of leftover request that are thrown away at a time.
const SCRATCH_BYTES: usize = 8 << 10;

/// Bytes that a peer has to take of an answer within the write timeout.
const PROGRESS_BYTES: usize = 1 << 20;

/// A connection that bounds what its peer can cost:
///
/// - a peer that does not take its answer in time is dropped. The time runs from the first write that has to wait until
///   everything is flushed, and begins anew with every [`PROGRESS_BYTES`]: a large file may take its time, as long as it
///   moves;
/// - on shutdown, what the peer still sends is thrown away for a while. Closing a socket with unread bytes resets the
///   connection, and the reset can destroy an answer that the peer has not read yet: a refusal of a body that is still
///   on its way would be lost (RFC 9112, section 9.6).
///
/// Reads are bounded by those who know what they wait for.
pub(crate) struct BoundedStream<S> {
    inner: S,
    write_timeout: Duration,
    linger: Duration,
    /// Since a write has to wait.
    writing: Option<Pin<Box<Sleep>>>,
    /// Bytes that were taken since then.
    taken: usize,
    /// Since our side is shut down.
    lingering: Option<Pin<Box<Sleep>>>,
}

impl<S> BoundedStream<S> {
    pub(crate) fn new(inner: S, write_timeout: Duration, linger: Duration) -> Self {
        Self {
            inner,
            write_timeout,
            linger,
            writing: None,
            taken: 0,
            lingering: None,
        }
    }

    /// Counts what a write came to.
    fn note(&mut self, wrote: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(bytes)) = wrote
            && self.writing.is_some()
        {
            self.taken += bytes;
            if self.taken >= PROGRESS_BYTES {
                self.forget();
            }
        }
    }

    /// The peer has its time again.
    fn forget(&mut self) {
        self.writing = None;
        self.taken = 0;
    }

    /// Passes on what a write came to, unless it has to wait for too long already.
    fn within_time<T>(
        &mut self,
        cx: &mut Context<'_>,
        wrote: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if wrote.is_pending() {
            let timeout = self.write_timeout;
            let timer = self.writing.get_or_insert_with(|| Box::pin(sleep(timeout)));
            ready!(timer.as_mut().poll(cx));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        wrote
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for BoundedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for BoundedStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.note(&wrote);
        self.within_time(cx, wrote)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.note(&wrote);
        self.within_time(cx, wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        if flushed.is_ready() {
            self.forget();
        }
        self.within_time(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let lingering = if let Some(timer) = &mut this.lingering {
            timer
        } else {
            ready!(Pin::new(&mut this.inner).poll_shutdown(cx))?;
            this.lingering.insert(Box::pin(sleep(this.linger)))
        };
        if lingering.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        let mut scratch = [0; SCRATCH_BYTES];
        loop {
            let mut buf = ReadBuf::new(&mut scratch);
            let read = ready!(Pin::new(&mut this.inner).poll_read(cx, &mut buf));
            if read.is_err() || buf.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
        time::{Instant, timeout},
    };

    use super::*;

    const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
    const LINGER: Duration = Duration::from_secs(2);

    /// What hangs fails: on paused time, this one passes as soon as nothing else can happen.
    async fn in_time<T>(future: impl Future<Output = T>) -> T {
        timeout(WRITE_TIMEOUT * 10, future).await.unwrap()
    }

    fn pair(buffer: usize) -> (BoundedStream<DuplexStream>, DuplexStream) {
        let (ours, theirs) = duplex(buffer);
        (BoundedStream::new(ours, WRITE_TIMEOUT, LINGER), theirs)
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_does_not_read_is_dropped() {
        let (mut ours, _theirs) = pair(4);
        let started = Instant::now();
        let error = in_time(ours.write_all(b"12345")).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(started.elapsed(), WRITE_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_reads_a_byte_now_and_then_is_dropped_too() {
        let (mut ours, mut theirs) = pair(1);
        let trickle = async {
            loop {
                sleep(WRITE_TIMEOUT / 4).await;
                theirs.read_u8().await.unwrap();
            }
        };
        let error = tokio::select! {
            wrote = in_time(ours.write_all(&[0; 100])) => wrote.unwrap_err(),
            () = trickle => unreachable!(),
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_answer_may_take_its_time_as_long_as_it_moves() {
        const ANSWER: usize = 4 * PROGRESS_BYTES;
        let (mut ours, mut theirs) = pair(PROGRESS_BYTES / 4);
        let started = Instant::now();
        let slow_reader = async {
            let mut taken = vec![0; PROGRESS_BYTES / 2];
            for _ in 0..ANSWER / taken.len() {
                sleep(WRITE_TIMEOUT / 3).await;
                theirs.read_exact(&mut taken).await.unwrap();
            }
        };
        let answer = async { ours.write_all(&vec![0; ANSWER]).await.unwrap() };
        in_time(async { tokio::join!(slow_reader, answer) }).await;
        assert!(started.elapsed() > 2 * WRITE_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn every_answer_has_its_own_time() {
        let (mut ours, mut theirs) = pair(1);
        for _ in 0..10 {
            let slow_reader = async {
                sleep(WRITE_TIMEOUT / 2).await;
                theirs.read_exact(&mut [0; 2]).await.unwrap();
            };
            let answer = async {
                ours.write_all(b"12").await.unwrap();
                ours.flush().await.unwrap();
            };
            tokio::join!(slow_reader, answer);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn shutdown_takes_what_is_still_coming_until_the_peer_is_done() {
        let (mut ours, mut theirs) = pair(4);
        let started = Instant::now();
        let peer = async {
            theirs.write_all(&vec![0; 100_000]).await.unwrap();
            let mut rest = Vec::new();
            theirs.read_to_end(&mut rest).await.unwrap();
            drop(theirs);
        };
        let (closed, ()) = in_time(async { tokio::join!(ours.shutdown(), peer) }).await;
        closed.unwrap();
        assert_eq!(started.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn shutdown_does_not_wait_for_ever() {
        let (mut ours, mut theirs) = pair(4);
        let started = Instant::now();
        let endless = async {
            while theirs.write_all(b"x").await.is_ok() {
                sleep(LINGER / 10).await;
            }
        };
        tokio::select! {
            closed = ours.shutdown() => closed.unwrap(),
            () = endless => unreachable!(),
        }
        assert!(started.elapsed() <= LINGER + LINGER / 10);
    }
}
