//! The body of `POST /execute`, parsed once into a command of domain types.
//!
//! Whatever is wrong with the fields is found in one pass and reported together. The event is never parsed into a tree:
//! neither its depth nor its size costs more than its bytes.

mod object;
mod schema;

use std::collections::BTreeMap;

use executor_application::ExecuteCommand;
use executor_domain::{
    Event, ExecutionId, GuestEnvironment, JsonText, Language, LimitPolicy, Mode, RequestedLimits,
    SessionId, Source,
};
use serde_json::value::RawValue;

use crate::{error::ApiError, problems::Problems};
use object::{Object, kind_of, members};
pub(crate) use schema::{SCHEMA, schema};

/// Every field that a request may have.
pub(crate) const FIELDS: &[&str] = &[
    "execution_id",
    "session_id",
    "code",
    "language",
    "timeout",
    "event",
    "env_vars",
    "mode",
    "stdin",
    "limits",
];

/// Every field that `limits` may have.
const LIMIT_FIELDS: &[&str] = &[
    "max_memory_mb",
    "max_cpu_time_ms",
    "max_wall_time_ms",
    "max_processes",
    "max_file_size_mb",
    "max_output_bytes",
    "max_workspace_mb",
];

/// What a body of `POST /execute` asks for, for whoever has one without a server; `None` where a server would refuse it.
pub fn command_of(body: &str, policy: &LimitPolicy) -> Option<ExecuteCommand> {
    parse(body, policy).ok()
}

/// Parses a body. The policy is asked here only so that wishes above a ceiling are reported together with everything
/// else; what a run gets is decided where it is submitted.
pub(crate) fn parse(body: &str, policy: &LimitPolicy) -> Result<ExecuteCommand, ApiError> {
    let mut problems = Problems::default();
    let fields = read_object(body, &mut problems)?;

    let execution_id = fields
        .required_text("execution_id", &mut problems)
        .and_then(|id| accept("execution_id", ExecutionId::parse(&id), &mut problems));
    let session_id = fields
        .required_text("session_id", &mut problems)
        .and_then(|id| accept("session_id", SessionId::parse(&id), &mut problems));
    let source = source(&fields, &mut problems);
    let event = fields
        .object("event", &mut problems)
        .and_then(|raw| {
            accept(
                "event",
                Event::new(JsonText::from(raw.to_owned())),
                &mut problems,
            )
        })
        .unwrap_or_default();
    let environment = environment(&fields, &mut problems);
    let stdin = fields.text("stdin", &mut problems);
    let limits = limits(&fields, &mut problems);
    if let Err(refused) = policy.grant(&limits) {
        problems.add_limits(&refused);
    }

    match (execution_id, session_id, source) {
        (Some(execution_id), Some(session_id), Some(source)) if problems.is_empty() => {
            Ok(ExecuteCommand {
                execution_id,
                session_id,
                source,
                event,
                environment,
                stdin,
                limits,
                trace_parent: None,
            })
        }
        _ => Err(ApiError::InvalidFields(problems)),
    }
}

/// Reads the members of the outermost object, or says what the body is instead.
fn read_object<'a>(body: &'a str, problems: &mut Problems) -> Result<Object<'a>, ApiError> {
    let what = match body
        .trim_start_matches([' ', '\t', '\r', '\n'])
        .chars()
        .next()
    {
        Some('{') => {
            return Object::read(body, FIELDS, "", problems).map_err(|error| {
                ApiError::Malformed(format!("the body is not valid JSON: {error}").into())
            });
        }
        None => "the body is empty",
        Some('\u{feff}') => {
            "the body starts with a byte order mark, which JSON does not have (RFC 8259, section 8.1)"
        }
        Some(_) => "the body is not a JSON object",
    };
    Err(ApiError::Malformed(what.into()))
}

/// Notes what is wrong with a field, or passes it on.
fn accept<T, E: std::fmt::Display>(
    field: &str,
    parsed: Result<T, E>,
    problems: &mut Problems,
) -> Option<T> {
    parsed.map_err(|error| problems.add(field, error)).ok()
}

fn source(fields: &Object<'_>, problems: &mut Problems) -> Option<Source> {
    let code = fields.required_text("code", problems);
    let language = fields
        .required_text("language", problems)
        .and_then(|name| accept("language", Language::parse(&name), problems));
    let mode = fields
        .text("mode", problems)
        .and_then(|name| accept("mode", Mode::parse(&name), problems));

    // Each is judged without the others, so that no mistake hides another one. Whether a text can be a program does not
    // depend on its language, and an empty program fits wherever its mode does.
    let judged = language.unwrap_or(Language::Python);
    if let Err(error) = Source::parse(judged, mode, "") {
        problems.add("mode", format_args!("cannot be used: {error}"));
    }
    let code = code?;
    accept("code", Source::parse(judged, None, &code), problems)?;
    Source::parse(language?, mode, &code).ok()
}

fn environment(fields: &Object<'_>, problems: &mut Problems) -> GuestEnvironment {
    let Some(raw) = fields.object("env_vars", problems) else {
        return GuestEnvironment::default();
    };
    let mut variables = BTreeMap::new();
    let mut bytes = 0;
    let read = members(raw.get(), |name, value| match text_of(value) {
        // Too many are looked at, but not kept: the whole is refused below, and must not become large before that.
        Ok(_) if bytes > GuestEnvironment::MAX_BYTES => {}
        Ok(text) => {
            bytes += name.len() + text.len() + 2;
            if variables.insert(name.clone(), text).is_some() {
                problems.add(format_args!("env_vars.{name}"), "is given more than once");
            }
        }
        Err(problem) => problems.add(format_args!("env_vars.{name}"), problem),
    });
    accept("env_vars", read.map_err(|_| NOT_UNICODE), problems);
    accept("env_vars", GuestEnvironment::parse(variables), problems).unwrap_or_default()
}

fn limits(fields: &Object<'_>, problems: &mut Problems) -> RequestedLimits {
    let timeout = fields.number("timeout", problems);
    let nested = fields
        .object("limits", problems)
        .map(|raw| Object::read(raw.get(), LIMIT_FIELDS, "limits.", problems))
        .and_then(|read| accept("limits", read.map_err(|_| NOT_UNICODE), problems))
        .unwrap_or_default();
    let mut wish = |name| nested.number(name, problems);
    RequestedLimits {
        timeout,
        max_memory_mb: wish("max_memory_mb"),
        max_cpu_time_ms: wish("max_cpu_time_ms"),
        max_wall_time_ms: wish("max_wall_time_ms"),
        max_processes: wish("max_processes"),
        max_file_size_mb: wish("max_file_size_mb"),
        max_output_bytes: wish("max_output_bytes"),
        max_workspace_mb: wish("max_workspace_mb"),
    }
}

/// JSON can spell half of a surrogate pair, which is no character (RFC 8259, section 8.2).
const NOT_UNICODE: &str = "has an escape that is no Unicode character";

/// The text of a JSON string.
fn text_of(value: &RawValue) -> Result<String, String> {
    match kind_of(value) {
        "a string" => serde_json::from_str(value.get()).map_err(|_| NOT_UNICODE.to_owned()),
        other => Err(format!("must be a string, is {other}")),
    }
}

#[cfg(test)]
mod tests;
