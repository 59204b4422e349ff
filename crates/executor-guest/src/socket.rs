//! Messages with descriptors over blocking sockets (unix(7)).

use std::{
    collections::VecDeque,
    io,
    mem::MaybeUninit,
    os::fd::{BorrowedFd, OwnedFd},
};

use rustix::{
    io::{IoSlice, IoSliceMut},
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags,
    },
};
use serde::Serialize;

use crate::protocol::{self, MAX_DESCRIPTORS};

/// Descriptors in the order in which they were sent. All of them are closed on exec.
pub(crate) type Descriptors = VecDeque<OwnedFd>;

/// Reads once. `None`: the other side has hung up.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
) -> io::Result<Option<(usize, Descriptors)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(
            socket,
            &mut [IoSliceMut::new(bytes)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        )
    })?;
    let descriptors = ancillary
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        })
        .flatten()
        .collect();
    Ok((received.bytes > 0).then_some((received.bytes, descriptors)))
}

/// Reads one frame, and not a byte more. `None`: the other side has hung up.
pub(crate) fn receive_frame(socket: BorrowedFd<'_>) -> io::Result<Option<(Vec<u8>, Descriptors)>> {
    let mut header = [0; 4];
    let Some((have, descriptors)) = receive(socket, &mut header)? else {
        return Ok(None);
    };
    read_exact(socket, &mut header[have..])?;
    let mut payload = vec![0; protocol::announced(header)?];
    read_exact(socket, &mut payload)?;
    Ok(Some((payload, descriptors)))
}

fn read_exact(socket: BorrowedFd<'_>, mut buffer: &mut [u8]) -> io::Result<()> {
    while !buffer.is_empty() {
        let read = rustix::io::retry_on_intr(|| rustix::io::read(socket, &mut *buffer))?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buffer = &mut buffer[read..];
    }
    Ok(())
}

/// Writes all of it, with a descriptor if there is one. Never raises SIGPIPE.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = descriptor.map(|descriptor| [descriptor]);
    if let Some(descriptors) = &descriptors {
        ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    let sent = rustix::io::retry_on_intr(|| {
        let pieces = [IoSlice::new(bytes)];
        rustix::net::sendmsg(socket, &pieces, &mut ancillary, SendFlags::NOSIGNAL)
    })?;
    let mut rest = &bytes[sent..];
    while !rest.is_empty() {
        let sent =
            rustix::io::retry_on_intr(|| rustix::net::send(socket, rest, SendFlags::NOSIGNAL))?;
        rest = &rest[sent..];
    }
    Ok(())
}

/// Writes one frame.
pub(crate) fn send_frame(socket: BorrowedFd<'_>, message: &impl Serialize) -> io::Result<()> {
    send(socket, &protocol::encode(message)?, None)
}

/// The next descriptor, which has to be there.
pub(crate) fn next(descriptors: &mut Descriptors) -> io::Result<OwnedFd> {
    descriptors
        .pop_front()
        .ok_or_else(|| io::Error::other("a descriptor is missing"))
}

#[cfg(test)]
mod tests {
    use std::os::{fd::AsFd, unix::net::UnixStream};

    use super::*;

    #[test]
    fn a_frame_brings_its_descriptors() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (extra, _other) = UnixStream::pair().unwrap();
        let frame = protocol::encode(&"hello").unwrap();
        send(ours.as_fd(), &frame, Some(extra.as_fd())).unwrap();
        send(ours.as_fd(), b"x", None).unwrap();
        let (payload, descriptors) = receive_frame(theirs.as_fd()).unwrap().unwrap();
        assert_eq!(payload, b"\"hello\"");
        assert_eq!(descriptors.len(), 1);
        let mut byte = [0; 8];
        let (length, none) = receive(theirs.as_fd(), &mut byte).unwrap().unwrap();
        assert_eq!((length, none.len()), (1, 0));
        drop(ours);
        assert!(receive_frame(theirs.as_fd()).unwrap().is_none());
    }
}
