//! What the daemon, a zygote and its slots tell each other.
//!
//! Frames of a length (32 bits, little endian) and JSON, over sockets that no guest ever holds; descriptors travel with the
//! first byte of a frame. Every length has a cap, so that a bug stays a message.

use std::{collections::BTreeMap, io};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Longest frame: a shell program of 1 MiB, every byte of it escaped, and its environment.
pub const MAX_FRAME: usize = 16 << 20;

/// Where an interpreter finds the daemon's socket while it is a zygote, and its job's channel once it is a guest.
pub const CHANNEL: i32 = 3;
/// Where an interpreter finds this library, to load it by `/proc/self/fd/4`.
pub const LIBRARY: i32 = 4;

/// What a zygote is asked for, by one byte: a slot. With it come descriptors: the slot's control socket, the guest's channel,
/// stdout, stderr, and then the files by which the slot enters its cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fork {
    /// One that is to wait for its job, and may prepare for it.
    Ahead,
    /// One whose run waits for it: whatever it does before its job is in the way.
    Awaited,
    /// One that shows its walls to the daemon before it waits for its job.
    Shown,
}

impl Fork {
    /// The byte that asks for it.
    pub const fn byte(self) -> u8 {
        match self {
            Self::Ahead => b'F',
            Self::Awaited => b'N',
            Self::Shown => b'I',
        }
    }

    /// What a byte asks for.
    pub fn of(byte: u8) -> Option<Self> {
        [Self::Ahead, Self::Awaited, Self::Shown]
            .into_iter()
            .find(|fork| fork.byte() == byte)
    }
}

/// Descriptors that come with a [`Fork`], without those of cgroups.
pub const SLOT_DESCRIPTORS: usize = 4;
/// Most descriptors in one message: a slot's, and a cgroup file for each controller of cgroup v1.
pub const MAX_DESCRIPTORS: usize = 12;

/// The zygote's answer to a [`Fork`]: here is the slot's init, by a descriptor of its process (`pidfd_open(2)`).
pub const FORKED: u8 = b'S';
/// The zygote's answer where it could not: four bytes follow, the error number of the kernel, little endian.
pub const NOT_FORKED: u8 = b'E';
/// What a zygote says once it has its orders.
pub const READY: u8 = b'R';

/// What the daemon says to a slot that is to kill its guest and report.
pub const STOP: u8 = b'S';

/// What all slots of a zygote have in common.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZygoteSpec {
    /// The seccomp filter of the zygote, an instruction in each number; see [`instruction`]. Inits and guests inherit it: it
    /// allows what it takes to make them, and nothing else that a guest must not.
    pub zygote_filter: Vec<u64>,
    /// What inits add, which may still mount until they give up the capability to.
    pub init_filter: Vec<u64>,
    /// What guests add.
    pub guest_filter: Vec<u64>,
    /// User and group ids that a guest sees itself as.
    pub guest_ids: (u32, u32),
    /// Memory file systems that each slot gets anew.
    pub private: Vec<Private>,
    /// Where the workspace is mounted; the guest's directory.
    pub workspace: String,
    /// Whether guests keep their channel; shells have none.
    pub has_channel: bool,
    /// Whether the interpreter rehearses a job in a guest that has time to. In one that does not, its memory is made its own.
    pub rehearses: bool,
    /// Whether the interpreter has an event loop, whose descriptors guests replace and do not close.
    pub has_event_loop: bool,
}

/// A memory file system of a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Private {
    /// Where.
    pub path: String,
    /// Most bytes.
    pub bytes: u64,
    /// Most files and directories.
    pub inodes: u64,
    /// Whether the guest may write there; if not, it holds the job's files.
    pub writable: bool,
}

/// What a slot is told of its job. The rest of it reaches the guest by its own channel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSpec {
    /// Resource limits of the guest.
    pub limits: Limits,
    /// Most bytes of each writable memory file system.
    pub private_bytes: u64,
    /// Whether a workspace comes along: its mount is the first descriptor of this frame.
    pub has_workspace: bool,
    /// Whether a standard input comes along, as the next descriptor. Without one the guest's is empty.
    pub has_stdin: bool,
    /// Files of ours that the guest needs, in a memory file system that it cannot write to.
    pub files: Vec<File>,
}

/// A file that a slot writes before its guest starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Absolute path inside the sandbox; its directory exists.
    pub path: String,
    /// What it holds.
    pub text: String,
}

/// Resource limits, soft and hard alike (setrlimit(2)). `None` leaves one as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
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

/// What a slot reports, in the form that the init of a cold run uses as well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// The walls stand and the guest waits for its job.
    Started(Option<Inspection>),
    /// A wall could not be built. No guest code has run.
    Failed(String),
    /// The guest's first process has ended, and every other process of the guest is dead and reaped.
    Ended(Ended),
}

/// How a guest ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
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
pub enum Exit {
    /// With this exit code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// What a guest sees of its walls before it waits for its job, in the kernel's words. The daemon judges.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inspection {
    /// `/proc/self/status`
    pub status: String,
    /// `/proc/self/uid_map`
    pub uid_map: String,
    /// `/proc/self/mounts`
    pub mounts: String,
    /// Names of the network interfaces.
    pub interfaces: Vec<String>,
    /// Process ids in `/proc`, without its own.
    pub processes: Vec<u32>,
    /// Which namespaces this is in, by kind: what the links in `/proc/self/ns` say.
    pub namespaces: BTreeMap<String, String>,
    /// `/proc/self/limits`
    pub limits: String,
    /// Whether the guest may not look into its init.
    pub opaque: bool,
    /// What the kernel said to another user namespace; `None`: it made one.
    pub user_namespace_refused: Option<String>,
}

/// One instruction of a filter (`struct sock_filter`, `linux/filter.h`) as a number.
pub fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> u64 {
    u64::from(code) << 48 | u64::from(jt) << 40 | u64::from(jf) << 32 | u64::from(k)
}

/// The fields of a number that [`instruction`] made: code, jt, jf, k.
pub fn fields(instruction: u64) -> (u16, u8, u8, u32) {
    let [a, b, jt, jf, k @ ..] = instruction.to_be_bytes();
    (u16::from_be_bytes([a, b]), jt, jf, u32::from_be_bytes(k))
}

/// Encodes one frame.
pub fn encode(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, message)?;
    let length = u32::try_from(frame.len() - 4)
        .ok()
        .filter(|length| *length as usize <= MAX_FRAME)
        .ok_or_else(|| io::Error::other("control message too long"))?;
    frame[..4].copy_from_slice(&length.to_le_bytes());
    Ok(frame)
}

/// The length that the first four bytes of a frame announce, if it is one that can be.
pub fn announced(header: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_le_bytes(header) as usize;
    if length > MAX_FRAME {
        return Err(io::Error::other("control message too long"));
    }
    Ok(length)
}

/// Decodes what follows the first four bytes of a frame.
pub fn decode<T: DeserializeOwned>(payload: &[u8]) -> io::Result<T> {
    Ok(serde_json::from_slice(payload)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_what_it_was() {
        let job = JobSpec {
            private_bytes: 7,
            files: vec![File {
                path: "/run/sandbox/main.sh".into(),
                text: "echo 'ü'\n".into(),
            }],
            ..JobSpec::default()
        };
        let frame = encode(&job).unwrap();
        let (header, payload) = frame.split_first_chunk().unwrap();
        assert_eq!(announced(*header).unwrap(), payload.len());
        assert_eq!(decode::<JobSpec>(payload).unwrap(), job);
    }

    #[test]
    fn a_request_is_its_byte_and_no_other() {
        for fork in [Fork::Ahead, Fork::Awaited, Fork::Shown] {
            assert_eq!(Fork::of(fork.byte()), Some(fork));
        }
        assert_eq!(Fork::of(STOP), None);
    }

    #[test]
    fn a_length_beyond_the_cap_is_refused() {
        let cap = u32::try_from(MAX_FRAME).unwrap();
        assert_eq!(announced(cap.to_le_bytes()).unwrap(), MAX_FRAME);
        assert!(announced((cap + 1).to_le_bytes()).is_err());
    }

    #[test]
    fn instructions_survive_the_way() {
        let all = (0x1234, 0x56, 0x78, 0x9abc_def0);
        assert_eq!(fields(instruction(all.0, all.1, all.2, all.3)), all);
    }
}
