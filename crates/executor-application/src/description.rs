//! What a sandbox says of itself: published by `/info`, the log and `doctor` alike.

use executor_domain::Language;

/// Whether one wall stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WallState {
    /// It stands, and this is what it is made of.
    On(String),
    /// It does not stand, and this is why, and what that means.
    Off(String),
}

/// One wall between guest and host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wall {
    /// Its name: stable, for programs.
    pub name: &'static str,
    /// Whether it stands.
    pub state: WallState,
}

impl Wall {
    /// A wall that stands.
    pub fn on(name: &'static str, how: impl Into<String>) -> Self {
        Self {
            name,
            state: WallState::On(how.into()),
        }
    }

    /// A wall that does not stand.
    pub fn off(name: &'static str, why: impl Into<String>) -> Self {
        Self {
            name,
            state: WallState::Off(why.into()),
        }
    }

    /// Whether it stands.
    pub const fn is_on(&self) -> bool {
        matches!(self.state, WallState::On(_))
    }
}

/// A language that this host can run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LanguageSupport {
    /// The language.
    pub language: Language,
    /// The interpreter, as the guest sees it.
    pub interpreter: String,
    /// What the interpreter says of its version.
    pub version: String,
}

/// What a sandbox says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxDescription {
    /// The mechanism: `bubblewrap` or `seatbelt`.
    pub isolation: &'static str,
    /// The operating system: `Linux` or `Darwin`.
    pub platform: &'static str,
    /// What the isolation tool says of its version.
    pub tool_version: String,
    /// Every wall, standing or not.
    pub walls: Vec<Wall>,
    /// The languages that can be run.
    pub languages: Vec<LanguageSupport>,
}

impl SandboxDescription {
    /// Whether guests in this language can be run.
    pub fn supports(&self, language: Language) -> bool {
        self.languages.iter().any(|l| l.language == language)
    }
}

/// What is kept warm in one language, now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WarmPool {
    /// The language.
    pub language: Language,
    /// Sandboxes that wait for a job.
    pub ready: usize,
    /// Sandboxes that should wait, given the load.
    pub target: usize,
    /// Most that may wait.
    pub max: usize,
    /// Runs so far that found one ready.
    pub warm: u64,
    /// Runs so far for which one was forked on demand.
    pub forked: u64,
    /// Runs so far that had to start cold for want of one.
    pub cold: u64,
    /// Why runs start cold, where they do.
    pub trouble: Option<String>,
}
