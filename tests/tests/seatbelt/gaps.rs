//! What this adapter cannot keep, and where a suite asks for less because of it.

use std::collections::BTreeSet;

use executor_application::Sandbox;

use super::support::seatbelt::{known_gaps, seatbelt};

/// Every place that calls `gap` is in one of these.
const SOURCES: [&str; 2] = [include_str!("../contract.rs"), include_str!("processes.rs")];

#[tokio::test]
async fn the_walls_that_are_missing_are_exactly_the_known_gaps() {
    let (_tool, sandbox) = seatbelt().await;
    let walls = &sandbox.description().walls;
    let missing: BTreeSet<&str> = walls
        .iter()
        .filter(|wall| !wall.is_on())
        .map(|wall| wall.name)
        .collect();
    let mut known: BTreeSet<&str> = known_gaps().into_iter().map(|(wall, _)| wall).collect();
    if rustix::process::geteuid().is_root() {
        // Root can choose who guests are.
        assert!(known.remove("own_user"));
    }
    assert_eq!(missing, known);
}

#[test]
fn the_list_names_exactly_the_tests_that_ask_for_less() {
    let mut asked = BTreeSet::new();
    for source in SOURCES {
        for call in source.split("gap(\"").skip(1) {
            let mut words = call.split('"');
            let (wall, _comma, test) = (words.next(), words.next(), words.next());
            asked.insert((wall.unwrap(), test.unwrap()));
        }
    }
    let mut listed = known_gaps();
    listed.retain(|(_, test)| *test != "none");
    assert_eq!(asked, listed);
}
