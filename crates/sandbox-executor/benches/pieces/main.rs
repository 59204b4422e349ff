//! What a run costs beside its guest, piece by piece; on Linux, where all of the pieces are.

#![expect(clippy::unwrap_used, reason = "a bench gives up by panicking")]
#![cfg_attr(
    not(target_os = "linux"),
    allow(unfulfilled_lint_expectations, reason = "there is nothing in here")
)]

#[cfg(target_os = "linux")]
mod linux;

fn main() {
    #[cfg(target_os = "linux")]
    linux::measure();
}
