//! `health`: asks the daemon of this host what `GET /health` says. Containers have no HTTP client for that.

use std::{
    error::Error,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use http::{Request, StatusCode, header::HOST};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

use crate::{config::Config, exit::Exit, terminal};

/// How long the daemon may take. It starts a sandbox before it answers, and gives that ten seconds itself.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest answer that is read, in bytes. A daemon's has a few hundred; something else may listen on its port.
const MAX_ANSWER_BYTES: usize = 64 << 10;

type Failure = Box<dyn Error + Send + Sync>;

/// Prints the daemon's answer, and ends with 0 where it can run code.
pub(crate) async fn health(config: &Config) -> Exit {
    let address = reachable(config.listen);
    if address.port() == 0 {
        terminal::err("error: EXECUTOR_PORT is 0: nobody but the daemon knows its port");
        return Exit::Usage;
    }
    match timeout(PATIENCE, ask(address)).await {
        Ok(Ok((status, answer))) => {
            terminal::out(answer.trim_end());
            if status == StatusCode::OK {
                Exit::Success
            } else {
                Exit::Unfit
            }
        }
        Ok(Err(error)) => {
            terminal::err(format_args!(
                "error: no answer from http://{address}/health: {}",
                terminal::chain(&*error)
            ));
            Exit::Unfit
        }
        Err(_) => {
            terminal::err(format_args!(
                "error: no answer from http://{address}/health within {PATIENCE:?}"
            ));
            Exit::Unfit
        }
    }
}

/// Where a daemon that listens here can be reached: one that listens everywhere listens on loopback as well.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let address = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(address, listen.port())
}

/// One request on a connection of its own. Dropping the future closes the connection.
async fn ask(address: SocketAddr) -> Result<(StatusCode, String), Failure> {
    let stream = TcpStream::connect(address).await?;
    let (mut requests, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get("/health")
        .header(HOST, address.to_string())
        .body(Empty::<Bytes>::new())?;
    let conversation = async move {
        let answer = requests.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES);
        let bytes = body.collect().await?.to_bytes();
        Ok((status, String::from_utf8_lossy(&bytes).into_owned()))
    };
    tokio::pin!(connection);
    tokio::pin!(conversation);
    tokio::select! {
        answered = &mut conversation => answered,
        // The connection may end before its last bytes are picked up.
        ended = &mut connection => {
            ended?;
            conversation.await
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    /// Answers one connection with these bytes and closes it.
    async fn answering(answer: String) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 1024];
            let read = stream.read(&mut head).await.unwrap();
            assert!(head[..read].starts_with(b"GET /health HTTP/1.1\r\n"));
            // A client that has read enough may be gone.
            let _ = stream.write_all(answer.as_bytes()).await;
        });
        address
    }

    #[tokio::test]
    async fn status_and_body_come_back() {
        for (line, status) in [("200 OK", 200), ("503 Service Unavailable", 503)] {
            let answer = format!("HTTP/1.1 {line}\r\nContent-Length: 2\r\n\r\n{{}}");
            let (found, body) = ask(answering(answer).await).await.unwrap();
            assert_eq!((found.as_u16(), body.as_str()), (status, "{}"));
        }
    }

    #[tokio::test]
    async fn whatever_else_listens_there_is_a_failure() {
        let endless = "x".repeat(MAX_ANSWER_BYTES + 1);
        for answer in [
            String::new(),
            "SSH-2.0-x\r\n".to_owned(),
            "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{}".to_owned(),
            format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{endless}"),
        ] {
            assert!(ask(answering(answer).await).await.is_err());
        }
    }

    #[test]
    fn a_daemon_that_listens_everywhere_is_asked_on_loopback() {
        for (listen, asked) in [
            ("0.0.0.0:8080", "127.0.0.1:8080"),
            ("[::]:8080", "[::1]:8080"),
            ("10.1.2.3:80", "10.1.2.3:80"),
            ("127.0.0.1:1", "127.0.0.1:1"),
        ] {
            assert_eq!(reachable(listen.parse().unwrap()), asked.parse().unwrap());
        }
    }
}
