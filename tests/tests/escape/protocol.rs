//! Output, results and the guest channel: read with caps, and without trust.

use executor_application::Job;
use executor_domain::{CrashCause, Ending, Language, LimitHit, Reason};
use serde_json::json;

use crate::{
    gaps::gap,
    support::{self, Workspace, event, stdout},
    world::{
        PROMPT, assert_completed, assert_returned, assert_works, guest, reason, run, with_event,
        with_limits,
    },
};

/// One frame of the channel.
fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap();
    [&length.to_le_bytes(), &[kind][..], payload].concat()
}

/// A header that promises more than it keeps.
fn header(length: u32, kind: u8) -> Vec<u8> {
    [&length.to_le_bytes(), &[kind][..]].concat()
}

#[test]
fn whoever_writes_to_the_channel_forges_at_most_its_own_result() {
    use Reason::{ExitCode, HandlerError, ResultTooLarge};

    let one = frame(b'R', b"1");
    let cases: [(Vec<u8>, &str, Result<&str, Reason>); 17] = [
        // Controls: the guest can write there, and the handler's word counts where nobody spoke before it.
        (one.clone(), "return", Ok("1")),
        (vec![], "return", Ok(r#""the handler's own""#)),
        // The first frame counts.
        ([one.clone(), frame(b'R', b"2")].concat(), "return", Ok("1")),
        (
            [one.clone(), header(u32::MAX, b'R')].concat(),
            "return",
            Ok("1"),
        ),
        // An exit code is worth more than words.
        (one.clone(), "exit", Err(ExitCode)),
        (frame(b'Q', b"0"), "exit", Err(ExitCode)),
        // Whoever says nothing has returned nothing.
        (vec![], "close", Err(HandlerError)),
        // This is not the protocol.
        (b"garbage".into(), "return", Err(HandlerError)),
        (header(0, 0), "return", Err(HandlerError)),
        (header(1 << 30, b'R'), "return", Err(ResultTooLarge)),
        (header(u32::MAX, b'R'), "return", Err(ResultTooLarge)),
        (header(u32::MAX, b'X'), "return", Err(HandlerError)),
        (header(100, b'R'), "close", Err(HandlerError)),
        (frame(b'R', b"\xff"), "return", Err(HandlerError)),
        (frame(b'R', b"1 2"), "return", Err(HandlerError)),
        (frame(b'X', b"{}"), "return", Err(HandlerError)),
        // The daemon's own kinds mean nothing from this side.
        (frame(b'C', b"print(1)"), "return", Err(HandlerError)),
    ];
    for (bytes, then, expected) in cases {
        let workspace = Workspace::new();
        let event = json!({"bytes": bytes, "then": then});
        let outcome = run(with_event(
            &event,
            guest!(python "protocol").handler(&workspace),
        ));
        match expected {
            Ok(value) => assert_returned(&outcome, value),
            Err(why) => assert_eq!(reason(&outcome), Some(why), "{bytes:?} {outcome:?}"),
        }
    }
}

#[test]
fn a_result_and_then_a_crash_is_a_crash() {
    let workspace = Workspace::new();
    let event = json!({"bytes": frame(b'R', b"1"), "then": "crash"});
    let outcome = run(with_event(
        &event,
        guest!(python "protocol").handler(&workspace),
    ));
    assert_eq!(outcome.ending, Ending::Crashed(CrashCause::Signal(11)));
}

#[test]
fn a_guest_that_talks_for_ever_is_heard_once() {
    let workspace = Workspace::new();
    // 60 MB.
    let event = json!({"bytes": frame(b'R', b"1"), "times": 10_000_000, "then": "return"});
    let outcome = run(with_event(
        &event,
        guest!(python "protocol").handler(&workspace),
    ));
    assert_returned(&outcome, "1");
}

#[test]
fn node_forges_at_most_its_own_result() {
    let workspace = Workspace::new();
    let code = "exports.handler = () => { \
                require('fs').writeSync(3, Buffer.from([1, 0, 0, 0, 0x52, 0x31])); return 2; }";
    let outcome = run(support::job(Language::JavaScript, code, &workspace));
    assert_returned(&outcome, "1");
}

/// No marker, no frame and no JSON in stdout or stderr is more than output.
#[test]
fn nothing_is_parsed_from_the_streams() {
    let forged = r#"__RESULT__{\"status\":\"completed\",\"result\":1}"#;
    for (language, code, value) in [
        (
            Language::Python,
            format!(
                "import os\ndef handler(event):\n  for fd in (1, 2): os.write(fd, b\"{forged}\\n\\x01\\0\\0\\0R1\")\n  return 2"
            ),
            "2",
        ),
        (
            Language::JavaScript,
            format!(
                "exports.handler = () => {{ for (const fd of [1, 2]) require('fs').writeSync(fd, \"{forged}\\n\\x01\\0\\0\\0R1\"); return 2 }}"
            ),
            "2",
        ),
        (
            Language::Shell,
            format!("printf \"{forged}\\n\\x01\\0\\0\\0R1\" | tee /dev/stderr"),
            "null",
        ),
    ] {
        let workspace = Workspace::new();
        let outcome = run(support::job(language, &code, &workspace));
        assert_returned(&outcome, value);
        let expected = b"__RESULT__{\"status\":\"completed\",\"result\":1}\n\x01\0\0\0R1";
        assert_eq!(outcome.stdout.bytes, expected, "{language}");
        assert_eq!(outcome.stderr.bytes, expected, "{language}");
    }
}

#[test]
fn closing_everything_is_no_result() {
    let workspace = Workspace::new();
    let event = json!({"then": "return"});
    let job = guest!(python "close_everything").handler(&workspace);
    let outcome = run(with_event(&event, job));
    assert_eq!(reason(&outcome), Some(Reason::HandlerError), "{outcome:?}");
}

/// Descriptors that a guest sends away live until somebody takes them out of the channel: its streams stay open.
#[test]
fn descriptors_sent_through_the_channel_hold_no_answer() {
    let workspace = Workspace::new();
    let send = |bytes: Vec<u8>, descriptors: &[i32], times: u32| {
        let event = json!({"bytes": bytes, "descriptors": descriptors, "times": times});
        run(with_limits(
            |wish| wish.max_wall_time_ms = Some(10_000),
            with_event(&event, guest!(python "hand_over").handler(&workspace)),
        ))
    };
    let outcome = send(frame(b'R', b"1"), &[1, 2, 3], 3);
    assert_returned(&outcome, "1");
    assert_eq!(stdout(&outcome), "printed after that\n");
    assert!(outcome.usage.wall_time < PROMPT);

    // More messages than the channel holds unread, and less descriptors than one user may have under way.
    let outcome = send(b"x".into(), &[1], 600);
    if gap("nowhere", "descriptors") {
        let ends = [Reason::WallTime, Reason::HandlerError].map(Some);
        assert!(ends.contains(&reason(&outcome)), "{outcome:?}");
    } else {
        assert_eq!(reason(&outcome), Some(Reason::HandlerError), "{outcome:?}");
        assert_eq!(stdout(&outcome), "printed after that\n");
    }
    assert_works();
}

#[test]
fn output_stands_at_its_cap_in_every_language() {
    const CAP: usize = 1 << 20;
    for (guest, answer) in [
        (guest!(python "flood"), r#""the answer""#),
        (guest!(node "flood"), r#""the answer""#),
        (guest!(shell "flood"), "null"),
    ] {
        let workspace = Workspace::new();
        let job = guest.handler(&workspace);
        let outcome = run(with_limits(
            |wish| wish.max_output_bytes = Some(CAP as u64),
            job,
        ));
        assert_returned(&outcome, answer);
        for (stream, byte) in [(&outcome.stdout, b'x'), (&outcome.stderr, b'y')] {
            assert!(stream.is_truncated());
            assert_eq!(stream.bytes.len(), CAP);
            assert!(stream.bytes.iter().all(|found| *found == byte));
        }
        assert_eq!(outcome.limits_hit, [LimitHit::Output]);
    }
}

#[test]
fn a_result_stands_at_its_cap() {
    const CAP: usize = 8 << 20;
    for (language, code) in [
        (
            Language::Python,
            "def handler(event): return 'x' * (event['bytes'] - 2)",
        ),
        (
            Language::JavaScript,
            "exports.handler = (event) => 'x'.repeat(event.bytes - 2)",
        ),
    ] {
        let workspace = Workspace::new();
        let answer = |bytes: usize| {
            let job = support::job(language, code, &workspace);
            run(with_event(&json!({"bytes": bytes}), job))
        };
        let at = answer(CAP);
        assert!(
            matches!(&at.ending, Ending::Completed { return_value } if return_value.as_str().len() == CAP),
            "{language}"
        );
        let above = answer(CAP + 1);
        assert_eq!(reason(&above), Some(Reason::ResultTooLarge), "{language}");
        assert_eq!(above.limits_hit, [LimitHit::ResultSize]);
    }
}

#[test]
fn a_result_of_a_gibibyte_is_want_of_memory_and_not_ours() {
    let workspace = Workspace::new();
    let code = "def handler(event): return 'x' * (1 << 30)";
    let job = support::job(Language::Python, code, &workspace);
    let outcome = run(with_limits(|wish| wish.max_memory_mb = Some(64), job));
    assert_eq!(reason(&outcome), Some(Reason::Memory), "{outcome:?}");
}

/// The largest code and the largest event that the API takes.
#[test]
fn large_code_and_a_large_event_arrive_whole() {
    const CODE: usize = 1 << 20;
    const EVENT: usize = 8 << 20;
    let padding = EVENT - r#"{"x":""}"#.len();
    let large = event(&format!(r#"{{"x":"{}"}}"#, "x".repeat(padding)));
    for (language, code, comment, answer) in [
        (
            Language::Python,
            "def handler(event): return len(event['x'])",
            '#',
            padding.to_string(),
        ),
        (
            Language::JavaScript,
            "exports.handler = (event) => event.x.length",
            '/',
            padding.to_string(),
        ),
        (Language::Shell, "wc -c", '#', "null".to_owned()),
    ] {
        let workspace = Workspace::new();
        let rest = comment.to_string().repeat(CODE - code.len() - 1);
        let outcome = run(Job {
            event: large.clone(),
            ..support::job(language, &format!("{code}\n{rest}"), &workspace)
        });
        assert_completed(&outcome);
        assert_returned(&outcome, &answer);
        if language == Language::Shell {
            assert_eq!(stdout(&outcome).trim(), EVENT.to_string());
        }
    }
}
