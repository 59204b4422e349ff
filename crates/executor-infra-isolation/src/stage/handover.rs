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

/// Most descriptors that the daemon hands over: standard streams and the guest's channel.
const MAX_DESCRIPTORS: usize = 4;

/// The guest's descriptors.
pub(super) struct Connections {
    /// Number 3, and inherited by whatever is started; `None`: the guest has no channel.
    pub(super) channel: Option<OwnedFd>,
    pub(super) stdin: Stdio,
    pub(super) stdout: Stdio,
    pub(super) stderr: Stdio,
}

/// Receives the guest's descriptors: first its channel, where it has one, then its standard streams.
///
/// They come without close-on-exec, because the channel is to reach the guest. It is the first, and every descriptor
/// above standard error is closed, so it becomes number 3: the number that the guest runtimes expect.
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

/// Tells the descriptors apart, and keeps all but the channel from being inherited by accident.
pub(super) fn tell_apart(mut descriptors: VecDeque<OwnedFd>) -> Result<Connections, StageError> {
    let channel = if descriptors.len() == MAX_DESCRIPTORS {
        descriptors.pop_front()
    } else {
        None
    };
    for descriptor in &descriptors {
        rustix::io::fcntl_setfd(descriptor, FdFlags::CLOEXEC).step("keep a descriptor back")?;
    }
    let mut stream = || {
        descriptors
            .pop_front()
            .map(Stdio::from)
            .ok_or_else(|| io::Error::other("a standard stream is missing"))
            .step("connect the guest")
    };
    Ok(Connections {
        stdin: stream()?,
        stdout: stream()?,
        stderr: stream()?,
        channel,
    })
}
