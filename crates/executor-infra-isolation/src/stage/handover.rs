//! How a stage gets the guest's descriptors, and which is which.

use std::{
    collections::VecDeque,
    io,
    mem::MaybeUninit,
    os::fd::{BorrowedFd, OwnedFd},
    process::Stdio,
};

use rustix::{
    io::{FdFlags, IoSliceMut},
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags},
};

use super::{StageError, Step, wire};

/// Most descriptors that the daemon hands over: standard streams, the guest's channel, and a file for it.
const MAX_DESCRIPTORS: usize = 5;
/// The standard streams among them.
const STREAMS: usize = 3;

/// The guest's descriptors.
pub(super) struct Connections {
    /// Inherited by whatever is started, under the numbers that they have: channel and file, as far as there are any.
    pub(super) inherited: VecDeque<OwnedFd>,
    pub(super) stdin: Stdio,
    pub(super) stdout: Stdio,
    pub(super) stderr: Stdio,
}

/// Receives the guest's descriptors: first its channel and its file, where it has them, then its standard streams.
///
/// They come without close-on-exec, because the first ones are to reach the guest. Every descriptor above standard error
/// is closed, so they become numbers 3 and 4: the numbers that the guest runtimes expect.
pub(super) fn receive_descriptors(control: BorrowedFd<'_>) -> io::Result<VecDeque<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let received = rustix::net::recvmsg(
        control,
        &mut [IoSliceMut::new(&mut byte)],
        &mut ancillary,
        RecvFlags::empty(),
    )?;
    if received.bytes != 1 || byte != [wire::DESCRIPTORS] {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(ancillary
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        })
        .flatten()
        .collect())
}

/// Tells the descriptors apart, and keeps the standard streams from being inherited by accident.
pub(super) fn tell_apart(mut inherited: VecDeque<OwnedFd>) -> Result<Connections, StageError> {
    let mut streams = inherited.split_off(inherited.len().saturating_sub(STREAMS));
    for descriptor in &streams {
        rustix::io::fcntl_setfd(descriptor, FdFlags::CLOEXEC).step("keep a descriptor back")?;
    }
    let mut stream = || {
        streams
            .pop_front()
            .map(Stdio::from)
            .ok_or_else(|| io::Error::other("a standard stream is missing"))
            .step("connect the guest")
    };
    Ok(Connections {
        stdin: stream()?,
        stdout: stream()?,
        stderr: stream()?,
        inherited,
    })
}
