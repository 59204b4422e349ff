//! The guest library as a file: where it is, and how zygotes get it.

use std::{
    env,
    fs::File,
    io,
    path::{Path, PathBuf},
};

use crate::bwrap::spawner::sealed_copy;

/// The library's file.
const NAME: &str = "libexecutor_guest.so";
/// Where packages and images put it.
const INSTALLED: &str = "/usr/lib/sandbox-executor";

/// The library in sealed memory: what interpreters load is what was there at the start, no sandbox needs a path to it, and
/// no guest can write to it.
pub(crate) fn load(configured: Option<&Path>) -> io::Result<File> {
    let candidates = match configured {
        Some(path) => vec![path.to_owned()],
        None => candidates(env::current_exe().ok().as_deref()),
    };
    for path in &candidates {
        match sealed_copy(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => return result,
        }
    }
    let places: Vec<_> = candidates
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    Err(io::Error::new(
        io::ErrorKind::NotFound,
        format!("the guest library is not at {}", places.join(" or ")),
    ))
}

/// Where the library may be: beside the executable, where Cargo puts it for executables and for tests, and where packages do.
fn candidates(executable: Option<&Path>) -> Vec<PathBuf> {
    let directory = executable.and_then(Path::parent);
    let beside = directory.map(|directory| directory.join(NAME));
    let cargo = directory.map(|directory| directory.join("deps").join(NAME));
    let package = directory
        .and_then(Path::parent)
        .map(|prefix| prefix.join("lib/sandbox-executor").join(NAME));
    beside
        .into_iter()
        .chain(cargo)
        .chain(package)
        .chain([Path::new(INSTALLED).join(NAME)])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_is_looked_for_near_the_executable_first() {
        let found = candidates(Some(Path::new("/opt/x/bin/sandbox-executor")));
        let expected = [
            "/opt/x/bin/libexecutor_guest.so",
            "/opt/x/bin/deps/libexecutor_guest.so",
            "/opt/x/lib/sandbox-executor/libexecutor_guest.so",
            "/usr/lib/sandbox-executor/libexecutor_guest.so",
        ];
        assert_eq!(found, expected.map(PathBuf::from));
        assert_eq!(candidates(None).len(), 1);
    }

    #[test]
    fn a_missing_library_names_the_places() {
        let error = load(Some(Path::new("/nowhere/at/all.so"))).unwrap_err();
        assert!(error.to_string().contains("/nowhere/at/all.so"));
    }
}
