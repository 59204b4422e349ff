//! The real daemon and a control plane: the reference one, and ones that break every promise. Runs and their callers must not
//! notice, and no result may be lost.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "this is how a test fails"
)]

mod faults;
mod killed;
mod lasting;
mod plane;
mod reference;
mod reports;
#[path = "../support/mod.rs"]
mod support;
