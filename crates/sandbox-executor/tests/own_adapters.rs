//! Adapters of one's own can be written with the names of `embed` alone: whoever embeds the executor depends on one crate.

use std::{path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use sandbox_executor::embed::{
    Artifact, Artifacts, CancellationToken, CapturedOutput, Clock, Content, Ending, Event,
    Executor, FilesError, GuestEnvironment, Job, JsonText, Language, LanguageSupport, Listener,
    Outcome, OutputStream, Overflow, Request, ResourceLimit, Sandbox, SandboxDescription,
    SandboxError, SessionId, Source, Start, Timestamp, Usage, Wall, WallState, WarmPool, Workspace,
    WorkspaceError, Workspaces,
};

/// Says what it was given.
struct Echo(SandboxDescription);

/// What there is to see of a job.
fn told(
    source: &Source,
    event: &Event,
    environment: &GuestEnvironment,
    limits: &ResourceLimit,
) -> String {
    let variables = environment.iter().count();
    format!(
        "{} {} {variables} {}",
        source.code(),
        event.as_str(),
        limits.max_memory_mb()
    )
}

fn tell(listener: &Listener, text: &str) {
    listener.wrote(OutputStream::Stdout, text.as_bytes());
}

#[async_trait]
impl Sandbox for Echo {
    async fn run(&self, job: Job, _cancel: CancellationToken) -> Result<Outcome, SandboxError> {
        let text = told(&job.source, &job.event, &job.environment, &job.limits);
        tell(&job.listener, &text);
        Ok(Outcome {
            ending: Ending::Completed {
                return_value: JsonText::null(),
            },
            stdout: CapturedOutput {
                bytes: text.into_bytes(),
                ..CapturedOutput::default()
            },
            stderr: CapturedOutput::default(),
            usage: Usage::default(),
            start: Start::Cold,
            limits_hit: Vec::new(),
        })
    }

    async fn check(&self) -> Result<(), SandboxError> {
        Ok(())
    }

    fn description(&self) -> &SandboxDescription {
        &self.0
    }

    fn warm_pools(&self) -> Vec<WarmPool> {
        Vec::new()
    }
}

/// Has nothing.
struct Nowhere;

#[async_trait]
impl Workspaces for Nowhere {
    async fn open(&self, _session: &SessionId) -> Result<Box<dyn Workspace>, WorkspaceError> {
        Ok(Box::new(Self))
    }

    async fn check(&self) -> Result<(), WorkspaceError> {
        Ok(())
    }

    fn root(&self) -> &Path {
        Path::new("/nowhere")
    }

    fn quota(&self) -> Wall {
        Wall {
            name: "workspace_quota",
            state: WallState::Off("nobody looks".into()),
        }
    }
}

#[async_trait]
impl Workspace for Nowhere {
    fn path(&self) -> &Path {
        Path::new("/nowhere")
    }

    async fn changes(&self) -> Result<Artifacts, WorkspaceError> {
        Ok(Artifacts::default())
    }

    async fn read(&self, _artifact: &Artifact) -> Result<Box<dyn Content>, FilesError> {
        Err(FilesError::NoFile)
    }

    async fn overflows(&self, _max_bytes: u64) -> Option<Overflow> {
        None
    }
}

struct Epoch;

impl Clock for Epoch {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_micros(0)
    }
}

#[tokio::test]
async fn adapters_are_written_with_the_names_of_embed_alone() {
    let sandbox = Echo(SandboxDescription {
        isolation: "none",
        platform: "any",
        tool_version: String::new(),
        walls: Vec::new(),
        languages: vec![LanguageSupport {
            language: Language::Shell,
            interpreter: "echo".into(),
            version: String::new(),
        }],
    });
    let executor = Executor::builder()
        .sandbox(Arc::new(sandbox))
        .workspaces(Arc::new(Nowhere))
        .clock(Arc::new(Epoch))
        .start()
        .await
        .unwrap();
    let request = Request::shell("code")
        .event(r#"{"n": 1}"#)
        .variable("A", "b");
    let execution = executor.run(request).await.unwrap();
    let outcome = execution.outcome().unwrap();
    assert_eq!(outcome.stdout.bytes, br#"code {"n": 1} 1 512"#);
    executor.stop(Duration::ZERO).await;
}
