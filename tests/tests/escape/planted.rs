//! What one run leaves in its workspace, and what it then does to the next one: nothing before the caller's own code.

use std::fs;

use executor_domain::Language;
use serde_json::json;

use crate::{
    support::{self, Workspace, stdout},
    world::{
        assert_completed, assert_returned, block_on, expect, findings, guest, run, sandbox,
        with_event,
    },
};

/// Who guests are where the daemon is root, by default.
const GUEST: u32 = 64064;

#[test]
fn nothing_planted_runs_before_the_callers_code() {
    for guest in [
        guest!(python "harvest"),
        guest!(node "harvest"),
        guest!(shell "harvest"),
    ] {
        let workspace = Workspace::new();
        assert_eq!(
            findings(&run(guest!(python "plant").script(&workspace))).len(),
            0
        );
        expect(&run(guest.script(&workspace)), &[("", &["ran before"])]);

        // Whoever asks for it gets it (the control above), and nothing else ran.
        let mut ran: Vec<_> = fs::read_dir(workspace.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with("ran-"))
            .collect();
        ran.sort();
        assert_eq!(ran.len(), 1, "{}: {ran:?}", guest.language);
    }
}

#[test]
fn the_handler_of_the_next_run_is_the_callers() {
    for (language, code) in [
        (
            Language::Python,
            "import json\ndef handler(event): return json.loads('1')",
        ),
        (
            Language::JavaScript,
            "const fs = require('fs'); exports.handler = () => typeof fs.readFileSync === 'function' ? 1 : 2",
        ),
    ] {
        let workspace = Workspace::new();
        findings(&run(guest!(python "plant").script(&workspace)));
        let outcome = run(support::job(language, code, &workspace));
        assert_returned(&outcome, "1");
    }
}

/// Nothing of one run lies where another run of the session, at the same time, would take it for its own.
#[test]
fn runs_that_share_a_workspace_run_their_own_code() {
    let workspace = Workspace::new();
    for (language, print) in [
        (Language::Python, "print"),
        (Language::JavaScript, "console.log"),
        (Language::Shell, "echo "),
    ] {
        let one = |number: u32| {
            let code = match language {
                Language::Shell => format!("{print}{number}"),
                _ => format!("{print}({number})"),
            };
            support::run(sandbox(), support::script(language, &code, &workspace))
        };
        let (first, second, third) = block_on(async { tokio::join!(one(1), one(2), one(3)) });
        assert_eq!(
            [&first, &second, &third].map(stdout),
            ["1\n", "2\n", "3\n"],
            "{language}"
        );
    }
}

/// Links that point where a sandbox, built without care, would write for its next guest (CVE-2026-87766).
#[test]
fn no_planted_link_is_followed_by_the_next_sandbox() {
    let canary = Workspace::new();
    fs::write(canary.path().join("untouched"), "x").unwrap();
    let workspace = Workspace::new();
    let names = "tmp dev proc etc usr run sys workspace main.py main.js main.mjs main.sh main result result.json \
                 output event event.json stdin stdout stderr .cache .config node_modules __pycache__";
    let names: Vec<_> = names.split(' ').collect();
    let plant = with_event(
        &json!({"target": canary.path(), "names": names}),
        guest!(python "plant_links").script(&workspace),
    );
    assert_eq!(findings(&run(plant)).len(), 0);

    for (language, code) in [
        (Language::Python, "print('ran')"),
        (Language::JavaScript, "console.log('ran')"),
        (Language::Shell, "echo ran"),
    ] {
        let outcome = run(support::script(language, code, &workspace));
        assert_completed(&outcome);
        assert_eq!(stdout(&outcome), "ran\n", "{language}");
    }
    let left: Vec<_> = fs::read_dir(canary.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["untouched"]);
    assert_eq!(
        fs::read_to_string(canary.path().join("untouched")).unwrap(),
        "x"
    );
    // Every link is still one: nothing was put in its place.
    for name in names {
        assert!(workspace.path().join(name).is_symlink(), "{name}");
    }
}

#[test]
fn who_locks_the_workspace_does_not_lock_out_the_next_run() {
    let workspace = Workspace::new();
    // As the daemon does it: who may lock it is its owner.
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(workspace.path(), Some(GUEST), Some(GUEST)).unwrap();
    }
    for mode in ["0", "0o400", "0o177"] {
        let code = format!("import os\ndef handler(event): os.chmod('/workspace', {mode})");
        let job = support::job(Language::Python, &code, &workspace);
        assert_completed(&run(job));
        let next = support::job(
            Language::Python,
            "import os\ndef handler(event): return os.getcwd()",
            &workspace,
        );
        assert_returned(&run(next), "\"/workspace\"");
    }
}
