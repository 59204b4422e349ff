//! What is to be run, in the caller's own words, and how it becomes a command.

use std::collections::BTreeMap;

use executor_application::ExecuteCommand;
use executor_domain::{
    EnvironmentError, Event, ExecutionId, GuestEnvironment, InvalidEvent, InvalidId, InvalidJson,
    InvalidSource, JsonText, Language, Mode, RequestedLimits, SessionId, Source,
};
use thiserror::Error;
use uuid::Uuid;

/// What is wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidRequest {
    /// The execution's id.
    #[error("the execution's id {0}")]
    Id(#[source] InvalidId),
    /// The session's id.
    #[error("the session's id {0}")]
    Session(#[source] InvalidId),
    /// The program.
    #[error("the program {0}")]
    Program(#[from] InvalidSource),
    /// The event is not JSON.
    #[error("the event {0}")]
    Json(#[from] InvalidJson),
    /// The event is not an object.
    #[error("the event {0}")]
    Event(#[from] InvalidEvent),
    /// A variable.
    #[error("the environment {0}")]
    Environment(#[from] EnvironmentError),
}

/// A program to run and what it gets. Nothing is checked before it is run.
#[derive(Debug, Clone)]
#[must_use = "a request does nothing until it is run"]
pub struct Request {
    language: Language,
    code: String,
    mode: Option<Mode>,
    id: Option<String>,
    session: Option<String>,
    event: Option<String>,
    variables: BTreeMap<String, String>,
    stdin: Option<String>,
    limits: RequestedLimits,
}

impl Request {
    /// A program in this language: a handler where the language has them, else a script.
    pub fn new(language: Language, code: impl Into<String>) -> Self {
        Self {
            language,
            code: code.into(),
            mode: None,
            id: None,
            session: None,
            event: None,
            variables: BTreeMap::new(),
            stdin: None,
            limits: RequestedLimits::default(),
        }
    }

    /// A Python program with a function `handler(event)`.
    pub fn python(code: impl Into<String>) -> Self {
        Self::new(Language::Python, code)
    }

    /// A JavaScript program that exports `handler`.
    pub fn javascript(code: impl Into<String>) -> Self {
        Self::new(Language::JavaScript, code)
    }

    /// A bash script.
    pub fn shell(code: impl Into<String>) -> Self {
        Self::new(Language::Shell, code)
    }

    /// Runs the program from top to bottom instead of calling its handler.
    pub fn as_script(self) -> Self {
        Self {
            mode: Some(Mode::Script),
            ..self
        }
    }

    /// Names the execution. The name is its idempotency key: the same request under the same name is run once. Without
    /// this, every request is an execution of its own.
    pub fn id(self, id: impl Into<String>) -> Self {
        Self {
            id: Some(id.into()),
            ..self
        }
    }

    /// Runs in the workspace of this session. Without this, the run has a workspace of its own.
    pub fn session(self, session: impl Into<String>) -> Self {
        Self {
            session: Some(session.into()),
            ..self
        }
    }

    /// The handler's input: a JSON object. Without this, an empty one.
    pub fn event(self, json: impl Into<String>) -> Self {
        Self {
            event: Some(json.into()),
            ..self
        }
    }

    /// Adds a variable to the guest's environment, which has nothing of this process's.
    pub fn variable(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.variables.insert(name.into(), value.into());
        self
    }

    /// The guest's standard input. Without this it is empty, or the event for shell scripts.
    pub fn stdin(self, text: impl Into<String>) -> Self {
        Self {
            stdin: Some(text.into()),
            ..self
        }
    }

    /// What the run would like to use, below the ceilings.
    pub fn limits(self, limits: RequestedLimits) -> Self {
        Self { limits, ..self }
    }

    /// Checks everything once.
    ///
    /// # Errors
    ///
    /// What is wrong first.
    pub fn parse(self) -> Result<ExecuteCommand, InvalidRequest> {
        let own = || format!("embedded-{}", Uuid::new_v4());
        let id = self.id.unwrap_or_else(own);
        let session = self.session.unwrap_or_else(own);
        Ok(ExecuteCommand {
            execution_id: ExecutionId::parse(&id).map_err(InvalidRequest::Id)?,
            session_id: SessionId::parse(&session).map_err(InvalidRequest::Session)?,
            source: Source::parse(self.language, self.mode, &self.code)?,
            event: match self.event {
                Some(json) => Event::new(JsonText::parse(json)?)?,
                None => Event::default(),
            },
            environment: GuestEnvironment::parse(self.variables)?,
            stdin: self.stdin,
            limits: self.limits,
            // A program that traces puts the run into its own span.
            trace_parent: None,
        })
    }
}
