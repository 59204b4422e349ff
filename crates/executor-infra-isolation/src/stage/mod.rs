//! The small programs that stand between the daemon and a guest. All are this executable, started again.
//!
//! Under bubblewrap:
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
//! Two more serve the daemon all its life:
//!
//! - The *watchdog* kills what is half built when the daemon is killed.
//! - The *mounter* serves warm starts where the daemon itself may not make mounts.
//!
//! Under Seatbelt, where there is no namespace that a first process could rule:
//!
//! ```text
//! daemon ──spawn──▶ keeper ──spawn──▶ confiner ──exec──▶ sandbox-exec ──exec──▶ guest
//! ```
//!
//! - The *keeper* stays outside, watches what the guest's processes use, ends all of them, and reports.
//! - The *confiner* sets the guest's limits and becomes `sandbox-exec`, which becomes the guest.
//!
//! The reasons are in `docs/adr/0010-keeper-on-macos.md`.

mod confiner;
mod handover;
#[cfg(target_os = "linux")]
mod init;
mod keeper;
#[cfg(target_os = "linux")]
mod launcher;
#[cfg(target_os = "linux")]
mod mounter;
pub(crate) mod tree;
#[cfg(target_os = "linux")]
mod watchdog;
pub(crate) mod wire;

use std::{env, fs, io, process};

/// First argument of a launcher.
#[cfg(target_os = "linux")]
pub(crate) const LAUNCHER: &str = "sandbox-executor:launcher";
/// First argument of an init.
#[cfg(target_os = "linux")]
pub(crate) const INIT: &str = "sandbox-executor:init";
/// First argument of a keeper.
pub(crate) const KEEPER: &str = "sandbox-executor:keeper";
/// First argument of a confiner.
pub(crate) const CONFINER: &str = "sandbox-executor:confiner";
/// First argument of a mounter.
#[cfg(target_os = "linux")]
pub(crate) const MOUNTER: &str = "sandbox-executor:mounter";
/// First argument of a watchdog.
#[cfg(target_os = "linux")]
pub(crate) const WATCHDOG: &str = "sandbox-executor:watchdog";

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
    let outcome = if first == KEEPER {
        keeper::run_guest()
    } else if first == CONFINER {
        confiner::become_guest(arguments).map(|never| match never {})
    } else {
        #[cfg(target_os = "linux")]
        if first == LAUNCHER {
            Err(launcher::become_bubblewrap())
        } else if first == INIT {
            init::run_guest()
        } else if first == MOUNTER {
            mounter::serve()
        } else if first == WATCHDOG {
            watchdog::serve()
        } else {
            return;
        }
        #[cfg(not(target_os = "linux"))]
        return;
    };
    match outcome {
        Ok(()) => process::exit(0),
        Err(failure) => {
            complain(&failure);
            process::exit(STAGE_FAILED);
        }
    }
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

/// Closes every descriptor above standard error but those named. bubblewrap and sandbox-exec hand on whatever is not
/// close-on-exec, so a descriptor that the daemon's own parent leaked into it would reach the guest.
fn close_others(keep: &[i32]) -> io::Result<()> {
    // In bubblewrap's sandbox there may be no /dev/fd; on macOS there is no /proc (fd(4)).
    let place = if cfg!(target_os = "linux") {
        "/proc/self/fd"
    } else {
        "/dev/fd"
    };
    let open: Vec<i32> = fs::read_dir(place)?
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
