//! The codec of the guest channel (`docs/guest-channel.md`): frames for the guest, and a bounded decoder for what comes back.

use std::time::Duration;

use executor_domain::{ExecutionId, GuestError, JsonText, Mode, Reason, SessionId};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::runner::Bootstrap;

/// The descriptor at which a guest finds its end of the channel.
pub const GUEST_DESCRIPTOR: i32 = 3;

/// Length and kind in front of each payload.
const HEADER_BYTES: usize = 5;

/// Most bytes of an error report. Runners have the same bounds: this one is what the four below take up if every character
/// needs six bytes of JSON, rounded up.
pub const MAX_FAILURE_BYTES: usize = 1 << 20;
/// Most characters of an exception's type.
pub const MAX_TYPE_CHARS: usize = 256;
/// Most characters of an exception's message.
pub const MAX_MESSAGE_CHARS: usize = 16 * 1024;
/// Most characters of one entry of a stack trace.
pub const MAX_ENTRY_CHARS: usize = 2048;
/// Most entries of a stack trace.
pub const MAX_ENTRIES: usize = 64;

/// Most bytes of an exit code: three digits are enough for what a process can end with.
const MAX_EXIT_BYTES: usize = 3;

/// What a runner is told about its run.
#[derive(Debug, Clone)]
pub struct JobHeader<'a> {
    /// The execution's name.
    pub execution_id: &'a ExecutionId,
    /// The session's name.
    pub session_id: &'a SessionId,
    /// How the code is entered.
    pub mode: Mode,
    /// Wall time left when the job is sent; milliseconds on the wire.
    pub remaining: Duration,
    /// Memory that the guest may use, in MiB.
    pub memory_limit_mb: u64,
    /// Most bytes of a result; the same number goes to [`GuestFrames::new`].
    pub max_result_bytes: usize,
    /// Variables, for an interpreter that was started without them; `None`: it has its environment.
    pub environment: Option<&'a [(String, String)]>,
}

/// The job header on the wire.
#[derive(Serialize)]
struct JobHeaderDto<'a> {
    execution_id: &'a str,
    session_id: &'a str,
    mode: &'static str,
    remaining_ms: u64,
    memory_limit_mb: u64,
    max_result_bytes: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    environment: Option<&'a [(String, String)]>,
}

/// Why a job cannot be put into frames.
#[derive(Debug, Error)]
pub enum EncodeError {
    /// A payload has more bytes than the header can say.
    #[error("a payload of {0} bytes does not fit into a frame")]
    TooLong(usize),
    /// The job header could not be serialised.
    #[error("the job header cannot be serialised")]
    Header(#[source] serde_json::Error),
}

/// Everything that the daemon sends for one run, in the order of the protocol. Borrows what is large.
#[derive(Debug)]
pub struct JobFrames<'a> {
    bootstrap: Option<([u8; HEADER_BYTES], &'a [u8])>,
    /// The whole job frame and the header of the code frame.
    job: Vec<u8>,
    code: &'a [u8],
    event_header: [u8; HEADER_BYTES],
    event: &'a [u8],
}

impl<'a> JobFrames<'a> {
    /// Puts a job into frames. `bootstrap` is for interpreters that do not have their runner yet; `event` is the JSON text of
    /// an object.
    pub fn new(
        bootstrap: Option<&'a Bootstrap>,
        header: &JobHeader<'_>,
        code: &'a str,
        event: &'a str,
    ) -> Result<Self, EncodeError> {
        let bootstrap = bootstrap.map(Bootstrap::as_bytes);
        let dto = JobHeaderDto {
            execution_id: header.execution_id.as_str(),
            session_id: header.session_id.as_str(),
            mode: header.mode.as_str(),
            remaining_ms: u64::try_from(header.remaining.as_millis()).unwrap_or(u64::MAX),
            memory_limit_mb: header.memory_limit_mb,
            max_result_bytes: header.max_result_bytes,
            environment: header.environment,
        };
        let dto = serde_json::to_vec(&dto).map_err(EncodeError::Header)?;
        let mut job = Vec::with_capacity(dto.len() + 2 * HEADER_BYTES);
        job.extend(frame_header(b'J', &dto)?);
        job.extend(&dto);
        job.extend(frame_header(b'C', code.as_bytes())?);
        Ok(Self {
            bootstrap: match bootstrap {
                Some(payload) => Some((frame_header(b'B', payload)?, payload)),
                None => None,
            },
            job,
            code: code.as_bytes(),
            event_header: frame_header(b'E', event.as_bytes())?,
            event: event.as_bytes(),
        })
    }

    /// The bytes to send, in pieces, to be written one after the other (or at once, by `writev`).
    pub fn pieces(&self) -> [&[u8]; 6] {
        let (header, payload): (&[u8], &[u8]) = match &self.bootstrap {
            Some((header, payload)) => (header, payload),
            None => (&[], &[]),
        };
        [
            header,
            payload,
            &self.job,
            self.code,
            &self.event_header,
            self.event,
        ]
    }
}

/// One frame.
#[cfg(any(target_os = "linux", test))]
pub(crate) fn frame(kind: u8, payload: &[u8]) -> Result<Vec<u8>, EncodeError> {
    Ok([&frame_header(kind, payload)?, payload].concat())
}

fn frame_header(kind: u8, payload: &[u8]) -> Result<[u8; HEADER_BYTES], EncodeError> {
    let length = u32::try_from(payload.len()).map_err(|_| EncodeError::TooLong(payload.len()))?;
    let [a, b, c, d] = length.to_le_bytes();
    Ok([a, b, c, d, kind])
}

/// What a guest said, or did in the place of saying something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestMessage {
    /// The handler returned this.
    Result(JsonText),
    /// The run failed. Strings and stack are within the bounds of this module.
    Failure(GuestError),
    /// The guest asked to end with this exit code, 0 to 255.
    Exit(u8),
    /// A result above the cap was announced; none of it was read.
    TooLarge,
    /// This is not the protocol.
    Malformed(Violation),
}

/// How a guest broke the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Violation {
    /// No frame has this kind.
    #[error("a frame of unknown kind")]
    UnknownKind,
    /// A frame that is no result is longer than any such frame.
    #[error("a frame of impossible length")]
    ImpossibleLength,
    /// The payload is not UTF-8.
    #[error("a frame that is not UTF-8")]
    NotUtf8,
    /// The result is not one JSON value.
    #[error("a result that is not JSON")]
    NotJson,
    /// The error report lacks a field, or has one of a wrong type or value.
    #[error("an error report of the wrong shape")]
    BadFailure,
    /// The exit code is not a number from 0 to 255.
    #[error("an exit code that is none")]
    BadExitCode,
    /// The channel ended within a frame.
    #[error("a frame without an end")]
    Truncated,
}

/// Decodes what a guest sends: takes bytes as they come and yields one message, that of the first frame. What follows is
/// the caller's to read and throw away.
///
/// Never holds more than the cap of the frame at hand, and never more than twice of what has really arrived: a length is a
/// claim.
#[derive(Debug)]
pub struct GuestFrames {
    max_result_bytes: usize,
    state: State,
}

#[derive(Debug)]
enum State {
    Header {
        bytes: [u8; HEADER_BYTES],
        have: usize,
    },
    Payload {
        kind: Kind,
        length: usize,
        bytes: Vec<u8>,
    },
    Done,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Result,
    Failure,
    Exit,
}

impl GuestFrames {
    /// A decoder at the start of a channel, for results of at most this many bytes.
    pub const fn new(max_result_bytes: usize) -> Self {
        Self {
            max_result_bytes,
            state: State::Header {
                bytes: [0; HEADER_BYTES],
                have: 0,
            },
        }
    }

    /// Takes the next bytes of the channel. Returns the message when it is complete, once; ignores everything after it.
    pub fn push(&mut self, mut input: &[u8]) -> Option<GuestMessage> {
        loop {
            match &mut self.state {
                State::Header { bytes, have } => {
                    let taken = take(&mut input, HEADER_BYTES - *have);
                    bytes[*have..*have + taken.len()].copy_from_slice(taken);
                    *have += taken.len();
                    if *have < HEADER_BYTES {
                        return None;
                    }
                    let header = *bytes;
                    match self.announced(header) {
                        Ok((kind, length)) => {
                            let bytes = Vec::new();
                            self.state = State::Payload {
                                kind,
                                length,
                                bytes,
                            };
                        }
                        Err(message) => return Some(self.done(message)),
                    }
                }
                State::Payload {
                    kind,
                    length,
                    bytes,
                } => {
                    let taken = take(&mut input, *length - bytes.len());
                    append(bytes, taken, *length);
                    if bytes.len() < *length {
                        return None;
                    }
                    let message = parse(*kind, std::mem::take(bytes));
                    return Some(self.done(message));
                }
                State::Done => return None,
            }
        }
    }

    /// Takes note that the channel has ended. Returns a message where a frame had begun; `None` where the guest said
    /// nothing, or everything.
    pub fn finish(&mut self) -> Option<GuestMessage> {
        let silent = matches!(self.state, State::Done | State::Header { have: 0, .. });
        if silent {
            return None;
        }
        Some(self.done(GuestMessage::Malformed(Violation::Truncated)))
    }

    fn done(&mut self, message: GuestMessage) -> GuestMessage {
        self.state = State::Done;
        message
    }

    fn announced(&self, header: [u8; HEADER_BYTES]) -> Result<(Kind, usize), GuestMessage> {
        let [a, b, c, d, kind] = header;
        // A length that does not fit into this machine's words is above every cap as well.
        let length = usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        let (kind, cap) = match kind {
            b'R' => (Kind::Result, self.max_result_bytes),
            b'X' => (Kind::Failure, MAX_FAILURE_BYTES),
            b'Q' => (Kind::Exit, MAX_EXIT_BYTES),
            _ => return Err(GuestMessage::Malformed(Violation::UnknownKind)),
        };
        match kind {
            _ if length <= cap => Ok((kind, length)),
            Kind::Result => Err(GuestMessage::TooLarge),
            Kind::Failure | Kind::Exit => Err(GuestMessage::Malformed(Violation::ImpossibleLength)),
        }
    }
}

/// Splits up to `count` bytes off the front of `input`.
fn take<'a>(input: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (taken, rest) = input.split_at(count.min(input.len()));
    *input = rest;
    taken
}

/// Appends, growing by doubling but not beyond what the frame will need.
fn append(bytes: &mut Vec<u8>, more: &[u8], length: usize) {
    let needed = bytes.len() + more.len();
    if needed > bytes.capacity() {
        let capacity = needed.saturating_mul(2).min(length).max(needed);
        bytes.reserve_exact(capacity - bytes.len());
    }
    bytes.extend_from_slice(more);
}

/// An error report on the wire. Unknown fields are ignored: runners may learn to say more.
#[derive(Deserialize)]
struct FailureDto {
    error_type: String,
    error_message: String,
    stack_trace: Vec<String>,
    reason: String,
}

fn parse(kind: Kind, payload: Vec<u8>) -> GuestMessage {
    let Ok(text) = String::from_utf8(payload) else {
        return GuestMessage::Malformed(Violation::NotUtf8);
    };
    let message = match kind {
        Kind::Result => JsonText::parse(text)
            .map(GuestMessage::Result)
            .map_err(|_| Violation::NotJson),
        Kind::Failure => parse_failure(&text)
            .map(GuestMessage::Failure)
            .ok_or(Violation::BadFailure),
        Kind::Exit => parse_exit_code(&text)
            .map(GuestMessage::Exit)
            .ok_or(Violation::BadExitCode),
    };
    message.unwrap_or_else(GuestMessage::Malformed)
}

/// `str::parse` also takes a plus sign.
fn parse_exit_code(text: &str) -> Option<u8> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

fn parse_failure(text: &str) -> Option<GuestError> {
    let dto: FailureDto = serde_json::from_str(text).ok()?;
    // What only the daemon can know (a limit, a signal) is not the guest's to claim.
    let reason = [
        Reason::HandlerError,
        Reason::HandlerNotFound,
        Reason::SyntaxError,
        Reason::NotSerializable,
        Reason::ResultTooLarge,
    ]
    .into_iter()
    .find(|reason| reason.as_str() == dto.reason)?;
    let mut stack_trace = dto.stack_trace;
    stack_trace.truncate(MAX_ENTRIES);
    for entry in &mut stack_trace {
        clip(entry, MAX_ENTRY_CHARS);
    }
    let mut error = GuestError {
        error_type: dto.error_type,
        message: dto.error_message,
        stack_trace,
        reason,
    };
    clip(&mut error.error_type, MAX_TYPE_CHARS);
    clip(&mut error.message, MAX_MESSAGE_CHARS);
    Some(error)
}

/// Cuts a text to at most this many characters.
fn clip(text: &mut String, limit: usize) {
    if let Some((end, _)) = text.char_indices().nth(limit) {
        text.truncate(end);
    }
}

#[cfg(test)]
mod tests {
    use executor_domain::Language;

    use super::*;

    const CAP: usize = 64;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        super::frame(kind, payload).unwrap()
    }

    fn decode(bytes: &[u8]) -> Option<GuestMessage> {
        let mut frames = GuestFrames::new(CAP);
        frames.push(bytes).or_else(|| frames.finish())
    }

    fn failure(reason: &str) -> String {
        format!(
            r#"{{"error_type":"E","error_message":"m","stack_trace":["a","b"],"reason":"{reason}"}}"#
        )
    }

    #[test]
    fn a_job_is_sent_in_the_order_of_the_protocol() {
        let bootstrap = Bootstrap::from_source(Language::Python).unwrap();
        let header = JobHeader {
            execution_id: &ExecutionId::parse("exec_1").unwrap(),
            session_id: &SessionId::parse("s_1").unwrap(),
            mode: Mode::Script,
            remaining: Duration::from_millis(2999),
            memory_limit_mb: 512,
            max_result_bytes: 8,
            environment: None,
        };
        let cold = JobFrames::new(Some(&bootstrap), &header, "é", "{}").unwrap();
        let warm = JobFrames::new(None, &header, "é", "{}").unwrap();
        let job = br#"{"execution_id":"exec_1","session_id":"s_1","mode":"script","remaining_ms":2999,"memory_limit_mb":512,"max_result_bytes":8}"#;
        let rest = [
            frame(b'J', job),
            frame(b'C', "é".as_bytes()),
            frame(b'E', b"{}"),
        ]
        .concat();
        assert_eq!(warm.pieces().concat(), rest);
        let first = frame(b'B', bootstrap.as_bytes());
        assert_eq!(cold.pieces().concat(), [first, rest].concat());
    }

    #[test]
    fn each_kind_of_frame_is_understood() {
        let result = JsonText::parse(r#"{"a": 1}"#.into()).unwrap();
        assert_eq!(
            decode(&frame(b'R', br#"{"a": 1}"#)),
            Some(GuestMessage::Result(result))
        );
        assert_eq!(decode(&frame(b'Q', b"0")), Some(GuestMessage::Exit(0)));
        assert_eq!(decode(&frame(b'Q', b"255")), Some(GuestMessage::Exit(255)));
        let error = GuestError {
            stack_trace: vec!["a".into(), "b".into()],
            ..GuestError::new("E", "m".into(), Reason::HandlerError)
        };
        let report = frame(b'X', failure("handler_error").as_bytes());
        assert_eq!(decode(&report), Some(GuestMessage::Failure(error)));
        assert_eq!(decode(b""), None);
    }

    #[test]
    fn whatever_else_comes_is_named() {
        for (bytes, why) in [
            (frame(b'R', b"nul"), Violation::NotJson),
            (frame(b'R', b""), Violation::NotJson),
            (frame(b'R', b"1 2"), Violation::NotJson),
            (frame(b'R', b"\"\xff\""), Violation::NotUtf8),
            (frame(b'Q', b"256"), Violation::BadExitCode),
            (frame(b'Q', b"-1"), Violation::BadExitCode),
            (frame(b'Q', b"+1"), Violation::BadExitCode),
            (frame(b'Q', b""), Violation::BadExitCode),
            (frame(b'Q', b"0000"), Violation::ImpossibleLength),
            (frame(b'X', b"{}"), Violation::BadFailure),
            (
                frame(b'X', failure("memory").as_bytes()),
                Violation::BadFailure,
            ),
            (frame(b'X', failure("").as_bytes()), Violation::BadFailure),
            (frame(b'r', b"1"), Violation::UnknownKind),
            (frame(b'R', b"1")[..5].to_vec(), Violation::Truncated),
            (vec![0], Violation::Truncated),
            (b"\xff\xff\xff\xffX".to_vec(), Violation::ImpossibleLength),
        ] {
            assert_eq!(
                decode(&bytes),
                Some(GuestMessage::Malformed(why)),
                "{bytes:?}"
            );
        }
    }

    #[test]
    fn a_result_may_be_as_long_as_the_cap_and_no_longer() {
        let text = |length: usize| format!("\"{}\"", "x".repeat(length - 2));
        let fits = decode(&frame(b'R', text(CAP).as_bytes()));
        assert!(matches!(fits, Some(GuestMessage::Result(json)) if json.as_str().len() == CAP));
        let long = frame(b'R', text(CAP + 1).as_bytes());
        assert_eq!(
            decode(&long[..5]),
            Some(GuestMessage::TooLarge),
            "the header is enough"
        );
        assert_eq!(decode(b"\xff\xff\xff\xffR"), Some(GuestMessage::TooLarge));
    }

    #[test]
    fn the_first_frame_counts() {
        let mut frames = GuestFrames::new(CAP);
        let both = [frame(b'Q', b"3"), frame(b'R', b"1")].concat();
        assert_eq!(frames.push(&both), Some(GuestMessage::Exit(3)));
        assert_eq!(frames.push(&frame(b'R', b"1")), None);
        assert_eq!(frames.finish(), None);
    }

    #[test]
    fn a_frame_may_be_cut_anywhere() {
        for whole in [
            frame(b'R', br#"{"greeting":"Hello, \u00e9"}"#),
            frame(b'X', failure("syntax_error").as_bytes()),
            frame(b'Q', b"17"),
            frame(b'R', b"nul"),
        ] {
            let at_once = decode(&whole);
            for at in 0..=whole.len() {
                let mut frames = GuestFrames::new(CAP);
                let first = frames.push(&whole[..at]);
                assert_eq!(first.is_some(), at == whole.len(), "{at}");
                assert_eq!(first.or_else(|| frames.push(&whole[at..])), at_once, "{at}");
            }
            let mut frames = GuestFrames::new(CAP);
            let singly = whole.iter().find_map(|byte| frames.push(&[*byte]));
            assert_eq!(singly, at_once);
        }
    }

    #[test]
    fn a_claimed_length_allocates_nothing() {
        let mut frames = GuestFrames::new(usize::MAX);
        assert_eq!(frames.push(b"\xff\xff\xff\x7fR"), None);
        assert_eq!(frames.push(&[b' '; 1000]), None);
        let State::Payload { bytes, .. } = &frames.state else {
            panic!("a payload has begun");
        };
        assert!(bytes.capacity() <= 2000, "{}", bytes.capacity());
    }

    #[test]
    fn strings_and_stacks_of_a_report_are_cut() {
        let long = "é".repeat(MAX_MESSAGE_CHARS + 1);
        let entry = "x".repeat(MAX_ENTRY_CHARS + 1);
        let report = serde_json::json!({
            "error_type": long, "error_message": long, "reason": "handler_error",
            "stack_trace": vec![entry; MAX_ENTRIES + 1],
        });
        let Some(GuestMessage::Failure(error)) =
            decode(&frame(b'X', report.to_string().as_bytes()))
        else {
            panic!("the report is within {MAX_FAILURE_BYTES} bytes");
        };
        assert_eq!(error.error_type.chars().count(), MAX_TYPE_CHARS);
        assert_eq!(error.message.chars().count(), MAX_MESSAGE_CHARS);
        assert_eq!(error.stack_trace.len(), MAX_ENTRIES);
        assert!(
            error
                .stack_trace
                .iter()
                .all(|entry| entry.len() == MAX_ENTRY_CHARS)
        );
    }

    #[test]
    fn garbage_never_panics_and_is_answered_once() {
        // xorshift64: garbage that is the same in every run.
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = move || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed.to_le_bytes()[3]
        };
        for round in 0..20_000_u32 {
            let mut bytes: Vec<u8> = (0..next() % 96).map(|_| next()).collect();
            if round % 2 == 0 && bytes.len() > 5 {
                // A plausible header gets further.
                let kind = b"RXQ"[usize::from(next() % 3)];
                bytes[..5].copy_from_slice(&[next() % 80, 0, 0, 0, kind]);
            }
            let mut frames = GuestFrames::new(CAP);
            let mut answers = 0;
            for piece in bytes.chunks(usize::from(next() % 7) + 1) {
                answers += usize::from(frames.push(piece).is_some());
            }
            answers += usize::from(frames.finish().is_some());
            assert_eq!(answers, usize::from(!bytes.is_empty()), "{bytes:?}");
        }
    }
}
