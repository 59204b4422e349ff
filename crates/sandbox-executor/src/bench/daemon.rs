//! The daemon that is measured: all of it, in this process, with a workspace and a store that are gone with it.

use std::{
    env, fs, io,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::DirBuilderExt as _,
    path::PathBuf,
    process,
    time::Duration,
};

use executor_application::ExecuteCode;
use executor_interfaces_http::{ServerOptions, router};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};
use uuid::Uuid;

use super::Failure;
use crate::{
    config::{Config, StatePlace},
    wiring::{Adapters, WorkspacePlace},
};

/// A daemon that listens on loopback.
pub(super) struct Daemon {
    address: SocketAddr,
    executor: ExecuteCode,
    close: oneshot::Sender<()>,
    server: JoinHandle<()>,
    _state: TemporaryState,
}

impl Daemon {
    /// Starts one that is configured like this, but for where it listens and keeps things, and whom it tells: nobody.
    /// Proves isolation first, as every daemon does.
    pub(super) async fn start(mut config: Config) -> Result<Self, Failure> {
        let state = TemporaryState::new()?;
        config.listen = (Ipv4Addr::LOCALHOST, 0).into();
        config.token = None;
        config.session = None;
        config.control_plane = None;
        config.state = StatePlace::Directory(state.0.clone());
        let adapters = Adapters::start(&config, WorkspacePlace::Temporary).await?;
        let executor = adapters.lasting_execute_code(&config).await?.executor;
        let sessions = adapters.manage_sessions(&config, executor.clone());
        let api = adapters.api(&config, executor.clone(), sessions);
        let listener = TcpListener::bind(config.listen).await?;
        let address = listener.local_addr()?;
        let (close, closed) = oneshot::channel();
        let shutdown = async {
            // Dropping the sender closes as well.
            let _ = closed.await;
        };
        let server = executor_interfaces_http::serve(
            listener,
            router(api),
            ServerOptions::default(),
            shutdown,
        );
        Ok(Self {
            address,
            executor,
            close,
            server: tokio::spawn(server),
            _state: state,
        })
    }

    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it. Every guest is dead when this returns.
    pub(super) async fn stop(self) -> Result<(), Failure> {
        self.executor.drain(Duration::ZERO).await;
        drop(self.close);
        self.server.await?;
        self.executor.close().await;
        Ok(())
    }
}

/// A directory for a store, which is gone with this value.
struct TemporaryState(PathBuf);

impl TemporaryState {
    fn new() -> io::Result<Self> {
        let name = format!(
            "sandbox-executor-bench-{}-{}",
            process::id(),
            Uuid::new_v4().simple()
        );
        let path = env::temp_dir().join(name);
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for TemporaryState {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, path = %self.0.display(), "a temporary directory stays behind");
        }
    }
}
