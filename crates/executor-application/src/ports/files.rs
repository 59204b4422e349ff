//! The files of sessions, for those who bring and fetch them from outside of a run.

use async_trait::async_trait;
use executor_domain::{SessionId, Timestamp, WorkspacePath};
use thiserror::Error;

use super::WorkspaceError;

/// Why files could not be handled.
#[derive(Debug, Error)]
pub enum FilesError {
    /// There is no such session.
    #[error("there is no such session")]
    NoSession,
    /// There is nothing under this path.
    #[error("there is no such file")]
    NoFile,
    /// There is a directory where a file is wanted.
    #[error("it is a directory")]
    IsDirectory,
    /// There is something else where a directory is wanted.
    #[error("part of the path is not a directory")]
    NotDirectory,
    /// What is there is not for anybody's eyes: a link, a device, a FIFO, a socket.
    #[error("it is {0}")]
    NotReadable(&'static str),
    /// A directory that is to be removed has something in it.
    #[error("the directory is not empty")]
    NotEmpty,
    /// The file is not as the caller believes it to be.
    #[error("the file is not as the condition wants it")]
    ConditionFailed,
    /// The workspace would become larger than it may.
    #[error("{0}")]
    Full(Overflow),
    /// The archive cannot be taken; this is why.
    #[error("the archive {0}")]
    Archive(String),
    /// Somebody else uses the session, and goes on doing so.
    #[error("the session is in use")]
    InUse,
    /// We failed.
    #[error(transparent)]
    Failed(#[from] WorkspaceError),
}

/// What a workspace has too much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Overflow {
    /// Bytes on the disk.
    #[error("the workspace would take {used} bytes, and may take {allowed}")]
    Bytes {
        /// What it takes, or would take.
        used: u64,
        /// What it may take.
        allowed: u64,
    },
    /// Files and directories.
    #[error("the workspace would have {used} files and directories, and may have {allowed}")]
    Files {
        /// How many it has, or would have.
        used: u64,
        /// How many it may have.
        allowed: u64,
    },
    /// Directories within directories.
    #[error("the workspace has more than {allowed} directories within one another")]
    Depth {
        /// How many it may have.
        allowed: usize,
    },
    /// Everything: the disk itself is nearly full, and was filled while this workspace was written to.
    #[error("the disk that workspaces are on is nearly full: {available} bytes are left")]
    Disk {
        /// Bytes that are left.
        available: u64,
    },
}

/// What a name in a workspace stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
}

/// One file or directory, as it was when it was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Path within the workspace.
    pub path: WorkspacePath,
    /// File or directory.
    pub kind: EntryKind,
    /// Bytes of content; 0 for directories.
    pub size: u64,
    /// Media type: by content where a file was opened, by its name alone in a list. A hint, since a guest chose both.
    pub mime_type: String,
    /// Last change of the content.
    pub modified_at: Timestamp,
    /// Changes with every change of content: visible ASCII without quotes.
    pub etag: String,
}

/// Which part of a directory is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListQuery {
    /// The directory; `None`: the workspace itself.
    pub directory: Option<WorkspacePath>,
    /// With everything below it, instead of its own entries alone.
    pub recursive: bool,
    /// Entries at most, by path.
    pub limit: usize,
    /// Only those whose path comes after this one: where the page before ended.
    pub after: Option<String>,
}

/// Part of a directory, by path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// Files and directories.
    pub entries: Vec<Entry>,
    /// Whether there are more behind the last one.
    pub more: bool,
    /// One line for each thing that is not shown and why (links, devices, odd names, what was beyond a bound).
    pub skipped: Vec<String>,
}

/// What a session holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holdings {
    /// Files and directories.
    pub files: u64,
    /// Bytes that they take on the disk.
    pub bytes: u64,
    /// Whether that is all: counting stops at a bound.
    pub complete: bool,
    /// When a run or a caller last used it.
    pub last_used_at: Timestamp,
}

/// A session and when it was last used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionUse {
    /// Its name.
    pub session: SessionId,
    /// When a run or a caller last used it.
    pub last_used_at: Timestamp,
}

/// The disk that workspaces are on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskUse {
    /// Bytes of it.
    pub total: u64,
    /// Bytes that the daemon can still write.
    pub available: u64,
}

/// What has to be so for a file to be replaced or removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    #[default]
    Always,
    /// There is no such file.
    Absent,
    /// There is one.
    Present,
    /// It has one of these etags.
    Etag(Vec<String>),
}

/// How a directory travels as one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArchiveFormat {
    /// POSIX tar.
    Tar,
    /// ZIP.
    Zip,
}

/// What is found under a path.
pub enum Found {
    /// A file, and its content.
    File(Entry, Box<dyn Content>),
    /// A directory.
    Directory(Entry),
}

/// The content of a file. Whatever happens to the file meanwhile, it never has more bytes than were announced.
#[async_trait]
pub trait Content: Send {
    /// Goes to this offset. MUST be called before the first byte is read, if at all.
    fn skip_to(&mut self, offset: u64);

    /// The next bytes; `None` at the end. Chunks are of bounded size, so that a file of any size takes constant memory.
    /// An error where the file has become shorter than was announced. Not cancel safe.
    async fn next(&mut self) -> Result<Option<Vec<u8>>, FilesError>;
}

/// A file or an archive on its way in. Dropping it leaves nothing behind, and what was there before as it was.
#[async_trait]
pub trait Upload: Send {
    /// Takes the next bytes. An error where the workspace would become too large: then nothing more is taken.
    async fn write(&mut self, bytes: &[u8]) -> Result<(), FilesError>;

    /// Puts everything in its place, at once. MUST be atomic: at any moment, whoever looks sees the old file or the new
    /// one, also after a crash; of an archive, each of its files is so, and none is touched where any cannot be taken.
    async fn commit(self: Box<Self>) -> Result<Stored, FilesError>;
}

/// What an upload has become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stored {
    /// A file that was not there before.
    Created(Entry),
    /// A file that took another one's place.
    Replaced(Entry),
    /// The files of an archive: how many.
    Unpacked(usize),
}

/// The files of sessions. Nothing here follows a link, opens anything but regular files and directories, or reaches
/// beyond a session's own workspace, whatever a guest does meanwhile.
#[cfg_attr(any(test, feature = "mocks"), mockall::automock)]
#[async_trait]
pub trait SessionFiles: Send + Sync {
    /// What a session holds.
    async fn describe(&self, session: &SessionId) -> Result<Holdings, FilesError>;

    /// Part of a directory. MUST be bounded in entries looked at, depth and time.
    async fn list(&self, session: &SessionId, query: ListQuery) -> Result<Listing, FilesError>;

    /// Finds what is under a path, and opens it.
    async fn find(&self, session: &SessionId, path: &WorkspacePath) -> Result<Found, FilesError>;

    /// Begins to write a file; missing directories and a missing session are made when it is committed. The workspace
    /// may take `max_bytes`.
    async fn create(
        &self,
        session: &SessionId,
        path: &WorkspacePath,
        condition: Condition,
        max_bytes: u64,
    ) -> Result<Box<dyn Upload>, FilesError>;

    /// Removes a file or an empty directory; with `recursive`, a directory with everything in it.
    async fn remove(
        &self,
        session: &SessionId,
        path: &WorkspacePath,
        condition: Condition,
        recursive: bool,
    ) -> Result<(), FilesError>;

    /// A directory as one file, made while it is read.
    async fn pack(
        &self,
        session: &SessionId,
        directory: Option<WorkspacePath>,
        format: ArchiveFormat,
    ) -> Result<Box<dyn Content>, FilesError>;

    /// Begins to take an archive that is unpacked into a directory when it is committed. The workspace may take
    /// `max_bytes`.
    async fn unpack(
        &self,
        session: &SessionId,
        directory: Option<WorkspacePath>,
        format: ArchiveFormat,
        max_bytes: u64,
    ) -> Result<Box<dyn Upload>, FilesError>;

    /// Removes a session with everything in it, unless somebody uses it ([`FilesError::InUse`]); returns how many bytes
    /// that took on the disk, as far as they were counted. `unused_since`: and
    /// only if nobody has used it since then ([`FilesError::ConditionFailed`]). MUST survive a crash midway: after the
    /// next start it is there in whole, or gone.
    async fn remove_session(
        &self,
        session: &SessionId,
        unused_since: Option<Timestamp>,
    ) -> Result<u64, FilesError>;

    /// Every session that was ever used and not removed. Empty where there is but one, which is never removed by itself.
    async fn sessions(&self) -> Result<Vec<SessionUse>, FilesError>;

    /// The disk that workspaces are on.
    async fn disk(&self) -> Result<DiskUse, FilesError>;
}
