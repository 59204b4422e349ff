//! The hostile corpus over warm starts: the tests of `escape.rs`, all of them, and what only warm starts can get wrong.
//!
//! Guests are files in `tests/fixtures/guests`; what they are to see stands here, in tables. Each denial comes with controls:
//! lines that a guest says of what it *may* do, without which a missing interpreter would look like a wall. What a host
//! cannot keep is asserted as the gap that it is, and listed in `tests/fixtures/known-gaps.txt`.
//! `docs/walls-taken-away.md` says which of these tests fail when a wall is missing.

#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail like tests"
)]

/// Whether guests start warm.
const WARM: bool = true;

#[path = "escape/alike.rs"]
mod alike;
#[path = "escape/alone.rs"]
mod alone;
#[path = "escape/ends.rs"]
mod ends;
#[path = "escape/files.rs"]
mod files;
#[path = "escape/gaps.rs"]
mod gaps;
#[path = "escape/honest.rs"]
mod honest;
#[path = "escape/identity.rs"]
mod identity;
#[path = "escape/kernel.rs"]
mod kernel;
#[path = "escape/leftovers.rs"]
mod leftovers;
#[path = "escape/network.rs"]
mod network;
#[path = "escape/planted.rs"]
mod planted;
#[path = "escape/processes.rs"]
mod processes;
#[path = "escape/protocol.rs"]
mod protocol;
#[path = "escape/residue.rs"]
mod residue;
#[path = "escape/residue_of_node.rs"]
mod residue_of_node;
#[path = "escape/resources.rs"]
mod resources;
mod support;
#[path = "escape/syscalls.rs"]
mod syscalls;
#[path = "escape/world.rs"]
mod world;
