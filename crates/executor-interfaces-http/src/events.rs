//! An execution as server-sent events (HTML Standard, section 9.2).
//!
//! An event's id says how many bytes of stdout and of stderr have been sent up to its end. So any place can be resumed
//! from, also by a daemon that was started again and knows the result alone.

use std::{collections::VecDeque, convert::Infallible, time::Duration};

use axum::{
    http::{HeaderName, HeaderValue, header},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use executor_application::{Events, ExecutionEvent, OutputStream, Position};
use executor_domain::{Execution, Status};
use futures_util::stream;
use serde::Serialize;
use utoipa::ToSchema;

use crate::response::ExecutionDto;

/// How often a silent stream says that it is there, so that no proxy takes it for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Asks proxies of nginx's kind not to hold events back.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// The place that an event's id means; `None`: it is no id of ours.
pub(crate) fn position(id: &str) -> Option<Position> {
    let (stdout, stderr) = id.split_once('.')?;
    let number = |text: &str| {
        let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|_| is_plain)
    };
    Some(Position {
        stdout: number(stdout)?,
        stderr: number(stderr)?,
    })
}

/// An answer of events, as they happen, to the terminal one. Its client takes them at its own speed.
pub(crate) fn answer(events: Events) -> Response {
    let writer = Writer {
        events,
        stdout: Decoder::default(),
        stderr: Decoder::default(),
        ready: VecDeque::new(),
    };
    let events = stream::unfold(writer, |mut writer| async {
        let event = writer.next().await?;
        Some((Ok::<_, Infallible>(event), writer))
    });
    let mut response = Sse::new(events)
        .keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
        .into_response();
    let headers = response.headers_mut();
    headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    // `Sse` says `no-cache`, with which a cache may still keep what a guest has written.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A server-sent event, for the description alone.
#[derive(ToSchema)]
#[schema(as = Event)]
#[expect(dead_code, reason = "events are written line by line")]
pub(crate) struct EventDto {
    /// `status`, `stdout`, `stderr`, `truncated`, or `result`, which is the last one
    event: String,
    /// Where to go on: what `Last-Event-ID` takes
    id: String,
    /// JSON: a status with its message, `{"text"}` of output, which stream was cut after how many bytes, or the whole
    /// execution
    data: String,
}

#[derive(Serialize)]
struct OutputDto<'a> {
    text: &'a str,
}

#[derive(Serialize)]
struct TruncatedDto {
    stream: &'static str,
    kept_bytes: u64,
}

#[derive(Serialize)]
struct StatusDto<'a> {
    execution_id: &'a str,
    status: &'static str,
    message: &'static str,
}

/// Turns what happens into events.
struct Writer {
    events: Events,
    stdout: Decoder,
    stderr: Decoder,
    ready: VecDeque<Event>,
}

impl Writer {
    /// The next event; `None` after the terminal one. Cancel safe.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            match self.events.next().await? {
                ExecutionEvent::Status(status) => self.status(status),
                ExecutionEvent::Output { stream, bytes } => {
                    let text = self.decoder(stream).push(&bytes);
                    self.output(stream, &text);
                }
                ExecutionEvent::Truncated { stream } => self.truncated(stream),
                ExecutionEvent::Ended(execution) => self.end(&execution),
            }
        }
    }

    fn status(&mut self, status: Status) {
        let dto = StatusDto {
            execution_id: self.events.execution().id().as_str(),
            status: status.as_str(),
            message: status.message(),
        };
        let event = self.event("status", &dto);
        self.ready.push_back(event);
    }

    fn output(&mut self, stream: OutputStream, text: &str) {
        if !text.is_empty() {
            let event = self.event(name(stream), &OutputDto { text });
            self.ready.push_back(event);
        }
    }

    fn truncated(&mut self, stream: OutputStream) {
        self.decoder(stream).leave_out();
        let dto = TruncatedDto {
            stream: name(stream),
            // The cut itself counts as one.
            kept_bytes: self.events.position().of(stream).saturating_sub(1),
        };
        let event = self.event("truncated", &dto);
        self.ready.push_back(event);
    }

    fn end(&mut self, execution: &Execution) {
        for stream in [OutputStream::Stdout, OutputStream::Stderr] {
            let text = self.decoder(stream).finish();
            self.output(stream, &text);
        }
        let event = self.event("result", &ExecutionDto::from(execution));
        self.ready.push_back(event);
    }

    fn decoder(&mut self, stream: OutputStream) -> &mut Decoder {
        match stream {
            OutputStream::Stdout => &mut self.stdout,
            OutputStream::Stderr => &mut self.stderr,
        }
    }

    /// An event after everything that was decoded so far.
    fn event(&self, name: &'static str, data: &impl Serialize) -> Event {
        let read = self.events.position();
        let id = format!(
            "{}.{}",
            read.stdout - self.stdout.held(),
            read.stderr - self.stderr.held()
        );
        // Every DTO of ours has a JSON form, which has no line breaks.
        let data = serde_json::to_string(data).unwrap_or_default();
        Event::default().event(name).id(id).data(data)
    }
}

const fn name(stream: OutputStream) -> &'static str {
    match stream {
        OutputStream::Stdout => "stdout",
        OutputStream::Stderr => "stderr",
    }
}

/// Turns pieces of a stream into text. A character that comes in two pieces is held back until it is whole; what is no
/// character becomes U+FFFD.
#[derive(Default)]
pub(crate) struct Decoder {
    held: Vec<u8>,
}

impl Decoder {
    pub(crate) fn push(&mut self, bytes: &[u8]) -> String {
        self.held.extend_from_slice(bytes);
        let rest = self
            .held
            .split_off(self.held.len() - executor_domain::unfinished_tail(&self.held));
        let whole = std::mem::replace(&mut self.held, rest);
        String::from_utf8_lossy(&whole).into_owned()
    }

    /// What is left at the end.
    pub(crate) fn finish(&mut self) -> String {
        let held = std::mem::take(&mut self.held);
        String::from_utf8_lossy(&held).into_owned()
    }

    /// The stream was cut here: half a character is left out, since the guest did write it well.
    pub(crate) fn leave_out(&mut self) {
        self.held.clear();
    }

    fn held(&self) -> u64 {
        self.held.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_whole_wherever_they_are_cut() {
        let text = "aé€🦀z".as_bytes();
        for cut in 0..=text.len() {
            let mut decoder = Decoder::default();
            let mut text_so_far = decoder.push(&text[..cut]);
            assert!(!text_so_far.contains('\u{fffd}'), "cut at {cut}");
            text_so_far += &decoder.push(&text[cut..]);
            text_so_far += &decoder.finish();
            assert_eq!(text_so_far, "aé€🦀z", "cut at {cut}");
        }
        let mut byte_by_byte = Decoder::default();
        let whole: String = text.iter().map(|b| byte_by_byte.push(&[*b])).collect();
        assert_eq!(whole, "aé€🦀z");
    }

    #[test]
    fn what_is_no_character_is_replaced_and_half_a_cut_one_left_out() {
        let mut decoder = Decoder::default();
        assert_eq!(decoder.push(b"a\xff\xf0\x9f"), "a\u{fffd}");
        assert_eq!(decoder.push(b"b"), "\u{fffd}b");
        assert_eq!(decoder.push(b"\xe2\x82"), "");
        assert_eq!(decoder.held(), 2);
        assert_eq!(decoder.finish(), "\u{fffd}");
        decoder.push(b"\xe2\x82");
        decoder.leave_out();
        assert_eq!(decoder.finish(), "");
    }

    #[test]
    fn ids_are_two_numbers() {
        let place = Position {
            stdout: 12,
            stderr: 0,
        };
        assert_eq!(position("12.0"), Some(place));
        for bad in [
            "",
            "1",
            "1.",
            ".1",
            "-1.0",
            "+1.0",
            "1.2.3",
            "a.b",
            "99999999999999999999.0",
        ] {
            assert_eq!(position(bad), None, "{bad}");
        }
    }
}
