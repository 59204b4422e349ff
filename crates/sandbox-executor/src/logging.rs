//! Log lines, to stderr.

use tracing_subscriber::{EnvFilter, filter::ParseError, fmt, util::TryInitError};
use tracing_subscriber::{layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::terminal;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For a person.
    Text,
    /// One JSON object a line.
    Json,
}

/// Why nothing can be logged.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The directives are malformed; configuration has checked them, so this is a bug.
    #[error("failed to read the log level")]
    Level(#[from] ParseError),
    /// The process logs already.
    #[error("failed to start logging")]
    Start(#[from] TryInitError),
}

/// Starts logging, once per process. Without a format: text where a person looks at stderr, else JSON.
pub fn start(level: &str, format: Option<LogFormat>) -> Result<(), LoggingError> {
    let terminal = terminal::stderr_is_terminal();
    let format = format.unwrap_or(if terminal {
        LogFormat::Text
    } else {
        LogFormat::Json
    });
    let lines = fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry().with(EnvFilter::builder().parse(level)?);
    match format {
        LogFormat::Text => registry
            .with(lines.with_ansi(terminal::stderr_has_colours()))
            .try_init()?,
        LogFormat::Json => {
            // The list of spans holds the current one as well.
            let lines = lines.json().flatten_event(true).with_current_span(false);
            registry.with(lines).try_init()?;
        }
    }
    Ok(())
}
