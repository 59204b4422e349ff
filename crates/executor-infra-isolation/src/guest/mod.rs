//! What runs inside a sandbox on our behalf, and how we talk to it.
//!
//! - [`channel`] encodes the job for a guest and decodes what the guest answers, as `docs/guest-channel.md` has it. The
//!   guest's side of it is hostile; nothing here trusts a byte of it.
//! - [`interpreter`] says where interpreters are looked for, how one is started and in which environment.
//! - [`runner`] holds the programs that speak the guest's side of the channel, in Python and in JavaScript.
//!
//! All of it is pure: no file is opened and no process started here.

pub mod channel;
pub mod interpreter;
pub mod runner;
