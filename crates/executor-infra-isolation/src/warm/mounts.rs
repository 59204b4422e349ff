//! Directories as mounts without a place (`open_tree(2)`): how a session's workspace reaches a slot that was built without it.
//!
//! A descriptor, not a path: the slot sees nothing of the host but this one directory, and nothing that a guest planted can
//! lead the mount elsewhere.

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::mount::OpenTreeFlags;
use tokio::{io::AsyncWriteExt, net::UnixStream, sync::Mutex};

use crate::{
    bwrap::{engine::Engine, process::BwrapProcesses},
    stage::{self, wire},
    supervisor::{SuperviseError, socket::receive_with},
};

/// A directory as a mount of its own, without what is mounted below it.
pub(crate) fn detached(path: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    Ok(rustix::mount::open_tree(rustix::fs::CWD, path, flags)?)
}

/// Makes such mounts.
pub(crate) enum Mounts {
    /// The daemon may itself.
    Ours,
    /// It may not, and has a helper that is root of a namespace where it may.
    Helper(Mutex<Helper>),
}

/// The mounter (`stage/mounter.rs`), as the daemon holds it.
pub(crate) struct Helper {
    _processes: BwrapProcesses,
    control: UnixStream,
}

impl std::fmt::Debug for Mounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ours => "Ours",
            Self::Helper(_) => "Helper",
        })
    }
}

impl Mounts {
    /// Finds out which way works here, by trying.
    pub(crate) async fn start(engine: &Engine) -> Result<Self, SuperviseError> {
        if detached(Path::new("/usr")).is_ok() {
            return Ok(Self::Ours);
        }
        let (processes, control) = engine.start_helper(stage::MOUNTER).await?;
        let mounts = Self::Helper(Mutex::new(Helper {
            _processes: processes,
            control,
        }));
        let tried = mounts.open(Path::new("/usr")).await;
        tried.map_err(|source| SuperviseError::System {
            step: "make a mount for a slot",
            source,
        })?;
        Ok(mounts)
    }

    /// The directory as a mount. Must be polled to its end.
    pub(crate) async fn open(&self, path: &Path) -> io::Result<OwnedFd> {
        let helper = match self {
            Self::Ours => return detached(path),
            Self::Helper(helper) => helper,
        };
        let mut helper = helper.lock().await;
        let request = wire::encode(&PathBuf::from(path))?;
        helper.control.write_all(&request).await?;
        let mut number = [0; 4];
        let mount = receive_with(&helper.control, &mut number).await?;
        match (i32::from_le_bytes(number), mount) {
            (0, Some(mount)) => Ok(mount),
            (0, None) => Err(io::Error::other("the mounter sent nothing")),
            (number, _) => Err(io::Error::from_raw_os_error(number)),
        }
    }
}
