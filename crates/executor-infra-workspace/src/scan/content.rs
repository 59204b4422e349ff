//! Reading what changed: one file after the other, each checked again on the descriptor that is read.

use std::{
    fmt::Write as _,
    fs::File,
    io::{self, Read},
    os::fd::BorrowedFd,
    path::Path,
};

use executor_domain::Artifact;
use rustix::{
    fs::{OFlags, SeekFrom, fstat, seek},
    io::Errno,
};
use sha2::{Digest, Sha256};

use super::{
    Deadline, ScanLimits,
    skipped::{Reason, cannot},
};
use crate::{
    beneath,
    media_type::{HEAD_BYTES, media_type},
    metadata::Metadata,
};

/// How much is read at a time, and between two looks at the clock.
const CHUNK_BYTES: usize = 64 * 1024;

const CHANGED_MEANWHILE: &str = "changed while it was read";

/// Reads files of a workspace, within what one scan may cost.
pub(super) struct Contents<'a> {
    workspace: BorrowedFd<'a>,
    limits: &'a ScanLimits,
    deadline: Deadline,
    bytes_left: u64,
    holes_left: u64,
    chunk: Vec<u8>,
}

impl<'a> Contents<'a> {
    pub(super) fn new(
        workspace: BorrowedFd<'a>,
        limits: &'a ScanLimits,
        deadline: Deadline,
    ) -> Self {
        Self {
            workspace,
            limits,
            deadline,
            bytes_left: limits.total_bytes,
            holes_left: limits.hole_bytes,
            chunk: vec![0; CHUNK_BYTES],
        }
    }

    /// Reads one file. `found` is what the walk saw under this name.
    pub(super) fn read(&mut self, path: &str, found: &Metadata) -> Result<Artifact, Reason> {
        self.check_size(found.size)?;
        self.deadline.check()?;
        let file = self.open(path)?;
        let metadata = || fstat(&file).map(Metadata::from);
        if metadata() != Ok(*found) {
            return Err(CHANGED_MEANWHILE.into());
        }
        let holes =
            holes(&file, found.size, self.holes_left).map_err(|error| cannot("be read", error))?;
        if holes > self.holes_left {
            return Err(format!(
                "sparse: more than {} bytes in all that were never written are not read",
                self.limits.hole_bytes
            ));
        }
        // Before they are read: a file that is changed again and again under our eyes has cost us its bytes all the same.
        self.bytes_left -= found.size;
        self.holes_left -= holes;
        let (digest, head) = self.digest(&file, found.size)?;
        if metadata() != Ok(*found) {
            return Err(CHANGED_MEANWHILE.into());
        }
        Ok(Artifact {
            mime_type: media_type(path, &head, head.len() as u64 == found.size),
            path: path.to_owned(),
            size: found.size,
            created_at: found.content_changed_at(),
            checksum: format!("sha256:{digest}"),
            url: None,
        })
    }

    fn check_size(&self, size: u64) -> Result<(), Reason> {
        if size > self.limits.file_bytes {
            return Err(format!(
                "{size} bytes: files of more than {} are not read",
                self.limits.file_bytes
            ));
        }
        if size > self.bytes_left {
            return Err(format!(
                "{size} bytes: more than {} in all are not read",
                self.limits.total_bytes
            ));
        }
        Ok(())
    }

    /// Not blocking: by now, the name may be a FIFO's, whose opening waits for a writer (fifo(7)). Or a terminal's, which
    /// must not become ours.
    fn open(&self, path: &str) -> Result<File, Reason> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        beneath::open(self.workspace, Path::new(path), flags)
            .map(File::from)
            .map_err(|error| match error {
                Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::NXIO => {
                    CHANGED_MEANWHILE.into()
                }
                error => cannot("be read", error),
            })
    }

    /// SHA-256, in hexadecimal, and the beginning of a file that must have `size` bytes. A file that grows while it is
    /// read keeps nobody here: no more than `size` bytes are asked for.
    fn digest(&mut self, file: &File, size: u64) -> Result<(String, Vec<u8>), Reason> {
        let mut source = file.take(size);
        let mut hash = Sha256::new();
        let mut head = Vec::new();
        let mut total = 0;
        loop {
            self.deadline.check()?;
            let bytes = match source.read(&mut self.chunk) {
                Ok(0) => break,
                Ok(count) => &self.chunk[..count],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(cannot("be read", error)),
            };
            let wanted = HEAD_BYTES.saturating_sub(head.len()).min(bytes.len());
            head.extend_from_slice(&bytes[..wanted]);
            hash.update(bytes);
            total += bytes.len() as u64;
        }
        if total != size {
            return Err(CHANGED_MEANWHILE.into());
        }
        let mut digest = String::with_capacity(64);
        for byte in hash.finalize() {
            // Writing to a String cannot fail.
            let _ = write!(digest, "{byte:02x}");
        }
        Ok((digest, head))
    }
}

/// How many of a file's first `size` bytes were never written (lseek(2), `SEEK_HOLE`). Stops counting once there are more
/// than `enough`, so that a file of many holes costs no more than one of few. Leaves the file at its beginning. A file
/// system that does not tell has none.
fn holes(file: &File, size: u64, enough: u64) -> Result<u64, Errno> {
    let mut holes = 0;
    let mut at = 0;
    while at < size && holes <= enough {
        let data = match seek(file, SeekFrom::Data(at)) {
            Ok(data) => data.min(size),
            // Nothing but a hole up to the end.
            Err(Errno::NXIO) => size,
            Err(Errno::INVAL | Errno::OPNOTSUPP) => break,
            Err(error) => return Err(error),
        };
        holes += data.saturating_sub(at);
        at = size;
        if data < size {
            at = seek(file, SeekFrom::Hole(data))?;
        }
    }
    seek(file, SeekFrom::Start(0))?;
    Ok(holes)
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::{
            fd::AsFd,
            unix::fs::{FileExt, symlink},
        },
        process::Command,
        sync::mpsc,
        time::Duration,
    };

    use super::*;

    fn contents<'a>(workspace: &'a File, limits: &'a ScanLimits) -> Contents<'a> {
        Contents::new(workspace.as_fd(), limits, Deadline::within(limits.time))
    }

    /// Reads `name` after a walk has found a regular file of that name and `swap` has replaced it.
    fn read_after(swap: impl FnOnce(&Path)) -> Result<Artifact, Reason> {
        let place = tempfile::tempdir().unwrap();
        let name = place.path().join("name");
        fs::write(&name, "inside").unwrap();
        fs::write(place.path().join("other"), "secret").unwrap();
        let found = Metadata::from(rustix::fs::stat(&name).unwrap());
        swap(&name);

        let workspace = File::open(place.path()).unwrap();
        let (answer, answered) = mpsc::channel();
        std::thread::spawn(move || {
            let limits = ScanLimits::default();
            let read = contents(&workspace, &limits).read("name", &found);
            answer.send(read).unwrap();
        });
        answered
            .recv_timeout(Duration::from_secs(30))
            .expect("nothing blocks")
    }

    #[test]
    fn what_was_found_is_what_is_read() {
        type Swap = fn(&Path);

        assert_eq!(read_after(|_| {}).unwrap().size, 6);
        let swaps: [(&str, Swap); 5] = [
            ("a link", |name| {
                fs::remove_file(name).unwrap();
                symlink("other", name).unwrap();
            }),
            ("a FIFO", |name| {
                fs::remove_file(name).unwrap();
                let made = Command::new("mkfifo").arg(name).status();
                assert!(made.unwrap().success());
            }),
            ("another file", |name| {
                fs::rename(name.with_file_name("other"), name).unwrap();
            }),
            ("a directory", |name| {
                fs::remove_file(name).unwrap();
                fs::create_dir(name).unwrap();
            }),
            ("nothing", |name| fs::remove_file(name).unwrap()),
        ];
        for (what, swap) in swaps {
            let read = read_after(swap);
            assert_eq!(read, Err(CHANGED_MEANWHILE.to_owned()), "{what}");
        }
    }

    #[test]
    fn a_file_whose_size_changes_has_no_checksum() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("file"), "12345").unwrap();
        let workspace = File::open(place.path()).unwrap();
        let limits = ScanLimits::default();
        let digest = |size| {
            let file = File::open(place.path().join("file")).unwrap();
            contents(&workspace, &limits).digest(&file, size)
        };
        assert_eq!(digest(5).unwrap().1, b"12345");
        assert_eq!(digest(6), Err(CHANGED_MEANWHILE.to_owned()));
    }

    #[test]
    fn holes_are_counted_and_only_as_far_as_needed() {
        const MIB: u64 = 1 << 20;
        let place = tempfile::tempdir().unwrap();
        let file = File::options()
            .create_new(true)
            .read(true)
            .write(true)
            .open(place.path().join("f"))
            .unwrap();
        assert_eq!(holes(&file, 0, 0), Ok(0));
        file.write_all_at(&[1; 4096], 0).unwrap();
        assert_eq!(holes(&file, 4096, 0), Ok(0));
        for place in 1..8 {
            file.write_all_at(&[1; 4096], place * MIB).unwrap();
        }
        let size = 7 * MIB + 4096;
        assert_eq!(holes(&file, size, u64::MAX), Ok(7 * (MIB - 4096)));
        assert_eq!(holes(&file, size, 1), Ok(MIB - 4096));
        file.set_len(20 * MIB).unwrap();
        assert_eq!(holes(&file, 20 * MIB, u64::MAX), Ok(20 * MIB - 8 * 4096));
        let mut first = [0];
        Read::read_exact(&mut &file, &mut first).unwrap();
        assert_eq!(first, [1], "it is read from its beginning");
    }
}
