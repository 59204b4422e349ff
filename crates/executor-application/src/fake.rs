//! Stand-ins for tests: a sandbox that keeps the port's contract without a process, and small companions.
//!
//! A fake that breaks the contract lies to every test that uses it, so the contract suite runs against this one too.

mod outbox;

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use executor_domain::{
    Artifacts, CapturedOutput, Clock as LimitedClock, CrashCause, Ending, GuestError, JsonText,
    Language, LimitHit, Outcome, Reason, SessionId, Start, Timestamp, Usage,
};
use tokio_util::sync::CancellationToken;

use crate::{
    Clock, Job, LanguageSupport, Listener, OutputStream, Overflow, Sandbox, SandboxDescription,
    SandboxError, Wall, WarmPool, Workspace, WorkspaceError, Workspaces,
};

pub use outbox::MemoryOutbox;

/// A sandbox that isolates nothing and needs nothing. Its guests are written in a language of their own, one command a
/// line, whatever the job says they are written in:
///
/// | command | what the guest does |
/// | --- | --- |
/// | `echo TEXT` | writes TEXT and a newline to stdout |
/// | `warn TEXT` | writes TEXT and a newline to stderr |
/// | `flood N` | writes N bytes to stdout |
/// | `sleep MS` | sleeps for MS milliseconds of tokio's time |
/// | `return JSON` | ends well with a return value |
/// | `exit N` | ends with exit code N |
/// | `kill N` | dies of signal N |
/// | `hog` | uses more memory than its limit |
///
/// A guest that runs off its end has ended well and returned `null`; an unknown command is its syntax error.
#[derive(Debug)]
pub struct FakeSandbox {
    description: SandboxDescription,
    running: AtomicUsize,
    started: AtomicUsize,
}

impl Default for FakeSandbox {
    fn default() -> Self {
        Self {
            description: SandboxDescription {
                isolation: "fake",
                platform: "Linux",
                tool_version: "0".into(),
                walls: vec![Wall::off("everything", "a fake for tests isolates nothing")],
                languages: Language::ALL
                    .into_iter()
                    .map(|language| LanguageSupport {
                        language,
                        interpreter: "fake".into(),
                        version: "0".into(),
                    })
                    .collect(),
            },
            running: AtomicUsize::new(0),
            started: AtomicUsize::new(0),
        }
    }
}

impl FakeSandbox {
    /// Guests that are alive now.
    pub fn running(&self) -> usize {
        self.running.load(Ordering::SeqCst)
    }

    /// Guests that were ever started.
    pub fn started(&self) -> usize {
        self.started.load(Ordering::SeqCst)
    }
}

/// Counts a guest as alive, and as dead when the future that runs it is dropped.
struct Alive<'a>(&'a AtomicUsize);

impl<'a> Alive<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Alive<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What a guest has written so far, as far as it is kept.
struct Written {
    stdout: CapturedOutput,
    stderr: CapturedOutput,
    listener: Listener,
    cap: usize,
}

impl Written {
    fn new(job: &Job) -> Self {
        Self {
            stdout: CapturedOutput::default(),
            stderr: CapturedOutput::default(),
            listener: job.listener.clone(),
            cap: usize::try_from(job.limits.max_output_bytes()).unwrap_or(usize::MAX),
        }
    }

    fn write(&mut self, stream: OutputStream, bytes: &[u8]) {
        let kept = match stream {
            OutputStream::Stdout => &mut self.stdout,
            OutputStream::Stderr => &mut self.stderr,
        };
        let room = self.cap - kept.bytes.len();
        let (fits, lost) = bytes.split_at(bytes.len().min(room));
        kept.bytes.extend_from_slice(fits);
        self.listener.wrote(stream, fits);
        if !lost.is_empty() {
            if !kept.is_truncated() {
                self.listener.truncated(stream);
            }
            kept.truncated_bytes += lost.len() as u64;
        }
    }
}

async fn interpret(code: &str, written: &mut Written) -> Ending {
    for line in code.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
        let number = rest.parse::<i32>().unwrap_or_default();
        let count = rest.parse::<usize>().unwrap_or_default();
        match command {
            "echo" => written.write(OutputStream::Stdout, format!("{rest}\n").as_bytes()),
            "warn" => written.write(OutputStream::Stderr, format!("{rest}\n").as_bytes()),
            "flood" => written.write(OutputStream::Stdout, &vec![b'x'; count]),
            "sleep" => tokio::time::sleep(Duration::from_millis(count as u64)).await,
            "exit" if number == 0 => break,
            "exit" => {
                return failed(
                    number,
                    Reason::ExitCode,
                    format!("The process ended with exit code {number}"),
                );
            }
            "kill" => return Ending::Crashed(CrashCause::Signal(number)),
            "hog" => return Ending::Crashed(CrashCause::Memory),
            "return" => {
                return match JsonText::parse(rest.to_owned()) {
                    Ok(return_value) => Ending::Completed { return_value },
                    Err(error) => failed(1, Reason::NotSerializable, error.to_string()),
                };
            }
            other => return failed(1, Reason::SyntaxError, format!("no such command: {other}")),
        }
    }
    Ending::Completed {
        return_value: JsonText::null(),
    }
}

fn failed(exit_code: i32, reason: Reason, message: String) -> Ending {
    Ending::Failed {
        exit_code,
        error: GuestError::new("FakeError", message, reason),
    }
}

#[async_trait]
impl Sandbox for FakeSandbox {
    async fn run(&self, job: Job, cancel: CancellationToken) -> Result<Outcome, SandboxError> {
        let _alive = Alive::new(&self.running);
        self.started.fetch_add(1, Ordering::SeqCst);
        let started = tokio::time::Instant::now();
        let allowed = job.limits.wall_time();
        let mut written = Written::new(&job);
        let ending = tokio::select! {
            biased;
            () = cancel.cancelled() => Ending::Cancelled,
            ended = tokio::time::timeout(allowed, interpret(job.source.code(), &mut written)) => {
                ended.unwrap_or(Ending::TimedOut { clock: LimitedClock::Wall, allowed })
            }
        };
        let Written { stdout, stderr, .. } = written;
        let mut limits_hit = Vec::new();
        match ending {
            Ending::Crashed(CrashCause::Memory) => limits_hit.push(LimitHit::Memory),
            Ending::TimedOut { .. } => limits_hit.push(LimitHit::WallTime),
            _ => {}
        }
        if stdout.is_truncated() || stderr.is_truncated() {
            limits_hit.push(LimitHit::Output);
        }
        Ok(Outcome {
            ending,
            stdout,
            stderr,
            usage: Usage {
                wall_time: started.elapsed(),
                ..Usage::default()
            },
            start: Start::Cold,
            limits_hit,
        })
    }

    async fn check(&self) -> Result<(), SandboxError> {
        Ok(())
    }

    fn description(&self) -> &SandboxDescription {
        &self.description
    }

    fn warm_pools(&self) -> Vec<WarmPool> {
        Vec::new()
    }
}

/// Workspaces that are a name and nothing else: for sandboxes that touch no file.
#[derive(Debug, Default)]
pub struct NoWorkspaces;

#[async_trait]
impl Workspaces for NoWorkspaces {
    async fn open(&self, session: &SessionId) -> Result<Box<dyn Workspace>, WorkspaceError> {
        Ok(Box::new(NoWorkspace(
            Path::new("/nonexistent").join(session.as_str()),
        )))
    }

    async fn check(&self) -> Result<(), WorkspaceError> {
        Ok(())
    }

    fn root(&self) -> &Path {
        Path::new("/nonexistent")
    }

    fn quota(&self) -> Wall {
        Wall::off("workspace_quota", "there are no files")
    }
}

struct NoWorkspace(PathBuf);

#[async_trait]
impl Workspace for NoWorkspace {
    fn path(&self) -> &Path {
        &self.0
    }

    async fn changes(&self) -> Result<Artifacts, WorkspaceError> {
        Ok(Artifacts::default())
    }

    async fn overflows(&self, _max_bytes: u64) -> Option<Overflow> {
        None
    }
}

/// A clock that always shows the start of 2026.
#[derive(Debug, Default)]
pub struct StoppedClock;

impl Clock for StoppedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_micros(1_767_225_600_000_000)
    }
}
