//! The command line.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::Parser;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tracing_subscriber::EnvFilter;

use crate::{Access, ControlPlane, ControlPlaneOptions, Store, StoreError, routes, serve};

/// Longest token file, in bytes.
const MAX_TOKEN: u64 = 4096;

/// sysexits(3): the command line or the environment is wrong.
const USAGE: u8 = 64;
/// sysexits(3): our own failure.
const SOFTWARE: u8 = 70;

/// A small control plane: keeps what Sandbox Executor reports, and shows it.
///
/// The token is read from `INTERNAL_API_TOKEN`, or from the file that `INTERNAL_API_TOKEN_FILE` names; never from the command
/// line, which every user of the host can read.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// The IP address to listen on. Anything but loopback wants a token.
    #[arg(long, env = "CONTROL_PLANE_HOST", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    host: IpAddr,
    /// The TCP port; 0 picks a free one and prints it.
    #[arg(long, env = "CONTROL_PLANE_PORT", default_value_t = 8000)]
    port: u16,
    /// The SQLite file; made where it is missing. `:memory:` keeps nothing.
    #[arg(
        long,
        env = "CONTROL_PLANE_DATABASE",
        default_value = "control-plane.sqlite"
    )]
    database: PathBuf,
    /// What the paths of reports begin with.
    #[arg(long, env = "CONTROL_PLANE_PREFIX", default_value = "/api/v1/internal")]
    prefix: String,
    /// Seconds without a heartbeat after which an execution counts as lost.
    #[arg(long, env = "CONTROL_PLANE_LOST_AFTER", default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..))]
    lost_after: u64,
    /// Largest result, in bytes.
    #[arg(long, env = "CONTROL_PLANE_MAX_BODY_BYTES", default_value_t = 128 << 20)]
    max_body_bytes: usize,
    /// Listen beyond loopback without a token: whoever reaches the port sees and writes everything.
    #[arg(long, env = "CONTROL_PLANE_ALLOW_ANONYMOUS", value_parser = clap::value_parser!(bool), default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    allow_anonymous: bool,
    /// What is logged: a level, or directives of tracing.
    #[arg(long, env = "LOG_LEVEL", default_value = "info")]
    log_level: EnvFilter,
}

/// Why it does not start.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("{0}")]
    Usage(&'static str),
    #[error("failed to read the token from {path}")]
    Token {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("failed to open {path}")]
    Store {
        path: PathBuf,
        #[source]
        source: StoreError,
    },
    #[error("failed to listen on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("failed to start")]
    Start(#[source] io::Error),
}

/// The executable's whole `main`.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut line = format!("error: {error}");
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                line.push_str(": ");
                line.push_str(&cause.to_string());
                source = cause.source();
            }
            let _ = writeln!(io::stderr(), "{line}");
            ExitCode::from(match error {
                StartError::Start(_) => SOFTWARE,
                _ => USAGE,
            })
        }
    }
}

fn run(cli: Cli) -> Result<(), StartError> {
    let token = token(
        std::env::var("INTERNAL_API_TOKEN").ok().as_deref(),
        std::env::var_os("INTERNAL_API_TOKEN_FILE")
            .as_deref()
            .map(Path::new),
    )?;
    if token.is_none() && !cli.host.is_loopback() && !cli.allow_anonymous {
        return Err(StartError::Usage(
            "without a token it listens on loopback only: set INTERNAL_API_TOKEN, or --allow-anonymous",
        ));
    }
    tracing_subscriber::fmt()
        .with_env_filter(cli.log_level)
        .with_writer(io::stderr)
        .init();
    if token.is_none() {
        tracing::warn!("callers are not authenticated");
    }
    let store = if cli.database.as_os_str() == ":memory:" {
        Store::in_memory()
    } else {
        Store::open(&cli.database, routes::now())
    };
    let store = store.map_err(|source| StartError::Store {
        path: cli.database,
        source,
    })?;
    let options = ControlPlaneOptions {
        access: token.map_or(Access::Anyone, |token| Access::token(&token)),
        prefix: cli.prefix,
        lost_after: Duration::from_secs(cli.lost_after),
        max_body_bytes: cli.max_body_bytes,
        ..ControlPlaneOptions::default()
    };
    let plane = ControlPlane::new(store, options);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(StartError::Start)?
        .block_on(listen(SocketAddr::new(cli.host, cli.port), plane))
}

async fn listen(address: SocketAddr, plane: ControlPlane) -> Result<(), StartError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(StartError::Start)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(StartError::Start)?;
    let cannot = |source| StartError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(cannot)?;
    let address = listener.local_addr().map_err(cannot)?;
    let _ = writeln!(io::stdout(), "listening on http://{address}");
    tracing::info!(%address, "listening");
    serve(listener, plane, async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
    .await;
    Ok(())
}

/// The token from a variable or from a file; empty ones do not count.
fn token(direct: Option<&str>, file: Option<&Path>) -> Result<Option<String>, StartError> {
    let direct = direct.filter(|text| !text.is_empty());
    let file = file.filter(|path| !path.as_os_str().is_empty());
    let text = match (direct, file) {
        (None, None) => return Ok(None),
        (Some(text), None) => text.to_owned(),
        (None, Some(path)) => read(path).map_err(|source| StartError::Token {
            path: path.to_owned(),
            source,
        })?,
        (Some(_), Some(_)) => {
            return Err(StartError::Usage(
                "INTERNAL_API_TOKEN and INTERNAL_API_TOKEN_FILE are both set: which of the two counts?",
            ));
        }
    };
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(Some(text))
    } else {
        Err(StartError::Usage(
            "the token must consist of visible ASCII characters, and not be empty",
        ))
    }
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(path)?
        .take(MAX_TOKEN)
        .read_to_string(&mut text)?;
    text.truncate(text.trim_end_matches(['\r', '\n']).len());
    Ok(text)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
        let cli = Cli::parse_from(["x", "--allow-anonymous", "--port", "0"]);
        assert!(cli.allow_anonymous && cli.port == 0);
    }

    #[test]
    fn a_token_comes_from_one_place_without_its_line_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        fs::write(&path, "s3cret\r\n").unwrap();
        assert_eq!(token(None, None).unwrap(), None);
        assert_eq!(token(Some(""), None).unwrap(), None);
        assert_eq!(token(Some("a"), None).unwrap().as_deref(), Some("a"));
        assert_eq!(token(None, Some(&path)).unwrap().as_deref(), Some("s3cret"));
        assert!(token(Some("a"), Some(&path)).is_err());
        fs::write(&path, "\n").unwrap();
        assert!(token(None, Some(&path)).is_err());
        let error = token(Some("hunter 2"), None).unwrap_err();
        assert!(!error.to_string().contains("hunter"));
    }
}
