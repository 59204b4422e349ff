//! The adapter of the port `ControlPlane`: reports as JSON over HTTP, to the paths and with the bodies that
//! `docs/control-plane.md` lists.
//!
//! The other side is not trusted: it may hang, answer garbage or never stop. Every attempt ends within its time-out, reads a
//! bounded part of the answer, follows no redirect and never logs or repeats what it was sent.

mod answer;
mod body;
mod client;

pub use client::{BearerToken, HttpControlPlane, HttpControlPlaneOptions, Identity, OptionsError};
