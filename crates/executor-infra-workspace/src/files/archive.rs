//! A directory as one file, made while it is read.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use async_trait::async_trait;
use executor_application::{ArchiveFormat, Content, FilesError};
use rustix::fs::{AtFlags, FileType, OFlags, fstat, statat};
use tokio::sync::mpsc;

use crate::{beneath, error::failed, metadata::Metadata, names, usage::MAX_DEPTH};

const PACK: &str = "pack a directory";

/// Bytes of the archive that are handed over at a time.
const CHUNK_BYTES: usize = 256 << 10;

/// Chunks that are made ahead of whoever takes them.
const CHUNKS_AHEAD: usize = 4;

/// Permissions in an archive. What they are here says something of who guests are on this host, and nothing else.
const FILE_MODE: u32 = 0o644;
const EXECUTABLE_MODE: u32 = 0o755;

/// Packs a directory, on a thread of its own that goes on as long as somebody takes what it makes. Links, devices and
/// the like are left out, and names that no list shows.
pub(super) fn pack(directory: OwnedFd, format: ArchiveFormat) -> Packed {
    let (sender, chunks) = mpsc::channel(CHUNKS_AHEAD);
    tokio::task::spawn_blocking(move || {
        let mut pipe = Pipe {
            sender,
            chunk: Vec::with_capacity(CHUNK_BYTES),
        };
        let packed = match format {
            ArchiveFormat::Tar => to_tar(&directory, &mut pipe),
            ArchiveFormat::Zip => to_zip(&directory, &mut pipe),
        };
        // Nobody listens any more: then this says it to nobody.
        let _ = match packed.and_then(|()| pipe.flush()) {
            Ok(()) => pipe.sender.blocking_send(Ok(None)),
            Err(error) => pipe.sender.blocking_send(Err(error)),
        };
    });
    Packed {
        chunks,
        ended: false,
    }
}

/// A directory on its way out.
pub(super) struct Packed {
    /// `None` is the end. An archive that ends without one is not whole.
    chunks: mpsc::Receiver<io::Result<Option<Vec<u8>>>>,
    ended: bool,
}

#[async_trait]
impl Content for Packed {
    fn skip_to(&mut self, _offset: u64) {
        // Nobody knows where in an archive anything will be before it is made.
    }

    async fn next(&mut self) -> Result<Option<Vec<u8>>, FilesError> {
        if self.ended {
            return Ok(None);
        }
        let chunk = self
            .chunks
            .recv()
            .await
            .unwrap_or_else(|| Err(io::ErrorKind::UnexpectedEof.into()))
            .map_err(failed(PACK, Path::new("")))?;
        self.ended = chunk.is_none();
        Ok(chunk)
    }
}

/// Writes chunks for whoever takes them.
struct Pipe {
    sender: mpsc::Sender<io::Result<Option<Vec<u8>>>>,
    chunk: Vec<u8>,
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = CHUNK_BYTES - self.chunk.len();
        let taken = bytes.len().min(room);
        self.chunk.extend_from_slice(&bytes[..taken]);
        if self.chunk.len() == CHUNK_BYTES {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK_BYTES));
        self.sender
            .blocking_send(Ok(Some(chunk)))
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// What goes into an archive.
enum Item<'a> {
    Directory,
    File {
        file: &'a mut dyn Read,
        executable: bool,
    },
}

/// Walks over a directory, by name, and hands over what is to be packed.
fn walk(
    directory: &OwnedFd,
    prefix: &str,
    depth: usize,
    take: &mut dyn FnMut(&str, &Metadata, Item<'_>) -> io::Result<()>,
) -> io::Result<()> {
    let mut entries: Vec<String> = beneath::entries(directory.as_fd())?
        .filter_map(Result::ok)
        .filter_map(|entry| {
            names::as_text(entry.file_name().to_bytes())
                .ok()
                .map(str::to_owned)
        })
        .collect();
    entries.sort_unstable();
    for name in entries {
        if prefix.is_empty() && name == crate::state::NAME {
            continue;
        }
        let Ok(stat) = statat(directory, name.as_str(), AtFlags::SYMLINK_NOFOLLOW) else {
            continue;
        };
        let path = format!("{prefix}{name}");
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory if depth < MAX_DEPTH => {
                let Ok(below) = beneath::open_directory(directory, Path::new(&name)) else {
                    continue;
                };
                take(&path, &Metadata::from(stat), Item::Directory)?;
                walk(&below, &format!("{path}/"), depth + 1, take)?;
            }
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
                let Ok(file) = beneath::open(directory, Path::new(&name), flags) else {
                    continue;
                };
                let stat = fstat(&file)?;
                let found = Metadata::from(stat);
                if found.kind != FileType::RegularFile {
                    continue;
                }
                // Exactly as long as was announced: an archive says that before the content comes.
                let mut file = Exactly {
                    file: File::from(file),
                    left: found.size,
                };
                let executable = stat.st_mode & 0o100 != 0;
                let item = Item::File {
                    file: &mut file,
                    executable,
                };
                take(&path, &found, item)?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Reads so many bytes of a file, and fails where it does not have them any more.
struct Exactly {
    file: File,
    left: u64,
}

impl Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let wanted = buffer
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.file.read(&mut buffer[..wanted])?;
        if read == 0 {
            return Err(io::Error::other(
                "a file became shorter while it was packed",
            ));
        }
        self.left -= read as u64;
        Ok(read)
    }
}

/// Seconds since 1970.
fn seconds(found: &Metadata) -> u64 {
    u64::try_from(found.content_changed_at().unix_micros() / 1_000_000).unwrap_or_default()
}

fn to_tar(directory: &OwnedFd, pipe: &mut Pipe) -> io::Result<()> {
    let mut archive = tar::Builder::new(pipe);
    walk(directory, "", 1, &mut |path, found, item| {
        let mut header = tar::Header::new_gnu();
        header.set_mtime(seconds(found));
        match item {
            Item::Directory => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_mode(EXECUTABLE_MODE);
                header.set_size(0);
                archive.append_data(&mut header, format!("{path}/"), io::empty())
            }
            Item::File { file, executable } => {
                header.set_mode(if executable {
                    EXECUTABLE_MODE
                } else {
                    FILE_MODE
                });
                header.set_size(found.size);
                archive.append_data(&mut header, path, file)
            }
        }
    })?;
    archive.finish()
}

fn to_zip(directory: &OwnedFd, pipe: &mut Pipe) -> io::Result<()> {
    let mut archive = zip::ZipWriter::new_stream(pipe);
    walk(directory, "", 1, &mut |path, found, item| {
        let options = zip::write::SimpleFileOptions::default()
            .compression_method(zip::CompressionMethod::Deflated)
            .compression_level(Some(1))
            // What does not fit into 32 bits needs room from the start.
            .large_file(found.size >= u64::from(u32::MAX));
        match item {
            Item::Directory => archive
                .add_directory(path, options.unix_permissions(EXECUTABLE_MODE))
                .map_err(io::Error::other),
            Item::File { file, executable } => {
                let mode = if executable {
                    EXECUTABLE_MODE
                } else {
                    FILE_MODE
                };
                archive
                    .start_file(path, options.unix_permissions(mode))
                    .map_err(io::Error::other)?;
                io::copy(file, &mut archive).map(|_| ())
            }
        }
    })?;
    archive.finish().map(|_| ()).map_err(io::Error::other)
}
