//! How the process ends: sysexits(3) for what is our business, the guest's own code for `run`.

use std::process::ExitCode;

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All is well.
    Success,
    /// `doctor` found that no sandbox can be started, or `health` that the daemon cannot run code.
    Unfit,
    /// The command line, an input or the configuration is wrong.
    Usage,
    /// No sandbox can be started here.
    Unavailable,
    /// Our own failure.
    Internal,
    /// SIGINT ended a run.
    Interrupted,
    /// SIGTERM ended the daemon.
    Terminated,
    /// As the guest of `run` did.
    Guest(u8),
}

impl Exit {
    /// The number that the caller of this process sees.
    pub const fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Unfit => 1,
            Self::Usage => 64,
            Self::Unavailable => 69,
            Self::Internal => 70,
            Self::Interrupted => 130,
            Self::Terminated => 143,
            Self::Guest(code) => code,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
