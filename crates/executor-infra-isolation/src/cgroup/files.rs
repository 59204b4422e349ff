//! Small control files of cgroupfs.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    path::Path,
};

/// More than any file read here has; `cgroup.procs` is bounded by the process limit of the run.
const LARGEST: u64 = 256 * 1024;

/// The content of a control file, at most [`LARGEST`] bytes of it.
pub(super) fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(LARGEST).read_to_string(&mut text)?;
    Ok(text)
}

/// The content of a control file that holds one number.
pub(super) fn read_number(path: &Path) -> Option<u64> {
    read(path).ok()?.trim().parse().ok()
}

/// Writes a control file in one `write`, as cgroupfs wants it. Never creates: a file that is not
/// there means that the kernel has no such control.
pub(super) fn write(path: &Path, value: &str) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .open(path)?
        .write_all(value.as_bytes())
}

/// As [`write`], but a control that this kernel does not have is none to miss.
pub(super) fn write_if_present(path: &Path, value: &str) -> io::Result<()> {
    match write(path, value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
