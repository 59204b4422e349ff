//! What some hosts cannot keep, and where the suite asks for less because of it.

use std::collections::BTreeSet;

use executor_application::Sandbox;

use crate::world::sandbox;

/// `wall | test | why`, one a line.
const KNOWN: &str = include_str!("../../fixtures/known-gaps.txt");

/// Stands for a wall that no host has.
const NOWHERE: &str = "nowhere";

/// Every place that calls [`gap`] is in one of these.
const SOURCES: [&str; 5] = [
    include_str!("honest.rs"),
    include_str!("identity.rs"),
    include_str!("leftovers.rs"),
    include_str!("protocol.rs"),
    include_str!("resources.rs"),
];

/// Whether this host lacks a wall, so that a test has to ask for less.
///
/// # Panics
///
/// Where the gap is not a known one.
#[track_caller]
pub(crate) fn gap(wall: &str, test: &str) -> bool {
    assert!(
        known().contains(&(wall, test)),
        "not a known gap: {wall} | {test}"
    );
    wall == NOWHERE || !stands(wall)
}

fn stands(name: &str) -> bool {
    sandbox()
        .description()
        .walls
        .iter()
        .find(|wall| wall.name == name)
        .unwrap_or_else(|| panic!("there is no wall called {name}"))
        .is_on()
}

fn known() -> BTreeSet<(&'static str, &'static str)> {
    KNOWN
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let mut columns = line.split('|').map(str::trim);
            let mut column = || columns.next().filter(|text| !text.is_empty());
            let (wall, test, why) = (column(), column(), column());
            assert!(why.is_some(), "a gap without a reason: {line}");
            (wall.unwrap(), test.unwrap())
        })
        .collect()
}

#[test]
fn the_list_is_exactly_what_the_suite_asks_for() {
    let mut asked = BTreeSet::new();
    for source in SOURCES {
        for call in source.split("gap(\"").skip(1) {
            let mut words = call.split('"');
            let (wall, _comma, test) = (words.next(), words.next(), words.next());
            asked.insert((wall.unwrap(), test.unwrap()));
        }
    }
    assert_eq!(asked, known());
}

#[test]
fn every_wall_that_is_missing_here_is_a_known_gap() {
    let known: BTreeSet<&str> = known().into_iter().map(|(wall, _)| wall).collect();
    for wall in &sandbox().description().walls {
        assert!(wall.is_on() || known.contains(wall.name), "{wall:?}");
    }
    // Root can choose who guests are.
    assert!(!nix::unistd::geteuid().is_root() || stands("own_user"));
}
