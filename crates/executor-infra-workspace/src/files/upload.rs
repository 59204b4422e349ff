//! A file on its way in: written where no guest is, and moved into its place in one step.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::FileExt,
    },
    path::Path,
    sync::Arc,
};

use async_trait::async_trait;
use executor_application::{ArchiveFormat, Condition, FilesError, Overflow, Stored, Upload};
use executor_domain::{SessionId, WorkspacePath};
use rustix::{
    fs::{AtFlags, FileType, Mode, fchmod, fstat, linkat, mkdirat, renameat, statat, unlinkat},
    io::Errno,
};

use super::{apart, entry, find, unpack};
use crate::{
    beneath,
    error::failed,
    media_type::{HEAD_BYTES, media_type},
    metadata::Metadata,
    sessions::Root,
    state::give_to,
    usage::{Allowance, MAX_DEPTH, Usage, disk_bytes},
};

const WRITE: &str = "write a file";

/// How much is written at a time. Large enough that handing it from thread to thread costs next to nothing.
const CHUNK_BYTES: usize = 1 << 20;

/// What becomes of what is uploaded.
pub(super) enum Target {
    /// A file under this path.
    File {
        path: WorkspacePath,
        condition: Condition,
    },
    /// The files that are in it.
    Archive {
        directory: Option<WorkspacePath>,
        format: ArchiveFormat,
    },
}

/// What a workspace takes without a file that is about to be replaced.
#[derive(Debug, Clone, Copy, Default)]
struct Rest {
    usage: Usage,
    /// Whether it was counted just now. If not, it is rather too much than too little: reason enough to let an upload go on,
    /// none to refuse it.
    counted: bool,
}

/// An upload, as far as it has come.
pub(super) struct Staged {
    root: Arc<Root>,
    session: SessionId,
    target: Arc<Target>,
    allowance: Allowance,
    /// What the workspace takes without what is replaced.
    rest: Rest,
    name: Option<String>,
    file: Arc<File>,
    buffer: Vec<u8>,
    /// Bytes that were taken, and are accounted for.
    taken: u64,
    /// Bytes that are in the file.
    written: u64,
}

impl Rest {
    const fn counted(usage: Usage) -> Self {
        Self {
            usage,
            counted: true,
        }
    }
}

impl Staged {
    /// Begins an upload, and finds out early what would stand in its way. Blocks.
    pub(super) fn begin(
        root: Arc<Root>,
        session: SessionId,
        target: Target,
        max_bytes: u64,
    ) -> Result<Self, FilesError> {
        let allowance = Allowance::new(max_bytes, root.options.max_files);
        if let Target::File { path, .. } = &target {
            check_depth(path)?;
        }
        let rest = if let Some(directory) = root.open_existing(&session)? {
            root.guess_rest(&session, &directory, &target, allowance)?
        } else {
            if let Target::File { condition, .. } = &target {
                find::check(condition, None)?;
            }
            Rest::default()
        };
        let (name, file) = root
            .state
            .stage_file(root.options.owner)
            .map_err(failed("make a file for an upload", &root.path))?;
        let staged = Self {
            root,
            session,
            target: Arc::new(target),
            allowance,
            rest,
            name: Some(name),
            file: Arc::new(file),
            buffer: Vec::new(),
            taken: 0,
            written: 0,
        };
        staged.check(1)?;
        Ok(staged)
    }

    /// Whether the workspace can take what all uploads of the session have brought so far, and so many more files.
    fn check(&self, files: u64) -> Result<(), FilesError> {
        let bytes = match &*self.target {
            Target::File { .. } => self.rest.usage.bytes + self.root.accounts.staged(&self.session),
            // What is in it takes room, not the archive. It need not be larger than all the room there is.
            Target::Archive { .. } => self.taken,
        };
        let usage = Usage {
            bytes,
            files: self.rest.usage.files + files,
            ..self.rest.usage
        };
        match self.allowance.exceeded_by(&usage) {
            None => Ok(()),
            Some(overflow) => Err(FilesError::Full(overflow)),
        }
    }

    /// The same; what was guessed is counted before it refuses anything.
    async fn check_for_certain(&mut self) -> Result<(), FilesError> {
        let guess = self.check(1);
        if guess.is_ok() || self.rest.counted {
            return guess;
        }
        let (root, session) = (Arc::clone(&self.root), self.session.clone());
        let target = Arc::clone(&self.target);
        self.rest = apart(WRITE, move || match root.open_existing(&session)? {
            Some(directory) => root.count_rest(&session, &directory, &target),
            None => Ok(Rest::counted(Usage::default())),
        })
        .await?;
        self.check(1)
    }

    async fn flush(&mut self) -> Result<(), FilesError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let bytes = std::mem::take(&mut self.buffer);
        let (file, offset, root) = (Arc::clone(&self.file), self.written, Arc::clone(&self.root));
        self.written += bytes.len() as u64;
        // The same memory again for what comes next.
        self.buffer = apart(WRITE, move || {
            file.write_all_at(&bytes, offset)
                .map_err(|error| root.unwritten(error))?;
            let mut bytes = bytes;
            bytes.clear();
            Ok(bytes)
        })
        .await?;
        Ok(())
    }
}

impl Root {
    /// What a session takes without the file that is about to be replaced, if that may be. It is counted only where a guess
    /// would leave no room.
    fn guess_rest(
        &self,
        session: &SessionId,
        directory: &OwnedFd,
        target: &Target,
        allowance: Allowance,
    ) -> Result<Rest, FilesError> {
        let has_room = |usage: &Usage| {
            let with_this = Usage {
                bytes: usage.bytes + self.accounts.staged(session),
                files: usage.files + 1,
                ..*usage
            };
            // How much is in an archive, nobody knows before it is unpacked.
            matches!(target, Target::File { .. }) && allowance.exceeded_by(&with_this).is_none()
        };
        match self.accounts.at_most(session, directory).filter(has_room) {
            Some(usage) => {
                let guess = Rest {
                    usage,
                    counted: false,
                };
                self.without_replaced(session, directory, target, guess)
            }
            None => self.count_rest(session, directory, target),
        }
    }

    /// The same, counted. Blocks.
    fn count_rest(
        &self,
        session: &SessionId,
        directory: &OwnedFd,
        target: &Target,
    ) -> Result<Rest, FilesError> {
        let usage = self
            .accounts
            .count(session, directory, self.options.max_files)
            .map_err(|error| self.trouble(session, WRITE, error))?;
        self.without_replaced(session, directory, target, Rest::counted(usage))
    }

    /// Takes away the file that is about to be replaced, if that may be.
    fn without_replaced(
        &self,
        session: &SessionId,
        directory: &OwnedFd,
        target: &Target,
        mut rest: Rest,
    ) -> Result<Rest, FilesError> {
        let Target::File { path, condition } = target else {
            return Ok(rest);
        };
        let (parent, name) = path.split();
        let stat = match beneath::open_directory(directory, Path::new(parent))
            .and_then(|parent| statat(parent, name, AtFlags::SYMLINK_NOFOLLOW))
        {
            Ok(stat) => Some(stat),
            Err(Errno::NOENT) => None,
            Err(error) => return Err(self.trouble(session, WRITE, error)),
        };
        let found = stat.map(Metadata::from);
        check_target(condition, found.as_ref())?;
        if let (Some(stat), Some(found)) = (stat, found)
            && found.links == 1
        {
            rest.usage.bytes = rest.usage.bytes.saturating_sub(disk_bytes(&stat));
        }
        Ok(rest)
    }

    /// Why something cannot be written.
    pub(super) fn unwritten(&self, error: io::Error) -> FilesError {
        if matches!(
            error.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        ) {
            FilesError::Full(Overflow::Disk { available: 0 })
        } else {
            failed(WRITE, &self.path)(error).into()
        }
    }

    /// Puts a staged file in its place. Blocks.
    fn place(
        &self,
        session: &SessionId,
        staged: &str,
        file: &File,
        path: &WorkspacePath,
        condition: &Condition,
    ) -> Result<Stored, FilesError> {
        let fail = |error| self.trouble(session, WRITE, error);
        let held = self.use_or_create(session)?;
        let (directory, name) = path.split();
        let _commit = self.commit();
        let parent = self
            .make_directories(held.directory.as_fd(), directory)
            .map_err(fail)?;
        let found = find::look(parent.as_fd(), name).map_err(fail)?;
        check_target(condition, found.as_ref())?;
        let staging = self.state.staging().map_err(fail)?;
        if *condition == Condition::Absent {
            // Never replaces anything (link(2)), not even what a guest has made since we looked.
            linkat(&staging, staged, &parent, name, AtFlags::empty()).map_err(
                |error| match error {
                    Errno::EXIST => FilesError::ConditionFailed,
                    error => fail(error),
                },
            )?;
            // It is in its place, whether or not it has another name as well for a moment.
            let _ = unlinkat(&staging, staged, AtFlags::empty());
        } else {
            renameat(&staging, staged, &parent, name).map_err(|error| match error {
                Errno::EXIST => FilesError::IsDirectory,
                error => fail(error),
            })?;
        }
        let stat = fstat(file).map_err(fail)?;
        // With every directory that may have been made on the way to it.
        let made = path.names().count() as u64;
        self.accounts.add(session, disk_bytes(&stat), made);
        let placed = Metadata::from(stat);
        self.seen.brought(session, [placed]);
        let mut beginning = vec![0; HEAD_BYTES];
        let length = file.read_at(&mut beginning, 0).unwrap_or_default();
        let mime_type = media_type(
            path.as_str(),
            &beginning[..length],
            length as u64 == placed.size,
        );
        let placed = entry(path.clone(), &placed, mime_type);
        Ok(if found.is_some() {
            Stored::Replaced(placed)
        } else {
            Stored::Created(placed)
        })
    }

    /// Opens a directory below a workspace, and makes what is missing of its path.
    pub(super) fn make_directories(
        &self,
        workspace: BorrowedFd<'_>,
        path: &str,
    ) -> rustix::io::Result<OwnedFd> {
        let mut reached = beneath::open_directory(workspace, Path::new(""))?;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let made = match mkdirat(&reached, name, Mode::RWXU) {
                Ok(()) => true,
                Err(Errno::EXIST) => false,
                Err(error) => return Err(error),
            };
            let directory = beneath::open_directory(&reached, Path::new(name))?;
            if made {
                // By its descriptor: whatever has the name by now, it is a directory of the guest's or ours.
                fchmod(&directory, Mode::from_raw_mode(0o755))?;
                if let Some(owner) = self.options.owner {
                    give_to(&directory, owner)?;
                }
            }
            reached = directory;
        }
        Ok(reached)
    }
}

/// A file that is too deep would make the workspace one that nobody can count.
pub(super) fn check_depth(path: &WorkspacePath) -> Result<(), FilesError> {
    if path.names().count() > MAX_DEPTH {
        return Err(FilesError::Full(Overflow::Depth { allowed: MAX_DEPTH }));
    }
    Ok(())
}

/// Whether a file may take the place of what was found.
fn check_target(condition: &Condition, found: Option<&Metadata>) -> Result<(), FilesError> {
    find::check(condition, found)?;
    if found.is_some_and(|found| found.kind == FileType::Directory) {
        return Err(FilesError::IsDirectory);
    }
    Ok(())
}

#[async_trait]
impl Upload for Staged {
    async fn write(&mut self, bytes: &[u8]) -> Result<(), FilesError> {
        self.root.accounts.stage(&self.session, bytes.len() as u64);
        self.taken += bytes.len() as u64;
        self.check_for_certain().await?;
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK_BYTES {
            self.flush().await?;
        }
        Ok(())
    }

    /// When the future is dropped, what was begun is carried to its end, unobserved.
    async fn commit(mut self: Box<Self>) -> Result<Stored, FilesError> {
        self.flush().await?;
        apart("put an upload in its place", move || self.finish()).await
    }
}

impl Staged {
    fn finish(&mut self) -> Result<Stored, FilesError> {
        // Runs and other uploads may have filled the workspace since.
        if let Some(directory) = self.root.open_existing(&self.session)? {
            let (target, allowance) = (&self.target, self.allowance);
            self.rest = self
                .root
                .guess_rest(&self.session, &directory, target, allowance)?;
        }
        self.check(1)?;
        let staged = self.name.as_deref().unwrap_or_default();
        match &*self.target {
            Target::File { path, condition } => {
                let placed = self
                    .root
                    .place(&self.session, staged, &self.file, path, condition)?;
                self.name = None;
                Ok(placed)
            }
            Target::Archive { directory, format } => {
                let room = Allowance {
                    bytes: self.allowance.bytes.saturating_sub(self.rest.usage.bytes),
                    files: self.allowance.files.saturating_sub(self.rest.usage.files),
                };
                unpack::unpack(
                    &self.root,
                    &self.session,
                    &self.file,
                    directory.as_ref(),
                    *format,
                    room,
                )
            }
        }
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        self.root.accounts.unstage(&self.session, self.taken);
        let Some(name) = self.name.take() else {
            return;
        };
        let root = Arc::clone(&self.root);
        let remove = move || {
            // Where this fails, the next start takes it away.
            let _ = root
                .state
                .staging()
                .and_then(|staging| unlinkat(&staging, name.as_str(), AtFlags::empty()));
        };
        // Removing a large file takes a while.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => {
                runtime.spawn_blocking(remove);
            }
            Err(_) => remove(),
        }
    }
}
