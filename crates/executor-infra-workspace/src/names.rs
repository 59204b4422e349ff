//! File names: which ones are nobody's business, which ones cannot be reported, and how a hostile one is shown.

use std::{
    fmt::Write as _,
    hash::{BuildHasher as _, RandomState},
};

use executor_domain::is_deceptive;
use rustix::io::Errno;

/// Longest text for one path in a note, in characters. The guest chose it; the note is for a person.
const MAX_SHOWN: usize = 200;

/// Whether an entry is hidden or temporary, with everything below it: `.x`, `__pycache__`, `*.pyc`, `*.tmp`, `*~`.
pub(crate) fn is_excluded(name: &[u8]) -> bool {
    name.starts_with(b".")
        || name == b"__pycache__"
        || [&b".pyc"[..], b".tmp", b"~"]
            .iter()
            .any(|suffix| name.ends_with(suffix))
}

/// The name as text, or why it cannot be part of an artifact's path. A name is passed on exactly or not at all: one that
/// was repaired would name another file.
pub(crate) fn as_text(name: &[u8]) -> Result<&str, &'static str> {
    let text = str::from_utf8(name).map_err(|_| "its name is not UTF-8")?;
    if text.contains(is_deceptive) {
        return Err("its name has control characters");
    }
    Ok(text)
}

/// Any path, for a person: one line, unambiguous, of bounded length.
pub(crate) fn escaped(path: &[u8]) -> String {
    let mut shown = String::new();
    for chunk in path.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => shown.push_str("\\\\"),
                c if is_deceptive(c) => shown.extend(c.escape_default()),
                c => shown.push(c),
            }
        }
        for byte in chunk.invalid() {
            // Writing to a String cannot fail.
            let _ = write!(shown, "\\x{byte:02x}");
        }
    }
    if let Some((end, _)) = shown.char_indices().nth(MAX_SHOWN) {
        shown.truncate(end);
        shown.push('…');
    }
    shown
}

/// `prefix`, a dash and a random number. `RandomState` is seeded by the system and spares this crate a generator; nothing
/// here relies on a name that cannot be guessed.
pub(crate) fn random_name(prefix: &str) -> String {
    let random = RandomState::new().hash_one(prefix);
    format!("{prefix}-{random:016x}")
}

/// Makes something under a name that nobody uses: `prefix`, a dash and a random number. `make` must fail with `EEXIST`
/// where the name is taken; what a crashed daemon left behind, or somebody planted, is left alone.
pub(crate) fn create_unused<T>(
    prefix: &str,
    mut make: impl FnMut(&str) -> Result<T, Errno>,
) -> Result<(String, T), Errno> {
    for _ in 0..16 {
        let name = random_name(prefix);
        match make(&name) {
            Err(Errno::EXIST) => {}
            decided => return decided.map(|made| (name, made)),
        }
    }
    Err(Errno::EXIST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_and_temporary_names_are_excluded() {
        for name in [
            ".x",
            "..x",
            "__pycache__",
            "m.pyc",
            "a.tmp",
            "a~",
            "~",
            ".tmp",
        ] {
            assert!(is_excluded(name.as_bytes()), "{name}");
        }
        for name in [
            "x",
            "x.py",
            "tmp",
            "a.tmp.txt",
            "__pycache__x",
            "pyc",
            "~a",
            "a.TMP",
        ] {
            assert!(!is_excluded(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn names_are_exact_or_refused() {
        for good in [
            "plain.txt",
            "mit Leerzeichen",
            "größe.png",
            "图.png",
            "a\\b",
            "\"'$(id)`",
        ] {
            assert_eq!(as_text(good.as_bytes()), Ok(good));
        }
        for bad in [
            "a\nb",
            "\r",
            "tab\t",
            "esc\x1b[2J",
            "del\x7f",
            "c1\u{85}",
            "rtl\u{202e}gnp.exe",
            "line\u{2028}",
        ] {
            assert!(as_text(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(as_text(b"\xff\xfe").is_err());
        assert!(as_text("x".repeat(255).as_bytes()).is_ok());
    }

    #[test]
    fn hostile_names_are_shown_on_one_line() {
        assert_eq!(escaped(b"a/b.txt"), "a/b.txt");
        assert_eq!(escaped(b"a\nb\xff\\x"), r"a\nb\xff\\x");
        assert_eq!(escaped("\u{202e}".as_bytes()), r"\u{202e}");
        assert_eq!(escaped(&[b'x'; 200]), "x".repeat(200));
        assert_eq!(escaped(&[b'x'; 201]), "x".repeat(200) + "…");
        assert_eq!(escaped(&[0xff; 4096]), r"\xff".repeat(50) + "…");
    }

    #[test]
    fn a_name_that_is_taken_is_left_alone() {
        let mut tried = Vec::new();
        let (name, ()) = create_unused("p", |name| {
            tried.push(name.to_owned());
            if tried.len() < 3 {
                Err(Errno::EXIST)
            } else {
                Ok(())
            }
        })
        .unwrap();
        assert_eq!(tried.len(), 3);
        assert_eq!(tried.last(), Some(&name));
        assert_eq!(
            create_unused::<()>("p", |_| Err(Errno::EXIST)),
            Err(Errno::EXIST)
        );
        assert_eq!(
            create_unused::<()>("p", |_| Err(Errno::NOSPC)),
            Err(Errno::NOSPC)
        );
    }
}
