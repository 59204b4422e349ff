//! What a fork gets of its zygote: all of its memory, and none of its descriptors.

use std::{
    fs, io,
    os::fd::{OwnedFd, RawFd},
    time::{Duration, Instant},
};

use crate::{plan, protocol::LIBRARY, system};

/// Has children inherit all memory: V8 keeps its heap from them (`MADV_DONTFORK`, madvise(2)).
pub(super) fn share_memory() -> io::Result<()> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    for range in maps.lines().filter_map(plan::range) {
        let address = std::ptr::with_exposed_provenance_mut(range.start);
        // The kernel's own mappings ([vdso] and its like) refuse, and are inherited anyway.
        // SAFETY: this changes what a fork copies, and nothing of the memory.
        unsafe { libc::madvise(address, range.len(), libc::MADV_DOFORK) };
    }
    Ok(())
}

/// How long to wait for a thread that has nothing to do.
const PATIENCE: Duration = Duration::from_secs(10);

/// Waits until every other thread of this process waits for something: one that does not could hold a lock, of which a fork
/// would have a copy that nobody opens.
pub(super) fn wait_for_threads() -> io::Result<()> {
    let own = rustix::thread::gettid().as_raw_nonzero().to_string();
    let since = Instant::now();
    loop {
        let mut all_wait = true;
        for entry in fs::read_dir("/proc/self/task")? {
            let entry = entry?;
            let status = fs::read_to_string(entry.path().join("stat"))?;
            all_wait &= entry.file_name().to_str() == Some(&own) || sleeps(&status);
        }
        if all_wait {
            return Ok(());
        }
        if since.elapsed() > PATIENCE {
            return Err(io::ErrorKind::TimedOut.into());
        }
        std::thread::yield_now();
    }
}

/// Whether a line of `/proc/<pid>/stat` is that of a thread which waits (proc(5)): its state follows its name, in brackets.
fn sleeps(stat: &str) -> bool {
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| rest.starts_with('S'))
}

/// Descriptors of an interpreter, from this number on. Below are its streams, the channel and the library.
const FIRST: RawFd = LIBRARY + 1;

/// The numbers of those that are open; one is that of the listing itself, which is closed again.
fn descriptors() -> io::Result<Vec<RawFd>> {
    let numbers = fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|number| *number >= FIRST)
        .collect();
    Ok(numbers)
}

/// In a zygote: marks its descriptors, by taking close-on-exec from each. What is made later has it, here as in libuv, and can
/// be told from them. A zygote executes nothing.
pub(crate) fn mark_descriptors() -> io::Result<()> {
    for number in descriptors()? {
        // SAFETY: a number that is open, or that of the listing, which answers EBADF.
        unsafe { libc::fcntl(number, libc::F_SETFD, 0) };
    }
    Ok(())
}

/// In a guest: puts `/dev/null` in the place of what [`mark_descriptors`] has marked. Not closed, because libuv still closes
/// and writes to these numbers, and what the guest opens must not get them. What libuv has made since the fork stays.
pub(crate) fn replace_descriptors() -> io::Result<()> {
    let nothing: OwnedFd = fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")?
        .into();
    for number in descriptors()? {
        // SAFETY: as in `mark_descriptors`.
        let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
        if flags >= 0 && flags & libc::FD_CLOEXEC == 0 {
            system::place(&nothing, number, false)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_sleeps_by_its_state_and_not_by_its_name() {
        assert!(sleeps("7 (node) S 1 7 7"));
        assert!(!sleeps("7 (node) R 1 7 7"));
        assert!(!sleeps("7 (a) S b) R 1 7 7"));
        assert!(!sleeps(""));
    }
}
