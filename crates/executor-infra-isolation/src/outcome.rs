//! What a finished run came to: a pure function from what the kernel, the init and the guest said.
//!
//! The order of belief: our own verdict (we killed it), then the kernel (it died of a signal, for want of memory), then
//! the exit code, and only then the guest's own words.

use std::time::Duration;

use executor_domain::{
    Clock, CrashCause, Ending, GuestError, JsonText, Language, LimitHit, Mode, Outcome, Reason,
    ResourceLimit, Start, Usage,
};
use rustix::process::Signal;

use crate::{
    guest::channel::GuestMessage,
    stage::wire::{Ended, Exit},
    supervisor::{Finished, Verdict},
    usage::Usage as Counted,
};

/// What a shell, and many a runtime, makes of a child that died of SIGKILL.
const EXIT_CODE_OF_SIGKILL: i32 = 128 + Signal::KILL.as_raw();

/// What was to be run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Program {
    pub language: Language,
    pub mode: Mode,
    pub limits: ResourceLimit,
}

/// Judges a run.
pub(crate) fn judge(program: &Program, finished: Finished, used: Option<&Counted>) -> Outcome {
    let facts = Facts {
        program,
        out_of_memory: used.is_some_and(|used| used.oom_kills > 0),
        cpu_time: used.and_then(|used| used.cpu).or_else(|| {
            finished
                .ended
                .map(|ended| Duration::from_micros(ended.cpu_micros))
        }),
        stderr: &finished.stderr.bytes,
    };
    let ending = facts.ending(finished.verdict, finished.ended, finished.message);

    let mut limits_hit = Vec::new();
    let mut hit = |happened, limit| {
        if happened {
            limits_hit.push(limit);
        }
    };
    let reason = ending.error().map(|error| error.reason);
    hit(
        facts.out_of_memory || reason == Some(Reason::Memory),
        LimitHit::Memory,
    );
    hit(
        used.is_some_and(|used| used.pids_refused > 0),
        LimitHit::Processes,
    );
    hit(reason == Some(Reason::CpuTime), LimitHit::CpuTime);
    hit(reason == Some(Reason::WallTime), LimitHit::WallTime);
    hit(
        finished.stdout.is_truncated() || finished.stderr.is_truncated(),
        LimitHit::Output,
    );
    hit(reason == Some(Reason::ResultTooLarge), LimitHit::ResultSize);

    Outcome {
        ending,
        usage: Usage {
            wall_time: finished.wall_time,
            cpu_time: facts.cpu_time,
            peak_memory_bytes: used
                .and_then(|used| used.peak_memory_bytes)
                .or_else(|| finished.ended.map(|ended| ended.max_rss_kib << 10)),
            io_read_bytes: used.and_then(|used| used.io_read_bytes),
            io_write_bytes: used.and_then(|used| used.io_write_bytes),
        },
        stdout: finished.stdout,
        stderr: finished.stderr,
        start: Start::Cold,
        limits_hit,
    }
}

struct Facts<'a> {
    program: &'a Program,
    out_of_memory: bool,
    cpu_time: Option<Duration>,
    stderr: &'a [u8],
}

impl Facts<'_> {
    fn ending(
        &self,
        verdict: Verdict,
        ended: Option<Ended>,
        message: Option<GuestMessage>,
    ) -> Ending {
        match verdict {
            Verdict::Cancelled => return Ending::Cancelled,
            Verdict::WallTime => return self.out_of_time(Clock::Wall),
            Verdict::CpuTime => return self.out_of_time(Clock::Cpu),
            Verdict::Natural => {}
        }
        match ended.map(|ended| ended.how) {
            Some(Exit::Code(EXIT_CODE_OF_SIGKILL)) if self.out_of_memory => {
                Ending::Crashed(CrashCause::Memory)
            }
            Some(Exit::Code(code)) => self.exited(code, message),
            Some(Exit::Signal(signal)) => self.killed(signal),
            Some(Exit::OutOfMemory) => Ending::Crashed(CrashCause::Memory),
            // The init itself is gone: for want of memory, or because the guest took its CPU time away (prlimit(2)), which
            // costs nobody but the guest.
            None if self.out_of_memory => Ending::Crashed(CrashCause::Memory),
            None => Ending::Crashed(CrashCause::Signal(Signal::KILL.as_raw())),
        }
    }

    fn out_of_time(&self, clock: Clock) -> Ending {
        let allowed = match clock {
            Clock::Wall => self.program.limits.wall_time(),
            Clock::Cpu => self.program.limits.cpu_time(),
        };
        Ending::TimedOut { clock, allowed }
    }

    fn killed(&self, signal: i32) -> Ending {
        let killed = signal == Signal::KILL.as_raw();
        if killed && self.out_of_memory {
            return Ending::Crashed(CrashCause::Memory);
        }
        // The kernel asks with SIGXCPU and, a second of CPU time later, kills (setrlimit(2)). It counts for that by ticks, and
        // more finely for what it reports, so the two differ a little. Without the time, these are signals like others, and
        // a guest can send them to itself.
        let nearly = self.program.limits.cpu_time().mul_f64(0.9);
        let used_up = self.cpu_time.is_some_and(|used| used >= nearly);
        if used_up && (killed || signal == Signal::XCPU.as_raw()) {
            return self.out_of_time(Clock::Cpu);
        }
        // V8 keeps to a heap limit below that of the cgroup and aborts when it is reached.
        let v8_gave_up = self.program.language == Language::JavaScript
            && contains(self.stderr, b"JavaScript heap out of memory");
        if v8_gave_up {
            return Ending::Crashed(CrashCause::Memory);
        }
        Ending::Crashed(CrashCause::Signal(signal))
    }

    fn exited(&self, code: i32, message: Option<GuestMessage>) -> Ending {
        match message {
            Some(GuestMessage::Result(value)) if code == 0 => completed(value),
            Some(GuestMessage::Failure(mut error)) => {
                // What Python says where a limit of the process, not the cgroup, stood in its way.
                if error.error_type == "MemoryError" {
                    error.reason = Reason::Memory;
                }
                Ending::Failed {
                    exit_code: code,
                    error,
                }
            }
            Some(GuestMessage::TooLarge) => failed(
                code,
                "ResultTooLarge",
                "The return value is larger than its limit".into(),
                Reason::ResultTooLarge,
            ),
            Some(GuestMessage::Malformed(why)) => failed(
                code,
                "ProtocolError",
                format!("The program wrote something of its own to the result channel: {why}"),
                Reason::HandlerError,
            ),
            Some(GuestMessage::Result(_) | GuestMessage::Exit(_)) | None => {
                match (self.program.mode, code) {
                    (Mode::Script, 0) => completed(JsonText::null()),
                    (Mode::Handler, 0) => failed(
                        code,
                        "ExitError",
                        "The process ended with exit code 0 before the handler returned".into(),
                        Reason::HandlerError,
                    ),
                    (_, code) => failed(
                        code,
                        "ExitError",
                        format!("The process ended with exit code {code}"),
                        Reason::ExitCode,
                    ),
                }
            }
        }
    }
}

const fn completed(return_value: JsonText) -> Ending {
    Ending::Completed { return_value }
}

fn failed(exit_code: i32, error_type: &str, message: String, reason: Reason) -> Ending {
    Ending::Failed {
        exit_code,
        error: GuestError::new(error_type, message, reason),
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack
        .windows(needle.len())
        .any(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use executor_domain::{CapturedOutput, LimitPolicy, RequestedLimits};

    use super::*;

    fn program(language: Language) -> Program {
        let wish = RequestedLimits {
            timeout: Some(3),
            ..RequestedLimits::default()
        };
        Program {
            language,
            mode: language.default_mode(),
            limits: LimitPolicy::default().grant(&wish).unwrap(),
        }
    }

    fn finished(how: Exit, message: Option<GuestMessage>) -> Finished {
        Finished {
            verdict: Verdict::Natural,
            ended: Some(Ended {
                how,
                cpu_micros: 1500,
                max_rss_kib: 2048,
            }),
            message,
            stdout: CapturedOutput::default(),
            stderr: CapturedOutput::default(),
            wall_time: Duration::from_millis(5),
            inspection: None,
        }
    }

    fn one() -> GuestMessage {
        GuestMessage::Result(JsonText::parse("1".into()).unwrap())
    }

    fn reason(outcome: &Outcome) -> Option<Reason> {
        outcome.ending.error().map(|error| error.reason)
    }

    #[test]
    fn a_result_counts_only_with_exit_code_0() {
        let python = program(Language::Python);
        let good = judge(&python, finished(Exit::Code(0), Some(one())), None);
        assert!(
            matches!(&good.ending, Ending::Completed { return_value } if return_value.as_str() == "1")
        );
        let bad = judge(&python, finished(Exit::Code(3), Some(one())), None);
        assert_eq!(
            (bad.ending.exit_code(), reason(&bad)),
            (3, Some(Reason::ExitCode))
        );
        let crashed = judge(&python, finished(Exit::Signal(11), Some(one())), None);
        assert_eq!(crashed.ending, Ending::Crashed(CrashCause::Signal(11)));
    }

    #[test]
    fn a_handler_that_never_returned_has_not_completed() {
        let python = judge(
            &program(Language::Python),
            finished(Exit::Code(0), None),
            None,
        );
        assert_eq!(reason(&python), Some(Reason::HandlerError));
        let shell = judge(
            &program(Language::Shell),
            finished(Exit::Code(0), None),
            None,
        );
        assert_eq!(reason(&shell), None);
    }

    #[test]
    fn our_verdict_comes_before_the_guests_word() {
        for (verdict, expected) in [
            (Verdict::WallTime, Reason::WallTime),
            (Verdict::CpuTime, Reason::CpuTime),
            (Verdict::Cancelled, Reason::Cancelled),
        ] {
            let mut late = finished(Exit::Code(0), Some(one()));
            late.verdict = verdict;
            let outcome = judge(&program(Language::Python), late, None);
            assert_eq!(reason(&outcome), Some(expected));
            assert_eq!(outcome.ending.exit_code(), -1);
        }
    }

    #[test]
    fn want_of_memory_is_never_a_bare_137() {
        let oom = Counted {
            oom_kills: 1,
            ..Counted::default()
        };
        for how in [Exit::Signal(9), Exit::Code(137)] {
            let outcome = judge(&program(Language::Shell), finished(how, None), Some(&oom));
            assert_eq!(
                outcome.ending,
                Ending::Crashed(CrashCause::Memory),
                "{how:?}"
            );
            assert_eq!(outcome.limits_hit, [LimitHit::Memory]);
        }
        // A child was killed, the program lived on and said so.
        let lived = judge(
            &program(Language::Shell),
            finished(Exit::Code(0), None),
            Some(&oom),
        );
        assert!(matches!(lived.ending, Ending::Completed { .. }));
        assert_eq!(lived.limits_hit, [LimitHit::Memory]);
    }

    #[test]
    fn whoever_samples_memory_says_so() {
        let outcome = judge(
            &program(Language::Python),
            finished(Exit::OutOfMemory, None),
            None,
        );
        assert_eq!(outcome.ending, Ending::Crashed(CrashCause::Memory));
        assert_eq!(outcome.limits_hit, [LimitHit::Memory]);
    }

    #[test]
    fn v8_says_itself_that_memory_ran_out() {
        let mut aborted = finished(Exit::Signal(6), None);
        aborted.stderr.bytes = b"FATAL ERROR: ... JavaScript heap out of memory\n".to_vec();
        let outcome = judge(&program(Language::JavaScript), aborted, None);
        assert_eq!(outcome.ending, Ending::Crashed(CrashCause::Memory));
        assert_eq!(outcome.limits_hit, [LimitHit::Memory]);
    }

    #[test]
    fn the_kernels_cpu_limit_is_a_timeout_and_its_signals_alone_are_not() {
        let ended_by = |signal, cpu_micros| {
            let mut finished = finished(Exit::Signal(signal), None);
            finished.ended = finished.ended.map(|ended| Ended {
                cpu_micros,
                ..ended
            });
            reason(&judge(&program(Language::Shell), finished, None))
        };
        // A limit of three seconds; ticks may be a little behind.
        for signal in [24, 9] {
            assert_eq!(ended_by(signal, 3_000_000), Some(Reason::CpuTime));
            assert_eq!(ended_by(signal, 2_990_000), Some(Reason::CpuTime));
            assert_eq!(ended_by(signal, 1_000_000), Some(Reason::Signal));
        }
    }

    #[test]
    fn usage_comes_from_the_cgroup_or_else_from_the_init() {
        let rough = judge(
            &program(Language::Shell),
            finished(Exit::Code(0), None),
            None,
        );
        assert_eq!(rough.usage.cpu_time, Some(Duration::from_micros(1500)));
        assert_eq!(rough.usage.peak_memory_bytes, Some(2048 << 10));
        let used = Counted {
            cpu: Some(Duration::from_millis(7)),
            peak_memory_bytes: Some(1),
            pids_refused: 2,
            ..Counted::default()
        };
        let exact = judge(
            &program(Language::Shell),
            finished(Exit::Code(0), None),
            Some(&used),
        );
        assert_eq!(exact.usage.cpu_time, Some(Duration::from_millis(7)));
        assert_eq!(exact.usage.peak_memory_bytes, Some(1));
        assert_eq!(exact.limits_hit, [LimitHit::Processes]);
    }
}
