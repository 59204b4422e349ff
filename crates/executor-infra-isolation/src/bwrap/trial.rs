//! Guests of ours, by which a language shows that its slots are what its cold starts are, before it is kept warm.

use executor_application::{Job, Listener};
use executor_domain::{
    Ending, Event, ExecutionId, GuestEnvironment, Language, Mode, Outcome, ResourceLimit,
    SessionId, Source,
};

/// A directory that every host has, to prove with that a slot gets its workspace. Our guests touch nothing.
pub(super) const ANY_DIRECTORY: &str = "/usr";

/// A guest of ours, and what it has to come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Trial {
    pub mode: Mode,
    code: &'static str,
    exit_code: i32,
    /// What it returns or prints.
    says: &'static str,
    /// Whether it returns numbers that no other guest may return.
    draws: bool,
}

const fn trial(mode: Mode, code: &'static str, exit_code: i32, says: &'static str) -> Trial {
    Trial {
        mode,
        code,
        exit_code,
        says,
        draws: false,
    }
}

/// What a forked Node could do and does not end after, each once: threads of libuv's and of workers, child processes, timers,
/// modules; and every way to end.
const NODE: [Trial; 6] = [
    trial(
        Mode::Handler,
        include_str!("trial/mixed.js"),
        0,
        "\"mixed\"",
    ),
    trial(Mode::Script, include_str!("trial/ends.js"), 7, "ended"),
    trial(
        Mode::Script,
        include_str!("trial/throws.js"),
        1,
        "TypeError: thrown",
    ),
    trial(Mode::Script, include_str!("trial/exits.js"), 3, "exits"),
    DRAW,
    DRAW,
];
const DRAW: Trial = Trial {
    draws: true,
    ..trial(Mode::Handler, include_str!("trial/draw.js"), 0, ",")
};

const PYTHON: [Trial; 1] = [trial(
    Mode::Handler,
    "def handler(event):\n    return 'returned'",
    0,
    "returned",
)];

/// A warm shell that counted lines wrong would not be one that was started for its script.
const SHELL: [Trial; 1] = [trial(Mode::Script, "exit $((LINENO - 1))", 0, "")];

/// The trials of a language, in this order.
pub(super) const fn of(language: Language) -> &'static [Trial] {
    match language {
        Language::Python => &PYTHON,
        Language::JavaScript => &NODE,
        Language::Shell => &SHELL,
    }
}

impl Trial {
    /// Its job.
    pub(super) fn job(&self, language: Language, limits: &ResourceLimit) -> Result<Job, String> {
        let said = |error: &dyn std::error::Error| error.to_string();
        Ok(Job {
            execution_id: ExecutionId::parse("trial").map_err(|error| said(&error))?,
            session_id: SessionId::parse("trial").map_err(|error| said(&error))?,
            source: Source::parse(language, Some(self.mode), self.code)
                .map_err(|error| said(&error))?,
            event: Event::default(),
            environment: GuestEnvironment::default(),
            stdin: None,
            limits: *limits,
            workspace: ANY_DIRECTORY.into(),
            listener: Listener::none(),
        })
    }
}

/// What is said of guests of ours, one after the other.
#[derive(Debug, Default)]
pub(super) struct Jury {
    drawn: Vec<String>,
}

impl Jury {
    /// Whether a trial came to what it has to come to, or how it did not.
    pub(super) fn hear(&mut self, trial: &Trial, outcome: &Outcome) -> Result<(), String> {
        let returned = match &outcome.ending {
            Ending::Completed { return_value } => return_value.as_str(),
            Ending::Failed { .. } => "",
            other => return Err(format!("a guest of ours did not end in a slot: {other:?}")),
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = (text(&outcome.stdout.bytes), text(&outcome.stderr.bytes));
        let says = [returned, &stdout, &stderr]
            .iter()
            .any(|said| said.contains(trial.says));
        if !says || outcome.ending.exit_code() != trial.exit_code {
            return Err(format!(
                "a guest of ours did not run in a slot as it does otherwise: {:?} {stderr}",
                outcome.ending
            ));
        }
        if trial.draws {
            for number in returned.trim_matches(['[', ']']).split(',') {
                if self.drawn.iter().any(|drawn| drawn == number) {
                    return Err(format!("two guests of ours have both drawn {number}"));
                }
                self.drawn.push(number.to_owned());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use executor_domain::{CapturedOutput, JsonText, Start};

    use super::*;

    fn returned(text: &str) -> Outcome {
        Outcome {
            ending: Ending::Completed {
                return_value: JsonText::parse(text.to_owned()).unwrap(),
            },
            stdout: CapturedOutput::default(),
            stderr: CapturedOutput::default(),
            usage: executor_domain::Usage::default(),
            limits_hit: Vec::new(),
            start: Start::Warm,
        }
    }

    #[test]
    fn a_trial_is_lost_by_another_answer_and_another_end() {
        let mut jury = Jury::default();
        assert!(jury.hear(&NODE[0], &returned("\"mixed\"")).is_ok());
        assert!(jury.hear(&NODE[0], &returned("null")).is_err());
        assert!(jury.hear(&NODE[1], &returned("\"ended\"")).is_err());
        let killed = Outcome {
            ending: Ending::Cancelled,
            ..returned("\"mixed\"")
        };
        assert!(jury.hear(&NODE[0], &killed).is_err());
    }

    #[test]
    fn no_two_guests_may_draw_the_same() {
        let mut jury = Jury::default();
        assert!(jury.hear(&DRAW, &returned("[1,2]")).is_ok());
        assert!(jury.hear(&DRAW, &returned("[3,4]")).is_ok());
        let twice = jury.hear(&DRAW, &returned("[5,2]")).unwrap_err();
        assert!(twice.ends_with("drawn 2"), "{twice}");
    }

    #[test]
    fn every_language_has_a_trial_that_is_a_job() {
        let limits = executor_domain::LimitPolicy::default()
            .grant(&executor_domain::RequestedLimits::default())
            .unwrap();
        for language in Language::ALL {
            assert!(!of(language).is_empty());
            for trial in of(language) {
                trial.job(language, &limits).unwrap();
            }
        }
    }
}
