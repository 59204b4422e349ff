//! Over real sockets.

use std::{net::SocketAddr, time::Duration};

use executor_application::Options;
use executor_domain::{LimitCeilings, LimitPolicy};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
    time::timeout,
};

use super::*;
use crate::{ServerOptions, serve};

/// Longer than anything here takes; a test that hangs fails instead.
const AGES: Duration = Duration::from_secs(60);

/// Short enough for a test that waits for it to pass.
const SHORT: Duration = Duration::from_millis(100);

/// Bytes of output: more than any socket's buffers hold.
const LARGE_ANSWER: u64 = 24 << 20;

const LIVEZ: &str = "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n";

/// Never comes near one of its time limits.
fn patient() -> ServerOptions {
    ServerOptions {
        head_timeout: AGES,
        write_timeout: AGES,
        linger: AGES,
        // Longer than a test waits for the end.
        grace: 2 * AGES,
        ..ServerOptions::default()
    }
}

struct Server {
    api: Api,
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(api: Api, options: ServerOptions) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(serve(listener, api.router.clone(), options, async {
            let _ = stopped.await;
        }));
        Self {
            api,
            address,
            stop,
            task,
        }
    }

    async fn connect(&self) -> Client {
        Client(BufReader::new(
            TcpStream::connect(self.address).await.unwrap(),
        ))
    }

    /// Stops the server and waits for its end.
    async fn stopped(self) {
        self.stop.send(()).unwrap();
        timeout(AGES, self.task).await.unwrap().unwrap();
    }
}

/// A client that speaks HTTP as badly as a test wants it to.
struct Client(BufReader<TcpStream>);

impl Client {
    async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.unwrap();
    }

    /// The next answer: its head and its body.
    async fn answer(&mut self) -> (String, String) {
        timeout(AGES, async {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(self.0.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .map_or(0, |length| length.parse().unwrap());
            let mut body = vec![0; length];
            self.0.read_exact(&mut body).await.unwrap();
            (head, String::from_utf8(body).unwrap())
        })
        .await
        .unwrap()
    }

    /// Waits until the server closes the connection, without a word.
    async fn closed(&mut self) {
        let mut rest = Vec::new();
        timeout(AGES, self.0.read_to_end(&mut rest))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&rest), "");
    }
}

/// A request that runs a program, as bytes.
fn run(id: &str, code: &str) -> String {
    let body = program(id, code).to_string();
    format!("{}{body}", head(body.len()))
}

fn head(content_length: usize) -> String {
    format!(
        "POST /execute HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
         Content-Length: {content_length}\r\n\r\n"
    )
}

#[tokio::test]
async fn one_connection_carries_many_requests() {
    let server = Server::start(Api::default(), patient()).await;
    let mut client = server.connect().await;
    for n in 0..3 {
        client.write(run(&format!("e{n}"), "echo hi")).await;
        let (head, body) = client.answer().await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(body.contains(r#""stdout":"hi\n""#), "{body}");
    }
    // An error in a request that was read in whole does not end the connection.
    client.write(head(2) + "{}").await;
    assert!(client.answer().await.0.starts_with("HTTP/1.1 400 "));
    client.write(LIVEZ).await;
    assert!(client.answer().await.0.starts_with("HTTP/1.1 200 "));
    drop(client);
    server.stopped().await;
}

#[tokio::test]
async fn head_is_get_without_its_body() {
    let server = Server::start(Api::default(), patient()).await;
    let mut client = server.connect().await;
    for (path, status) in [("/health", 200), ("/nowhere", 404)] {
        client
            .write(format!(
                "HEAD {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            ))
            .await;
        let mut answer = String::new();
        client.0.read_to_string(&mut answer).await.unwrap();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        assert!(answer.contains("\r\ncontent-length: "), "{answer}");
        assert!(answer.ends_with("\r\n\r\n"), "{answer}");
        client = server.connect().await;
    }
}

#[tokio::test]
async fn hanging_up_ends_the_run() {
    let options = Options {
        cancel_abandoned: true,
        ..Options::default()
    };
    let server = Server::start(Api::new(options, ApiOptions::default()), patient()).await;
    let mut client = server.connect().await;
    client.write(run("e", "sleep 3600000")).await;
    let sandbox = Arc::clone(&server.api.sandbox);
    timeout(AGES, until(|| sandbox.running() == 1))
        .await
        .unwrap();
    drop(client);
    timeout(AGES, until(|| sandbox.running() == 0))
        .await
        .unwrap();
    server.stopped().await;
}

#[tokio::test]
async fn hanging_up_leaves_the_run_alone_where_so_configured() {
    let server = Server::start(Api::default(), patient()).await;
    let mut client = server.connect().await;
    client.write(run("e", "sleep 50\necho done")).await;
    let sandbox = Arc::clone(&server.api.sandbox);
    timeout(AGES, until(|| sandbox.running() == 1))
        .await
        .unwrap();
    drop(client);

    let mut again = server.connect().await;
    again.write(run("e", "sleep 50\necho done")).await;
    let (_, body) = again.answer().await;
    assert!(body.contains(r#""stdout":"done\n""#), "{body}");
    assert_eq!(sandbox.started(), 1);
}

#[tokio::test]
async fn a_slow_head_ends_the_connection() {
    let options = ServerOptions {
        head_timeout: SHORT,
        ..patient()
    };
    let server = Server::start(Api::default(), options).await;
    let mut silent = server.connect().await;
    let mut slow = server.connect().await;
    slow.write("GET /livez HTTP/1.1\r\nHost:").await;
    let mut idle = server.connect().await;
    idle.write(LIVEZ).await;
    idle.answer().await;
    for client in [&mut silent, &mut slow, &mut idle] {
        client.closed().await;
    }
}

#[tokio::test]
async fn a_slow_body_is_answered_and_ends_the_connection() {
    let options = ApiOptions {
        body_timeout: SHORT,
        ..ApiOptions::default()
    };
    let server = Server::start(Api::new(Options::default(), options), patient()).await;
    let mut client = server.connect().await;
    client.write(head(100) + "{").await;
    let (head, body) = client.answer().await;
    assert!(head.starts_with("HTTP/1.1 408 "), "{head}");
    assert!(head.contains("connection: close\r\n"), "{head}");
    assert!(body.contains("Executor.RequestTimeout"), "{body}");
    client.closed().await;
}

#[tokio::test]
async fn a_large_head_is_refused() {
    let options = ServerOptions {
        max_head_bytes: 16 << 10,
        ..patient()
    };
    let server = Server::start(Api::default(), options).await;
    for (padding, status) in [(15 << 10, 200), (16 << 10, 431), (1 << 20, 431)] {
        let mut client = server.connect().await;
        let padding = "x".repeat(padding);
        client
            .write(format!(
                "GET /livez HTTP/1.1\r\nHost: x\r\nX: {padding}\r\n\r\n"
            ))
            .await;
        let (head, _) = client.answer().await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
    }
}

/// What is not HTTP is no request: hyper answers, and the answer has neither a body nor a name.
#[tokio::test]
async fn a_malformed_head_is_refused_without_a_body() {
    let server = Server::start(Api::default(), patient()).await;
    for head in [
        "GET /livez HTTP/9.9\r\n\r\n",
        "GET /livez\x00 HTTP/1.1\r\n\r\n",
        "GET /livez HTTP/1.1\r\nno colon\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\x7c\x03\x03 TLS\r\n\r\n",
    ] {
        let mut client = server.connect().await;
        client.write(head).await;
        let (head, body) = client.answer().await;
        assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
        assert!(head.contains("connection: close\r\n"), "{head}");
        assert_eq!(body, "");
        client.closed().await;
    }
}

#[tokio::test]
async fn a_large_body_that_comes_with_its_head_is_taken() {
    let server = Server::start(Api::default(), patient()).await;
    let mut client = server.connect().await;
    let code = format!("echo hi\nexit 0\n{}", "#".repeat(1 << 19));
    client.write(run("e", &code)).await;
    assert!(client.answer().await.0.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn a_refusal_reaches_a_client_that_is_still_sending() {
    let server = Server::start(Api::default(), patient()).await;
    let mut client = server.connect().await;
    client.write(head(64 << 20)).await;
    let chunk = vec![b' '; 1 << 20];
    // More than any socket's buffers hold, so that it must be taken.
    for _ in 0..64 {
        client.write(&chunk).await;
    }
    let (head, body) = client.answer().await;
    assert!(head.starts_with("HTTP/1.1 413 "), "{head}");
    assert!(body.contains("Executor.PayloadTooLarge"), "{body}");
    client.closed().await;
}

#[tokio::test]
async fn a_client_that_asks_before_it_sends_need_not_send() {
    let server = Server::start(Api::default(), patient()).await;
    let mut client = server.connect().await;
    let asking = head(64 << 20).replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n");
    client.write(asking).await;
    assert!(client.answer().await.0.starts_with("HTTP/1.1 413 "));

    let mut client = server.connect().await;
    let body = program("e", "echo hi").to_string();
    let asking = head(body.len()).replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n");
    client.write(asking).await;
    assert!(client.answer().await.0.starts_with("HTTP/1.1 100 "));
    client.write(body).await;
    assert!(client.answer().await.0.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn a_client_that_does_not_read_is_dropped() {
    let options = ServerOptions {
        write_timeout: SHORT,
        ..patient()
    };
    let ceilings = LimitCeilings {
        max_output_bytes: LARGE_ANSWER,
        ..LimitCeilings::default()
    };
    let policy = LimitPolicy::new(ceilings).unwrap();
    let api = Api::new(
        Options {
            policy,
            ..Options::default()
        },
        ApiOptions::default(),
    );
    let server = Server::start(api, options).await;
    let mut client = server.connect().await;
    client
        .write(run("e", &format!("flood {LARGE_ANSWER}")))
        .await;
    // The answer has begun, and nobody reads on.
    assert_eq!(client.0.read_u8().await.unwrap(), b'H');
    server.stopped().await;
}

#[tokio::test]
async fn connections_are_bounded() {
    let options = ServerOptions {
        max_connections: 1,
        ..patient()
    };
    let server = Server::start(Api::default(), options).await;
    let mut first = server.connect().await;
    first.write(LIVEZ).await;
    first.answer().await;

    let mut second = server.connect().await;
    second.write(LIVEZ).await;
    assert!(timeout(SHORT, second.0.read_u8()).await.is_err());
    drop(first);
    assert!(second.answer().await.0.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn shutdown_finishes_answers_and_closes_idle_connections() {
    let server = Server::start(Api::default(), patient()).await;
    let mut idle = server.connect().await;
    idle.write(LIVEZ).await;
    idle.answer().await;
    let mut busy = server.connect().await;
    busy.write(run("e", "sleep 200\necho done")).await;
    let sandbox = Arc::clone(&server.api.sandbox);
    timeout(AGES, until(|| sandbox.running() == 1))
        .await
        .unwrap();

    let address = server.address;
    let clients = async {
        idle.closed().await;
        drop(idle);
        // Nobody new is let in while the last answer is on its way.
        assert!(TcpStream::connect(address).await.is_err());
        let (head, body) = busy.answer().await;
        assert!(head.contains("connection: close"), "{head}");
        assert!(body.contains(r#""stdout":"done\n""#), "{body}");
        drop(busy);
    };
    tokio::join!(server.stopped(), clients);
}

#[tokio::test]
async fn shutdown_does_not_wait_beyond_its_grace() {
    let options = ServerOptions {
        grace: SHORT,
        ..patient()
    };
    let server = Server::start(Api::default(), options).await;
    let mut running = server.connect().await;
    running.write(run("e", "sleep 3600000")).await;
    let mut halfway = server.connect().await;
    halfway.write(head(100) + "{").await;
    let sandbox = Arc::clone(&server.api.sandbox);
    timeout(AGES, until(|| sandbox.running() == 1))
        .await
        .unwrap();
    // Both clients stay connected all the while.
    server.stopped().await;
    running.closed().await;
}
