//! The directory of one run: home, temporary files, script, standard input. Made before it, removed after it.
//!
//! ```text
//! AREA/          nobody else's; the guest's user may pass through
//!   main.sh      a shell guest's script: the guest reads it
//!   private/     all that the guest may write to besides its workspace
//!     home/      HOME
//!     tmp/       TMPDIR
//!   workspace/   the workspace of a run that has none
//! ```

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Write},
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::{
    fs::{Gid, Uid},
    io::Errno,
    process::Pid,
};

/// Removes a tree of any depth without going through links (`rm -rf`): the standard library's way takes a stack frame and
/// a descriptor for each level, and a guest makes as many levels as it likes.
const REMOVE: &str = "/bin/rm";
/// Gives directories back the permissions that a guest took away.
const CHANGE_MODE: &str = "/bin/chmod";

/// What the names of our directories begin with, before the number of the process that made them. Not what temporary
/// workspaces begin with: whoever removes abandoned ones goes by the name.
const PREFIX: &str = "sandbox-runs-";

/// The directory of one run. Removed on drop, which blocks.
#[derive(Debug)]
pub(super) struct Area {
    path: PathBuf,
    /// Who the guest is on the host, where that is not the daemon.
    owner: Option<(u32, u32)>,
}

impl Area {
    /// Makes a directory for areas, which nobody has made before, below the system's place for temporary files.
    pub(super) fn root(guests_apart: bool) -> io::Result<Self> {
        let place = if guests_apart {
            // The daemon's own place for temporary files may be closed to everybody else.
            PathBuf::from("/var/tmp")
        } else {
            std::env::temp_dir()
        };
        Self::root_in(&place.canonicalize()?, guests_apart)
    }

    fn root_in(place: &Path, guests_apart: bool) -> io::Result<Self> {
        remove_abandoned(place);
        let own = std::process::id();
        for attempt in 0..1000 {
            let path = place.join(format!("{PREFIX}{own}-{attempt}"));
            match directory(&path, passable(guests_apart)) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => return made.map(|()| Self { path, owner: None }),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Makes the directory of one run for a guest that is this user.
    pub(super) fn new(root: &Self, number: u64, owner: Option<(u32, u32)>) -> io::Result<Self> {
        let area = Self {
            path: root.path.join(number.to_string()),
            owner,
        };
        directory(&area.path, passable(owner.is_some()))?;
        for path in [area.private(), area.home(), area.tmp(), area.workspace()] {
            directory(&path, 0o700)?;
            give(&path, owner)?;
        }
        Ok(area)
    }

    pub(super) const fn owner(&self) -> Option<(u32, u32)> {
        self.owner
    }

    pub(super) fn private(&self) -> PathBuf {
        self.path.join("private")
    }

    pub(super) fn home(&self) -> PathBuf {
        self.path.join("private/home")
    }

    pub(super) fn tmp(&self) -> PathBuf {
        self.path.join("private/tmp")
    }

    pub(super) fn workspace(&self) -> PathBuf {
        self.path.join("workspace")
    }

    pub(super) fn script(&self) -> PathBuf {
        self.path.join("main.sh")
    }

    /// A read-only descriptor with this text, in a file without a name: a pipe would block us on a guest that does not
    /// read, and need a task to feed it.
    pub(super) fn standard_input(&self, text: &str) -> io::Result<OwnedFd> {
        if text.is_empty() {
            return Ok(File::open("/dev/null")?.into());
        }
        let path = self.path.join("stdin");
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        file.write_all(text.as_bytes())?;
        let readable = File::open(&path)?;
        fs::remove_file(&path)?;
        Ok(readable.into())
    }

    /// Removes it with everything in it. Blocks as long as that takes.
    fn remove(&self) -> io::Result<()> {
        if run(REMOVE, "-rf", &self.path)? {
            return Ok(());
        }
        run(CHANGE_MODE, "-R", &self.path)?;
        if run(REMOVE, "-rf", &self.path)? {
            return Ok(());
        }
        Err(io::Error::other("rm failed"))
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            tracing::warn!(%error, area = %self.path.display(), "files of a run stay behind");
        }
    }
}

/// Removes what daemons of ours have left behind that were killed.
fn remove_abandoned(place: &Path) {
    let Ok(entries) = fs::read_dir(place) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let maker = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok())
            .and_then(Pid::from_raw);
        let Some(maker) = maker else { continue };
        // Of another user's processes and directories, of links and files, we know nothing.
        let ours = entry.metadata().is_ok_and(|metadata| {
            metadata.is_dir() && metadata.uid() == rustix::process::geteuid().as_raw()
        });
        if ours && rustix::process::test_kill_process(maker) == Err(Errno::SRCH) {
            drop(Area {
                path: entry.path(),
                owner: None,
            });
        }
    }
}

/// Writes a file that every guest may read and none may write.
pub(super) fn write_readable(path: impl AsRef<Path>, text: &str) -> io::Result<()> {
    fs::write(&path, text)?;
    fs::set_permissions(&path, Permissions::from_mode(0o644))
}

/// Runs a tool of the system's on a directory of ours, and returns whether it did what it should.
fn run(tool: &str, option: &str, path: &Path) -> io::Result<bool> {
    let mut command = Command::new(tool);
    command.arg(option);
    if tool == CHANGE_MODE {
        command.arg("u+rwx");
    }
    // Absolute, so it is no option.
    let status = command
        .arg(path)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    Ok(status.success())
}

/// Guests that are another user have to pass through, and nobody may list it.
const fn passable(guests_apart: bool) -> u32 {
    if guests_apart { 0o711 } else { 0o700 }
}

/// Makes a directory with exactly these permissions. Fails where something is there already, a link too.
fn directory(path: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)?;
    // Apart, because the umask takes away from what mkdir is asked for.
    fs::set_permissions(path, Permissions::from_mode(mode))
}

fn give(path: &Path, owner: Option<(u32, u32)>) -> Result<(), Errno> {
    match owner {
        None => Ok(()),
        Some((user, group)) => {
            let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
            rustix::fs::chown(path, Some(user), Some(group))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn an_area_is_private_and_leaves_nothing_behind() {
        // Nobody else makes directories here, who might take the name of one that is gone.
        let place = tempfile::tempdir().unwrap();
        let root = Area::root_in(place.path(), false).unwrap();
        let area = Area::new(&root, 7, None).unwrap();
        let path = area.path.clone();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        for path in [&path, &area.home(), &area.tmp(), &area.workspace()] {
            assert_eq!(mode(path), 0o700, "{}", path.display());
        }
        // What a guest may leave: a link out, a directory closed to everybody.
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("kept"), "x").unwrap();
        std::os::unix::fs::symlink(outside.path(), area.tmp().join("link")).unwrap();
        fs::create_dir_all(area.tmp().join("shut/inner")).unwrap();
        fs::set_permissions(area.tmp().join("shut"), Permissions::from_mode(0o000)).unwrap();
        drop(area);
        assert!(!path.exists());
        assert!(outside.path().join("kept").exists());

        let path = root.path.clone();
        drop(root);
        assert!(!path.exists());
    }

    #[test]
    fn what_a_dead_daemon_has_left_is_removed_and_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        let mut ended = Command::new("/bin/cat")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let dead = ended.id();
        ended.wait().unwrap();
        let living = std::process::id();
        let directories = [
            (format!("{PREFIX}{dead}-0"), false),
            (format!("{PREFIX}{living}-0"), true),
            (format!("{PREFIX}x-0"), true),
            (format!("other-{dead}-0"), true),
        ];
        for (name, _) in &directories {
            fs::create_dir_all(place.path().join(name).join("inner")).unwrap();
        }
        remove_abandoned(place.path());
        for (name, stays) in &directories {
            assert_eq!(place.path().join(name).exists(), *stays, "{name}");
        }
    }

    #[test]
    fn two_roots_are_two_directories() {
        let (one, other) = (Area::root(false).unwrap(), Area::root(true).unwrap());
        assert_ne!(one.path, other.path);
        let mode = fs::metadata(&other.path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o711);
    }

    #[test]
    fn standard_input_is_read_from_its_start_and_never_written() {
        let root = Area::root(false).unwrap();
        let area = Area::new(&root, 1, None).unwrap();
        let mut stdin = File::from(area.standard_input("hello\n").unwrap());
        let mut text = String::new();
        stdin.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello\n");
        assert!(stdin.write_all(b"x").is_err());
        assert!(!area.path.join("stdin").exists());

        let mut empty = File::from(area.standard_input("").unwrap());
        assert_eq!(empty.read_to_string(&mut text).unwrap(), 0);
    }
}
