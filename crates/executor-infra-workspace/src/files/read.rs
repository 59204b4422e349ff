//! A file on its way out.

use std::{
    fs::File,
    io,
    os::{fd::BorrowedFd, unix::fs::FileExt},
    path::Path,
    sync::Arc,
};

use async_trait::async_trait;
use executor_application::{Content, FilesError, Found, WorkspaceError};
use executor_domain::WorkspacePath;
use rustix::{
    fs::{FileType, OFlags, fstat},
    io::Errno,
};
use tokio::task::JoinHandle;

use super::{entry, find};
use crate::{
    beneath,
    error::failed,
    media_type::{HEAD_BYTES, media_type},
    metadata::Metadata,
};

const READ: &str = "read a file";

/// How much is read at a time. Large enough that handing it from thread to thread costs next to nothing.
const CHUNK_BYTES: usize = 1 << 20;

/// Why something cannot be opened.
pub(super) enum Problem {
    /// It is what it is.
    Odd(&'static str),
    /// The system said no.
    System(Errno),
}

impl From<Errno> for Problem {
    fn from(error: Errno) -> Self {
        Self::System(error)
    }
}

impl Problem {
    pub(super) fn told(self, system: impl FnOnce(Errno) -> FilesError) -> FilesError {
        match self {
            Self::Odd(what) => FilesError::NotReadable(what),
            Self::System(error) => system(error),
        }
    }
}

/// Opens what is under a path. Blocks.
pub(super) fn open(workspace: BorrowedFd<'_>, path: &WorkspacePath) -> Result<Found, Problem> {
    let (directory, name) = path.split();
    let parent = beneath::open_directory(workspace, Path::new(directory))?;
    // A look first: opening a FIFO or a device can have effects of its own.
    let found = find::look(std::os::fd::AsFd::as_fd(&parent), name)?.ok_or(Errno::NOENT)?;
    match found.kind {
        FileType::Directory => {
            let mime_type = "inode/directory".to_owned();
            return Ok(Found::Directory(entry(path.clone(), &found, mime_type)));
        }
        FileType::RegularFile => {}
        other => return Err(Problem::Odd(find::oddity(other))),
    }
    // Not blocking: by now, the name may be a FIFO's, whose opening waits for a writer (fifo(7)). Or a terminal's, which
    // must not become ours.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = match beneath::open(&parent, Path::new(name), flags) {
        // It was a file just now.
        Err(Errno::LOOP | Errno::NXIO) => return Err(Problem::Odd(CHANGED)),
        opened => File::from(opened?),
    };
    let opened = Metadata::from(fstat(&file)?);
    if opened.kind != FileType::RegularFile {
        return Err(Problem::Odd(CHANGED));
    }
    let mut head = vec![0; HEAD_BYTES];
    let length = file.read_at(&mut head, 0).unwrap_or_default();
    let mime_type = media_type(path.as_str(), &head[..length], length as u64 == opened.size);
    Ok(Found::File(
        entry(path.clone(), &opened, mime_type),
        Box::new(FileContent {
            file: Arc::new(file),
            path: path.clone(),
            next: 0,
            end: opened.size,
            ahead: None,
        }),
    ))
}

const CHANGED: &str = "something else at each look";

/// The content of a file, as long as it was when it was opened.
struct FileContent {
    file: Arc<File>,
    path: WorkspacePath,
    next: u64,
    end: u64,
    /// The chunk after the one that was handed over last: it is read while that one is being sent.
    ahead: Option<JoinHandle<Result<Vec<u8>, FilesError>>>,
}

impl FileContent {
    /// Begins to read the next chunk; `None` at the end.
    fn read(&self) -> Option<JoinHandle<Result<Vec<u8>, FilesError>>> {
        let left = self.end.saturating_sub(self.next);
        if left == 0 {
            return None;
        }
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK_BYTES);
        let (file, offset, path) = (Arc::clone(&self.file), self.next, self.path.clone());
        Some(tokio::task::spawn_blocking(move || {
            let mut chunk = vec![0; wanted];
            let read = loop {
                match file.read_at(&mut chunk, offset) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Ok(0) => break Err(io::Error::other("the file has become shorter")),
                    decided => break decided,
                }
            };
            let length = read.map_err(failed(READ, Path::new(path.as_str())))?;
            chunk.truncate(length);
            Ok(chunk)
        }))
    }
}

#[async_trait]
impl Content for FileContent {
    fn skip_to(&mut self, offset: u64) {
        self.next = offset;
    }

    async fn next(&mut self) -> Result<Option<Vec<u8>>, FilesError> {
        let Some(reading) = self.ahead.take().or_else(|| self.read()) else {
            return Ok(None);
        };
        let chunk = reading.await.map_err(|error| WorkspaceError {
            step: READ,
            source: Box::new(error),
        })??;
        self.next += chunk.len() as u64;
        self.ahead = self.read();
        Ok(Some(chunk))
    }
}
