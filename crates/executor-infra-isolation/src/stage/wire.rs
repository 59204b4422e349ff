//! What the daemon and its stages tell each other over the control socket.
//!
//! Frames of a length (32 bits, little endian) and JSON. All of it is between us and us: a guest never holds the
//! socket. The reader still bounds every length, so that a bug stays a message.

#[cfg(target_os = "linux")]
use std::path::PathBuf;
use std::{collections::BTreeMap, io, os::fd::BorrowedFd};

use rustix::net::SendFlags;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Longest frame: a shell program of 1 MiB, every byte of it escaped, and its environment.
pub(crate) const MAX_FRAME: usize = 16 << 20;

/// The byte that carries the guest's descriptors to the stage that starts it, before its specification.
pub(crate) const DESCRIPTORS: u8 = b'D';
/// The byte by which the watchdog says that it watches.
#[cfg(target_os = "linux")]
pub(crate) const READY: u8 = b'R';
/// The byte that asks for the guest to be killed and a report.
pub(crate) const STOP: u8 = b'S';

/// A peer that is gone is an error, not a signal: `MSG_NOSIGNAL`, which macOS lacks; there it is enough that programs in
/// Rust ignore SIGPIPE.
#[cfg(not(target_vendor = "apple"))]
pub(crate) const NO_SIGNAL: SendFlags = SendFlags::NOSIGNAL;
#[cfg(target_vendor = "apple")]
pub(crate) const NO_SIGNAL: SendFlags = SendFlags::empty();

/// What the launcher is to do.
#[cfg(target_os = "linux")]
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LaunchSpec {
    /// The daemon's process id, so that a launcher whose daemon has died in between does not go on.
    pub parent: u32,
    /// Files into which the launcher writes itself to enter the run's cgroups.
    pub cgroup_files: Vec<PathBuf>,
    /// User and group to become; `None`: stay who we are.
    pub run_as: Option<(u32, u32)>,
    /// bubblewrap, by absolute path.
    pub bwrap: PathBuf,
    /// Its arguments, up to the command.
    pub arguments: Vec<String>,
}

/// What the init is to do, in the order of its fields.
#[cfg(target_os = "linux")]
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct InitSpec {
    /// Small files to write before the root is sealed.
    pub files: Vec<SmallFile>,
    /// Mounts that get bounds.
    pub bounded: Vec<BoundedMount>,
    /// Most pseudo-terminals in `/dev/pts`.
    pub pseudo_terminals: u32,
    /// Mounts that become read-only.
    pub sealed: Vec<String>,
    /// User and group ids that the guest sees itself as.
    pub guest_ids: (u32, u32),
    /// Resource limits of the guest.
    pub rlimits: Rlimits,
    /// Whether to look at the walls from the inside once they stand.
    pub inspect: bool,
    /// The guest's program and arguments.
    pub argv: Vec<String>,
    /// The guest's whole environment.
    pub environment: Vec<(String, String)>,
    /// The guest's working directory.
    pub directory: String,
    /// Who is to be started.
    pub tenant: Tenant,
}

/// Who lives in a sandbox.
#[cfg(target_os = "linux")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Tenant {
    /// A guest: every wall has to stand.
    Guest,
    /// An interpreter that runs no guest code and forks slots, each of which builds the walls that stand in the way of
    /// that: further user namespaces, mounts and limits of its own.
    Zygote,
}

/// What the watchdog is told of a process group, by its number.
#[cfg(target_os = "linux")]
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Group {
    /// It must not outlive the daemon.
    Watch(i32),
    /// Whoever is in it is dead, or killed.
    Forget(i32),
}

/// What the keeper is to do.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct KeeperSpec {
    /// User and group that the guest is to be; `None`: the keeper's own.
    pub run_as: Option<(u32, u32)>,
    /// Resource limits of the guest; its processes come on top of those that its user has already.
    pub rlimits: Rlimits,
    /// Most memory that the guest's tree may have resident, in bytes.
    pub memory: u64,
    /// Most CPU time that the guest's tree may use, in microseconds.
    pub cpu_micros: u64,
    /// The guest's program behind the program that confines it, and all arguments.
    pub argv: Vec<String>,
    /// The guest's whole environment.
    pub environment: Vec<(String, String)>,
    /// The guest's working directory.
    pub directory: String,
}

/// What the confiner is to do with itself before it becomes the guest.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ConfineSpec {
    /// Resource limits.
    pub rlimits: Rlimits,
    /// What to become, with all arguments.
    pub argv: Vec<String>,
    /// The whole environment.
    pub environment: Vec<(String, String)>,
    /// The working directory.
    pub directory: String,
}

/// A small file of ours that a guest needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SmallFile {
    /// Absolute path as the guest sees it; its directory exists.
    pub path: String,
    /// What it holds.
    pub text: String,
}

/// A tmpfs that gets bounds.
#[cfg(target_os = "linux")]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BoundedMount {
    /// Absolute path inside the sandbox.
    pub path: String,
    /// Most bytes.
    pub bytes: u64,
    /// Most files and directories.
    pub inodes: u64,
}

/// Resource limits, soft and hard alike (setrlimit(2)). `None` leaves one as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rlimits {
    /// `RLIMIT_NOFILE`
    pub open_files: u64,
    /// `RLIMIT_FSIZE`, in bytes.
    pub file_size: u64,
    /// `RLIMIT_NPROC`: processes and threads of this user in this user namespace.
    pub processes: u64,
    /// `RLIMIT_CPU`, in seconds, of each process.
    pub cpu_seconds: u64,
    /// `RLIMIT_DATA`, in bytes, of each process.
    pub data: Option<u64>,
}

/// What the init reports.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Report {
    /// The walls stand and the guest runs.
    Started(Option<Inspection>),
    /// A wall could not be built, or the guest could not be started. No guest code has run.
    Failed(String),
    /// The guest's first process has ended, and every other process of the guest is dead and reaped.
    Ended(Ended),
}

/// How a guest ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ended {
    /// How its first process ended.
    pub how: Exit,
    /// CPU time of all its processes that were waited for, in microseconds.
    pub cpu_micros: u64,
    /// Largest resident size of any one of its processes, in KiB.
    pub max_rss_kib: u64,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Exit {
    /// With this exit code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// By whoever watches it, because its tree used more memory than it may.
    OutOfMemory,
}

/// What the init sees of the walls after it has built them, in the kernel's words. The daemon judges.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Inspection {
    /// `/proc/self/status`
    pub status: String,
    /// `/proc/self/uid_map`
    pub uid_map: String,
    /// `/proc/self/mounts`
    pub mounts: String,
    /// Names of the network interfaces.
    pub interfaces: Vec<String>,
    /// Process ids in `/proc`.
    pub processes: Vec<u32>,
    /// Which namespaces this is in, by kind: what the links in `/proc/self/ns` say.
    pub namespaces: BTreeMap<String, String>,
    /// `/proc/self/limits`
    pub limits: String,
    /// Whether the guest, who is the same user, may not look into the init (`PR_GET_DUMPABLE`, prctl(2)).
    pub opaque: bool,
    /// What the kernel said to another user namespace; `None`: it made one.
    pub user_namespace_refused: Option<String>,
}

/// Encodes one frame.
pub(crate) fn encode(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, message)?;
    let length = u32::try_from(frame.len() - 4)
        .ok()
        .filter(|length| *length as usize <= MAX_FRAME)
        .ok_or_else(|| io::Error::other("control message too long"))?;
    frame[..4].copy_from_slice(&length.to_le_bytes());
    Ok(frame)
}

/// Reads one frame from a blocking socket, and not a byte more: what follows may belong to the next stage.
pub(crate) fn receive<T: DeserializeOwned>(socket: BorrowedFd<'_>) -> io::Result<T> {
    let mut length = [0; 4];
    read_exact(socket, &mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_FRAME {
        return Err(io::Error::other("control message too long"));
    }
    let mut frame = vec![0; length];
    read_exact(socket, &mut frame)?;
    Ok(serde_json::from_slice(&frame)?)
}

/// Writes one frame to a blocking socket.
pub(crate) fn send(socket: BorrowedFd<'_>, message: &impl Serialize) -> io::Result<()> {
    let frame = encode(message)?;
    let mut rest = &frame[..];
    while !rest.is_empty() {
        // Not `write`: the daemon may be gone, and a SIGPIPE would end us before we have ended the guest.
        let sent = rustix::net::send(socket, rest, NO_SIGNAL)?;
        rest = &rest[sent..];
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use std::{io::Write, os::fd::AsFd, os::unix::net::UnixStream};

    use super::*;

    #[test]
    fn a_frame_is_read_to_its_end_and_not_beyond() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let ended = Report::Ended(Ended {
            how: Exit::Signal(9),
            cpu_micros: 1,
            max_rss_kib: 2,
        });
        send(ours.as_fd(), &ended).unwrap();
        send(ours.as_fd(), &Report::Failed("no".into())).unwrap();
        assert!(matches!(
            receive(theirs.as_fd()).unwrap(),
            Report::Ended(Ended {
                how: Exit::Signal(9),
                ..
            })
        ));
        assert!(matches!(receive(theirs.as_fd()).unwrap(), Report::Failed(why) if why == "no"));
    }

    #[test]
    fn a_length_beyond_the_cap_is_refused_before_it_is_allocated() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.write_all(&u32::MAX.to_le_bytes()).unwrap();
        assert!(receive::<Report>(theirs.as_fd()).is_err());
    }

    #[test]
    fn an_end_in_the_middle_is_an_error() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.write_all(&[9, 0, 0, 0, b'{']).unwrap();
        drop(ours);
        assert!(receive::<Report>(theirs.as_fd()).is_err());
    }
}
