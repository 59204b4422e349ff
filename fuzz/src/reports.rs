//! What the stages of a sandbox report to the daemon.

use executor_infra_isolation::fuzzing::reports;

/// What is understood means the same when it is said again; nothing is understood beyond the first thing that is not.
pub fn target(data: &[u8]) {
    let understood = reports(data);
    let again = reports(&understood.concat());
    assert_eq!(again, understood);
}
