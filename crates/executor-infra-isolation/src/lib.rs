//! Isolation adapters of Sandbox Executor.
//!
//! On Linux, [`BwrapSandbox`] runs guests inside Bubblewrap; on macOS, [`seatbelt::SeatbeltSandbox`] under Seatbelt. The
//! `main` of whoever uses them must call [`stage::dispatch`] first:
//!
//! ```no_run
//! # #[cfg(unix)]
//! fn main() {
//!     executor_infra_isolation::stage::dispatch();
//!     // …the rest of the program, with threads and all.
//! }
//! # #[cfg(not(unix))]
//! # fn main() {}
//! ```

pub mod guest;

#[cfg(target_os = "linux")]
mod bwrap;
#[cfg(target_os = "linux")]
pub mod cgroup;
#[cfg(target_os = "linux")]
pub mod seccomp;

// Shared by the adapters. Seatbelt's is built on Linux too, where its tests run.
#[cfg(unix)]
mod check;
#[cfg(all(unix, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(unix)]
mod outcome;
#[cfg(target_os = "linux")]
#[doc(hidden)]
pub mod pieces;
#[cfg(unix)]
mod ready;
#[cfg(unix)]
mod runtime;
#[cfg(unix)]
pub mod seatbelt;
#[cfg(unix)]
pub mod stage;
#[cfg(unix)]
mod supervisor;
mod usage;
#[cfg(target_os = "linux")]
mod warm;

#[cfg(target_os = "linux")]
pub use bwrap::{BwrapConfig, BwrapSandbox, StartError, examine};
#[cfg(unix)]
pub use check::Check;
pub use usage::Usage;
#[cfg(target_os = "linux")]
pub use warm::WarmOptions;
