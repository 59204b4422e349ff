//! What the daemon reads of strangers, each as a function of bytes that panics where a promise is broken.
//!
//! libFuzzer calls them (`fuzz_targets/`), and so does an ordinary test, with every file of `corpus/`
//! (`tests/tests/fuzz_corpus.rs`, which includes this file). So nothing in here may need anything but its argument.

pub mod archive;
pub mod channel;
pub mod config;
pub mod content;
pub mod headers;
pub mod paths;
pub mod reports;
pub mod request;

/// Takes whatever comes, and panics where a promise is broken.
pub type Target = fn(&[u8]);

/// Every target, by the name of its corpus.
pub const TARGETS: [(&str, Target); 8] = [
    ("archive", archive::target),
    ("channel", channel::target),
    ("config", config::target),
    ("content", content::target),
    ("headers", headers::target),
    ("paths", paths::target),
    ("reports", reports::target),
    ("request", request::target),
];
