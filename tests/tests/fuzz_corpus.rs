//! Every fuzz target, over every file of its corpus: what `docs/fuzzing.md` promises, on stable Rust and without libFuzzer.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "this is how a test fails"
)]

#[path = "../../fuzz/src/lib.rs"]
#[allow(clippy::pedantic, unreachable_pub, reason = "it is a crate of its own")]
mod targets;

use std::{collections::BTreeSet, fs, path::PathBuf};

fn fuzz() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz")
}

fn names(directory: &str) -> BTreeSet<String> {
    fs::read_dir(fuzz().join(directory))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn every_target_has_a_corpus_and_a_way_to_it() {
    let targets: BTreeSet<_> = targets::TARGETS
        .iter()
        .map(|(name, _)| (*name).to_owned())
        .collect();
    assert_eq!(names("corpus"), targets);
    let binaries = targets.iter().map(|name| format!("{name}.rs")).collect();
    assert_eq!(names("fuzz_targets"), binaries);
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    for target in targets {
        let path = format!("fuzz_targets/{target}.rs");
        assert!(manifest.contains(&format!("path = \"{path}\"")), "{path}");
        let binary = fs::read_to_string(fuzz().join(path)).unwrap();
        let call = format!("sandbox_executor_fuzz::{target}::target(data)");
        assert!(binary.contains(&call), "{binary}");
    }
}

#[test]
fn no_promise_is_broken_by_what_is_known() {
    for (name, target) in targets::TARGETS {
        let corpus = format!("corpus/{name}");
        let files = names(&corpus);
        assert!(!files.is_empty(), "{name}");
        for file in files {
            // Seen where a target fails.
            println!("{name}: {file}");
            target(&fs::read(fuzz().join(&corpus).join(file)).unwrap());
        }
    }
}
