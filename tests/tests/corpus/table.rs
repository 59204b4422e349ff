//! The list against the guests: which program is tried in which language, and what came of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use super::{
    attempt::{Attempt, Found},
    guests,
    programs::{ELSEWHERE, NOT_IN, PROGRAMS},
};

const LANGUAGES: [&str; 3] = ["python", "javascript", "shell"];

/// `program: python javascript shell`, one a line, by groups. A program for which several runs are proofs is as good as the
/// worst of them.
pub(crate) fn matrix(results: &[(&'static str, &'static str, Found)]) -> String {
    let mut worst: BTreeMap<(&str, &str), &Found> = BTreeMap::new();
    for (program, language, found) in results {
        let before = worst.entry((program, language)).or_insert(found);
        if rank(found) > rank(before) {
            *before = found;
        }
    }
    let mut text = String::new();
    for (group, programs) in PROGRAMS {
        let _ = writeln!(text, "{group}");
        for program in *programs {
            let of = |language| {
                worst
                    .get(&(*program, language))
                    .map_or("-".to_owned(), |found| found.word())
            };
            let [python, javascript, shell] = LANGUAGES.map(of);
            let _ = writeln!(text, "  {program:42} {python:22} {javascript:22} {shell}");
        }
    }
    text
}

fn rank(found: &Found) -> u8 {
    match found {
        Found::Held => 0,
        Found::Gap(_) => 1,
        Found::Failed(_) => 2,
    }
}

fn listed() -> BTreeSet<&'static str> {
    PROGRAMS
        .iter()
        .flat_map(|(_, programs)| *programs)
        .copied()
        .collect()
}

/// Every pair of a program and a language is tried, or has a reason not to be; never both.
#[test]
fn no_program_is_without_a_guest_or_a_reason_in_any_language() {
    let tried: BTreeSet<(&str, &str)> = guests::attempts()
        .flat_map(|attempt| {
            let language = attempt.guest.language;
            attempt.proofs().map(move |proof| (language, proof.program))
        })
        .collect();
    let excused: BTreeSet<(&str, &str)> = NOT_IN
        .iter()
        .inspect(|(.., why)| assert!(why.len() > 10, "{why}"))
        .map(|(language, program, _)| (*language, *program))
        .collect();
    let all: BTreeSet<(&str, &str)> = listed()
        .into_iter()
        .flat_map(|program| LANGUAGES.map(|language| (language, program)))
        .collect();
    let both: Vec<_> = tried.intersection(&excused).collect();
    assert!(both.is_empty(), "tried, and excused: {both:?}");
    let seen: BTreeSet<_> = tried.union(&excused).copied().collect();
    let missing: Vec<_> = all.difference(&seen).collect();
    assert!(missing.is_empty(), "neither tried nor excused: {missing:?}");
    let strangers: Vec<_> = seen.difference(&all).collect();
    assert!(strangers.is_empty(), "not on the list: {strangers:?}");
}

/// Gaps are known ones, in the one list of them.
#[test]
fn every_gap_is_a_known_one() {
    let known: BTreeSet<(&str, &str)> = include_str!("../../fixtures/known-gaps.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let mut columns = line.split('|').map(str::trim);
            Some((columns.next()?, columns.next()?))
        })
        .collect();
    for gap in guests::attempts().filter_map(Attempt::gap) {
        assert!(known.contains(&(gap.wall, gap.test)), "{gap:?}");
    }
}

/// Where the sources are: cargo and CI's own runner say it.
fn root() -> PathBuf {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").unwrap();
    Path::new(&manifest).parent().unwrap().to_owned()
}

fn sources(directory: &Path, found: &mut String) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && !path.ends_with("target") {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            *found += &fs::read_to_string(&path).unwrap();
        }
    }
}

#[test]
fn what_is_no_guests_has_a_test_elsewhere() {
    let mut text = String::new();
    for part in ["tests/tests", "crates"] {
        sources(&root().join(part), &mut text);
    }
    for (program, test) in ELSEWHERE {
        let name = test.rsplit("::").next().unwrap();
        assert!(
            text.contains(&format!("fn {name}(")),
            "{program}: there is no {test}"
        );
    }
}

/// The page says what was measured of every program that there is.
#[test]
fn the_page_has_every_program() {
    let page = fs::read_to_string(root().join("docs/hostile-corpus.md")).unwrap();
    for program in listed()
        .into_iter()
        .chain(ELSEWHERE.iter().map(|(program, _)| *program))
    {
        assert!(page.contains(&format!("| {program} |")), "{program}");
    }
}
