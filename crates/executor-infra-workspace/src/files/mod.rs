//! The files of sessions, for those who bring and fetch them from outside of a run.
//!
//! What is read is opened from a directory's descriptor without following a link, and read only after the descriptor
//! turned out to be a regular file. What is written is prepared where no guest is, and moved into its place.

mod archive;
mod find;
mod list;
mod read;
pub(crate) mod unpack;
mod upload;

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    sync::Arc,
};

use async_trait::async_trait;
use executor_application::{
    ArchiveFormat, Condition, Content, DiskUse, Entry, EntryKind, FilesError, Found, Holdings,
    ListQuery, Listing, SessionFiles, SessionUse, Upload,
};
use executor_domain::{SessionId, Timestamp, WorkspacePath};
use rustix::{
    fs::{AtFlags, FileType, fstatvfs, unlinkat},
    io::Errno,
};

use crate::{
    SessionWorkspaces, beneath,
    error::failed,
    metadata::Metadata,
    sessions::{Held, Root, blocking},
    usage::{Usage, measure},
};

const FIND: &str = "find a file";
const REMOVE: &str = "remove a file";
const REMOVE_SESSION: &str = "remove a session";

/// Whatever happens on a thread for blocking work.
async fn apart<T: Send + 'static>(
    step: &'static str,
    work: impl FnOnce() -> Result<T, FilesError> + Send + 'static,
) -> Result<T, FilesError> {
    blocking(step, work).await?
}

#[async_trait]
impl SessionFiles for SessionWorkspaces {
    async fn describe(&self, session: &SessionId) -> Result<Holdings, FilesError> {
        let (root, session) = (Arc::clone(&self.root), session.clone());
        apart("count a session's files", move || root.describe(&session)).await
    }

    async fn list(&self, session: &SessionId, query: ListQuery) -> Result<Listing, FilesError> {
        let (root, session) = (Arc::clone(&self.root), session.clone());
        apart("list a session's files", move || {
            let held = root.existing(&session)?;
            list::list(held.directory.as_fd(), &query, &root.options.scan)
                .map_err(|error| root.trouble(&session, FIND, error))
        })
        .await
    }

    async fn find(&self, session: &SessionId, path: &WorkspacePath) -> Result<Found, FilesError> {
        let (root, session, path) = (Arc::clone(&self.root), session.clone(), path.clone());
        apart(FIND, move || {
            let held = root.existing(&session)?;
            read::open(held.directory.as_fd(), &path)
                .map_err(|problem| problem.told(|error| root.trouble(&session, FIND, error)))
        })
        .await
    }

    async fn create(
        &self,
        session: &SessionId,
        path: &WorkspacePath,
        condition: Condition,
        max_bytes: u64,
    ) -> Result<Box<dyn Upload>, FilesError> {
        let (root, session) = (Arc::clone(&self.root), session.clone());
        let target = upload::Target::File {
            path: path.clone(),
            condition,
        };
        apart("begin an upload", move || {
            Ok(
                Box::new(upload::Staged::begin(root, session, target, max_bytes)?)
                    as Box<dyn Upload>,
            )
        })
        .await
    }

    async fn remove(
        &self,
        session: &SessionId,
        path: &WorkspacePath,
        condition: Condition,
        recursive: bool,
    ) -> Result<(), FilesError> {
        let (root, session, path) = (Arc::clone(&self.root), session.clone(), path.clone());
        apart(REMOVE, move || {
            root.remove_file(&session, &path, &condition, recursive)
        })
        .await
    }

    async fn pack(
        &self,
        session: &SessionId,
        directory: Option<WorkspacePath>,
        format: ArchiveFormat,
    ) -> Result<Box<dyn Content>, FilesError> {
        let (root, session) = (Arc::clone(&self.root), session.clone());
        let opened = apart(FIND, move || {
            let held = root.existing(&session)?;
            let path = directory.as_ref().map_or("", WorkspacePath::as_str);
            beneath::open_directory(&held.directory, Path::new(path))
                .map_err(|error| root.trouble(&session, FIND, error))
        })
        .await?;
        Ok(Box::new(archive::pack(opened, format)))
    }

    async fn unpack(
        &self,
        session: &SessionId,
        directory: Option<WorkspacePath>,
        format: ArchiveFormat,
        max_bytes: u64,
    ) -> Result<Box<dyn Upload>, FilesError> {
        let (root, session) = (Arc::clone(&self.root), session.clone());
        let target = upload::Target::Archive { directory, format };
        apart("begin an upload", move || {
            Ok(
                Box::new(upload::Staged::begin(root, session, target, max_bytes)?)
                    as Box<dyn Upload>,
            )
        })
        .await
    }

    async fn remove_session(
        &self,
        session: &SessionId,
        unused_since: Option<Timestamp>,
    ) -> Result<u64, FilesError> {
        let (root, session) = (Arc::clone(&self.root), session.clone());
        apart(REMOVE_SESSION, move || {
            if root.options.single {
                root.empty_the_only_session(&session)
            } else {
                root.remove_session(&session, unused_since)
            }
        })
        .await
    }

    async fn sessions(&self) -> Result<Vec<SessionUse>, FilesError> {
        if self.root.options.single {
            return Ok(Vec::new());
        }
        let root = Arc::clone(&self.root);
        apart("list the sessions", move || {
            let found = root
                .state
                .sessions()
                .map_err(failed("list the sessions", &root.path))?;
            Ok(found
                .into_iter()
                .filter_map(|(name, record)| {
                    Some(SessionUse {
                        session: SessionId::parse(&name).ok()?,
                        last_used_at: record.content_changed_at(),
                    })
                })
                .collect())
        })
        .await
    }

    async fn disk(&self) -> Result<DiskUse, FilesError> {
        let root = Arc::clone(&self.root);
        apart("ask how full the disk is", move || {
            let disk = fstatvfs(&root.directory)
                .map_err(failed("ask how full the disk is", &root.path))?;
            let used = disk.f_blocks.saturating_sub(disk.f_bfree);
            // As df(1) counts: what is reserved for root is neither used nor to be had.
            Ok(DiskUse {
                total: (used + disk.f_bavail).saturating_mul(disk.f_frsize),
                available: disk.f_bavail.saturating_mul(disk.f_frsize),
            })
        })
        .await
    }
}

impl Root {
    /// A session that is there, and stays there for as long as this is held. Blocks.
    fn existing(&self, session: &SessionId) -> Result<Held, FilesError> {
        self.use_existing(session)?.ok_or(FilesError::NoSession)
    }

    /// What a system call on a guest's file failed with, for those who asked for that file.
    fn trouble(&self, session: &SessionId, step: &'static str, error: Errno) -> FilesError {
        match error {
            Errno::NOENT => FilesError::NoFile,
            Errno::NOTDIR | Errno::LOOP => FilesError::NotDirectory,
            Errno::ISDIR => FilesError::IsDirectory,
            Errno::NOTEMPTY => FilesError::NotEmpty,
            Errno::ACCESS | Errno::PERM => FilesError::NotReadable("shut by its owner"),
            other => failed(step, &self.path_of(session))(other).into(),
        }
    }

    /// The content of a file that must have this size. Blocks.
    pub(crate) fn content(
        &self,
        session: &SessionId,
        workspace: BorrowedFd<'_>,
        path: &WorkspacePath,
        size: u64,
    ) -> Result<Box<dyn Content>, FilesError> {
        let found = read::open(workspace, path)
            .map_err(|problem| problem.told(|error| self.trouble(session, FIND, error)))?;
        match found {
            Found::File(entry, content) if entry.size == size => Ok(content),
            Found::File(..) => Err(FilesError::ConditionFailed),
            Found::Directory(_) => Err(FilesError::IsDirectory),
        }
    }

    fn describe(&self, session: &SessionId) -> Result<Holdings, FilesError> {
        let step = "count a session's files";
        let fail = |error: Errno| failed(step, &self.path_of(session))(error);
        let directory = self.open_existing(session)?.ok_or(FilesError::NoSession)?;
        let Usage {
            bytes,
            files,
            too_deep,
            complete,
        } = measure(directory.as_fd(), self.options.max_files).map_err(fail)?;
        let last_used = if self.options.single {
            rustix::fs::fstat(&directory).map(Metadata::from)
        } else {
            // A directory without a record was put there by hand, and has its own time stamp only.
            self.state
                .session(session.as_str())
                .or_else(|_| rustix::fs::fstat(&directory).map(Metadata::from))
        };
        Ok(Holdings {
            files,
            bytes,
            complete: complete && !too_deep,
            last_used_at: last_used.map_err(fail)?.content_changed_at(),
        })
    }

    fn remove_file(
        &self,
        session: &SessionId,
        path: &WorkspacePath,
        condition: &Condition,
        recursive: bool,
    ) -> Result<(), FilesError> {
        let fail = |error| self.trouble(session, REMOVE, error);
        let held = self.existing(session)?;
        let (directory, name) = path.split();
        let name = Path::new(name);
        let thrown_away = {
            let _commit = self.commit();
            let parent =
                beneath::open_directory(&held.directory, Path::new(directory)).map_err(fail)?;
            let found = find::look(parent.as_fd(), path.name())
                .map_err(fail)?
                .ok_or(FilesError::NoFile)?;
            find::check(condition, Some(&found))?;
            if found.kind == FileType::Directory && recursive {
                Some(self.state.throw_away(parent.as_fd(), name).map_err(fail)?)
            } else {
                let how = if found.kind == FileType::Directory {
                    AtFlags::REMOVEDIR
                } else {
                    AtFlags::empty()
                };
                unlinkat(&parent, name, how).map_err(|error| match error {
                    Errno::EXIST => FilesError::NotEmpty,
                    error => fail(error),
                })?;
                None
            }
        };
        if let Some(there) = thrown_away {
            self.state.destroy(&there);
        }
        self.accounts.forget(session);
        Ok(())
    }

    fn remove_session(
        &self,
        session: &SessionId,
        unused_since: Option<Timestamp>,
    ) -> Result<u64, FilesError> {
        let fail =
            |error: Errno| FilesError::from(failed(REMOVE_SESSION, &self.path_of(session))(error));
        let claim = match self.state.claim(session.as_str()) {
            Err(Errno::NOENT) if unused_since.is_none() => {
                // A directory that somebody has put there by hand becomes a session, and is then removed.
                drop(self.existing(session)?);
                self.state.claim(session.as_str())
            }
            decided => decided,
        };
        let claim = claim.map_err(|error| match error {
            Errno::BUSY => FilesError::InUse,
            Errno::NOENT => FilesError::NoSession,
            error => fail(error),
        })?;
        if let Some(time) = unused_since
            && claim.metadata().map_err(fail)?.content_changed_at() > time
        {
            return Err(FilesError::ConditionFailed);
        }
        // Whatever is there must be the session's, else it is somebody else's and stays.
        let mut bytes = 0;
        let thrown_away = match self.open_existing(session)? {
            Some(directory) => {
                bytes = self.bytes_in(&directory);
                Some(
                    self.state
                        .throw_away(self.directory.as_fd(), Path::new(session.as_str()))
                        .map_err(fail)?,
                )
            }
            None => None,
        };
        claim.forget(session.as_str()).map_err(fail)?;
        self.accounts.forget(session);
        if let Some(there) = thrown_away {
            self.state.destroy(&there);
        }
        Ok(bytes)
    }

    /// What a directory that is about to be removed takes on the disk, for those who count: what cannot be counted is in
    /// nobody's way.
    fn bytes_in(&self, directory: &OwnedFd) -> u64 {
        measure(directory.as_fd(), self.options.max_files).map_or(0, |usage| usage.bytes)
    }

    /// Removes everything in the root, which is the one workspace and stays.
    fn empty_the_only_session(&self, session: &SessionId) -> Result<u64, FilesError> {
        let fail =
            |error: Errno| FilesError::from(failed(REMOVE_SESSION, &self.path_of(session))(error));
        let bytes = self.bytes_in(&self.directory);
        let entries = beneath::entries(self.directory.as_fd()).map_err(fail)?;
        for entry in entries.filter_map(Result::ok) {
            let name = beneath::as_path(&entry);
            if name == Path::new(crate::state::NAME) {
                continue;
            }
            match self.state.throw_away(self.directory.as_fd(), name) {
                Ok(there) => self.state.destroy(&there),
                Err(Errno::NOENT) => {}
                Err(error) => return Err(fail(error)),
            }
        }
        self.accounts.forget(session);
        Ok(bytes)
    }

    /// Nobody else puts anything into a workspace, or takes it out, until this is dropped. Guests do.
    fn commit(&self) -> std::sync::MutexGuard<'_, ()> {
        // There is nothing in it that could be half-changed.
        self.commits
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// An entry as the port shows it.
fn entry(path: WorkspacePath, found: &Metadata, mime_type: String) -> Entry {
    let is_directory = found.kind == FileType::Directory;
    Entry {
        path,
        kind: if is_directory {
            EntryKind::Directory
        } else {
            EntryKind::File
        },
        size: if is_directory { 0 } else { found.size },
        mime_type,
        modified_at: found.content_changed_at(),
        etag: found.etag(),
    }
}
