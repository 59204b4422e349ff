//! What a caller asks for.

use executor_domain::{
    Event, ExecutionId, GuestEnvironment, RequestedLimits, SessionId, Source, TraceParent,
};
use sha2::{Digest, Sha256};

use crate::Fingerprint;

/// A request to run code, parsed: nothing in it can be malformed. The wishes for limits are still wishes.
#[derive(Debug, Clone)]
pub struct ExecuteCommand {
    /// Names the execution, and is its idempotency key.
    pub execution_id: ExecutionId,
    /// Names the session whose workspace it uses.
    pub session_id: SessionId,
    /// The program.
    pub source: Source,
    /// The handler's input.
    pub event: Event,
    /// Variables that are added to the guest's environment.
    pub environment: GuestEnvironment,
    /// Standard input; `None`: the caller gave none.
    pub stdin: Option<String>,
    /// What the caller would like to use.
    pub limits: RequestedLimits,
    /// The step of a trace that asks for it. No part of what is asked for: a repeated request can belong to another one.
    pub trace_parent: Option<TraceParent>,
}

impl ExecuteCommand {
    /// Bytes of what a caller can make large.
    pub(super) fn size(&self) -> usize {
        let stdin = self.stdin.as_ref().map_or(0, String::len);
        let environment: usize = self
            .environment
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        self.source.code().len() + self.event.as_str().len() + stdin + environment
    }

    /// SHA-256 of everything that decides what runs. Each part is preceded by its length, so that no two commands
    /// read alike. Fingerprints are kept: a version that computes them otherwise refuses what an older one has run.
    pub(super) fn fingerprint(&self) -> Fingerprint {
        let mut hash = Sha256::new();
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        part(self.session_id.as_str().as_bytes());
        part(self.source.language().as_str().as_bytes());
        part(self.source.mode().as_str().as_bytes());
        part(self.source.code().as_bytes());
        part(self.event.as_str().as_bytes());
        part(&[u8::from(self.stdin.is_some())]);
        part(self.stdin.as_deref().unwrap_or_default().as_bytes());
        // By name, and only what is wished for: a limit that a later version adds changes no older fingerprint.
        let limits = &self.limits;
        for (name, wish) in [
            ("timeout", limits.timeout),
            ("max_memory_mb", limits.max_memory_mb),
            ("max_cpu_time_ms", limits.max_cpu_time_ms),
            ("max_wall_time_ms", limits.max_wall_time_ms),
            ("max_processes", limits.max_processes),
            ("max_file_size_mb", limits.max_file_size_mb),
            ("max_output_bytes", limits.max_output_bytes),
            ("max_workspace_mb", limits.max_workspace_mb),
        ] {
            if let Some(wish) = wish {
                part(name.as_bytes());
                part(&wish.to_le_bytes());
            }
        }
        part(b"environment");
        for (name, value) in self.environment.iter() {
            part(name.as_bytes());
            part(value.as_bytes());
        }
        Fingerprint::new(hash.finalize().into())
    }
}
