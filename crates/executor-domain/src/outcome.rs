//! What a run came to. Whatever a guest does is a value of these types; errors are for our own failures.

use alloc::{borrow::Cow, format, string::String, vec::Vec};
use core::time::Duration;

use crate::JsonText;

/// What a guest wrote to stdout or stderr, as far as it was kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CapturedOutput {
    /// The bytes, not necessarily UTF-8.
    pub bytes: Vec<u8>,
    /// How many bytes the guest wrote after those, which are lost.
    pub truncated_bytes: u64,
}

impl CapturedOutput {
    /// Whether the guest wrote more than was kept.
    pub const fn is_truncated(&self) -> bool {
        self.truncated_bytes > 0
    }

    /// Output as text: what is not UTF-8 becomes U+FFFD. Where output was cut in the middle of a character, the rest of
    /// that character is left out, since the guest did write it well.
    pub fn text(&self) -> Cow<'_, str> {
        let bytes = &self.bytes;
        let kept = if self.is_truncated() {
            &bytes[..bytes.len() - unfinished_tail(bytes)]
        } else {
            bytes
        };
        String::from_utf8_lossy(kept)
    }
}

/// Length of the character that begins at the end of the text and does not end there: 0 to 3 bytes.
pub fn unfinished_tail(bytes: &[u8]) -> usize {
    (1..=bytes.len().min(3))
        .find(|length| {
            let tail = &bytes[bytes.len() - length..];
            core::str::from_utf8(tail)
                .is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
        })
        .unwrap_or(0)
}

/// How the sandbox of a run was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Start {
    /// A sandbox made ahead of its job.
    Warm,
    /// Forked from a warm interpreter on demand.
    Forked,
    /// A new interpreter in a new sandbox.
    Cold,
}

impl Start {
    /// The name as the API spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Warm => "warm",
            Self::Forked => "forked",
            Self::Cold => "cold",
        }
    }
}

/// A limit that a guest ran into, whether or not that ended it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LimitHit {
    /// The kernel killed a process of the guest for want of memory.
    Memory,
    /// A process or thread was refused.
    Processes,
    /// CPU time ran out.
    CpuTime,
    /// Wall time ran out.
    WallTime,
    /// Output was cut.
    Output,
    /// The return value was larger than the cap.
    ResultSize,
    /// The workspace was full.
    Workspace,
}

impl LimitHit {
    /// The name as the API spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Processes => "pids",
            Self::CpuTime => "cpu_time",
            Self::WallTime => "wall_time",
            Self::Output => "output",
            Self::ResultSize => "result_size",
            Self::Workspace => "workspace",
        }
    }
}

/// What a run used: the guest's process tree, not the daemon. `None` where the platform cannot tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// From the guest's first instruction to its end.
    pub wall_time: Duration,
    /// CPU time, user and system.
    pub cpu_time: Option<Duration>,
    /// Most memory in use at any time, in bytes.
    pub peak_memory_bytes: Option<u64>,
    /// Bytes read from block devices.
    pub io_read_bytes: Option<u64>,
    /// Bytes written to block devices.
    pub io_write_bytes: Option<u64>,
}

/// Which clock ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// Time that passes.
    Wall,
    /// Time on a processor.
    Cpu,
}

/// What made a guest crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrashCause {
    /// It died of this signal.
    Signal(i32),
    /// The kernel killed it for want of memory.
    Memory,
    /// The executor was lost with it.
    ExecutorLost,
}

/// Why a run did not complete, in one word for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The handler threw, or the program did.
    HandlerError,
    /// There is no handler.
    HandlerNotFound,
    /// The code is not valid in its language.
    SyntaxError,
    /// The return value has no JSON form.
    NotSerializable,
    /// The return value is larger than the cap.
    ResultTooLarge,
    /// The program ended with an exit code other than 0.
    ExitCode,
    /// A signal ended the program.
    Signal,
    /// Wall time ran out.
    WallTime,
    /// CPU time ran out.
    CpuTime,
    /// The kernel ended the program for want of memory.
    Memory,
    /// Output went beyond the cap and the run was ended for it.
    Output,
    /// The workspace was full.
    WorkspaceQuota,
    /// Somebody cancelled the run.
    Cancelled,
    /// The executor was lost with the run.
    ExecutorLost,
}

impl Reason {
    /// The name as the API spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HandlerError => "handler_error",
            Self::HandlerNotFound => "handler_not_found",
            Self::SyntaxError => "syntax_error",
            Self::NotSerializable => "not_serializable",
            Self::ResultTooLarge => "result_too_large",
            Self::ExitCode => "exit_code",
            Self::Signal => "signal",
            Self::WallTime => "wall_time",
            Self::CpuTime => "cpu_time",
            Self::Memory => "memory",
            Self::Output => "output",
            Self::WorkspaceQuota => "workspace_quota",
            Self::Cancelled => "cancelled",
            Self::ExecutorLost => "executor_lost",
        }
    }
}

/// Why a run did not complete, for people and programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestError {
    /// The exception's type, in the guest's own words, or the name of a limit.
    pub error_type: String,
    /// What it says.
    pub message: String,
    /// The guest's own frames, outermost first, as its language writes them.
    pub stack_trace: Vec<String>,
    /// Why, in one word for programs.
    pub reason: Reason,
}

impl GuestError {
    /// An error that has no stack.
    pub fn new(error_type: &str, message: String, reason: Reason) -> Self {
        Self {
            error_type: error_type.into(),
            message,
            stack_trace: Vec::new(),
            reason,
        }
    }
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// The handler returned and the process ended with 0; or the script did.
    Completed {
        /// What the handler returned; `null` for scripts.
        return_value: JsonText,
    },
    /// The program went wrong in its own way.
    Failed {
        /// The exit code of its process.
        exit_code: i32,
        /// What went wrong.
        error: GuestError,
    },
    /// Time ran out and the whole process tree was killed.
    TimedOut {
        /// Which time.
        clock: Clock,
        /// How much of it there was.
        allowed: Duration,
    },
    /// The program did not get to say how it ended.
    Crashed(CrashCause),
    /// Somebody cancelled the run and the whole process tree was killed.
    Cancelled,
}

impl Ending {
    /// The exit code of the guest's process; -1 where there is none.
    pub const fn exit_code(&self) -> i32 {
        match self {
            Self::Completed { .. } => 0,
            Self::Failed { exit_code, .. } => *exit_code,
            Self::TimedOut { .. } | Self::Crashed(_) | Self::Cancelled => -1,
        }
    }

    /// The signal that ended the guest, where one did of itself.
    pub const fn signal(&self) -> Option<i32> {
        match self {
            Self::Crashed(CrashCause::Signal(number)) => Some(*number),
            Self::Crashed(CrashCause::Memory) => Some(SIGKILL),
            _ => None,
        }
    }

    /// What went wrong, where something did.
    pub fn error(&self) -> Option<GuestError> {
        match self {
            Self::Completed { .. } => None,
            Self::Failed { error, .. } => Some(error.clone()),
            Self::TimedOut { clock, allowed } => {
                let seconds = allowed.as_secs_f64();
                Some(match clock {
                    Clock::Wall => GuestError::new(
                        "Timeout",
                        format!("Task timed out after {seconds:.2} seconds"),
                        Reason::WallTime,
                    ),
                    Clock::Cpu => GuestError::new(
                        "Timeout",
                        format!("Task used up its {seconds:.2} seconds of CPU time"),
                        Reason::CpuTime,
                    ),
                })
            }
            Self::Crashed(CrashCause::Signal(number)) => Some(GuestError::new(
                "Signal",
                match signal_name(*number) {
                    Some(name) => format!("The process was ended by signal {number} ({name})"),
                    None => format!("The process was ended by signal {number}"),
                },
                Reason::Signal,
            )),
            Self::Crashed(CrashCause::Memory) => Some(GuestError::new(
                "OutOfMemory",
                "The process was ended because it used more memory than its limit".into(),
                Reason::Memory,
            )),
            Self::Crashed(CrashCause::ExecutorLost) => Some(GuestError::new(
                "ExecutorLost",
                "The executor was lost while the process ran".into(),
                Reason::ExecutorLost,
            )),
            Self::Cancelled => Some(GuestError::new(
                "Cancelled",
                "The execution was cancelled".into(),
                Reason::Cancelled,
            )),
        }
    }
}

/// The signal that the kernel's out-of-memory killer sends.
const SIGKILL: i32 = 9;

/// Names of the signals that end programs, for people. The numbers are those that Linux (all but alpha, mips and
/// sparc) and macOS share; others stay numbers.
const fn signal_name(number: i32) -> Option<&'static str> {
    Some(match number {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        5 => "SIGTRAP",
        6 => "SIGABRT",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        25 => "SIGXFSZ",
        _ => return None,
    })
}

/// What a run came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// How it ended.
    pub ending: Ending,
    /// What it wrote to stdout.
    pub stdout: CapturedOutput,
    /// What it wrote to stderr.
    pub stderr: CapturedOutput,
    /// What it used.
    pub usage: Usage,
    /// How its sandbox was started.
    pub start: Start,
    /// Limits that it ran into, in order, each once.
    pub limits_hit: Vec<LimitHit>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_says_how_long_it_waited() {
        let ending = Ending::TimedOut {
            clock: Clock::Wall,
            allowed: Duration::from_secs(3),
        };
        let error = ending.error().unwrap();
        assert_eq!(error.message, "Task timed out after 3.00 seconds");
        assert_eq!(error.reason.as_str(), "wall_time");
        assert_eq!((ending.exit_code(), ending.signal()), (-1, None));
    }

    #[test]
    fn a_cut_character_is_left_out_and_a_broken_one_is_shown() {
        let show = |bytes: &[u8], truncated: bool| {
            let output = CapturedOutput {
                bytes: bytes.to_vec(),
                truncated_bytes: truncated.into(),
            };
            output.text().into_owned()
        };
        let snowman = "☃".as_bytes();
        let astral = "𝄞".as_bytes();
        assert_eq!(show(&snowman[..1], true), "");
        assert_eq!(show(&[b"a", &snowman[..2]].concat(), true), "a");
        assert_eq!(show(&[b"a", &astral[..3]].concat(), true), "a");
        assert_eq!(show(&[snowman, astral].concat(), true), "☃𝄞");
        assert_eq!(show(b"a\xff", true), "a\u{fffd}");
        assert_eq!(
            show(b"a\x80\x80\x80\x80", true),
            "a\u{fffd}\u{fffd}\u{fffd}\u{fffd}"
        );
        assert_eq!(show(&snowman[..2], false), "\u{fffd}");
        assert_eq!(show(b"", true), "");
    }

    #[test]
    fn exit_code_signal_and_reason_agree() {
        let killed = Ending::Crashed(CrashCause::Signal(11));
        assert_eq!((killed.exit_code(), killed.signal()), (-1, Some(11)));
        assert!(killed.error().unwrap().message.contains("SIGSEGV"));

        let hog = Ending::Crashed(CrashCause::Memory);
        assert_eq!(hog.error().unwrap().reason, Reason::Memory);

        let done = Ending::Completed {
            return_value: JsonText::null(),
        };
        assert_eq!((done.exit_code(), done.error()), (0, None));
    }
}
