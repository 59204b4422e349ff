//! A control plane that answers as a test wants it to, and changes its manners when told.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinHandle,
    time::sleep,
};

use super::support::{eventually, tls};

/// How it treats whoever connects.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Manners {
    /// Takes every report.
    Good,
    /// Answers with this status, and perhaps more lines of a head.
    Status(u16, String),
    /// Answers with this text, whatever it is, and hangs up.
    Says(&'static str),
    /// Takes the connection, reads and never answers.
    Hangs,
    /// Hangs up at once.
    Leaves,
    /// Answers well after a while.
    Slow(Duration),
    /// Answers well, with a body that has no end.
    Endless,
}

/// A request that it has read whole.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) path: String,
    /// In lower case.
    pub(crate) head: String,
    pub(crate) body: Value,
}

impl Request {
    /// The second of the day that its timestamp says.
    pub(crate) fn second_of_day(&self) -> f64 {
        let time = self.body["timestamp"].as_str().unwrap();
        let (_, clock) = time.trim_end_matches('Z').split_once('T').unwrap();
        clock
            .split(':')
            .fold(0.0, |sum, part| sum * 60.0 + part.parse::<f64>().unwrap())
    }
}

#[derive(Clone)]
pub(crate) struct Plane {
    manners: Arc<Mutex<Manners>>,
    /// Those that were answered well.
    taken: Arc<Mutex<Vec<Request>>>,
    /// All that were read whole.
    read: Arc<Mutex<Vec<Request>>>,
}

/// A plane that listens. Nobody listens any more once it is dropped.
pub(crate) struct Listening {
    pub(crate) plane: Plane,
    pub(crate) address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Plane {
    pub(crate) fn new(manners: Manners) -> Self {
        Self {
            manners: Arc::new(Mutex::new(manners)),
            taken: Arc::default(),
            read: Arc::default(),
        }
    }

    pub(crate) async fn listen(&self) -> Listening {
        self.listen_at("127.0.0.1:0".parse().unwrap()).await
    }

    pub(crate) async fn listen_at(&self, address: SocketAddr) -> Listening {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let plane = self.clone();
        let accepting = tokio::spawn(async move {
            // Connections end with the listener.
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(plane.clone().converse(stream));
            }
        });
        Listening {
            plane: self.clone(),
            address,
            accepting,
        }
    }

    /// The same over TLS, as `localhost`, with the certificate of the fixtures.
    pub(crate) async fn listen_with_tls(&self) -> Listening {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = tls::acceptor();
        let plane = self.clone();
        let accepting = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (plane, acceptor) = (plane.clone(), acceptor.clone());
                connections.spawn(async move {
                    // Whoever does not trust us hangs up.
                    if let Ok(stream) = acceptor.accept(stream).await {
                        plane.converse(stream).await;
                    }
                });
            }
        });
        Listening {
            plane: self.clone(),
            address,
            accepting,
        }
    }

    pub(crate) fn becomes(&self, manners: Manners) {
        *self.manners.lock().unwrap() = manners;
    }

    /// Those reports that were answered well and whose path ends like this.
    pub(crate) fn taken(&self, end: &str) -> Vec<Request> {
        ending(&self.taken, end)
    }

    /// Those reports that were read whole, however they were answered, and whose path ends like this.
    pub(crate) fn read(&self, end: &str) -> Vec<Request> {
        ending(&self.read, end)
    }

    /// Waits until so many reports whose path ends like this were taken.
    pub(crate) async fn takes(&self, end: &str, count: usize) -> Vec<Request> {
        eventually("reports arrive", || self.taken(end).len() >= count).await;
        self.taken(end)
    }

    async fn converse(self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        let manners = || self.manners.lock().unwrap().clone();
        if manners() == Manners::Leaves {
            return;
        }
        while let Some(request) = read_request(&mut stream).await {
            self.read.lock().unwrap().push(request.clone());
            let well = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
            match manners() {
                Manners::Good => {}
                Manners::Slow(pause) => sleep(pause).await,
                Manners::Status(status, head) => {
                    let said = format!("HTTP/1.1 {status} X\r\n{head}Content-Length: 0\r\n\r\n");
                    let _ = stream.write_all(said.as_bytes()).await;
                    continue;
                }
                Manners::Says(said) => {
                    let _ = stream.write_all(said.as_bytes()).await;
                    return;
                }
                Manners::Hangs => std::future::pending().await,
                Manners::Leaves => return,
                Manners::Endless => {
                    self.taken.lock().unwrap().push(request);
                    let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
                    let _ = stream.write_all(head).await;
                    while stream.write_all(b"1\r\nx\r\n").await.is_ok() {}
                    return;
                }
            }
            self.taken.lock().unwrap().push(request);
            if stream.write_all(well.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

impl Listening {
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

fn ending(requests: &Mutex<Vec<Request>>, end: &str) -> Vec<Request> {
    let requests = requests.lock().unwrap();
    let wanted = requests
        .iter()
        .filter(|request| request.path.ends_with(end));
    wanted.cloned().collect()
}

/// Reads one request; `None` at the end of the connection.
async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Option<Request> {
    let mut bytes = Vec::new();
    let (head, mut body) = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let body = bytes.split_off(end + 4);
            break (String::from_utf8(bytes).unwrap(), body);
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let path = head.split(' ').nth(1)?.to_owned();
    let head = head.to_lowercase();
    let length: usize = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))?
        .parse()
        .ok()?;
    while body.len() < length {
        if stream.read_buf(&mut body).await.ok()? == 0 {
            return None;
        }
    }
    Some(Request {
        path,
        head,
        body: serde_json::from_slice(&body).unwrap(),
    })
}
