//! The `sandbox-executor` executable as a library, so that tests and the executable share configuration and wiring.
//!
//! [`main`] reads the command line and the whole configuration, and only then does anything: [`wiring`] makes the
//! adapters, and the commands use them. [`embed`] is for other programs that want to run code as the daemon does.

mod bench;
pub mod cli;
pub mod config;
mod doctor;
pub mod embed;
pub mod exit;
mod files;
mod health;
pub mod logging;
mod run;
pub mod secret;
mod serve;
mod service_manager;
mod signals;
mod terminal;
mod traces;
pub mod wiring;

use std::{process::ExitCode, thread};

use clap::{CommandFactory as _, Parser as _};
use executor_domain::LimitCeilings;
use executor_infra_telemetry::Otlp;
use tokio::runtime;

use cli::{Action, Cli, SettingFlags};
use config::{Config, Loaded, Sources, keys};
use exit::Exit;
use logging::LogFormat;

/// The programs of the README compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// More threads than this wait for one another more than they work: guests run in processes of their own.
const MAX_WORKERS: usize = 4;

/// Threads for work that waits for the disk. Each costs memory while it lives, and more of them make no disk faster.
const MAX_BLOCKING_THREADS: usize = 64;

/// Does what the command line says. The executable's whole `main`, but for the stages of a sandbox.
pub fn main() -> ExitCode {
    #[cfg(unix)]
    executor_infra_isolation::stage::dispatch();

    match Cli::try_parse() {
        Ok(cli) => act(cli).into(),
        Err(error) => {
            // Help and version are no mistakes.
            let exit = if error.use_stderr() {
                Exit::Usage
            } else {
                Exit::Success
            };
            let _ = error.print();
            exit.into()
        }
    }
}

fn act(cli: Cli) -> Exit {
    let settings = cli.settings;
    match cli.action.unwrap_or(Action::Serve) {
        Action::Serve => serve(settings),
        Action::Run(args) => briefly(settings, async |config| run::run(args, config).await),
        Action::Doctor { json } => {
            briefly(settings, async |config| doctor::doctor(config, json).await)
        }
        Action::Bench(args) => {
            let sources = sources(settings.clone());
            briefly(settings, async |_| bench::bench(args, sources).await)
        }
        // Asked every few seconds: what there is to know about the settings is in the daemon's log already.
        Action::Health => match load(settings) {
            Ok(loaded) => in_runtime(health::health(&loaded.config)),
            Err(exit) => exit,
        },
        Action::Config { markdown: true, .. } => {
            terminal::out(config::markdown().trim_end());
            Exit::Success
        }
        Action::Config { json, .. } => match load(settings) {
            Ok(loaded) => {
                warn(&loaded);
                show(&loaded, json);
                Exit::Success
            }
            Err(exit) => exit,
        },
        Action::Openapi => {
            let document = executor_interfaces_http::openapi_json(&LimitCeilings::default());
            terminal::out(document.trim_end());
            Exit::Success
        }
        Action::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "sandbox-executor", &mut script);
            terminal::out(String::from_utf8_lossy(&script).trim_end());
            Exit::Success
        }
    }
}

/// Reads the whole configuration. Mistakes are reported, all of them.
fn load(settings: SettingFlags) -> Result<Loaded, Exit> {
    config::load(&sources(settings)).map_err(|mistakes| {
        terminal::failure(&mistakes);
        Exit::Usage
    })
}

/// Where settings come from: this process's own environment, and its command line.
fn sources(settings: SettingFlags) -> Sources {
    Sources {
        file: settings.file,
        environment: std::env::vars_os().collect(),
        flags: settings.values,
    }
}

fn show(loaded: &Loaded, json: bool) {
    if json {
        terminal::out(loaded.to_json());
    } else {
        terminal::out(loaded.to_text().trim_end());
    }
}

fn warn(loaded: &Loaded) {
    for warning in &loaded.warnings {
        terminal::err(format_args!("warning: {warning}"));
    }
}

/// The daemon: everything goes to the log.
fn serve(settings: SettingFlags) -> Exit {
    let loaded = match load(settings) {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    let config = &loaded.config;
    let otlp = match traces::start(config) {
        Ok(otlp) => otlp,
        Err(error) => {
            terminal::failure(&error);
            return Exit::Usage;
        }
    };
    let listener = otlp.as_ref().map(Otlp::layer);
    if let Err(error) = logging::start(&config.log_level, config.log_format, listener) {
        terminal::failure(&error);
        return Exit::Internal;
    }
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let exit = in_runtime(serve::serve(config, otlp.as_ref().map(Otlp::traces)));
    if let Some(otlp) = otlp {
        otlp.stop();
    }
    exit
}

/// A command for a person: they see what it does, so only errors are logged, unless they ask for more.
fn briefly(settings: SettingFlags, action: impl AsyncFnOnce(&Config) -> Exit) -> Exit {
    let loaded = match load(settings) {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    let config = &loaded.config;
    let level = if loaded.is_set(&keys::LOG_LEVEL) {
        &config.log_level
    } else {
        "error"
    };
    if let Err(error) = logging::start(
        level,
        Some(config.log_format.unwrap_or(LogFormat::Text)),
        None,
    ) {
        terminal::failure(&error);
        return Exit::Internal;
    }
    warn(&loaded);
    in_runtime(action(config))
}

fn in_runtime(action: impl Future<Output = Exit>) -> Exit {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(cores.min(MAX_WORKERS))
        .max_blocking_threads(MAX_BLOCKING_THREADS)
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => {
            let exit = runtime.block_on(action);
            // Whoever was told twice to stop does not wait for a thread that waits for the disk.
            runtime.shutdown_background();
            exit
        }
        Err(error) => {
            terminal::failure(&error);
            Exit::Internal
        }
    }
}
