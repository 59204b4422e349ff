//! A small control plane: takes the reports of Sandbox Executor, keeps them in one SQLite file and shows them.
//!
//! It is the receiving side of `docs/control-plane.md`, for development, Compose and tests, and a reference for whoever writes
//! a real one. What it shows was written by guests, so it is hostile: pages have no script and everything is escaped.

mod access;
mod body;
mod cli;
mod error;
mod page;
mod report;
mod routes;
mod server;
mod store;
mod views;

pub use access::Access;
pub use cli::main;
pub use routes::{ControlPlane, ControlPlaneOptions};
pub use server::serve;
pub use store::{Store, StoreError};
