//! The guest library: what runs *inside* the sandbox to fork a warm interpreter into a walled slot, to take one job there
//! and to say how it ended. `docs/warm-starts.md` has the whole story.
//!
//! ```text
//! zygote (an interpreter that loaded this) ──clone3──▶ init of a slot (pid 1) ──fork──▶ guest (pid 2), the interpreter again
//! ```
//!
//! - The **zygote** runs no guest code, ever. It forks when the daemon asks.
//! - The **init** is a copy of the zygote that never returns into the interpreter. It builds the walls, waits for the job,
//!   attaches the session's workspace, lets the guest go, reaps, kills and reports.
//! - The **guest** walls itself in, returns into the interpreter, and there waits for its job. No byte of guest code is read
//!   before all walls stand.
//!
//! This crate is the only one with `unsafe`: each block says what makes it sound. What decides something is in [`protocol`]
//! and [`plan`], which are safe, pure and tested without forking. `signals.rs` is here for its `unsafe` alone: the launcher calls it,
//! outside of any sandbox.

pub mod plan;
pub mod protocol;

#[cfg(target_os = "linux")]
mod bash;
#[cfg(target_os = "linux")]
mod entry;
#[cfg(target_os = "linux")]
mod guest;
#[cfg(target_os = "linux")]
mod init;
#[cfg(target_os = "linux")]
mod node;
#[cfg(target_os = "linux")]
mod signals;
#[cfg(target_os = "linux")]
mod socket;
#[cfg(target_os = "linux")]
mod system;
#[cfg(target_os = "linux")]
mod walls;
#[cfg(target_os = "linux")]
mod zygote;

#[cfg(target_os = "linux")]
pub use bash::{Builtin, executor_guest_struct};
#[cfg(target_os = "linux")]
pub use entry::{executor_guest_fork, executor_guest_take, executor_guest_wait};
#[cfg(target_os = "linux")]
pub use node::napi_register_module_v1;
#[cfg(target_os = "linux")]
pub use signals::reset_signals;
