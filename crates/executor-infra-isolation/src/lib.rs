//! Isolation adapters of Sandbox Executor.
//!
//! On Linux, [`BwrapSandbox`] runs guests inside Bubblewrap. Its `main` must call [`stage::dispatch`] first:
//!
//! ```no_run
//! # #[cfg(target_os = "linux")]
//! fn main() {
//!     executor_infra_isolation::stage::dispatch();
//!     // …the rest of the program, with threads and all.
//! }
//! # #[cfg(not(target_os = "linux"))]
//! # fn main() {}
//! ```

pub mod guest;

#[cfg(target_os = "linux")]
mod bwrap;
#[cfg(target_os = "linux")]
pub mod cgroup;
#[cfg(target_os = "linux")]
pub mod seccomp;
#[cfg(target_os = "linux")]
pub mod stage;
#[cfg(target_os = "linux")]
mod supervisor;
#[cfg(target_os = "linux")]
mod warm;

#[cfg(target_os = "linux")]
pub use bwrap::{BwrapConfig, BwrapSandbox, Check, StartError, examine};
#[cfg(target_os = "linux")]
pub use warm::WarmOptions;
