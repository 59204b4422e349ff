//! Log lines, to stderr.

use tracing_subscriber::{
    EnvFilter, Layer, Registry, filter::ParseError, fmt, layer::SubscriberExt as _,
    util::SubscriberInitExt as _, util::TryInitError,
};

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

/// Whatever else listens to the spans that are logged.
pub type Listener = Box<dyn Layer<Registry> + Send + Sync>;

/// Starts logging, once per process. Without a format: text where a person looks at stderr, else JSON. A listener hears
/// what it asks for, whatever the level of the log.
pub fn start(
    level: &str,
    format: Option<LogFormat>,
    listener: Option<Listener>,
) -> Result<(), LoggingError> {
    let terminal = terminal::stderr_is_terminal();
    let format = format.unwrap_or(if terminal {
        LogFormat::Text
    } else {
        LogFormat::Json
    });
    let level = EnvFilter::builder().parse(level)?;
    match listener {
        // A filter of the lines alone costs a little at every span; one for everything does not.
        None => Registry::default()
            .with(level)
            .with(lines(format))
            .try_init()?,
        Some(listener) => Registry::default()
            .with(listener)
            .with(lines(format).with_filter(level))
            .try_init()?,
    }
    Ok(())
}

fn lines<S>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    let lines = fmt::layer().with_writer(std::io::stderr);
    match format {
        LogFormat::Text => lines.with_ansi(terminal::stderr_has_colours()).boxed(),
        // The list of spans holds the current one as well.
        LogFormat::Json => lines
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .boxed(),
    }
}
