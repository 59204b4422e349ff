//! HTTP as bytes, for what no client library would send.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{PATIENCE, daemon::Daemon};

/// A connection.
pub(crate) struct Raw {
    stream: TcpStream,
    read: Vec<u8>,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct RawAnswer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl RawAnswer {
    /// A header's value, by its name in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

impl Raw {
    pub(crate) async fn to(daemon: &Daemon) -> Self {
        Self::connect(daemon.address()).await
    }

    pub(crate) async fn connect(address: &str) -> Self {
        Self {
            stream: TcpStream::connect(address).await.unwrap(),
            read: Vec::new(),
        }
    }

    /// Sends as much as the daemon takes: it may have closed the connection already.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        let _ = timeout(PATIENCE, self.stream.write_all(bytes))
            .await
            .unwrap();
    }

    /// The next answer, or as much of it as came; `None`: the connection ended before one.
    pub(crate) async fn answer(&mut self) -> Option<RawAnswer> {
        let end = loop {
            match self.read.windows(4).position(|part| part == b"\r\n\r\n") {
                Some(end) => break end + 4,
                None if self.more().await => {}
                None => return None,
            }
        };
        let head = String::from_utf8(self.read.drain(..end).collect()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut answer = RawAnswer {
            status,
            head,
            body: Vec::new(),
        };
        let length = answer.header("content-length");
        let length = length.map_or(0, |length| length.parse().unwrap());
        while self.read.len() < length && self.more().await {}
        answer.body = self.read.drain(..length.min(self.read.len())).collect();
        Some(answer)
    }

    /// Reads some more. `false`: there is no more.
    pub(crate) async fn more(&mut self) -> bool {
        let read = timeout(PATIENCE, self.stream.read_buf(&mut self.read));
        matches!(read.await.unwrap(), Ok(1..))
    }

    /// Ends the connection as a process does that is killed with bytes unread: by a reset.
    pub(crate) fn reset(self) {
        let stream = self.stream.into_std().unwrap();
        nix::sys::socket::setsockopt(
            &stream,
            nix::sys::socket::sockopt::Linger,
            &nix::libc::linger {
                l_onoff: 1,
                l_linger: 0,
            },
        )
        .unwrap();
    }
}
