//! `serve`: the daemon, from its first probe to its last guest.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use executor_application::{ExecuteCode, ExitReason, Reports, SandboxDescription, Traces};
use executor_interfaces_http::{ApiState, ServerOptions, router};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    time::Instant,
};

use crate::{
    config::Config,
    exit::Exit,
    service_manager,
    signals::{self, Stop},
    terminal,
    wiring::{self, Adapters, WorkspacePlace},
};

/// Serves until it is told to stop. Nothing listens before a sandbox was really started. `traces`: where spans are
/// exported, the links to those of others.
pub(crate) async fn serve(config: &Config, traces: Option<Arc<dyn Traces>>) -> Exit {
    let mut stops = match signals::stops() {
        Ok(stops) => stops,
        Err(error) => {
            tracing::error!(%error, "failed to listen for signals");
            return Exit::Internal;
        }
    };
    let control_plane = match wiring::control_plane(config) {
        Ok(control_plane) => control_plane,
        Err(error) => {
            terminal::failure(&error);
            return error.exit();
        }
    };
    let adapters = tokio::select! {
        started = Adapters::start(config, WorkspacePlace::Configured) => started,
        stop = signals::next(&mut stops) => return stop.exit_of_daemon(),
    };
    let adapters = match adapters {
        Ok(adapters) => adapters.with_traces(traces),
        Err(error) => {
            terminal::failure(&error);
            return error.exit();
        }
    };
    let lasting = match adapters.lasting_execute_code(config).await {
        Ok(lasting) => lasting,
        Err(error) => {
            terminal::failure(&error);
            return error.exit();
        }
    };
    let bound = match TcpListener::bind(config.listen).await {
        Ok(listener) => listener.local_addr().map(|address| (listener, address)),
        Err(error) => Err(error),
    };
    let (listener, address) = match bound {
        Ok(bound) => bound,
        Err(error) => {
            terminal::err(format_args!(
                "error: failed to listen on {}: {error}; another EXECUTOR_PORT or EXECUTOR_HOST may do",
                config.listen
            ));
            return Exit::Usage;
        }
    };
    let descriptors = raise_descriptor_limit();
    let sessions = adapters.manage_sessions(config, lasting.executor.clone());
    let api = adapters.api(config, lasting.executor.clone(), Arc::clone(&sessions));
    let reports = control_plane.map(|control_plane| {
        let mut reports = adapters.reports(config, control_plane, &lasting);
        reports.announce(address.port());
        reports
    });
    announce(address, lasting.executor.sandbox());
    // Removing a session survives being broken off at any point.
    let cleaning = tokio::spawn(async move { sessions.keep_clean().await });
    service_manager::ready();
    let daemon = Daemon {
        listener,
        reports,
        executor: lasting.executor,
        api,
        options: server_options(config, descriptors),
        grace: config.shutdown_grace,
    };
    let exit = daemon.run(stops).await;
    cleaning.abort();
    exit
}

/// Raises the limit of open descriptors as far as we may: every connection takes one, every run ten. Guests get a limit
/// of their own.
///
/// Returns how many there may be.
fn raise_descriptor_limit() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let maximum = getrlimit(Resource::Nofile).maximum;
    let raised = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    );
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open descriptors stays as it is");
    }
    let current = getrlimit(Resource::Nofile).current;
    current.map_or(usize::MAX, |current| {
        usize::try_from(current).unwrap_or(usize::MAX)
    })
}

/// As many connections as executions can be waited for, and some for health checks and those about to be told 429; but
/// connections never take more than half of all descriptors, so that idle ones cannot starve the runs.
fn server_options(config: &Config, descriptors: usize) -> ServerOptions {
    const SPARE: usize = 256;
    let most = descriptors / 2;
    let defaults = ServerOptions::default();
    let executions = config
        .capacity
        .running
        .saturating_add(config.capacity.queued);
    ServerOptions {
        max_connections: defaults
            .max_connections
            .max(executions.saturating_add(SPARE))
            .min(most),
        ..defaults
    }
}

/// Tells whoever started us where we are: a line on stdout for programs, which stays as it is, and one in the log.
fn announce(address: SocketAddr, sandbox: &SandboxDescription) {
    tracing::info!(
        %address,
        version = env!("CARGO_PKG_VERSION"),
        isolation = sandbox.isolation,
        tool = %sandbox.tool_version,
        "listening"
    );
    terminal::out(format_args!("listening on http://{address}"));
}

/// How long the last reports may take: what is left of the grace period, within reason. A control plane that hangs must not
/// hold the daemon up for long, and one that is there must get a moment also where runs took all of the time.
fn time_for_reports(grace_ends: Instant) -> Instant {
    const AT_LEAST: Duration = Duration::from_secs(2);
    const AT_MOST: Duration = Duration::from_secs(10);
    let now = Instant::now();
    grace_ends.clamp(now + AT_LEAST, now + AT_MOST)
}

/// A daemon that listens.
struct Daemon {
    listener: TcpListener,
    reports: Option<Reports>,
    executor: ExecuteCode,
    api: ApiState,
    options: ServerOptions,
    grace: Duration,
}

impl Daemon {
    /// Serves until it is told to stop; then accepts no more executions, answers health checks with 503, gives runs the
    /// grace period, kills the rest, stops listening once every guest is dead, tells the control plane, and closes the store.
    /// Told twice, it ends at once: guests die with the process.
    async fn run(self, mut stops: mpsc::Receiver<Stop>) -> Exit {
        let (close, closed) = oneshot::channel::<()>();
        let shutdown = async {
            // Dropping the sender closes as well.
            let _ = closed.await;
        };
        let mut server = tokio::spawn(executor_interfaces_http::serve(
            self.listener,
            router(self.api),
            self.options,
            shutdown,
        ));
        let stop = tokio::select! {
            stop = signals::next(&mut stops) => stop,
            ended = &mut server => {
                tracing::error!(?ended, "the server ended by itself");
                if let Some(reports) = self.reports {
                    let deadline = time_for_reports(Instant::now());
                    reports.finish(Exit::Internal.code().into(), ExitReason::Error, deadline).await;
                }
                return Exit::Internal;
            }
        };
        service_manager::stopping();
        let grace_ends = Instant::now() + self.grace;
        tracing::info!(?stop, running = self.executor.active(), grace = ?self.grace, "draining");
        let drained = async {
            self.executor.drain(self.grace).await;
            drop(close);
            if let Err(error) = server.await {
                tracing::error!(%error, "the server failed");
            }
            if let Some(reports) = self.reports {
                let exit_code = stop.exit_of_daemon().code().into();
                reports
                    .finish(exit_code, stop.reason(), time_for_reports(grace_ends))
                    .await;
            }
            self.executor.close().await;
        };
        tokio::select! {
            () = drained => tracing::info!("stopped"),
            _ = signals::next(&mut stops) => tracing::warn!("told to stop twice: stopping at once"),
        }
        stop.exit_of_daemon()
    }
}

#[cfg(test)]
mod tests {
    use executor_application::{
        CheckHealth, Options,
        fake::{FakeSandbox, NoWorkspaces, StoppedClock},
    };
    use executor_interfaces_http::ApiOptions;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
        task::JoinHandle,
    };

    use super::*;

    struct Running {
        address: SocketAddr,
        sandbox: Arc<FakeSandbox>,
        told: mpsc::Sender<Stop>,
        exit: JoinHandle<Exit>,
    }

    async fn start(grace: Duration) -> Running {
        let sandbox = Arc::new(FakeSandbox::default());
        let workspaces = Arc::new(NoWorkspaces);
        let executor = ExecuteCode::new(
            Arc::clone(&sandbox) as Arc<_>,
            Arc::clone(&workspaces) as Arc<_>,
            Arc::new(StoppedClock),
            Options::default(),
        );
        let health = CheckHealth::new(executor.clone(), Arc::clone(&sandbox) as Arc<_>, workspaces);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (told, stops) = mpsc::channel(2);
        let daemon = Daemon {
            listener,
            reports: None,
            api: ApiState::new(executor.clone(), Arc::new(health), ApiOptions::default()),
            executor,
            options: ServerOptions::default(),
            grace,
        };
        Running {
            address,
            sandbox,
            told,
            exit: tokio::spawn(daemon.run(stops)),
        }
    }

    /// Sends one request and reads to the end of the connection.
    async fn ask(address: SocketAddr, request: String) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn health(address: SocketAddr) -> String {
        let request = "GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        ask(address, request.to_owned()).await
    }

    fn execute(address: SocketAddr, code: &str) -> JoinHandle<String> {
        let body = format!(
            r#"{{"execution_id":"e","session_id":"s","language":"shell","code":"{code}"}}"#
        );
        tokio::spawn(ask(
            address,
            format!(
                "POST /execute HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n\
                 Content-Length: {}\r\n\r\n{body}",
                body.len()
            ),
        ))
    }

    /// Lets other tasks go on until this is so.
    async fn until(so: impl Fn() -> bool) {
        while !so() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn serves_until_it_is_told_to_stop_and_says_who_told_it() {
        for (stop, code) in [(Stop::Terminate, 143), (Stop::Interrupt, 0)] {
            let daemon = start(Duration::from_secs(60)).await;
            assert!(health(daemon.address).await.starts_with("HTTP/1.1 200"));
            daemon.told.send(stop).await.unwrap();
            assert_eq!(daemon.exit.await.unwrap().code(), code);
            assert!(TcpStream::connect(daemon.address).await.is_err());
        }
    }

    #[tokio::test]
    async fn while_it_drains_runs_go_on_and_health_says_so() {
        let daemon = start(Duration::from_secs(3600)).await;
        let _answer = execute(daemon.address, "sleep 3600000");
        let sandbox = Arc::clone(&daemon.sandbox);
        until(|| sandbox.running() == 1).await;
        daemon.told.send(Stop::Terminate).await.unwrap();
        let mut answer = health(daemon.address).await;
        while !answer.starts_with("HTTP/1.1 503") {
            answer = health(daemon.address).await;
        }
        assert!(answer.contains("draining"), "{answer}");
        assert_eq!(sandbox.running(), 1);
        daemon.told.send(Stop::Terminate).await.unwrap();
        assert_eq!(daemon.exit.await.unwrap(), Exit::Terminated);
    }

    #[tokio::test]
    async fn within_the_grace_period_runs_end_by_themselves() {
        let daemon = start(Duration::from_secs(3600)).await;
        let answer = execute(daemon.address, "sleep 50\\necho done");
        let sandbox = Arc::clone(&daemon.sandbox);
        until(|| sandbox.started() == 1).await;
        daemon.told.send(Stop::Terminate).await.unwrap();
        assert_eq!(daemon.exit.await.unwrap(), Exit::Terminated);
        assert!(answer.await.unwrap().contains("done"));
    }

    #[tokio::test]
    async fn after_the_grace_period_runs_are_killed_and_say_so() {
        let daemon = start(Duration::from_millis(1)).await;
        let answer = execute(daemon.address, "sleep 3600000");
        let sandbox = Arc::clone(&daemon.sandbox);
        until(|| sandbox.running() == 1).await;
        daemon.told.send(Stop::Terminate).await.unwrap();
        assert_eq!(daemon.exit.await.unwrap(), Exit::Terminated);
        assert_eq!(sandbox.running(), 0);
        let answer = answer.await.unwrap();
        assert!(answer.contains("\"executor_lost\""), "{answer}");
    }

    #[tokio::test]
    async fn told_twice_it_waits_for_nobody() {
        let daemon = start(Duration::from_secs(3600)).await;
        let _answer = execute(daemon.address, "sleep 3600000");
        let sandbox = Arc::clone(&daemon.sandbox);
        until(|| sandbox.running() == 1).await;
        daemon.told.send(Stop::Interrupt).await.unwrap();
        daemon.told.send(Stop::Terminate).await.unwrap();
        // As the first one said.
        assert_eq!(daemon.exit.await.unwrap(), Exit::Success);
    }
}
