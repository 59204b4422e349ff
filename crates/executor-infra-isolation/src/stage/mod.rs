//! The small programs that stand between the daemon and a guest. All are this executable, started again.
//!
//! ```text
//! daemon ──spawn──▶ launcher ──exec──▶ bubblewrap ──clone──▶ init (pid 1 of the sandbox) ──spawn──▶ guest
//! ```
//!
//! - The *launcher* runs outside. It enters the run's cgroups, gives up every privilege and becomes bubblewrap.
//! - The *init* runs inside, as the first process of the new namespaces. It finishes the walls that bubblewrap cannot
//!   build, starts the guest, and tells the daemon how it ended.
//!
//! Both are single-threaded and hold three descriptors: the control socket as standard input, what bubblewrap says of
//! itself as standard output, and its complaints as standard error. The reasons are in
//! `docs/adr/0001-launcher-and-init.md`.
//!
//! A third, the *mounter*, serves warm starts where the daemon itself may not make mounts.

pub(crate) mod init;
mod launcher;
mod mounter;
pub(crate) mod wire;

use std::{env, fs, io, process};

/// First argument of a launcher.
pub(crate) const LAUNCHER: &str = "sandbox-executor:launcher";
/// First argument of an init.
pub(crate) const INIT: &str = "sandbox-executor:init";

/// First argument of a mounter.
pub(crate) const MOUNTER: &str = "sandbox-executor:mounter";

/// Exit code of a stage that failed; what happened is on standard error or on the control socket.
const STAGE_FAILED: i32 = 125;

/// Does a stage's work, and does not come back, where this process was started as one; comes back at once otherwise.
///
/// Call it first in `main`, before any thread is started: a stage must be single-threaded.
pub fn dispatch() {
    let mut arguments = env::args_os().skip(1);
    let Some(first) = arguments.next() else {
        return;
    };
    let failure = if first == LAUNCHER {
        launcher::become_bubblewrap()
    } else if first == INIT {
        match init::run_guest() {
            Ok(()) => process::exit(0),
            Err(failure) => failure,
        }
    } else if first == MOUNTER {
        match mounter::serve() {
            Ok(()) => process::exit(0),
            Err(failure) => failure,
        }
    } else {
        return;
    };
    complain(&failure);
    process::exit(STAGE_FAILED);
}

/// Why a stage failed: what it was doing, and what the system said.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {source}")]
pub(crate) struct StageError {
    step: String,
    source: io::Error,
}

/// Names the step that failed.
trait Step<T> {
    fn step(self, step: impl Into<String>) -> Result<T, StageError>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, step: impl Into<String>) -> Result<T, StageError> {
        self.map_err(|error| StageError {
            step: step.into(),
            source: error.into(),
        })
    }
}

/// Tells the daemon through standard error, which nobody but the daemon reads.
fn complain(failure: &StageError) {
    let line = format!("sandbox-executor: {failure}\n");
    // Nobody is left to tell if this fails too.
    let _ = rustix::io::write(rustix::stdio::stderr(), line.as_bytes());
}

/// Closes every descriptor above standard error but those named. bubblewrap hands on whatever is not close-on-exec, so
/// a descriptor that the daemon's own parent leaked into it would reach the guest.
fn close_others(keep: &[i32]) -> io::Result<()> {
    let open: Vec<i32> = fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    for descriptor in open {
        if descriptor > 2 && !keep.contains(&descriptor) {
            // The descriptor of the listing itself is in the list, and closed by now: that is the one error expected.
            let _ = nix::unistd::close(descriptor);
        }
    }
    Ok(())
}
