//! The real daemon over HTTP: what `docs/api.md` promises, end to end, with real guests.

#![allow(clippy::unwrap_used, reason = "this is how a test fails")]

mod examples;
mod executions;
mod files;
mod files_killed;
mod observe;
mod operation;
mod requests;
mod runs;
#[path = "../support/mod.rs"]
mod support;
mod uploads;
