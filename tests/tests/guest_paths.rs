//! Nothing that a guest can write to is opened by its name: what the crate of workspaces asks of the file system, read in its
//! source. What happens where a guest swaps a file for a link is tested where it happens (`beneath.rs`, `tests/scanner.rs`,
//! `tests/files.rs` of that crate); here is the fence for code that is yet to be written.

#![allow(clippy::unwrap_used, reason = "this is how a test fails")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// What takes a path and follows links in it.
const BY_PATH: [&str; 22] = [
    "CWD",
    "File::create(",
    "File::open(",
    "OpenOptions",
    "fs::chmod(",
    "fs::chown(",
    "fs::copy(",
    "fs::create_dir",
    "fs::hard_link(",
    "fs::metadata(",
    "fs::open(",
    "fs::read",
    "fs::remove_",
    "fs::rename(",
    "fs::set_permissions(",
    "fs::symlink",
    "fs::write(",
    ".canonicalize()",
    ".exists()",
    ".read_dir()",
    ".read_link()",
    " open(",
];

/// Where that may be: file, call, and why no guest has a say in the path.
const ALLOWED: [(&str, &str, &str); 7] = [
    (
        "beneath.rs",
        "fs::chmod(",
        "/proc/self/fd/N: a descriptor that was opened beneath",
    ),
    (
        "sessions.rs",
        ".canonicalize()",
        "the root, as the operator has written it",
    ),
    ("sessions.rs", ".exists()", "the root and what is above it"),
    ("sessions.rs", "fs::create_dir", "the same"),
    ("sessions.rs", "fs::open(", "the root"),
    (
        "sessions.rs",
        "fs::set_permissions(",
        "the root, which was made just now",
    ),
    (
        "temporary.rs",
        "fs::set_permissions(",
        "a root of ours, in a directory of the host's",
    ),
];

/// Calls that take a descriptor and a name, and what they must say in so many words, so that the name is not followed.
const WITH_FLAG: [(&str, &str); 3] = [
    ("openat(", "NOFOLLOW"),
    ("statat(", "SYMLINK_NOFOLLOW"),
    ("chmodat(", "SYMLINK_NOFOLLOW"),
];

/// Where the flag is a constant of another line: file and call.
const ELSEWHERE: [(&str, &str); 2] = [("beneath.rs", "openat("), ("files/unpack.rs", "openat(")];

fn source() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../crates/executor-infra-workspace/src")
}

/// Every file of the crate, without its unit tests and comments, by its path within `src`.
fn files() -> Vec<(String, String)> {
    fn look(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                look(&path, found);
            } else {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    look(&source(), &mut found);
    let mut files: Vec<_> = found
        .iter()
        .map(|path| {
            let name = path.strip_prefix(source()).unwrap();
            let text = fs::read_to_string(path).unwrap();
            (name.to_str().unwrap().to_owned(), code_of(&text))
        })
        .collect();
    files.sort();
    files
}

fn code_of(text: &str) -> String {
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    let lines = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    // A call and its arguments on one line, however it was wrapped.
    lines.flat_map(|line| [line.trim(), " "]).collect()
}

/// Calls that go by a path: file and call.
fn calls_by_path(files: &[(String, String)]) -> BTreeSet<(&str, &str)> {
    let mut found = BTreeSet::new();
    for (name, code) in files {
        for call in BY_PATH {
            // A function of ours has the name as well.
            let code = code.replace("fn open(", "");
            if code.contains(call) {
                found.insert((name.as_str(), call));
            }
        }
    }
    found
}

/// Calls that follow the last name, and those whose flag stands elsewhere: file and call.
fn without_flag(files: &[(String, String)]) -> BTreeSet<(&str, &str)> {
    let mut found = BTreeSet::new();
    for (name, code) in files {
        for (call, flag) in WITH_FLAG {
            let starts = code.match_indices(call).filter(|(at, _)| {
                // A whole word: `fchmodat(` is another call.
                !code[..*at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            });
            for (at, _) in starts {
                // To the end of its arguments.
                let rest = &code[at + call.len()..];
                let mut depth = 1;
                let end = rest.find(|c| {
                    depth += i32::from(c == '(') - i32::from(c == ')');
                    depth == 0
                });
                if !rest[..end.unwrap()].contains(flag) {
                    found.insert((name.as_str(), call));
                }
            }
        }
    }
    found
}

#[test]
fn nothing_of_a_guest_is_opened_by_its_path() {
    let files = files();
    let allowed = ALLOWED
        .iter()
        .map(|(file, call, _)| (*file, *call))
        .collect();
    let page = "use `beneath`, or add a row with the reason to the table in this file";
    // The module that opens temporary places of the host's imports the function.
    let mut found = calls_by_path(&files);
    found.retain(|call| !matches!(call, ("temporary.rs" | "beneath.rs", " open(")));
    assert_eq!(found, allowed, "{page}");
    assert_eq!(without_flag(&files), BTreeSet::from(ELSEWHERE), "{page}");
}

#[test]
fn the_fence_sees_what_is_behind_it() {
    let file = |code: &str| vec![("x.rs".to_owned(), code_of(code))];
    for (code, call) in [
        ("let f = File::open(path)?;", "File::open("),
        ("std::fs::read_to_string(&path)", "fs::read"),
        ("if path.exists() {", ".exists()"),
        ("rustix::fs::open(\n    &path,", "fs::open("),
        ("let fd = open(path, flags, mode)?;", " open("),
    ] {
        let files = file(code);
        assert_eq!(
            calls_by_path(&files),
            BTreeSet::from([("x.rs", call)]),
            "{code}"
        );
    }
    for (code, call) in [
        ("openat(parent, name, OFlags::RDONLY, mode)", "openat("),
        (
            "statat(\n    parent,\n    name,\n    AtFlags::empty(),\n)",
            "statat(",
        ),
        (
            "statat(a, b(c), AtFlags::empty()); AtFlags::SYMLINK_NOFOLLOW",
            "statat(",
        ),
    ] {
        let files = file(code);
        assert_eq!(
            without_flag(&files),
            BTreeSet::from([("x.rs", call)]),
            "{code}"
        );
    }
    let harmless = file(
        "// File::open(path)\nopenat(a, b, OFlags::RDONLY | OFlags::NOFOLLOW, mode)\n\
         #[cfg(test)]\nmod tests {\n    fs::read(path)",
    );
    assert!(calls_by_path(&harmless).is_empty() && without_flag(&harmless).is_empty());
}

/// The flags that stand elsewhere do what they are there for.
#[test]
fn flags_that_stand_elsewhere_are_there() {
    let files = files();
    let code = |name: &str| &files.iter().find(|(found, _)| found == name).unwrap().1;
    assert!(code("beneath.rs").contains("openat(parent, name, how | ALWAYS, Mode::empty())"));
    assert!(
        code("beneath.rs").contains("ALWAYS: OFlags = OFlags::CLOEXEC.union(OFlags::NOFOLLOW)")
    );
    for flag in ["BENEATH", "NO_SYMLINKS", "NO_MAGICLINKS"] {
        assert!(
            code("beneath.rs").contains(&format!("ResolveFlags::{flag}")),
            "{flag}"
        );
    }
    let unpack = code("files/unpack.rs");
    assert!(unpack.contains("openat(&parent, name, how | OFlags::CLOEXEC, mode)"));
    assert!(unpack.contains("| OFlags::NOFOLLOW; let mode"));
}
