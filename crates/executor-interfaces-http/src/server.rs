//! Carries the routes over TCP, and bounds what clients can cost: connections, bytes of head, and time.

use std::{io, pin::pin, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::{JoinError, JoinSet},
    time::{sleep, timeout},
};

use crate::stream::BoundedStream;

/// How long to wait when the system has no descriptor or memory for another connection: long enough not to spin, short
/// enough not to be noticed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What clients can cost at most.
#[derive(Debug, Clone, Copy)]
pub struct ServerOptions {
    /// Connections open at the same time. Further ones wait in the kernel's queue. Each takes a descriptor, and every
    /// execution that is waited for takes a connection.
    pub max_connections: usize,
    /// Longest head of a request, in bytes; a longer one is answered with 431, without a body.
    pub max_head_bytes: usize,
    /// How long a client may take to send the head of a request, idle time before it included.
    pub head_timeout: Duration,
    /// How long a client may take to receive an answer that does not fit into the socket's buffer.
    pub write_timeout: Duration,
    /// How long what a client still sends is thrown away after the answer that ends a connection.
    pub linger: Duration,
    /// How long answers on their way may take once the server shuts down.
    pub grace: Duration,
}

impl Default for ServerOptions {
    /// 2048 connections, which hold the default 100 running and 1000 waiting executions with room for health checks; a
    /// head of 32 KiB, sent within 30 s; a minute to receive an answer; 2 s to linger and 5 s of grace.
    fn default() -> Self {
        Self {
            max_connections: 2048,
            max_head_bytes: 32 << 10,
            head_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(60),
            linger: Duration::from_secs(2),
            grace: Duration::from_secs(5),
        }
    }
}

/// Serves a router on a listener until `shutdown` is ready, then accepts nothing more, closes idle connections, lets
/// answers on their way finish within the grace period and drops the rest. Returns when no connection is left.
///
/// Dropping the future drops every connection at once.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    options: ServerOptions,
    shutdown: impl Future<Output = ()>,
) {
    let places = Arc::new(Semaphore::new(options.max_connections));
    // Nothing is ever sent: that the sender is gone means to stop.
    let (stop, stopping) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(ended) = connections.join_next() => note(ended),
            (stream, place) = accept(&listener, &places) => {
                let router = router.clone();
                connections.spawn(converse(stream, router, options, stopping.clone(), place));
            }
        }
    }
    drop(listener);
    drop(stop);
    let all_ended = async {
        while let Some(ended) = connections.join_next().await {
            note(ended);
        }
    };
    if timeout(options.grace, all_ended).await.is_err() {
        tracing::warn!(
            connections = connections.len(),
            "dropping connections that did not end within the grace period"
        );
        connections.shutdown().await;
    }
}

/// Waits for a place, then for a connection. Cancel safe: a place that is not used is given back.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> (TcpStream, OwnedSemaphorePermit) {
    let Ok(place) = Arc::clone(places).acquire_owned().await else {
        // Nobody closes the semaphore.
        return std::future::pending().await;
    };
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, place),
            // One connection broke off before we got to it: the next one may be well.
            Err(error) if is_about_one_connection(&error) => {}
            Err(error) => {
                tracing::error!(error = executor_application::chain(&error), "cannot accept");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
    )
}

/// Answers the requests of one connection until it ends. Its place is given back on every way out.
async fn converse(
    stream: TcpStream,
    router: Router,
    options: ServerOptions,
    mut stopping: watch::Receiver<()>,
    _place: OwnedSemaphorePermit,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot switch off Nagle's algorithm");
    }
    let stream = BoundedStream::new(stream, options.write_timeout, options.linger);
    // Half-closed connections count as closed: a client that hangs up is how we learn that nobody waits any more.
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(options.head_timeout)
        .max_header_size(options.max_head_bytes)
        .half_close(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _ = stopping.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        if error.is_parse() {
            // hyper has answered by itself, without a body and without a name that the log could show: what was not
            // understood is no request yet. The error says what was wrong in hyper's words, never in the client's.
            tracing::info!(
                error = executor_application::chain(&error),
                "a request's head was refused"
            );
            return;
        }
        tracing::debug!(
            error = executor_application::chain(&error),
            "connection broke off"
        );
    }
}

/// Handlers' panics are answered; one that arrives here is ours.
fn note(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a connection's task failed");
    }
}
