//! From the command line of `run` to the command of the use case.

use std::{
    io::{self, Read},
    path::PathBuf,
};

use executor_application::ExecuteCommand;
use executor_domain::{
    EnvironmentError, Event, ExecutionId, GuestEnvironment, InvalidEvent, InvalidId, InvalidJson,
    InvalidSource, JsonText, Language, MAX_CODE_BYTES, RequestedLimits, SessionId, Source,
};
use uuid::Uuid;

use crate::{
    cli::{EventArg, Input, RunArgs, language_of},
    files::{read_text, read_text_from},
};

/// What is wrong with the inputs of `run`.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InputError {
    /// A file cannot be read, or is larger than allowed.
    #[error("failed to read {what} from {}", path.display())]
    File {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The same for our standard input.
    #[error("failed to read {what} from stdin")]
    Stdin {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    /// Two inputs are to come from our one standard input.
    #[error("only one of the program, the event and the guest's stdin can come from stdin")]
    StdinTwice,
    /// Nothing says what the program is written in.
    #[error(
        "what language is it? The file's extension does not tell; say --language {}",
        languages()
    )]
    Language,
    /// The program is not acceptable.
    #[error("the program {0}")]
    Program(#[from] InvalidSource),
    /// The event is not JSON.
    #[error("the event {0}")]
    Json(#[from] InvalidJson),
    /// The event is not an object.
    #[error("the event {0}")]
    Event(#[from] InvalidEvent),
    /// A variable is not acceptable.
    #[error("the environment {0}")]
    Environment(#[from] EnvironmentError),
    /// A name of our own making is not acceptable, which is a bug.
    #[error("the run's own name {0}")]
    Name(#[from] InvalidId),
}

fn languages() -> String {
    Language::ALL.map(Language::as_str).join(", ")
}

/// Reads all inputs; an event and a standard input of at most `max_bytes` each.
pub(crate) fn command(
    args: &RunArgs,
    stdin: impl Read,
    max_bytes: usize,
) -> Result<ExecuteCommand, InputError> {
    let mut inputs = Inputs { stdin: Some(stdin) };
    let language = args
        .language
        .or_else(|| match &args.program {
            Input::File(path) => language_of(path),
            Input::Stdin => None,
        })
        .ok_or(InputError::Language)?;
    let code = inputs.read("the program", &args.program, MAX_CODE_BYTES)?;
    let event = match &args.event {
        None => Event::default(),
        Some(EventArg::Json(text)) => Event::new(JsonText::parse(text.clone())?)?,
        Some(EventArg::From(input)) => Event::new(JsonText::parse(inputs.read(
            "the event",
            input,
            max_bytes,
        )?)?)?,
    };
    let stdin = match &args.stdin {
        None => None,
        Some(input) => Some(inputs.read("the guest's stdin", input, max_bytes)?),
    };
    // A name that nobody else has: in a shared session, and in what the guest is told of itself.
    let name = format!("run-{}", Uuid::new_v4());
    Ok(ExecuteCommand {
        execution_id: ExecutionId::parse(&name)?,
        session_id: match &args.session {
            Some(session) => session.clone(),
            None => SessionId::parse(&name)?,
        },
        source: Source::parse(language, args.mode, &code)?,
        event,
        environment: GuestEnvironment::parse(args.environment.iter().cloned().collect())?,
        stdin,
        limits: RequestedLimits {
            timeout: args.timeout,
            ..RequestedLimits::default()
        },
        trace_parent: None,
    })
}

/// Hands out our standard input once.
struct Inputs<R> {
    stdin: Option<R>,
}

impl<R: Read> Inputs<R> {
    fn read(
        &mut self,
        what: &'static str,
        input: &Input,
        max_bytes: usize,
    ) -> Result<String, InputError> {
        match input {
            Input::File(path) => read_text(path, max_bytes).map_err(|source| InputError::File {
                what,
                path: path.clone(),
                source,
            }),
            Input::Stdin => {
                let stdin = self.stdin.take().ok_or(InputError::StdinTwice)?;
                read_text_from(stdin, max_bytes)
                    .map_err(|source| InputError::Stdin { what, source })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use executor_domain::Mode;
    use tempfile::TempDir;

    use super::*;

    fn args(program: Input) -> RunArgs {
        RunArgs {
            program,
            language: None,
            mode: None,
            event: None,
            session: None,
            timeout: None,
            environment: Vec::new(),
            stdin: None,
            json: false,
        }
    }

    #[test]
    fn everything_ends_up_in_the_command() {
        let directory = TempDir::new().unwrap();
        let file = |name: &str, text: &str| {
            let path = directory.path().join(name);
            fs::write(&path, text).unwrap();
            Input::File(path)
        };
        let mut args = args(file("a.mjs", "code"));
        args.mode = Some(Mode::Script);
        args.event = Some(EventArg::From(file("event", "{\"a\": 1}\n")));
        args.session = Some(SessionId::parse("s").unwrap());
        args.timeout = Some(7);
        args.environment = vec![("A".into(), "b".into())];
        args.stdin = Some(Input::Stdin);
        let command = command(&args, &b"typed"[..], 100).unwrap();
        assert_eq!(command.source.code(), "code");
        assert_eq!(command.source.language(), Language::JavaScript);
        assert_eq!(command.source.mode(), Mode::Script);
        assert_eq!(command.event.as_str().trim(), "{\"a\": 1}");
        assert_eq!(command.session_id.as_str(), "s");
        assert_eq!(command.limits.timeout, Some(7));
        assert_eq!(command.environment.get("A"), Some("b"));
        assert_eq!(command.stdin.as_deref(), Some("typed"));
    }

    #[test]
    fn two_runs_without_a_session_share_nothing() {
        let mut args = args(Input::Stdin);
        args.language = Some(Language::Shell);
        let one = command(&args, &b"echo"[..], 100).unwrap();
        let other = command(&args, &b"echo"[..], 100).unwrap();
        assert_ne!(one.execution_id, other.execution_id);
        assert_ne!(one.session_id, other.session_id);
    }

    #[test]
    fn wrong_inputs_are_refused_by_name() {
        let python = || {
            let mut args = args(Input::Stdin);
            args.language = Some(Language::Python);
            args
        };
        let wrong =
            |args: &RunArgs, stdin: &[u8]| command(args, stdin, 100).unwrap_err().to_string();

        assert!(wrong(&args(Input::Stdin), b"").contains("--language"));
        assert!(
            wrong(&args(Input::File("/nonexistent.py".into())), b"").contains("/nonexistent.py")
        );
        assert_eq!(
            wrong(&python(), &vec![b'#'; MAX_CODE_BYTES + 1]),
            "failed to read the program from stdin"
        );
        let mut twice = python();
        twice.stdin = Some(Input::Stdin);
        assert!(wrong(&twice, b"").contains("only one"));
        let mut event = python();
        event.event = Some(EventArg::Json("[]".into()));
        assert_eq!(wrong(&event, b""), "the event must be a JSON object");
        event.event = Some(EventArg::Json("{".into()));
        assert!(wrong(&event, b"").starts_with("the event is not valid JSON"));
        let mut variable = python();
        variable.environment = vec![("1".into(), String::new())];
        assert!(wrong(&variable, b"").contains("variable name"));
        let mut mode = python();
        mode.language = Some(Language::Shell);
        mode.mode = Some(Mode::Handler);
        assert!(wrong(&mode, b"").contains("script"));
    }
}
