//! Names and paths that callers, archives and guests choose.

use std::path::{Component, Path};

use executor_domain::{SessionId, WorkspacePath, is_deceptive};
use executor_infra_workspace::fuzzing::{archive_member, reported_name, shown_name};

/// Most characters of a name that are shown, with the sign that something was left out.
const MAX_SHOWN_CHARS: usize = 201;

/// What is taken stays where it belongs and deceives nobody.
pub fn target(data: &[u8]) {
    if let Ok(text) = str::from_utf8(data) {
        if let Ok(path) = WorkspacePath::parse(text) {
            assert_eq!(path.as_str(), text);
            stays_within(&path);
        }
        if let Ok(session) = SessionId::parse(text) {
            let mut parts = Path::new(session.as_str()).components();
            assert!(matches!(parts.next(), Some(Component::Normal(_))));
            assert_eq!(parts.next(), None);
            assert!(!session.as_str().starts_with('.') && session.as_str().len() <= 128);
        }
    }
    let directory = WorkspacePath::parse("some/directory").unwrap();
    for directory in [None, Some(&directory)] {
        if let Some(path) = archive_member(data, directory) {
            stays_within(&path);
        }
    }
    names(data);
}

fn stays_within(path: &WorkspacePath) {
    let text = path.as_str();
    assert!(!text.is_empty() && text.len() <= 4095);
    assert!(!text.contains(is_deceptive) && !text.contains('\0'));
    // The kernel's view of it: plain names, each a step down.
    let parts: Vec<_> = Path::new(text).components().collect();
    assert!(
        parts
            .iter()
            .all(|part| matches!(part, Component::Normal(_)))
    );
    let names: Vec<_> = path.names().collect();
    assert_eq!(parts.len(), names.len());
    assert!(
        names
            .iter()
            .all(|name| !name.is_empty() && name.len() <= 255)
    );
    // Its parts are itself.
    assert_eq!(names.join("/"), text);
    assert_eq!(names.last(), Some(&path.name()));
    let (above, name) = path.split();
    if above.is_empty() {
        assert_eq!(name, text);
    } else {
        assert_eq!(format!("{above}/{name}"), text);
        assert!(WorkspacePath::parse(above).is_ok());
    }
    assert_eq!(WorkspacePath::parse(text).as_ref(), Ok(path));
}

/// A name is reported exactly or not at all; shown, it is one short line that can mean no other name.
fn names(name: &[u8]) {
    if let Some(text) = reported_name(name) {
        assert_eq!(text.as_bytes(), name);
        assert!(!text.contains(is_deceptive));
    }
    let shown = shown_name(name);
    assert!(!shown.contains(is_deceptive));
    assert!(shown.chars().count() <= MAX_SHOWN_CHARS);
    if shown.chars().count() < MAX_SHOWN_CHARS {
        assert_eq!(meant(&shown), name, "{shown}");
    }
}

/// The name that is meant by what is shown.
fn meant(shown: &str) -> Vec<u8> {
    let mut name = Vec::new();
    let mut rest = shown;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        if c != '\\' {
            name.extend(c.to_string().bytes());
            continue;
        }
        let (kind, after) = rest.split_at(1);
        rest = after;
        match kind {
            "n" => name.push(b'\n'),
            "r" => name.push(b'\r'),
            "t" => name.push(b'\t'),
            "\\" => name.push(b'\\'),
            "x" => {
                name.push(u8::from_str_radix(&rest[..2], 16).unwrap());
                rest = &rest[2..];
            }
            "u" => {
                let (digits, after) = rest[1..].split_once('}').unwrap();
                let c = u32::from_str_radix(digits, 16).unwrap();
                name.extend(char::from_u32(c).unwrap().to_string().bytes());
                rest = after;
            }
            other => panic!("\\{other} in {shown}"),
        }
    }
    name
}
