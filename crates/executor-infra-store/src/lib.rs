//! The embedded store: executions, their results, and the reports that are not delivered yet, in one SQLite database.
//!
//! - One thread writes. What comes in while it works is committed together (`writer`).
//! - Another thread reads, beside the writer (`reader`), and a third one brings the log back (`checkpoint`).
//! - What is kept is bounded in age and bytes (`tend`); age is measured so that no jump of the host's clock matters
//!   (`age`).
//! - From domain types to columns and back: `codec` and `rows`. What does not come back is set aside, and in nobody's way.
//! - What an earlier version has written is brought to this one as it is opened: `migrate`.
//!
//! Why SQLite, and what a power loss costs: `docs/adr/0006-sqlite-store.md`.

mod age;
mod checkpoint;
mod codec;
mod error;
mod known;
mod migrate;
mod open;
mod queue;
mod rows;
mod store;
mod tend;
#[cfg(test)]
mod tests;
mod writer;

pub use error::OpenError;
pub use store::{SqliteStore, StoreOptions};
