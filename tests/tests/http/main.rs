//! The real daemon over HTTP: what `docs/api.md` promises, end to end, with real guests.

mod examples;
mod operation;
mod requests;
mod runs;
#[path = "../support/mod.rs"]
mod support;
