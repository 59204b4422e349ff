//! Tests that need a process of their own: they look at what the whole process holds, or start it in bad company.

use std::{env, process::Command};

/// Says to a test that it is alone, and carries a secret that no guest may find.
pub(crate) const SECRET_VARIABLE: &str = "ESCAPE_SUITE_SECRET";

/// Whether this process runs one test and nothing else.
pub(crate) fn is_alone() -> bool {
    env::var_os(SECRET_VARIABLE).is_some()
}

/// One test of this executable in a process of its own, which a shell becomes after these commands.
pub(crate) fn command(test: &str, commands: &str) -> Command {
    // Cgroups that this process has set up are there for the other one, which could not claim them beside it.
    crate::world::sandbox();
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg(format!("{commands}\nexec \"$@\""))
        .arg("sh")
        .arg(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(SECRET_VARIABLE, "a secret of the daemon");
    command
}

/// Runs one test in a process of its own.
#[track_caller]
pub(crate) fn rerun(test: &str, commands: &str) {
    let output = command(test, commands).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
