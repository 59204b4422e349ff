//! Warm starts: sandboxes made ahead of their jobs, by forking an interpreter that is loaded already.
//!
//! - A [`zygote`] is an interpreter in a sandbox of its own, with the guest library (`executor-guest`) loaded. It runs no guest
//!   code, holds no secret and nothing of any session, and forks when it is asked.
//! - A [`slot`] is what comes of that: a guest between all walls that waits for its one job.
//! - A [`pool`] keeps slots ready, replaces zygotes, and says what it falls back to and why.
//! - [`mounts`] hands a slot its session's directory, late.
//!
//! `docs/warm-starts.md` has the whole story, `docs/adr/0012-fork-zygotes.md` the reasons.

pub(crate) mod environment;
pub(crate) mod library;
pub(crate) mod mounts;
pub(crate) mod pool;
pub(crate) mod slot;
pub(crate) mod zygote;

use std::path::PathBuf;

use executor_domain::Language;

/// Which languages are kept warm, and how many slots of each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WarmOptions {
    /// Languages to keep warm where the host can. Empty: every run starts cold.
    pub languages: Vec<Language>,
    /// Slots that wait when nobody asks for any, in each language.
    pub min_slots: usize,
    /// Most slots that wait, however many are asked for, in each language. 0: each run's is forked when the run comes.
    pub max_slots: usize,
    /// Python packages to import before any run, in this order.
    pub python_preload: Vec<String>,
    /// Node packages to load before any run, in this order.
    pub node_preload: Vec<String>,
    /// The guest library; `None`: beside this executable, or where packages put it.
    pub library: Option<PathBuf>,
}

impl WarmOptions {
    /// Every run starts cold.
    pub const fn off() -> Self {
        Self {
            languages: Vec::new(),
            min_slots: 0,
            max_slots: 0,
            python_preload: Vec::new(),
            node_preload: Vec::new(),
            library: None,
        }
    }

    /// Languages whose warm starts pass every suite that cold ones pass. The others start cold, and say so.
    pub const SUPPORTED: [Language; 3] = [Language::Python, Language::JavaScript, Language::Shell];
}

impl Default for WarmOptions {
    fn default() -> Self {
        Self {
            languages: Language::ALL.into(),
            min_slots: 4,
            max_slots: 16,
            ..Self::off()
        }
    }
}
