//! An interpreter that is ready for guests, and what one guest needs of it.

use std::{sync::Arc, time::Duration};

use executor_application::{Job, Listener};
use executor_domain::{Language, ResourceLimit};

use crate::{
    guest::{
        interpreter::{Interpreter, SHELL_ENVIRONMENT},
        runner::Bootstrap,
    },
    stage::wire::SmallFile,
    supervisor,
};

/// The variable that holds the event.
const EVENT_VARIABLE: &str = "EVENT_JSON";
/// Longest `NAME=value` with its NUL that Linux passes to a program (`MAX_ARG_STRLEN`, execve(2)).
const MAX_VARIABLE_BYTES: usize = 128 << 10;

/// Open files of one process. What Linux gives by default; enough for every library that we know of.
pub(crate) const OPEN_FILES: u64 = 1024;
/// Most bytes of a result.
pub(crate) const MAX_RESULT_BYTES: usize = 8 << 20;

/// A program to run in a sandbox.
pub(crate) struct Program {
    /// The program, by absolute path in the sandbox, and its arguments.
    pub argv: Vec<String>,
    /// Its whole environment.
    pub environment: Vec<(String, String)>,
    /// Files of ours that it needs, where [`Surroundings`] says.
    pub files: Vec<SmallFile>,
    /// Its standard input.
    pub stdin: String,
    /// What it is told on its channel; `None`: it has none.
    pub job: Option<supervisor::Job>,
    /// Who hears what it writes.
    pub listener: Listener,
}

/// Where a guest finds itself, as far as its adapter decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Surroundings {
    /// The environment before the caller's variables are added, which may replace any of these.
    pub environment: Vec<(String, String)>,
    /// Where a shell guest's script is.
    pub script: String,
}

impl Surroundings {
    /// Those in a sandbox with a file system of its own.
    #[cfg(target_os = "linux")]
    pub(crate) fn of_bubblewrap() -> Self {
        use crate::guest::interpreter::{GUEST_ENVIRONMENT, SHELL_SCRIPT};

        Self {
            environment: GUEST_ENVIRONMENT
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            script: SHELL_SCRIPT.into(),
        }
    }
}

/// CPU time in whole seconds, upwards, for `RLIMIT_CPU`.
pub(crate) fn cpu_seconds(limits: &ResourceLimit) -> u64 {
    let millis = limits.cpu_time().max(Duration::from_millis(1)).as_millis();
    u64::try_from(millis.div_ceil(1000)).unwrap_or(u64::MAX / 2)
}

/// An interpreter that is ready for guests.
#[derive(Debug, Clone)]
pub(crate) struct Runtime {
    pub interpreter: Interpreter,
    /// What the interpreter says of its version.
    pub version: String,
    /// Options that make it start faster, as far as it knows them.
    pub options: Vec<String>,
    /// The program that it is to load; shells have none.
    pub bootstrap: Option<Arc<Bootstrap>>,
}

/// How far the interpreter is that a job is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It is yet to be started.
    ToStart,
    /// It waits in a slot, where its arguments and its surroundings are given.
    Waiting,
}

/// A guest, ready to be run.
pub(crate) struct Prepared {
    pub program: Program,
    /// A line for the guest's stderr.
    pub note: Option<String>,
}

impl Runtime {
    pub(crate) const fn language(&self) -> Language {
        self.interpreter.language()
    }

    /// What a job means for this interpreter, or for one of its kind that waits in a slot with these surroundings.
    pub(crate) fn prepare(&self, job: Job, surroundings: &Surroundings, stage: Stage) -> Prepared {
        let (event_variable, note) = event_variable(job.event.as_str());
        let warm = stage == Stage::Waiting;
        let at_start = match stage {
            Stage::ToStart => surroundings.environment.as_slice(),
            Stage::Waiting => &[],
        };
        // Later ones win: the caller may replace any of ours.
        let environment: Vec<_> = at_start
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .chain(event_variable)
            .chain(job.environment.iter())
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let is_shell = self.language() == Language::Shell;
        let stdin = job.stdin.unwrap_or_else(|| {
            let event = is_shell.then(|| job.event.as_str().to_owned());
            event.unwrap_or_default()
        });
        let script = is_shell.then(|| SmallFile {
            path: surroundings.script.clone(),
            text: job.source.code().to_owned(),
        });
        let variables = (is_shell && warm).then(|| SmallFile {
            path: SHELL_ENVIRONMENT.into(),
            text: assignments(&environment),
        });
        let memory_limit_mb = job.limits.max_memory_mb();
        let (environment, late) = if warm {
            (Vec::new(), Some(environment))
        } else {
            (environment, None)
        };
        let program = Program {
            argv: self.argv(memory_limit_mb, &surroundings.script),
            environment,
            files: script.into_iter().chain(variables).collect(),
            stdin,
            job: self.bootstrap.clone().map(|bootstrap| supervisor::Job {
                bootstrap: (!warm).then_some(bootstrap),
                environment: late,
                execution_id: job.execution_id,
                session_id: job.session_id,
                source: job.source,
                event: job.event,
                memory_limit_mb,
            }),
            listener: job.listener,
        };
        Prepared { program, note }
    }

    fn argv(&self, memory_limit_mb: u64, script: &str) -> Vec<String> {
        let mut argv = words(self.interpreter.command_with(script));
        argv.splice(1..1, self.options.iter().cloned());
        self.with_heap(argv, memory_limit_mb)
    }

    /// The words that start a zygote whose guests may use this much memory; `None`: this interpreter cannot be one.
    #[cfg(target_os = "linux")]
    pub(crate) fn zygote_argv(&self, memory_limit_mb: u64) -> Option<Vec<String>> {
        let command = self.interpreter.zygote_command()?;
        Some(self.with_heap(words(command), memory_limit_mb))
    }

    fn with_heap(&self, mut argv: Vec<String>, memory_limit_mb: u64) -> Vec<String> {
        if self.language() == Language::JavaScript {
            // V8 sizes its heap by the machine's memory and would meet the cgroup's limit before it collects garbage.
            // The rest is for buffers, code and stacks, which live outside of that heap.
            let heap = memory_limit_mb / 4 * 3;
            argv.insert(1, format!("--max-old-space-size={heap}"));
        }
        argv
    }
}

/// Words for a JSON message. Ours are all UTF-8: an interpreter that is not was not found.
pub(crate) fn words(command: Vec<std::ffi::OsString>) -> Vec<String> {
    command
        .into_iter()
        .map(|word| word.to_string_lossy().into_owned())
        .collect()
}

/// Variables as a program for a shell that has started without them. Their names are identifiers; between single quotes
/// nothing means anything but a single quote.
fn assignments(environment: &[(String, String)]) -> String {
    environment
        .iter()
        .fold(String::new(), |text, (name, value)| {
            let quoted = value.replace('\'', r"'\''");
            text + "export " + name + "='" + &quoted + "'\n"
        })
}

/// The event as a variable, or why it is not one.
fn event_variable(event: &str) -> (Option<(&str, &str)>, Option<String>) {
    let bytes = EVENT_VARIABLE.len() + event.len() + "=\0".len();
    if bytes <= MAX_VARIABLE_BYTES {
        (Some((EVENT_VARIABLE, event)), None)
    } else {
        let note = format!(
            "sandbox-executor: {EVENT_VARIABLE} is not set, because the event has {} bytes and Linux passes at most {MAX_VARIABLE_BYTES}\n",
            event.len()
        );
        (None, Some(note))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_never_read_as_a_program() {
        let variable = |value: &str| assignments(&[("A".into(), value.into())]);
        assert_eq!(variable("x y"), "export A='x y'\n");
        assert_eq!(variable("$(id)`id`\\\n"), "export A='$(id)`id`\\\n'\n");
        assert_eq!(variable("'; id; '"), "export A=''\\''; id; '\\'''\n");
    }

    #[test]
    fn the_event_is_a_variable_up_to_the_kernels_cap() {
        let room = MAX_VARIABLE_BYTES - "EVENT_JSON=\0".len();
        let fits = "x".repeat(room);
        assert_eq!(
            event_variable(&fits),
            (Some(("EVENT_JSON", fits.as_str())), None)
        );
        let one_more = "x".repeat(room + 1);
        let (variable, note) = event_variable(&one_more);
        assert_eq!(variable, None);
        assert!(note.unwrap().contains("EVENT_JSON is not set"));
    }
}
