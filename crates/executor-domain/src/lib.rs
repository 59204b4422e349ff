//! The words of Sandbox Executor: value objects that cannot hold nonsense, the policy that turns wishes into granted
//! limits, and the life of an execution.
//!
//! The crate computes and nothing else. It is `no_std`, so that the compiler refuses a file, a clock, a socket or an
//! environment variable. Whoever needs one of those is an adapter; see `docs/architecture.md`.

#![no_std]

extern crate alloc;

mod artifact;
mod environment;
mod execution;
mod id;
mod json;
mod language;
mod limits;
mod outcome;
mod source;
mod time;
mod trace;
mod workspace_path;

pub use artifact::{Artifact, ArtifactKind, Artifacts};
pub use environment::{EnvironmentError, GuestEnvironment};
pub use execution::{Execution, IllegalTransition, State, Status};
pub use id::{ExecutionId, InvalidId, SessionId};
pub use json::{Event, InvalidEvent, InvalidJson, JsonText};
pub use language::{Language, Mode, UnknownLanguage, UnknownMode};
pub use limits::{
    InvalidPolicy, Limit, LimitCeilings, LimitError, LimitPolicy, RequestedLimits, ResourceLimit,
};
pub use outcome::{
    CapturedOutput, Clock, CrashCause, Ending, GuestError, LimitHit, Outcome, Reason, Start, Usage,
    unfinished_tail,
};
pub use source::{InvalidSource, MAX_CODE_BYTES, Source};
pub use time::Timestamp;
pub use trace::{InvalidTraceParent, TraceParent};
pub use workspace_path::{InvalidPath, WorkspacePath, is_deceptive};

/// The programs of the README do what they show.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
