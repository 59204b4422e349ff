//! Code that uses the executor, and its unit tests without a sandbox: milliseconds, no privileges, any platform.
//!
//! ```sh
//! cargo run --example mocked_unit_test     # the real thing
//! cargo test --example mocked_unit_test    # the tests below
//! ```
//!
//! The mocks are in `executor-application` behind its feature `mocks`; depend on it in `[dev-dependencies]`.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::{error::Error, time::Duration};

use sandbox_executor::embed::{self, Ending, Executor, Request, RequestedLimits, RunError};

/// What a submission is worth.
#[derive(Debug, PartialEq, Eq)]
enum Grade {
    Right,
    Wrong { said: String },
    TooSlow,
    Broken { message: String },
}

/// Grades what students hand in: a Python program whose handler squares a number.
struct Grader {
    executor: Executor,
}

impl Grader {
    async fn grade(&self, submission: &str) -> Result<Grade, RunError> {
        let request = Request::python(submission)
            .event(r#"{"n": 7}"#)
            .limits(RequestedLimits {
                timeout: Some(2),
                ..RequestedLimits::default()
            });
        let execution = self.executor.run(request).await?;
        let ending = execution.outcome().map(|outcome| &outcome.ending);
        Ok(match ending {
            Some(Ending::Completed { return_value }) if return_value.as_str() == "49" => {
                Grade::Right
            }
            Some(Ending::Completed { return_value }) => Grade::Wrong {
                said: return_value.as_str().to_owned(),
            },
            Some(Ending::TimedOut { .. }) => Grade::TooSlow,
            Some(other) => Grade::Broken {
                message: other.error().map(|error| error.message).unwrap_or_default(),
            },
            None => Grade::Broken {
                message: "it has not ended".into(),
            },
        })
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    embed::dispatch();
    tokio::runtime::Runtime::new()?.block_on(async {
        let executor = Executor::builder().start().await?;
        let grader = Grader { executor };
        for submission in [
            "def handler(event): return event['n'] ** 2",
            "def handler(event): return event['n'] * 2",
            "def handler(event): return event['m']",
        ] {
            println!("{:?}", grader.grade(submission).await?);
        }
        grader.executor.stop(Duration::ZERO).await;
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use executor_application::{
        MockSandbox,
        fake::{NoWorkspaces, StoppedClock},
    };
    use executor_domain::{Clock, JsonText, Language};
    use sandbox_executor::embed::{
        CapturedOutput, CrashCause, LanguageSupport, Outcome, SandboxDescription, SandboxError,
        Start, Usage,
    };

    use super::*;

    /// What a sandbox would have said of a run that ended like this.
    fn outcome(ending: Ending) -> Outcome {
        Outcome {
            ending,
            stdout: CapturedOutput::default(),
            stderr: CapturedOutput::default(),
            usage: Usage::default(),
            start: Start::Cold,
            limits_hit: Vec::new(),
        }
    }

    fn python_only() -> SandboxDescription {
        SandboxDescription {
            isolation: "mock",
            platform: "Linux",
            tool_version: "0".into(),
            walls: Vec::new(),
            languages: vec![LanguageSupport {
                language: Language::Python,
                interpreter: "mock".into(),
                version: "0".into(),
            }],
        }
    }

    async fn grader(sandbox: MockSandbox) -> Grader {
        let executor = Executor::builder()
            .sandbox(Arc::new(sandbox))
            .workspaces(Arc::new(NoWorkspaces))
            .clock(Arc::new(StoppedClock))
            .start()
            .await
            .unwrap();
        Grader { executor }
    }

    /// A grader whose guests all end like this.
    async fn grader_whose_guests_end(ending: Ending) -> Grader {
        let mut sandbox = MockSandbox::new();
        sandbox.expect_description().return_const(python_only());
        sandbox
            .expect_run()
            // The grader's own promise: the event and the time that it gives are these.
            .withf(|job, _| {
                job.event.as_str() == r#"{"n": 7}"#
                    && job.limits.wall_time() == Duration::from_secs(2)
            })
            .times(1)
            .return_once(move |_, _| Ok(outcome(ending)));
        grader(sandbox).await
    }

    #[tokio::test]
    async fn the_right_number_is_right_and_others_are_wrong() {
        for (value, grade) in [
            ("49", Grade::Right),
            ("14", Grade::Wrong { said: "14".into() }),
            (
                r#""49""#,
                Grade::Wrong {
                    said: r#""49""#.into(),
                },
            ),
        ] {
            let ending = Ending::Completed {
                return_value: JsonText::parse(value.to_owned()).unwrap(),
            };
            let grader = grader_whose_guests_end(ending).await;
            assert_eq!(grader.grade("anything").await.unwrap(), grade);
        }
    }

    #[tokio::test]
    async fn out_of_time_and_out_of_memory_are_not_the_same() {
        let slow = Ending::TimedOut {
            clock: Clock::Wall,
            allowed: Duration::from_secs(2),
        };
        let grader = grader_whose_guests_end(slow).await;
        assert_eq!(grader.grade("anything").await.unwrap(), Grade::TooSlow);

        let greedy = Ending::Crashed(CrashCause::Memory);
        let grader = grader_whose_guests_end(greedy).await;
        let grade = grader.grade("anything").await.unwrap();
        assert!(matches!(grade, Grade::Broken { .. }), "{grade:?}");
    }

    #[tokio::test]
    async fn a_sandbox_that_fails_is_not_the_students_fault() {
        let mut sandbox = MockSandbox::new();
        sandbox.expect_description().return_const(python_only());
        sandbox.expect_run().returning(|_, _| {
            Err(SandboxError::Unavailable {
                reason: "no user namespaces".into(),
            })
        });
        assert!(grader(sandbox).await.grade("anything").await.is_err());
    }
}
