//! What a guest sends over its channel.

use executor_infra_isolation::guest::channel::{
    GuestFrames, GuestMessage, MAX_ENTRIES, MAX_ENTRY_CHARS, MAX_MESSAGE_CHARS, MAX_TYPE_CHARS,
};

/// The first byte is the cap of a result, the second the length of the pieces in which the rest arrives. In whatever
/// pieces it comes, it is one message, within bounds, and nothing after it is heard.
pub fn target(data: &[u8]) {
    let [cap, length, sent @ ..] = data else {
        return;
    };
    let cap = usize::from(*cap);
    let said = heard(cap, &[sent]);
    assert_eq!(heard(cap, &pieces(sent, usize::from(*length))), said);
    assert_eq!(heard(cap, &pieces(sent, 1)), said);

    let Some(message) = said else {
        assert!(sent.is_empty());
        return;
    };
    match &message {
        GuestMessage::Result(json) => {
            assert!(json.as_str().len() <= cap);
            let again = framed(b'R', json.as_str().as_bytes());
            assert_eq!(heard(cap, &[&again]), Some(message));
        }
        GuestMessage::Failure(error) => {
            assert!(error.error_type.chars().count() <= MAX_TYPE_CHARS);
            assert!(error.message.chars().count() <= MAX_MESSAGE_CHARS);
            assert!(error.stack_trace.len() <= MAX_ENTRIES);
            let mut entries = error.stack_trace.iter();
            assert!(entries.all(|entry| entry.chars().count() <= MAX_ENTRY_CHARS));
        }
        GuestMessage::Exit(code) => {
            let again = framed(b'Q', code.to_string().as_bytes());
            assert_eq!(heard(cap, &[&again]), Some(message));
        }
        GuestMessage::TooLarge => {
            assert_eq!(sent.get(4), Some(&b'R'));
            let announced = u32::from_le_bytes([sent[0], sent[1], sent[2], sent[3]]);
            assert!(announced as usize > cap);
        }
        GuestMessage::Malformed(_) => {}
    }
}

/// The message that a guest is heard to say, which must be one at most.
fn heard(cap: usize, pieces: &[&[u8]]) -> Option<GuestMessage> {
    let mut frames = GuestFrames::new(cap);
    let mut said: Vec<_> = pieces
        .iter()
        .filter_map(|piece| frames.push(piece))
        .collect();
    said.extend(frames.finish());
    assert!(said.len() <= 1, "{said:?}");
    if !said.is_empty() {
        assert_eq!(frames.push(b"\x01\0\0\0R1"), None);
        assert_eq!(frames.finish(), None);
    }
    said.pop()
}

fn pieces(sent: &[u8], length: usize) -> Vec<&[u8]> {
    sent.chunks(length.max(1)).collect()
}

fn framed(kind: u8, payload: &[u8]) -> Vec<u8> {
    let [a, b, c, d] = u32::try_from(payload.len()).unwrap().to_le_bytes();
    [&[a, b, c, d, kind], payload].concat()
}
