//! Tests that need a process of their own: they look at what the whole process holds, or start it in bad company.

use std::{env, process::Command};

/// Says to a test that it is alone, and carries a secret that no guest may find.
pub(crate) const SECRET_VARIABLE: &str = "ESCAPE_SUITE_SECRET";

/// Whether this process runs one test and nothing else.
pub(crate) fn is_alone() -> bool {
    env::var_os(SECRET_VARIABLE).is_some()
}

/// Runs one test of this executable in a process of its own, which a shell starts after these commands.
#[track_caller]
pub(crate) fn rerun(test: &str, commands: &str) {
    // Cgroups that this process has set up are there for the other one, which could not claim them beside it.
    crate::world::sandbox();
    let output = Command::new("sh")
        .arg("-c")
        .arg(format!("{commands}\nexec \"$@\""))
        .arg("sh")
        .arg(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(SECRET_VARIABLE, "a secret of the daemon")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
