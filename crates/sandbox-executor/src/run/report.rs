//! What `run` says of an execution that has ended.

use std::{fmt::Write as _, path::Path};

use executor_domain::{CrashCause, Ending, Execution, Outcome, State, Status};

use crate::{
    exit::Exit,
    terminal::{BAD, GOOD, QUIET, harmless},
};

/// How `run` ends after this: as the guest did, in the words of shells and of timeout(1).
pub(crate) fn exit_of(ending: &Ending) -> Exit {
    match ending {
        Ending::Completed { .. } => Exit::Success,
        // A guest that failed after its process had said 0 did not succeed.
        Ending::Failed { exit_code, .. } => Exit::Guest(match u8::try_from(*exit_code) {
            Ok(0) | Err(_) => 1,
            Ok(code) => code,
        }),
        Ending::TimedOut { .. } => Exit::Guest(124),
        Ending::Crashed(CrashCause::ExecutorLost) => Exit::Internal,
        Ending::Crashed(CrashCause::Signal(_) | CrashCause::Memory) => {
            let signal = ending.signal().and_then(|number| u8::try_from(number).ok());
            Exit::Guest(128_u8.saturating_add(signal.unwrap_or_default()))
        }
        Ending::Cancelled => Exit::Interrupted,
    }
}

/// The end of an execution, for a person: how it ended and what it left. `kept` is the directory that its files stay
/// in, if they stay. Nothing that comes from the guest can move a terminal's cursor.
pub(crate) fn summary(execution: &Execution, kept: Option<&Path>) -> String {
    let State::Finished {
        outcome, artifacts, ..
    } = execution.state()
    else {
        return String::new();
    };
    let mut text = headline(execution.status(), outcome);
    if let Some(error) = outcome.ending.error() {
        let _ = write!(
            text,
            "\n  {}: {}",
            harmless(&error.error_type),
            harmless(&error.message)
        );
    }
    if let Ending::Completed { return_value } = &outcome.ending
        && return_value.as_str() != "null"
    {
        let _ = write!(text, "\n  returned {}", harmless(return_value.as_str()));
    }
    for (name, output) in [("stdout", &outcome.stdout), ("stderr", &outcome.stderr)] {
        if output.is_truncated() {
            let _ = write!(
                text,
                "\n  {name} was cut after {}: {} more are lost",
                size(output.bytes.len() as u64),
                size(output.truncated_bytes)
            );
        }
    }
    for artifact in &artifacts.files {
        let path = harmless(&artifact.path);
        let place = match kept {
            Some(directory) => directory.join(path).display().to_string(),
            None => path,
        };
        let _ = write!(text, "\n  left {place} ({})", size(artifact.size));
        if let Some(url) = &artifact.url {
            let _ = write!(text, "\n    at {}", harmless(url));
        }
    }
    for line in &artifacts.skipped {
        let _ = write!(text, "\n  {}", harmless(line));
    }
    for line in &artifacts.not_uploaded {
        let _ = write!(text, "\n  not uploaded: {}", harmless(line));
    }
    if kept.is_none() && !artifacts.files.is_empty() {
        let _ = write!(
            text,
            "\n  {QUIET}in a temporary workspace, which is gone: keep files with --session NAME{QUIET:#}"
        );
    }
    text
}

fn headline(status: Status, outcome: &Outcome) -> String {
    let style = if status == Status::Completed {
        GOOD
    } else {
        BAD
    };
    let millis = outcome.usage.wall_time.as_secs_f64() * 1000.0;
    let mut line = format!("{style}{}{style:#} in {millis:.1} ms", status.as_str());
    if let Some(bytes) = outcome.usage.peak_memory_bytes {
        let _ = write!(line, ", {}", size(bytes));
    }
    let _ = write!(line, ", {} start", outcome.start.as_str());
    if !outcome.limits_hit.is_empty() {
        let names: Vec<_> = outcome.limits_hit.iter().map(|hit| hit.as_str()).collect();
        let _ = write!(line, ", limits hit: {}", names.join(", "));
    }
    line
}

/// A number of bytes for a person, cut to one digit behind the point.
fn size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match UNITS.iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) => format!("{}.{} {name}", bytes / unit, bytes % unit * 10 / unit),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use executor_domain::{
        Artifact, Artifacts, CapturedOutput, Clock, ExecutionId, GuestError, JsonText, LimitHit,
        Reason, SessionId, Start, Timestamp, Usage,
    };

    use super::*;

    const T0: Timestamp = Timestamp::from_unix_micros(0);

    fn failed(exit_code: i32, message: &str) -> Ending {
        Ending::Failed {
            exit_code,
            error: GuestError::new("ValueError", message.into(), Reason::HandlerError),
        }
    }

    fn ended(ending: Ending, artifacts: Artifacts) -> Execution {
        let mut execution = Execution::accept(
            ExecutionId::parse("e").unwrap(),
            SessionId::parse("s").unwrap(),
            T0,
        );
        execution.start(T0).unwrap();
        let outcome = Outcome {
            ending,
            stdout: CapturedOutput {
                bytes: b"1234".to_vec(),
                truncated_bytes: 7,
            },
            stderr: CapturedOutput::default(),
            usage: Usage {
                wall_time: Duration::from_micros(12_345),
                peak_memory_bytes: Some(10_276_045),
                ..Usage::default()
            },
            start: Start::Cold,
            limits_hit: vec![LimitHit::Output],
        };
        execution.finish(T0, outcome, artifacts).unwrap();
        execution
    }

    /// Without colours.
    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn run_ends_as_its_guest_did() {
        let completed = Ending::Completed {
            return_value: JsonText::null(),
        };
        let timed_out = Ending::TimedOut {
            clock: Clock::Cpu,
            allowed: Duration::from_secs(1),
        };
        for (ending, code) in [
            (completed, 0),
            (failed(1, ""), 1),
            (failed(255, ""), 255),
            (failed(0, ""), 1),
            (failed(-1, ""), 1),
            (failed(256, ""), 1),
            (timed_out, 124),
            (Ending::Crashed(CrashCause::Signal(11)), 139),
            (Ending::Crashed(CrashCause::Memory), 137),
            (Ending::Crashed(CrashCause::ExecutorLost), 70),
            (Ending::Cancelled, 130),
        ] {
            assert_eq!(exit_of(&ending).code(), code, "{ending:?}");
        }
    }

    #[test]
    fn a_summary_says_how_it_ended_and_what_is_left() {
        let artifacts = Artifacts {
            files: vec![Artifact {
                path: "plots/a.png".into(),
                size: 1536,
                mime_type: "image/png".into(),
                created_at: T0,
                checksum: String::new(),
                url: Some("https://store/a.png".into()),
            }],
            skipped: vec!["link: a symbolic link".into()],
            not_uploaded: vec!["b: no time was left".into()],
        };
        let completed = Ending::Completed {
            return_value: JsonText::parse("{\"a\": 1}".into()).unwrap(),
        };
        let execution = ended(completed, artifacts);
        assert_eq!(
            plain(&summary(&execution, Some(Path::new("/ws/s")))),
            "completed in 12.3 ms, 9.8 MiB, cold start, limits hit: output\n  \
             returned {\"a\": 1}\n  \
             stdout was cut after 4 B: 7 B more are lost\n  \
             left /ws/s/plots/a.png (1.5 KiB)\n    \
             at https://store/a.png\n  \
             link: a symbolic link\n  \
             not uploaded: b: no time was left"
        );
        let temporary = plain(&summary(&execution, None));
        assert!(temporary.contains("left plots/a.png (1.5 KiB)\n"));
        assert!(temporary.ends_with("keep files with --session NAME"));
    }

    #[test]
    fn a_guest_cannot_write_to_the_terminal_through_its_error() {
        let execution = ended(failed(1, "\x1b[2Jboom"), Artifacts::default());
        let text = plain(&summary(&execution, None));
        assert!(text.contains("\n  ValueError: \\u{1b}[2Jboom"), "{text}");
    }
}
