//! An archive becomes files: all of it first where no guest is, then one file after the other into its place.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::FileExt,
    },
    path::Path,
};

use executor_application::{ArchiveFormat, FilesError, Overflow, Stored};
use executor_domain::{SessionId, WorkspacePath};
use rustix::{
    fs::{FileType, Mode, OFlags, RawMode, fchmod, mkdirat, openat, renameat},
    io::Errno,
};
use tar::EntryType;

use super::{find, upload::check_depth};
use crate::{beneath, error::failed, names, sessions::Root, state::give_to, usage::Allowance};

const UNPACK: &str = "unpack an archive";

/// Paths of an archive's files, in bytes. They are kept until all of it is unpacked.
const MAX_PATHS_BYTES: usize = 16 << 20;

/// An entry that only describes the next one (long names, extended attributes) is read in whole by those who read tar.
const MAX_DESCRIPTION_BYTES: u64 = 64 << 10;

/// Where the end of a ZIP archive is looked for: its comment has at most 64 KiB.
const ZIP_END_BYTES: u64 = 128 << 10;

/// Permissions of a file: its owner's to read and write, everybody's to read, and to execute if the archive says so.
const PLAIN: RawMode = 0o644;
const EXECUTABLE: RawMode = 0o755;

/// Unpacks a staged archive. Nothing in the workspace is touched unless all of the archive can be taken. Blocks.
pub(super) fn unpack(
    root: &Root,
    session: &SessionId,
    archive: &File,
    directory: Option<&WorkspacePath>,
    format: ArchiveFormat,
    allowance: Allowance,
) -> Result<Stored, FilesError> {
    let (name, tree) = root
        .state
        .stage_directory()
        .map_err(failed(UNPACK, &root.path))?;
    let mut unpacked = Unpacked {
        root,
        directory,
        tree,
        room: allowance,
        bytes: 0,
        paths_bytes: 0,
        files: BTreeSet::new(),
        directories: BTreeSet::new(),
    };
    let taken = match format {
        ArchiveFormat::Tar => from_tar(&mut unpacked, archive),
        ArchiveFormat::Zip => from_zip(&mut unpacked, archive),
    }
    .and_then(|()| unpacked.into_workspace(session));
    if let Ok(there) = root
        .state
        .staging()
        .and_then(|staging| root.state.throw_away(staging.as_fd(), Path::new(&name)))
    {
        root.state.destroy(&there);
    }
    taken
}

/// What has come out of an archive so far.
struct Unpacked<'a> {
    root: &'a Root,
    /// What it is unpacked into in the end; `None`: the workspace itself.
    directory: Option<&'a WorkspacePath>,
    tree: OwnedFd,
    room: Allowance,
    bytes: u64,
    paths_bytes: usize,
    files: BTreeSet<WorkspacePath>,
    directories: BTreeSet<WorkspacePath>,
}

impl Unpacked<'_> {
    fn fail(&self, error: impl Into<io::Error>) -> FilesError {
        self.root.unwritten(error.into())
    }

    /// Takes the path of an entry. `None`: it stands for the directory that the archive is unpacked into.
    fn path(&mut self, name: &[u8]) -> Result<Option<WorkspacePath>, FilesError> {
        let path = member(name, self.directory)?;
        self.paths_bytes += path.as_ref().map_or(0, |path| path.as_str().len());
        if self.paths_bytes > MAX_PATHS_BYTES {
            return Err(FilesError::Archive("has too many entries".into()));
        }
        Ok(path)
    }

    fn count(&mut self) -> Result<(), FilesError> {
        let used = (self.files.len() + self.directories.len()) as u64;
        if used > self.room.files {
            return Err(FilesError::Full(Overflow::Files {
                used,
                allowed: self.room.files,
            }));
        }
        Ok(())
    }

    fn directory(&mut self, path: WorkspacePath) -> Result<(), FilesError> {
        self.parents_of(&path)?;
        self.make(path.as_str())
            .map_err(|error| self.odd(&path, error))?;
        self.directories.insert(path);
        self.count()
    }

    /// Counts the directories above a path, which are made with it.
    fn parents_of(&mut self, path: &WorkspacePath) -> Result<(), FilesError> {
        let mut above = path.split().0;
        while let Ok(parent) = WorkspacePath::parse(above) {
            above = match above.rsplit_once('/') {
                Some((above, _)) => above,
                None => "",
            };
            if !self.directories.insert(parent) {
                break;
            }
        }
        self.count()
    }

    /// Writes one file. Of several with the same path, the last one counts.
    fn file(
        &mut self,
        path: WorkspacePath,
        executable: bool,
        content: &mut impl Read,
    ) -> Result<(), FilesError> {
        self.parents_of(&path)?;
        let (directory, name) = path.split();
        let parent = self
            .make(directory)
            .map_err(|error| self.odd(&path, error))?;
        let how = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW;
        let mode = Mode::from_raw_mode(if executable { EXECUTABLE } else { PLAIN });
        let file = openat(&parent, name, how | OFlags::CLOEXEC, mode)
            .map_err(|error| self.odd(&path, error))?;
        let mut file = File::from(file);
        self.copy(content, &mut file)?;
        fchmod(&file, mode).map_err(|error| self.fail(error))?;
        if let Some(owner) = self.root.options.owner {
            give_to(&file, owner).map_err(|error| self.fail(error))?;
        }
        self.files.insert(path);
        self.count()
    }

    /// Writes what an archive says a file has, within what the workspace may take: a small archive can be a large file.
    fn copy(&mut self, content: &mut impl Read, file: &mut File) -> Result<(), FilesError> {
        let mut chunk = vec![0; 64 << 10];
        loop {
            let length = match content.read(&mut chunk) {
                Ok(0) => return Ok(()),
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(broken(&error)),
            };
            self.bytes += length as u64;
            if self.bytes > self.room.bytes {
                return Err(FilesError::Full(Overflow::Bytes {
                    used: self.bytes,
                    allowed: self.room.bytes,
                }));
            }
            file.write_all(&chunk[..length])
                .map_err(|error| self.fail(error))?;
        }
    }

    /// Opens a directory of the tree, and makes what is missing of its path.
    fn make(&self, path: &str) -> rustix::io::Result<OwnedFd> {
        let mut reached = beneath::open_directory(&self.tree, Path::new(""))?;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            match mkdirat(&reached, name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
            reached = beneath::open_directory(&reached, Path::new(name))?;
        }
        Ok(reached)
    }

    /// Why an entry cannot be unpacked.
    fn odd(&self, path: &WorkspacePath, error: Errno) -> FilesError {
        match error {
            Errno::NOTDIR | Errno::ISDIR | Errno::LOOP => FilesError::Archive(format!(
                "has a file where it has a directory as well: {}",
                names::escaped(path.as_str().as_bytes())
            )),
            error => self.fail(error),
        }
    }

    /// Moves everything to its place.
    fn into_workspace(self, session: &SessionId) -> Result<Stored, FilesError> {
        let fail = |error| self.root.trouble(session, UNPACK, error);
        let held = self.root.use_or_create(session)?;
        let _commit = self.root.commit();
        let top = self.directory.map_or("", WorkspacePath::as_str);
        let place = self
            .root
            .make_directories(held.directory.as_fd(), top)
            .map_err(fail)?;
        for path in &self.directories {
            check_directory(place.as_fd(), path)?;
        }
        for path in &self.files {
            check_file(place.as_fd(), path)?;
        }
        for path in &self.directories {
            self.root
                .make_directories(place.as_fd(), path.as_str())
                .map_err(fail)?;
        }
        let mut placed = Vec::with_capacity(self.files.len());
        for path in &self.files {
            let (above, name) = path.split();
            let from = beneath::open_directory(&self.tree, Path::new(above)).map_err(fail)?;
            let to = beneath::open_directory(&place, Path::new(above)).map_err(fail)?;
            renameat(&from, name, &to, name).map_err(fail)?;
            placed.extend(find::look(to.as_fd(), name).unwrap_or_default());
        }
        self.root.seen.brought(session, placed);
        self.root.accounts.forget(session);
        Ok(Stored::Unpacked(self.files.len()))
    }
}

/// Where an entry of this name goes, relative to the directory that the archive is unpacked into. `None`: it stands for
/// that directory.
pub(crate) fn member(
    name: &[u8],
    directory: Option<&WorkspacePath>,
) -> Result<Option<WorkspacePath>, FilesError> {
    let refuse = |why: &dyn std::fmt::Display| {
        let shown = names::escaped(name);
        FilesError::Archive(format!("has an entry whose path {why}: {shown}"))
    };
    let text = str::from_utf8(name).map_err(|_| refuse(&"is not UTF-8"))?;
    // As `tar -C directory .` writes them.
    let mut text = text.strip_suffix('/').unwrap_or(text);
    while let Some(rest) = text.strip_prefix("./") {
        text = rest;
    }
    if text == "." || text.is_empty() {
        return Ok(None);
    }
    let path = WorkspacePath::parse(text).map_err(|why| refuse(&why))?;
    check_depth(&match directory {
        Some(directory) => {
            WorkspacePath::parse(&format!("{directory}/{text}")).map_err(|why| refuse(&why))?
        }
        None => path.clone(),
    })?;
    Ok(Some(path))
}

/// A directory may be there already, and nothing else in its place.
fn check_directory(place: BorrowedFd<'_>, path: &WorkspacePath) -> Result<(), FilesError> {
    match beneath::open_directory(place, Path::new(path.as_str())) {
        Ok(_) | Err(Errno::NOENT) => Ok(()),
        Err(_) => Err(FilesError::Archive(format!(
            "has a directory where the workspace has something else: {path}"
        ))),
    }
}

/// Anything but a directory may be replaced by a file.
fn check_file(place: BorrowedFd<'_>, path: &WorkspacePath) -> Result<(), FilesError> {
    let (above, name) = path.split();
    let found = match beneath::open_directory(place, Path::new(above)) {
        Ok(parent) => find::look(parent.as_fd(), name).unwrap_or_default(),
        Err(_) => None,
    };
    if found.is_some_and(|found| found.kind == FileType::Directory) {
        return Err(FilesError::Archive(format!(
            "has a file where the workspace has a directory: {path}"
        )));
    }
    Ok(())
}

fn broken(error: &dyn std::fmt::Display) -> FilesError {
    FilesError::Archive(format!("cannot be read: {error}"))
}

fn rewound(mut archive: &File) -> Result<BufReader<&File>, FilesError> {
    archive
        .seek(SeekFrom::Start(0))
        .map_err(|error| broken(&error))?;
    Ok(BufReader::with_capacity(128 << 10, archive))
}

fn from_tar(unpacked: &mut Unpacked<'_>, archive: &File) -> Result<(), FilesError> {
    check_tar(archive, unpacked.room.files)?;
    let mut archive = tar::Archive::new(rewound(archive)?);
    for entry in archive.entries().map_err(|error| broken(&error))? {
        let mut entry = entry.map_err(|error| broken(&error))?;
        let name = entry.path_bytes().into_owned();
        let kind = entry.header().entry_type();
        match kind {
            EntryType::XGlobalHeader => continue,
            EntryType::Regular
            | EntryType::Continuous
            | EntryType::GNUSparse
            | EntryType::Directory => {}
            _ => return Err(refused(&name, kind_in_words(kind))),
        }
        let Some(path) = unpacked.path(&name)? else {
            continue;
        };
        // Before POSIX, a directory was a file whose name ended with a slash.
        if kind == EntryType::Directory || name.ends_with(b"/") {
            unpacked.directory(path)?;
        } else {
            let mode = entry.header().mode().unwrap_or_default();
            unpacked.file(path, mode & 0o100 != 0, &mut entry)?;
        }
    }
    Ok(())
}

/// Looks at the raw entries: what only describes another one is read into memory in whole, so it must be small.
fn check_tar(archive: &File, max_files: u64) -> Result<(), FilesError> {
    let mut magic = [0; 2];
    if archive.read_at(&mut magic, 0).unwrap_or_default() == 2 && magic == [0x1f, 0x8b] {
        return Err(FilesError::Archive(
            "is compressed: send it uncompressed".into(),
        ));
    }
    let mut raw = tar::Archive::new(rewound(archive)?);
    let entries = raw.entries_with_seek().map_err(|error| broken(&error))?;
    let mut count = 0;
    for entry in entries.raw(true) {
        let entry = entry.map_err(|error| broken(&error))?;
        count += 1;
        if count > max_files.saturating_mul(4).saturating_add(1024) {
            return Err(FilesError::Archive("has too many entries".into()));
        }
        let describes = matches!(
            entry.header().entry_type(),
            EntryType::GNULongName
                | EntryType::GNULongLink
                | EntryType::XHeader
                | EntryType::XGlobalHeader
        );
        if describes && entry.size() > MAX_DESCRIPTION_BYTES {
            return Err(FilesError::Archive(
                "has an entry with a name or attributes of unusual length".into(),
            ));
        }
    }
    Ok(())
}

fn refused(name: &[u8], what: &str) -> FilesError {
    FilesError::Archive(format!(
        "has {what}, and may have files and directories only: {}",
        names::escaped(name)
    ))
}

fn kind_in_words(kind: EntryType) -> &'static str {
    match kind {
        EntryType::Symlink => "a symbolic link",
        EntryType::Link => "a hard link",
        EntryType::Fifo => "a FIFO",
        EntryType::Block | EntryType::Char => "a device",
        _ => "an entry of an unknown kind",
    }
}

fn from_zip(unpacked: &mut Unpacked<'_>, archive: &File) -> Result<(), FilesError> {
    check_zip(archive, unpacked.room.files)?;
    let mut archive = zip::ZipArchive::new(rewound(archive)?).map_err(|error| broken(&error))?;
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).map_err(|error| broken(&error))?;
        let name = entry.name_raw().to_vec();
        let mode = entry.unix_mode().unwrap_or_default();
        let kind = kind_of(mode);
        // Whatever made the archive need not have had kinds of files.
        let plain =
            matches!(kind, FileType::RegularFile | FileType::Directory) || mode & 0o170_000 == 0;
        if !plain {
            return Err(refused(&name, find::oddity(kind)));
        }
        let Some(path) = unpacked.path(&name)? else {
            continue;
        };
        if entry.is_dir() {
            unpacked.directory(path)?;
        } else {
            unpacked.file(path, mode & 0o100 != 0, &mut entry)?;
        }
    }
    Ok(())
}

/// The kind of file that an archive's mode says.
#[allow(
    clippy::unnecessary_fallible_conversions,
    clippy::useless_conversion,
    reason = "a mode has 16 bits on some platforms"
)]
fn kind_of(mode: u32) -> FileType {
    FileType::from_raw_mode(RawMode::try_from(mode).unwrap_or_default())
}

/// Looks at everything that could be the end of a ZIP archive, where it says how many entries it has: whoever reads one
/// keeps something in memory for each.
fn check_zip(archive: &File, max_files: u64) -> Result<(), FilesError> {
    let length = archive.metadata().map_err(|error| broken(&error))?.len();
    let start = length.saturating_sub(ZIP_END_BYTES);
    let mut end = Vec::new();
    let mut source = archive;
    source
        .seek(SeekFrom::Start(start))
        .and_then(|_| source.take(ZIP_END_BYTES).read_to_end(&mut end))
        .map_err(|error| broken(&error))?;
    let number = |at: usize, size: usize| {
        end.get(at..at + size).map_or(0, |bytes| {
            bytes
                .iter()
                .rev()
                .fold(0, |number, byte| number << 8 | u64::from(*byte))
        })
    };
    for at in 0..end.len().saturating_sub(3) {
        // The records and where they count entries: APPNOTE.TXT, 4.3.16 and 4.3.14.
        let entries = match &end[at..at + 4] {
            b"PK\x05\x06" => match number(at + 10, 2) {
                // The other record has the number.
                0xffff => 0,
                entries => entries,
            },
            b"PK\x06\x06" => number(at + 32, 8),
            _ => 0,
        };
        if entries > max_files {
            return Err(FilesError::Full(Overflow::Files {
                used: entries,
                allowed: max_files,
            }));
        }
    }
    Ok(())
}
