//! What a process has inherited of signals. For the launcher of sandboxes, which lives outside of them.

use std::io;

use nix::sys::signal::SigSet;

/// Gives every signal its default action, and blocks none.
///
/// A process inherits which signals are ignored and blocked, and so does whatever it executes. Guests would have it from whoever
/// started the daemon: `nohup`, for one, ignores SIGHUP.
///
/// # Errors
///
/// None that a kernel of today would give.
pub fn reset_signals() -> io::Result<()> {
    for number in 1..=libc::SIGRTMAX() {
        // SAFETY: the default action runs no code of this process. Numbers without an action of their own are refused: SIGKILL,
        // SIGSTOP, and two that the C library keeps for itself.
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }
    Ok(SigSet::empty().thread_set_mask()?)
}
