//! What a hostile client sends: to a real daemon, which must answer as documented or hang up, and be as it was afterwards.

#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "this is how a test fails, and what it shows then"
)]

mod bodies;
mod crowds;
mod heads;
mod million;
#[path = "../support/mod.rs"]
mod support;
mod vanishing;
mod watched;
