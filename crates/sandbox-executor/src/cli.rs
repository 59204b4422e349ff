//! The command line: what can be asked for. Settings are flags made from the table of [`keys`].

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    str::FromStr,
};

use clap::{
    Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, Parser, Subcommand, ValueHint,
};
use clap_complete::Shell;
use executor_domain::{Language, Mode, SessionId};

use crate::config::{self, keys};

const EXIT_CODES: &str = "\
Exit codes:
  0    done; `serve`: ended by SIGINT
  1    `doctor`: no sandbox can be started here; `health`: the daemon cannot run code now
  64   the command line, an input or the configuration is wrong
  69   no sandbox can be started here
  70   an internal failure
  143  `serve`: ended by SIGTERM
`run` ends as its guest did; see `run --help`.";

const RUN_EXIT_CODES: &str = "\
Exit codes:
  0      the guest completed
  N      a script's own exit code; 1 where a handler failed
  124    out of time
  128+N  ended by signal N; 137 also where it was out of memory
  130    interrupted
  64, 69, 70, 143  as for the other commands";

/// Runs untrusted Python, JavaScript and shell code in sandboxes.
///
/// Without a command: serves the REST API, as `serve` does. All settings can also be given as environment variables or
/// in a file; `sandbox-executor config` shows what counts.
#[derive(Debug, Parser)]
#[command(name = "sandbox-executor", version, max_term_width = 120, after_help = EXIT_CODES)]
pub struct Cli {
    /// Settings, for every command.
    #[command(flatten)]
    pub settings: SettingFlags,
    /// What to do; `None`: serve.
    #[command(subcommand)]
    pub action: Option<Action>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Serve the REST API.
    ///
    /// Starts listening once a sandbox was really started, and prints `listening on http://ADDRESS:PORT`. SIGTERM and
    /// SIGINT let runs end within the grace period; a second one ends the daemon at once.
    Serve,
    /// Run one program without a server.
    Run(RunArgs),
    /// Try every wall between guests and this host, and say what to do about those that are missing.
    Doctor {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Measure what runs cost over HTTP on this machine, beside bare Bubblewrap and the bare interpreters.
    ///
    /// Starts daemons of its own on loopback, with the settings that are given and workspaces and stores that are gone with them.
    /// Takes some minutes, and both says most on a machine that does nothing else. A wrong answer of a guest ends it with 70.
    Bench(BenchArgs),
    /// Ask the daemon of this host, by its own settings, whether it can run code now.
    ///
    /// For containers and service managers: no shell and no HTTP client is needed. Exit code 1 where the daemon does not
    /// answer within ten seconds, or says no.
    Health,
    /// Show what every setting is, and who said so. Secrets are masked.
    Config {
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// Print the documentation of all settings.
        #[arg(long, hide = true, conflicts_with = "json")]
        markdown: bool,
    },
    /// Print the description of the REST API, OpenAPI 3.1 in JSON, with the default limits.
    Openapi,
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
}

/// One program, and what it gets.
#[derive(Debug, Args)]
#[command(after_help = RUN_EXIT_CODES)]
pub struct RunArgs {
    /// The program; `-` reads it from stdin.
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub program: Input,
    /// python, javascript or shell. By default the file's extension tells: .py, .js, .mjs, .cjs, .sh.
    #[arg(long, value_parser = parse_language)]
    pub language: Option<Language>,
    /// handler (calls the program's `handler`; default for Python and JavaScript) or script (default for shell).
    #[arg(long, value_parser = parse_mode)]
    pub mode: Option<Mode>,
    /// The handler's input: a JSON object, or @FILE, or @- for stdin.
    #[arg(long, value_name = "JSON|@FILE", value_parser = parse_event)]
    pub event: Option<EventArg>,
    /// Run in this session's workspace and keep it; by default in a temporary one.
    #[arg(long, value_parser = parse_session)]
    pub session: Option<SessionId>,
    /// Wall time, in seconds or with a unit: 90, 90s, 15m.
    #[arg(long, value_name = "DURATION", value_parser = config::parse_seconds)]
    pub timeout: Option<u64>,
    /// Add a variable to the guest's environment; can be repeated.
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = parse_variable)]
    pub environment: Vec<(String, String)>,
    /// The guest's standard input; `-` hands on ours. By default it is empty.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub stdin: Option<Input>,
    /// Print the result as JSON, as the REST API answers it.
    #[arg(long)]
    pub json: bool,
}

/// What to measure, and how to show it.
#[derive(Debug, Clone, Args)]
pub struct BenchArgs {
    /// Numbers of clients, each of which sends the next request when it has the answer to the last one.
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1,4,16,64", value_parser = parse_clients)]
    pub clients: Vec<usize>,
    /// Languages to measure.
    #[arg(long, value_name = "LANGUAGE,…", value_delimiter = ',', default_value = "python,javascript,shell", value_parser = parse_language)]
    pub languages: Vec<Language>,
    /// How long each number of clients is served, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub seconds: u64,
    /// Print JSON.
    #[arg(long, conflicts_with = "markdown")]
    pub json: bool,
    /// Print Markdown, for docs/performance.md.
    #[arg(long)]
    pub markdown: bool,
    /// Write a plot to this file.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub svg: Option<PathBuf>,
    /// A handful of runs: whether it works at all. Its figures mean nothing.
    #[arg(long)]
    pub quick: bool,
}

#[cfg(test)]
impl BenchArgs {
    /// Without a flag.
    pub(crate) fn example() -> Self {
        match Cli::try_parse_from(["sandbox-executor", "bench"]).map(|cli| cli.action) {
            Ok(Some(Action::Bench(args))) => args,
            other => panic!("{other:?}"),
        }
    }
}

/// Where an input comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Our standard input.
    Stdin,
    /// A file.
    File(PathBuf),
}

impl FromStr for Input {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "-" => Self::Stdin,
            path => Self::File(path.into()),
        })
    }
}

/// The event, or where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventArg {
    /// The event itself.
    Json(String),
    /// Where it comes from.
    From(Input),
}

fn parse_event(text: &str) -> Result<EventArg, std::convert::Infallible> {
    Ok(match text.strip_prefix('@') {
        Some(path) => EventArg::From(path.parse()?),
        None => EventArg::Json(text.to_owned()),
    })
}

fn parse_language(text: &str) -> Result<Language, String> {
    Language::parse(text).map_err(|error| error.to_string())
}

/// Each client takes a descriptor here and one in the daemon.
fn parse_clients(text: &str) -> Result<usize, String> {
    const MOST: usize = 1000;
    match text.parse() {
        Ok(clients) if (1..=MOST).contains(&clients) => Ok(clients),
        _ => Err(format!("must be a number from 1 to {MOST}")),
    }
}

fn parse_mode(text: &str) -> Result<Mode, String> {
    Mode::parse(text).map_err(|error| error.to_string())
}

fn parse_session(text: &str) -> Result<SessionId, String> {
    SessionId::parse(text).map_err(|error| error.to_string())
}

fn parse_variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        None => Err("must be NAME=VALUE".into()),
    }
}

/// The language that a file's extension tells.
pub(crate) fn language_of(path: &Path) -> Option<Language> {
    match path.extension()?.to_str()? {
        "py" => Some(Language::Python),
        "js" | "mjs" | "cjs" => Some(Language::JavaScript),
        "sh" => Some(Language::Shell),
        _ => None,
    }
}

/// Settings on the command line: one flag for each row of the table that is no secret. They go before or after the
/// command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SettingFlags {
    /// The configuration file.
    pub file: Option<PathBuf>,
    /// What was given, by the name of its setting.
    pub values: BTreeMap<&'static str, String>,
}

const CONFIG_FILE: &str = "config_file";

impl Args for SettingFlags {
    fn augment_args(command: Command) -> Command {
        let file = Arg::new(CONFIG_FILE)
            .long("config")
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .value_hint(ValueHint::FilePath)
            .global(true)
            .help("Read settings from a TOML or YAML file");
        keys::SECTIONS
            .iter()
            .flat_map(|section| section.keys.iter().map(|key| (section.title, key)))
            .filter_map(|(heading, key)| Some(flag(heading, key, key.flag()?)))
            .fold(command.arg(file), Command::arg)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn flag(heading: &'static str, key: &'static keys::Key, name: String) -> Arg {
    let default = match key.preset {
        keys::Preset::Value(value) => value,
        keys::Preset::Unset(meaning) => meaning,
    };
    let flag = Arg::new(key.name)
        .long(name)
        .value_name(key.kind.as_str().to_ascii_uppercase())
        .action(ArgAction::Set)
        .global(true)
        .help_heading(heading)
        // `-h` would drown in thirty settings; `--help` has them.
        .hide_short_help(true)
        .help(format!(
            "{} [env: {}] [default: {default}]",
            key.doc,
            key.variable()
        ));
    match key.short_flag {
        Some(short) => flag.visible_alias(short),
        None => flag,
    }
}

impl FromArgMatches for SettingFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.file = matches.get_one::<PathBuf>(CONFIG_FILE).cloned();
        self.values = keys::all()
            .filter(|key| !key.secret)
            .filter_map(|key| Some((key.name, matches.get_one::<String>(key.name)?.clone())))
            .collect();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(["sandbox-executor"].iter().chain(line))
    }

    fn run(line: &[&str]) -> RunArgs {
        match parse(&[&["run"], line].concat()).unwrap().action {
            Some(Action::Run(args)) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn without_a_command_it_serves() {
        assert!(parse(&[]).unwrap().action.is_none());
    }

    #[test]
    fn settings_go_before_or_after_the_command() {
        for line in [
            &["--port", "9000", "serve"][..],
            &["serve", "--port", "9000"],
            &["--executor-port", "9000"],
            &["run", "x.py", "--executor-port=9000"],
        ] {
            let settings = parse(line).unwrap().settings;
            assert_eq!(
                settings.values,
                BTreeMap::from([("executor_port", "9000".to_owned())]),
                "{line:?}"
            );
        }
        let settings = parse(&["config", "--config", "x.toml"]).unwrap().settings;
        assert_eq!(settings.file.as_deref(), Some(Path::new("x.toml")));
    }

    #[test]
    fn every_setting_but_the_secret_has_a_flag_with_help() {
        let command = Cli::command();
        for key in keys::all() {
            let flag = command.get_arguments().find(|arg| arg.get_id() == key.name);
            assert_eq!(flag.is_some(), !key.secret, "{}", key.name);
        }
        assert!(parse(&["--internal-api-token", "hunter2"]).is_err());
    }

    #[test]
    fn run_takes_a_program_and_what_it_gets() {
        let args = run(&[
            "hello.py",
            "--event",
            r#"{"a":1}"#,
            "--env",
            "A=b=c",
            "--env",
            "B=",
            "--timeout",
            "2m",
            "--session",
            "s_1",
            "--mode",
            "script",
            "--language",
            "shell",
            "--stdin",
            "-",
            "--json",
        ]);
        assert_eq!(args.program, Input::File("hello.py".into()));
        assert_eq!(args.event, Some(EventArg::Json(r#"{"a":1}"#.into())));
        assert_eq!(
            args.environment,
            [("A".into(), "b=c".into()), ("B".into(), String::new())]
        );
        assert_eq!(args.timeout, Some(120));
        assert_eq!(args.session, Some(SessionId::parse("s_1").unwrap()));
        assert_eq!(args.mode, Some(Mode::Script));
        assert_eq!(args.language, Some(Language::Shell));
        assert_eq!(args.stdin, Some(Input::Stdin));
        assert!(args.json);

        let args = run(&["-", "--event", "@event.json"]);
        assert_eq!(args.program, Input::Stdin);
        assert_eq!(
            args.event,
            Some(EventArg::From(Input::File("event.json".into())))
        );
    }

    #[test]
    fn bench_measures_what_it_is_told_to() {
        let args = BenchArgs::example();
        assert_eq!(args.clients, [1, 4, 16, 64]);
        assert_eq!(args.languages, Language::ALL);
        for line in [
            &["bench", "--clients", "0"][..],
            &["bench", "--clients", "1,1001"],
            &["bench", "--clients", ""],
            &["bench", "--seconds", "0"],
            &["bench", "--languages", "ruby"],
            &["bench", "--json", "--markdown"],
        ] {
            assert!(parse(line).is_err(), "{line:?}");
        }
    }

    #[test]
    fn run_refuses_what_makes_no_sense() {
        for line in [
            &["run"][..],
            &["run", "x.py", "--language", "ruby"],
            &["run", "x.py", "--mode", "main"],
            &["run", "x.py", "--env", "A"],
            &["run", "x.py", "--timeout", "soon"],
            &["run", "x.py", "--session", "../x"],
            &["run", "x.py", "y.py"],
        ] {
            assert!(parse(line).is_err(), "{line:?}");
        }
    }

    #[test]
    fn extensions_tell_the_language() {
        for (name, language) in [
            ("a.py", Some(Language::Python)),
            ("a.mjs", Some(Language::JavaScript)),
            ("a.cjs", Some(Language::JavaScript)),
            ("a.tar.js", Some(Language::JavaScript)),
            ("a.sh", Some(Language::Shell)),
            ("a.PY", None),
            ("py", None),
            ("a", None),
        ] {
            assert_eq!(language_of(Path::new(name)), language, "{name}");
        }
    }
}
