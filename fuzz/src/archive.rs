//! Archives that are unpacked into a workspace.

use std::{
    cell::LazyCell,
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use executor_application::{ArchiveFormat, FilesError, SessionFiles, Stored, Workspaces};
use executor_domain::{SessionId, WorkspacePath};
use executor_infra_workspace::{SessionWorkspaces, WorkspaceOptions};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

/// What a workspace may hold here.
const MAX_BYTES: u64 = 256 << 10;
const MAX_FILES: u64 = 64;

/// The first byte says what the rest is: a tar or a ZIP archive, for the workspace or for a directory in it. All of it
/// is unpacked, within bounds and nowhere else, or nothing is; and what was unpacked can be packed and unpacked again.
pub fn target(data: &[u8]) {
    thread_local! {
        static PLACE: LazyCell<Place> = LazyCell::new(Place::new);
    }
    let [kind, archive @ ..] = data else {
        return;
    };
    let format = if kind & 1 == 0 {
        ArchiveFormat::Tar
    } else {
        ArchiveFormat::Zip
    };
    let directory = (kind & 2 != 0).then(|| WorkspacePath::parse("some/directory").unwrap());
    PLACE.with(|place| place.take(archive, format, directory));
}

struct Place {
    runtime: Runtime,
    directory: TempDir,
    workspaces: SessionWorkspaces,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = WorkspaceOptions {
            max_files: MAX_FILES,
            ..WorkspaceOptions::default()
        };
        Self {
            runtime: Builder::new_current_thread().enable_time().build().unwrap(),
            workspaces: SessionWorkspaces::open_root(&directory.path().join("root"), options)
                .unwrap(),
            directory,
        }
    }

    fn take(&self, archive: &[u8], format: ArchiveFormat, directory: Option<WorkspacePath>) {
        let unpacked = self.unpack("first", archive, format, directory.clone());
        let found = self.found("first");
        self.nothing_else_is_there();
        match unpacked {
            Ok(files) => {
                within_bounds(&found);
                let count = found.values().filter(|content| content.is_some()).count();
                assert_eq!(count, files);
                if let Some(directory) = &directory {
                    let inside = |path: &PathBuf| {
                        let directory = Path::new(directory.as_str());
                        path.starts_with(directory) || directory.starts_with(path)
                    };
                    assert!(found.keys().all(inside), "{found:?}");
                }
                self.travels(&found);
            }
            Err(FilesError::Failed(error)) => panic!("we failed: {error:?}"),
            Err(_) => assert!(found.is_empty(), "{found:?}"),
        }
        self.remove("first");
    }

    fn unpack(
        &self,
        session: &str,
        archive: &[u8],
        format: ArchiveFormat,
        directory: Option<WorkspacePath>,
    ) -> Result<usize, FilesError> {
        self.runtime.block_on(async {
            let workspaces = &self.workspaces;
            let mut upload = workspaces
                .unpack(&named(session), directory, format, MAX_BYTES)
                .await?;
            upload.write(archive).await?;
            match upload.commit().await? {
                Stored::Unpacked(files) => Ok(files),
                other => panic!("{other:?}"),
            }
        })
    }

    /// Everything can be taken along, but for what has the name of the daemon's own directory.
    fn travels(&self, found: &BTreeMap<PathBuf, Option<Vec<u8>>>) {
        let mut expected = found.clone();
        expected.retain(|path, _| !path.starts_with(".sandbox-executor"));
        for format in [ArchiveFormat::Tar, ArchiveFormat::Zip] {
            let Ok(packed) = self.pack(format) else {
                continue;
            };
            let room = packed.len() as u64 <= MAX_BYTES;
            match self.unpack("second", &packed, format, None) {
                Ok(_) => assert_eq!(self.found("second"), expected),
                // An archive is larger than what is in it.
                Err(FilesError::Full(_)) if !room => {}
                Err(error) => panic!("what we packed: {error}"),
            }
            self.remove("second");
        }
    }

    fn pack(&self, format: ArchiveFormat) -> Result<Vec<u8>, FilesError> {
        self.runtime.block_on(async {
            let mut content = self.workspaces.pack(&named("first"), None, format).await?;
            let mut packed = Vec::new();
            while let Some(chunk) = content.next().await? {
                packed.extend(chunk);
            }
            Ok(packed)
        })
    }

    /// What a session holds: directories, and files with their content. Anything else is a broken promise.
    fn found(&self, session: &str) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
        let top = self.workspaces.root().join(session);
        let mut found = BTreeMap::new();
        let mut ahead = vec![PathBuf::new()];
        while let Some(directory) = ahead.pop() {
            let Ok(entries) = fs::read_dir(top.join(&directory)) else {
                assert_eq!(directory, Path::new(""));
                return found;
            };
            for entry in entries {
                let entry = entry.unwrap();
                let path = directory.join(entry.file_name());
                let kind = entry.file_type().unwrap();
                if kind.is_dir() {
                    found.insert(path.clone(), None);
                    ahead.push(path);
                } else {
                    assert!(kind.is_file(), "{}: {kind:?}", path.display());
                    found.insert(path, Some(fs::read(entry.path()).unwrap()));
                }
            }
        }
        found
    }

    /// Beside the session there is what is the daemon's own, and nothing is on its way.
    fn nothing_else_is_there(&self) {
        let names = |path: &Path| -> Vec<_> {
            let entries = fs::read_dir(path).unwrap();
            entries.map(|entry| entry.unwrap().file_name()).collect()
        };
        assert_eq!(names(self.directory.path()), ["root"]);
        let root = self.workspaces.root();
        for name in names(root) {
            assert!(name == "first" || name == ".sandbox-executor", "{name:?}");
        }
        let staging = root.join(".sandbox-executor/staging");
        let own = staging.join(&names(&staging)[0]);
        assert!(!names(&own).iter().any(|name| {
            let name = name.to_string_lossy();
            name.starts_with("tree")
        }));
    }

    fn remove(&self, session: &str) {
        let removed = self
            .runtime
            .block_on(self.workspaces.remove_session(&named(session), None));
        assert!(
            matches!(removed, Ok(_) | Err(FilesError::NoSession)),
            "{removed:?}"
        );
    }
}

fn named(session: &str) -> SessionId {
    SessionId::parse(session).unwrap()
}

fn within_bounds(found: &BTreeMap<PathBuf, Option<Vec<u8>>>) {
    let bytes: usize = found.values().flatten().map(Vec::len).sum();
    assert!(bytes as u64 <= MAX_BYTES, "{bytes}");
    // And the two directories that lead to where it is unpacked.
    assert!(found.len() as u64 <= MAX_FILES + 2, "{}", found.len());
}
