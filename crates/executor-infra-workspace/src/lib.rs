//! Session workspaces on disk: directories, artifact scanner, files that guests wrote.
//!
//! A guest owns its workspace and is hostile: every name, link, size and time stamp in there is its choice, and a
//! second run of the same session may change them while we look. Three rules follow, and this crate is where they hold:
//!
//! - what a guest can write to is reached from a directory descriptor, never through a link (the module `beneath`);
//! - what was found by name is checked again on the descriptor that is read (the module `scan`);
//! - everything that a guest can make large is bounded, and what was left out is said ([`ScanLimits`]).

mod beneath;
mod clock;
mod error;
mod files;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod media_type;
mod metadata;
mod names;
mod quota;
mod remove;
mod scan;
mod seen;
mod sessions;
mod state;
mod temporary;
mod usage;

pub use scan::ScanLimits;
pub use sessions::{Owner, SessionWorkspaces, WorkspaceOptions};
