//! The adapter of the port `ArtifactStore`: artifacts as objects of a bucket, by the API of S3.
//!
//! Objects are called after their run, `PREFIX/SESSION/EXECUTION/PATH`, so that no later run replaces what a result points
//! to. A file of up to one part is one request; a larger one is a multipart upload, of which one part at a time is in
//! memory. What leaves the daemon is signed and its content hashed (AWS signature version 4); `https` without C code
//! (`docs/adr/0008-tls-without-c.md`).
//!
//! The other side is not trusted: it may hang, answer garbage or never stop. Every attempt ends within its time-out,
//! reads a bounded part of the answer and follows no redirect.

mod connection;
mod crypto;
mod key;
mod store;
mod upload;

pub use store::{Credentials, OptionsError, S3ArtifactStore, S3Options};
