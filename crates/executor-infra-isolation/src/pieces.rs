//! Hot pieces that nobody outside calls by themselves, for the benches of the workspace. No part of the interface: they come and
//! go.

use std::{io, path::Path};

use executor_application::{Listener, OutputStream};
use executor_domain::CapturedOutput;

use crate::{
    bwrap::argv::{self, SystemPath, Walls},
    seccomp,
    supervisor::capture::{Hearer, capture},
};

/// This host's system, as guests see it.
pub struct System(Vec<SystemPath>);

impl System {
    /// Looks at it.
    pub fn of_this_host() -> io::Result<Self> {
        argv::system_paths(&[Path::new("/usr/bin/python3")]).map(Self)
    }

    /// Bubblewrap's arguments for one cold run.
    pub fn arguments(&self) -> Vec<String> {
        argv::arguments(&Walls {
            system: &self.0,
            workspace: Some("/var/lib/sandbox-executor/workspaces/session_001"),
            tmp_bytes: 256 << 20,
            shm_bytes: 256 << 20,
        })
    }
}

/// Compiles the seccomp filters of zygotes, inits and guests; returns how many instructions they have.
pub fn compile_filters() -> Result<usize, seccomp::SeccompError> {
    let programs = seccomp::programs_of_slots()?;
    Ok(programs.zygote.len() + programs.init.len() + programs.guest.len())
}

/// Captures what a guest writes, up to `cap` bytes of it.
pub async fn captured(written: &[u8], cap: usize) -> CapturedOutput {
    let mut kept = CapturedOutput::default();
    let hearer = Hearer {
        listener: &Listener::none(),
        stream: OutputStream::Stdout,
    };
    capture(written, cap, &mut kept, hearer).await;
    kept
}
