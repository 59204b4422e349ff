//! The mounter: gives the daemon directories as mounts without a place (`open_tree(2)`), where the daemon may not make such
//! mounts itself. It is root of a user namespace of its own, which nobody else is in, and nothing outside of it.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd},
    path::PathBuf,
};

use nix::sched::CloneFlags;
use rustix::{
    io::IoSlice,
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags},
    process::Signal,
};

use super::{StageError, Step, close_others, wire};
use crate::warm::mounts;

/// Serves the daemon until it is gone.
pub(super) fn serve() -> Result<(), StageError> {
    let control = rustix::stdio::stdin();
    let parent: u32 = wire::receive(control).step("read the order")?;
    close_others(&[]).step("close inherited descriptors")?;
    nix::sched::unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)
        .step("enter namespaces")?;
    // After the change of namespace, which would reset it (prctl(2)); a daemon that died before has left another parent.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .step("tie to the daemon")?;
    if nix::unistd::getppid().as_raw().unsigned_abs() != parent {
        return Err(io::Error::other("the daemon is gone")).step("tie to the daemon");
    }
    rustix::thread::set_no_new_privs(true).step("give up new privileges")?;
    loop {
        let path: PathBuf = match wire::receive(control) {
            Ok(path) => path,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error).step("read a request"),
        };
        let answer = mounts::detached(&path);
        reply(control, &answer).step("answer")?;
    }
}

/// A zero and the mount, or the error's number: four bytes, little endian.
fn reply(control: BorrowedFd<'_>, answer: &io::Result<impl AsFd>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = answer.as_ref().ok().map(|mount| [mount.as_fd()]);
    if let Some(descriptors) = &descriptors {
        ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    let number = match answer {
        Ok(_) => 0,
        Err(error) => error.raw_os_error().unwrap_or(-1),
    };
    let bytes = number.to_le_bytes();
    let pieces = [IoSlice::new(&bytes)];
    rustix::net::sendmsg(control, &pieces, &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}
