//! Where executions and their results are kept, and where they must not be: no guest may ever see them.

use std::path::{Component, Path, PathBuf};

use executor_domain::SessionId;

/// Where executions and their results are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StatePlace {
    /// In memory: they are gone with the process.
    Memory,
    /// In this directory.
    Directory(PathBuf),
}

/// Where guests read the host's programs and libraries.
const SYSTEM: [&str; 9] = [
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/proc",
];

impl StatePlace {
    /// Beside the workspaces, so that one volume holds both: below their root under a name that no session can have, or,
    /// where the root is a workspace itself, next to it.
    pub(crate) fn beside(workspaces: &Path, is_bound: bool) -> Self {
        Self::Directory(match workspaces.file_name() {
            Some(name) if is_bound => {
                let mut name = name.to_owned();
                name.push(".state");
                workspaces.with_file_name(name)
            }
            _ => workspaces.join(".state"),
        })
    }
}

/// Why a directory must not hold the state; `None`: it may.
pub(crate) fn forbidden(state: &Path, workspaces: &Path, is_bound: bool) -> Option<String> {
    if let Some(system) = SYSTEM.into_iter().find(|system| state.starts_with(system)) {
        return Some(format!("must not be below {system}: guests read there"));
    }
    let below = state.strip_prefix(workspaces).ok()?;
    if is_bound || below.as_os_str().is_empty() {
        return Some(format!(
            "must not be in {}: guests write there",
            workspaces.display()
        ));
    }
    let session = match below.components().next() {
        Some(Component::Normal(name)) => SessionId::parse(&name.to_string_lossy()).ok(),
        _ => None,
    };
    session.map(|session| format!("must not be in the workspace of session {session}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn may_be(state: &str, is_bound: bool) -> bool {
        forbidden(Path::new(state), Path::new("/data/ws"), is_bound).is_none()
    }

    #[test]
    fn guests_never_see_it() {
        for good in [
            "/data/ws/.state",
            "/data/state",
            "/data",
            "/var/lib/x",
            "/data/ws.state",
        ] {
            assert!(may_be(good, false), "{good}");
        }
        for bad in [
            "/data/ws",
            "/data/ws/session/x",
            "/data/ws/state",
            "/usr/x",
            "/opt/x",
        ] {
            assert!(!may_be(bad, false), "{bad}");
        }
        assert!(may_be("/data/ws.state", true));
        assert!(!may_be("/data/ws/.state", true));
    }

    #[test]
    fn the_default_is_a_place_where_it_may_be() {
        for is_bound in [false, true] {
            let workspaces = Path::new("/data/ws");
            let StatePlace::Directory(path) = StatePlace::beside(workspaces, is_bound) else {
                panic!("in memory");
            };
            assert_eq!(forbidden(&path, workspaces, is_bound), None);
        }
    }
}
