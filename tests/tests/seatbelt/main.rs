//! The adapter for macOS. On Linux around a stand-in for sandbox-exec that holds a guest to the profile as far as Linux
//! can; on macOS around the real one. What needs `/proc` to see, or the stand-in to tell, runs on Linux alone.

#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "this is how a test fails"
)]

mod gaps;
#[cfg(target_os = "linux")]
mod http;
#[cfg(target_os = "linux")]
mod processes;
mod profile;
mod runs;
#[cfg(target_os = "linux")]
mod start;
#[path = "../support/mod.rs"]
mod support;
