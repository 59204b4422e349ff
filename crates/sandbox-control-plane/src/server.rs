//! Carries the routes over TCP, with bounds on connections and on the time that each may take.

use std::{pin::pin, sync::Arc, time::Duration};

use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use crate::ControlPlane;

/// Connections at the same time; further ones wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 512;

/// Longest head of a request, in bytes.
const MAX_HEAD: usize = 32 << 10;

/// How long a head may take, idle time before it included.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a connection may live: bounds what a client that reads nothing can hold. Executors simply connect again.
const LIFETIME: Duration = Duration::from_secs(600);

/// How long answers on their way may take once the server stops.
const GRACE: Duration = Duration::from_secs(5);

/// How often executions without heartbeats are looked for.
const LOOK: Duration = Duration::from_secs(1);

/// How long to wait when the system has no descriptor or memory for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `shutdown` is ready, then lets answers on their way finish. Dropping the future drops every connection.
pub async fn serve(
    listener: TcpListener,
    reports: ControlPlane,
    shutdown: impl Future<Output = ()>,
) {
    let router = reports.router();
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    // Nothing is ever sent: that the sender is gone means to stop.
    let (open, closing) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            _ = looks.tick() => {
                if let Err(error) = reports.lose().await {
                    tracing::error!(error = &error as &dyn std::error::Error, "cannot look for lost executions");
                }
            }
            (stream, place) = accept(&listener, &places) => {
                connections.spawn(converse(stream, router.clone(), closing.clone(), place));
            }
        }
    }
    drop(listener);
    drop(open);
    let all_ended = async { while connections.join_next().await.is_some() {} };
    if timeout(GRACE, all_ended).await.is_err() {
        connections.shutdown().await;
    }
}

/// Waits for a place, then for a connection. Cancel safe.
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
            Err(error) => {
                tracing::warn!(%error, "cannot accept");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Answers the requests of one connection until it ends. Its place is given back on every way out.
async fn converse(
    stream: TcpStream,
    router: axum::Router,
    mut closing: watch::Receiver<()>,
    _place: OwnedSemaphorePermit,
) {
    // What is lost without it is a delay.
    let _ = stream.set_nodelay(true);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_header_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    let ended = timeout(LIFETIME, async {
        tokio::select! {
            ended = connection.as_mut() => ended,
            _ = closing.changed() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    });
    if let Ok(Err(error)) = ended.await {
        tracing::debug!(
            error = &error as &dyn std::error::Error,
            "connection broke off"
        );
    }
}
