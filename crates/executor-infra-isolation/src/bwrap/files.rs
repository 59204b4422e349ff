//! What a sandbox is given to read: the files that say who a guest is and where, and its standard input.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::{AsRawFd, OwnedFd},
};

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};

use crate::stage::wire::SmallFile;

/// The files that tell a program who it is and where. None of it is the host's.
pub(super) fn identity_files() -> Vec<SmallFile> {
    [
        (
            "/etc/passwd",
            "root:x:0:0:root:/:/usr/sbin/nologin\n\
             sandbox:x:1000:1000:sandbox:/workspace:/bin/bash\n\
             nobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n",
        ),
        (
            "/etc/group",
            "root:x:0:\nsandbox:x:1000:\nnogroup:x:65534:\n",
        ),
        (
            "/etc/hosts",
            "127.0.0.1 localhost sandbox\n::1 localhost sandbox\n",
        ),
        (
            "/etc/nsswitch.conf",
            "passwd: files\ngroup: files\nhosts: files\n",
        ),
        ("/etc/hostname", "sandbox\n"),
    ]
    .map(|(path, text)| SmallFile {
        path: path.into(),
        text: text.into(),
    })
    .into()
}

/// A read-only descriptor with this text. In sealed memory: a pipe would block us on a guest that does not read, and
/// need a task to feed it.
pub(super) fn standard_input(text: &str) -> io::Result<OwnedFd> {
    if text.is_empty() {
        return Ok(File::open("/dev/null")?.into());
    }
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut memory = File::from(rustix::fs::memfd_create("stdin", flags)?);
    memory.write_all(text.as_bytes())?;
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&memory, seals)?;
    // Opened anew, for a position of its own and without the right to write.
    let path = format!("/proc/self/fd/{}", memory.as_raw_fd());
    Ok(rustix::fs::open(
        path,
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn standard_input_is_read_from_its_start_and_never_written() {
        let mut stdin = File::from(standard_input("hello\n").unwrap());
        let mut text = String::new();
        stdin.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello\n");
        assert!(stdin.write_all(b"x").is_err());

        let mut empty = File::from(standard_input("").unwrap());
        assert_eq!(empty.read_to_string(&mut text).unwrap(), 0);
    }
}
