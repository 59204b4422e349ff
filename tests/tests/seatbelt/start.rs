//! Whether the adapter starts, and what it says where it must not.

use std::{fs, os::unix::fs::symlink, path::Path};

use executor_application::{CancellationToken, Sandbox, SandboxError};
use executor_domain::Language;
use executor_infra_isolation::seatbelt::{
    Layout, SeatbeltConfig, SeatbeltSandbox, StartError, examine,
};

use super::support::{
    Workspace,
    daemon::passable_directory,
    job,
    seatbelt::{StandIn, config, seatbelt, start},
};

#[tokio::test]
async fn it_says_what_it_is() {
    let (_stand_in, sandbox) = seatbelt().await;
    let description = sandbox.description();
    assert_eq!(description.isolation, "seatbelt");
    assert_eq!(description.platform, "Linux");
    for language in Language::ALL {
        assert!(description.supports(language), "{language}");
    }
    let on: Vec<_> = description
        .walls
        .iter()
        .filter(|wall| wall.is_on() && wall.name != "own_user")
        .map(|wall| wall.name)
        .collect();
    assert_eq!(
        on,
        [
            "seatbelt_profile",
            "network",
            "services",
            "rlimits",
            "wall_time",
            "output_cap"
        ]
    );
}

#[tokio::test]
async fn without_the_tool_nothing_is_run() {
    let missing = Path::new("/nonexistent/sandbox-exec");
    let refused = start(missing).await.unwrap_err();
    assert!(matches!(&refused, StartError::NoTool(path) if path == missing));
    assert!(refused.to_string().contains("Remedy: "), "{refused}");

    let checks = examine(config(missing)).await;
    assert_eq!(checks.len(), 1);
    assert!(checks[0].essential && !checks[0].passed);
    assert_eq!(checks[0].detail, refused.to_string());
}

/// Each wall that the daemon tries is missed where the tool leaves it out.
#[tokio::test]
async fn a_wall_that_does_not_stand_is_a_refusal() {
    for (wall, breaches) in [
        (
            "files",
            &[
                "read a file outside",
                "write to a file outside",
                "make a file outside",
            ][..],
        ),
        ("network", &["connect to a port of this host"]),
        ("signals", &["signal its keeper"]),
    ] {
        let stand_in = StandIn::new();
        let started = start(&stand_in.without(wall)).await;
        if wall == "signals" && rustix::process::geteuid().is_root() {
            // Guests are another user than the keeper, who is out of their reach with and without this wall.
            assert!(started.is_ok(), "{:?}", started.err());
            continue;
        }
        let Err(StartError::Breached(found)) = started else {
            panic!("it starts without {wall}: {:?}", started.err());
        };
        let expected: Vec<_> = breaches
            .iter()
            .map(|what| format!("a guest can {what}"))
            .collect();
        assert_eq!(found, expected);
    }
}

#[tokio::test]
async fn a_tool_that_does_not_do_its_work_is_a_refusal() {
    let stand_in = StandIn::new();
    // It ends well, and has run nothing.
    let refused = start(Path::new("/bin/true")).await.unwrap_err();
    assert!(matches!(refused, StartError::Sandbox(_)), "{refused:?}");
    // It says what is wrong.
    let refused = start(Path::new("/bin/cat")).await.unwrap_err();
    assert!(refused.to_string().contains("cat: "), "{refused}");
    drop(stand_in);
}

#[tokio::test]
async fn health_is_tried_and_not_remembered() {
    let (stand_in, sandbox) = seatbelt().await;
    sandbox.check().await.unwrap();
    fs::remove_file(stand_in.path()).unwrap();
    let unhealthy = sandbox.check().await.unwrap_err();
    assert!(
        matches!(unhealthy, SandboxError::Unavailable { .. }),
        "{unhealthy:?}"
    );
    // That is our failure, and no guest's.
    let workspace = Workspace::new();
    let job = job(Language::Shell, "echo ran", &workspace);
    let refused = sandbox.run(job, CancellationToken::new()).await;
    let Err(SandboxError::Unavailable { reason }) = &refused else {
        panic!("{refused:?}");
    };
    assert!(reason.contains("confine the guest: start "), "{reason}");
}

#[tokio::test]
async fn an_interpreter_that_does_not_run_costs_its_language_and_no_other() {
    let stand_in = StandIn::new();
    let directory = passable_directory();
    // Whatever it is asked, it ends with 1.
    symlink("/usr/bin/false", directory.path().join("node")).unwrap();
    let place: &'static str = String::leak(directory.path().to_str().unwrap().to_owned());
    let layout = Layout {
        search: Vec::leak([&[place][..], Layout::HERE.search].concat()),
        ..Layout::HERE
    };
    let config = || SeatbeltConfig {
        layout,
        ..config(&stand_in.path())
    };
    let sandbox = SeatbeltSandbox::start(config()).await.unwrap();
    assert!(!sandbox.description().supports(Language::JavaScript));
    assert!(sandbox.description().supports(Language::Python));
    let checks = examine(config()).await;
    let node = checks
        .iter()
        .find(|check| check.name == "javascript")
        .unwrap();
    assert!(!node.passed && !node.essential);
    let said = format!("{place}/node does not run in the sandbox: Some(Code(1))");
    assert!(node.detail.contains(&said), "{}", node.detail);
}

#[tokio::test]
async fn nothing_of_a_sandbox_is_left_when_it_is_gone() {
    let (stand_in, sandbox) = seatbelt().await;
    let place = format!("sandbox-runs-{}-", std::process::id());
    let areas = stand_in.calls().into_iter().flatten().filter_map(|word| {
        let value = word.strip_prefix("PRIVATE=")?.to_owned();
        Some(Path::new(&value).ancestors().nth(2)?.to_owned())
    });
    let areas: Vec<_> = areas.collect();
    assert!(
        areas
            .iter()
            .all(|area| area.to_string_lossy().contains(&place))
    );
    assert!(areas.first().is_some_and(|area| area.exists()));
    drop(sandbox);
    assert!(areas.iter().all(|area| !area.exists()), "{areas:?}");
}
