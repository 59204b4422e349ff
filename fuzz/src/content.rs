//! What guests print, and what they write into files.

use executor_infra_workspace::fuzzing::media_type;
use executor_interfaces_http::fuzzing::decoded;
use http::HeaderValue;

/// The first byte says where the rest is cut in two.
pub fn target(data: &[u8]) {
    let [cut, data @ ..] = data else {
        return;
    };
    let (first, second) = data.split_at(usize::from(*cut).min(data.len()));
    output(first, second);
    file(first, second);
}

/// Wherever output is cut on its way to a reader, it is the same text.
fn output(first: &[u8], second: &[u8]) {
    let all = [first, second].concat();
    let whole = String::from_utf8_lossy(&all);
    assert_eq!(decoded(&[first, second], false), whole);
    let bytes: Vec<_> = all.chunks(1).collect();
    assert_eq!(decoded(&bytes, false), whole);
    // Of a stream that was cut off, nothing is made up.
    assert!(whole.starts_with(&decoded(&[first, second], true)));
}

/// A file's media type fits into a header, whatever its name and its content are.
fn file(name: &[u8], content: &[u8]) {
    let name = String::from_utf8_lossy(name);
    for whole in [false, true] {
        let found = media_type(&name, content, whole);
        let (kind, detail) = found.split_once('/').expect(&found);
        assert!(!kind.is_empty() && !detail.is_empty(), "{found}");
        assert!(HeaderValue::from_str(&found).is_ok(), "{found}");
        let plain = |c: char| c.is_ascii_alphanumeric() || "/+.-_".contains(c);
        assert!(found.chars().all(plain), "{found}");
    }
}
