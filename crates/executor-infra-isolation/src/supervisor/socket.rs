//! Sockets between the daemon and the processes of a sandbox, and descriptors that travel over them.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    io::IoSlice,
    net::{SendAncillaryBuffer, SendAncillaryMessage},
};
use tokio::{io::Interest, net::UnixStream};

use crate::stage::wire;

/// Most descriptors that [`send_with`] takes.
const MOST_DESCRIPTORS: usize = 12;

/// A pair of sockets: ours, and one that blocks.
pub(crate) fn pair() -> io::Result<(UnixStream, OwnedFd)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((UnixStream::from_std(ours)?, theirs.into()))
}

/// Tells a helper which process it serves, so that one whose daemon has died meanwhile does not go on.
#[cfg(target_os = "linux")]
pub(crate) async fn introduce(control: &mut UnixStream) -> io::Result<()> {
    use tokio::io::AsyncWriteExt;

    let order = wire::encode(&std::process::id())?;
    control.write_all(&order).await
}

/// Hands the guest's descriptors to a stage, with one byte to carry them.
pub(crate) async fn send_descriptors(
    control: &UnixStream,
    descriptors: &[OwnedFd],
) -> io::Result<()> {
    let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    send_with(control, &[wire::DESCRIPTORS], &borrowed).await
}

/// Sends bytes, and descriptors with the first of them (unix(7), `SCM_RIGHTS`).
pub(crate) async fn send_with(
    socket: &UnixStream,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut sent = socket
        .async_io(Interest::WRITABLE, || {
            let mut space =
                [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            if !descriptors.is_empty()
                && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors))
            {
                return Err(io::Error::other("too many descriptors"));
            }
            let pieces = [IoSlice::new(bytes)];
            let sent = rustix::net::sendmsg(socket, &pieces, &mut ancillary, wire::NO_SIGNAL)?;
            Ok(sent)
        })
        .await?;
    while sent < bytes.len() {
        sent += socket
            .async_io(Interest::WRITABLE, || {
                Ok(rustix::net::send(socket, &bytes[sent..], wire::NO_SIGNAL)?)
            })
            .await?;
    }
    Ok(())
}

/// Receives exactly these many bytes, and at most one descriptor with the first of them.
#[cfg(target_os = "linux")]
pub(crate) async fn receive_with(
    socket: &UnixStream,
    bytes: &mut [u8],
) -> io::Result<Option<OwnedFd>> {
    use rustix::{
        io::IoSliceMut,
        net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags},
    };

    let mut descriptor = None;
    let mut have = 0;
    while have < bytes.len() {
        let (read, received) = socket
            .async_io(Interest::READABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut ancillary = RecvAncillaryBuffer::new(&mut space);
                let mut pieces = [IoSliceMut::new(&mut bytes[have..])];
                let flags = RecvFlags::CMSG_CLOEXEC;
                let received = rustix::net::recvmsg(socket, &mut pieces, &mut ancillary, flags)?;
                let descriptor = ancillary.drain().find_map(|message| match message {
                    RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
                    _ => None,
                });
                Ok((received.bytes, descriptor))
            })
            .await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        have += read;
        descriptor = descriptor.or(received);
    }
    Ok(descriptor)
}
