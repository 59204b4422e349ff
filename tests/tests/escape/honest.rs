//! The walls are not too tight: what honest programs do works.

use crate::{
    gaps::gap,
    support::{Workspace, stderr},
    world::{INOTIFY, expect, findings, guest, run},
};

#[test]
fn honest_python_works() {
    let workspace = Workspace::new();
    let outcome = run(guest!(python "honest").script(&workspace));
    let spawn = if gap("nowhere", "spawn") {
        "AssertionError"
    } else {
        "ok"
    };
    expect(&outcome, &[(spawn, &["multiprocessing by spawn"])]);
}

#[test]
fn honest_node_works() {
    let _watching = INOTIFY.lock();
    let workspace = Workspace::new();
    let outcome = run(guest!(node "honest").script(&workspace));
    assert_eq!(findings(&outcome).len(), 0);
}

#[test]
fn honest_bash_works() {
    let workspace = Workspace::new();
    let outcome = run(guest!(shell "honest").script(&workspace));
    assert_eq!(findings(&outcome).len(), 0);
    assert!(stderr(&outcome).starts_with("said by name\n"));
}
