//! Opening what guests may have planted, without leaving the directory that we started from.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Component, Path},
};

use rustix::{
    fs::{Dir, Mode, OFlags, openat},
    io::{Errno, Result},
};

/// Always asked for: no descriptor for a child process to inherit, no link as the last part of the path.
const ALWAYS: OFlags = OFlags::CLOEXEC.union(OFlags::NOFOLLOW);

/// Opens `path`, relative to `directory`, without following a link in any part of it. A path that leaves it
/// (absolute, or by `..`) is refused. `path` may be empty: the directory itself.
pub(crate) fn open(directory: impl AsFd, path: &Path, flags: OFlags) -> Result<OwnedFd> {
    let directory = directory.as_fd();
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    #[cfg(target_os = "linux")]
    match open_at_once(directory, path, flags) {
        // Linux before 5.6 does not know openat2; seccomp profiles of containers that do not know it answer EPERM.
        Err(Errno::NOSYS | Errno::PERM) => {}
        decided => return decided,
    }
    open_by_part(directory, path, flags)
}

/// The kernel walks the path (openat2(2)).
#[cfg(target_os = "linux")]
fn open_at_once(directory: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd> {
    use rustix::fs::ResolveFlags;

    rustix::fs::openat2(
        directory,
        path,
        flags | ALWAYS,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
    )
}

/// The same walk by hand, for kernels without openat2: each part is opened from its parent's descriptor.
fn open_by_part(directory: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd> {
    let mut reached: Option<OwnedFd> = None;
    let mut parts = path.components().peekable();
    while let Some(part) = parts.next() {
        let name = match part {
            Component::Normal(name) => name,
            Component::CurDir => ".".as_ref(),
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                return Err(Errno::XDEV);
            }
        };
        let how = if parts.peek().is_some() {
            OFlags::RDONLY | OFlags::DIRECTORY
        } else {
            flags
        };
        let parent = reached.as_ref().map_or(directory, AsFd::as_fd);
        reached = Some(openat(parent, name, how | ALWAYS, Mode::empty())?);
    }
    reached.ok_or(Errno::NOENT)
}

/// Opens a directory for reading its entries.
pub(crate) fn open_directory(parent: impl AsFd, path: &Path) -> Result<OwnedFd> {
    open(parent, path, OFlags::RDONLY | OFlags::DIRECTORY)
}

/// Opens a directory right below `parent`, also one whose permissions a guest took away.
///
/// The daemon needs this where it runs as the guest's own user; root and its capabilities never notice.
pub(crate) fn open_own_directory(parent: impl AsFd, name: &Path) -> Result<OwnedFd> {
    let parent = parent.as_fd();
    match open_directory(parent, name) {
        Err(Errno::ACCESS) => {
            restore_permissions(parent, name)?;
            open_directory(parent, name)
        }
        decided => decided,
    }
}

/// Gives the owner of a directory all permissions on it. A link in its place is not followed.
pub(crate) fn restore_permissions(parent: BorrowedFd<'_>, name: &Path) -> Result<()> {
    #[cfg(target_os = "linux")]
    {
        use std::os::fd::AsRawFd;

        let directory = open(parent, name, OFlags::PATH | OFlags::DIRECTORY)?;
        // A directory without permissions opens as O_PATH only, which fchmod refuses and fchmodat without following
        // links needs Linux 6.6 for; the descriptor's own name in /proc (open(2), "O_PATH") works everywhere.
        rustix::fs::chmod(
            format!("/proc/self/fd/{}", directory.as_raw_fd()),
            Mode::RWXU,
        )
    }
    #[cfg(not(target_os = "linux"))]
    rustix::fs::chmodat(
        parent,
        name,
        Mode::RWXU,
        rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
    )
}

/// The entries of an open directory, without `.` and `..`. Reading starts at the beginning and leaves the position of
/// `directory` alone.
pub(crate) fn entries(
    directory: BorrowedFd<'_>,
) -> Result<impl Iterator<Item = Result<Entry>> + use<>> {
    Ok(Dir::read_from(directory)?.filter(|entry| {
        !entry
            .as_ref()
            .is_ok_and(|entry| matches!(entry.file_name().to_bytes(), b"." | b".."))
    }))
}

/// What a directory says about one name in it.
pub(crate) use rustix::fs::DirEntry as Entry;

/// The name of an entry, for a system call.
pub(crate) fn as_path(entry: &Entry) -> &Path {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};

    Path::new(OsStr::from_bytes(entry.file_name().to_bytes()))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    type Opener = fn(BorrowedFd<'_>, &Path, OFlags) -> Result<OwnedFd>;

    fn each_way() -> Vec<(&'static str, Opener)> {
        vec![
            ("as chosen", |directory, path, flags| {
                open(directory, path, flags)
            }),
            ("by part", open_by_part),
        ]
    }

    #[test]
    fn plain_paths_open_and_nothing_else_does() {
        let place = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), "s").unwrap();
        fs::create_dir_all(place.path().join("a/b")).unwrap();
        fs::write(place.path().join("a/b/file"), "f").unwrap();
        symlink(outside.path(), place.path().join("a/out")).unwrap();
        symlink("file", place.path().join("a/b/link")).unwrap();
        symlink("b", place.path().join("a/inside")).unwrap();
        let root = fs::File::open(place.path()).unwrap();

        for (way, opener) in each_way() {
            for good in ["a/b/file", "a", "a/b/."] {
                let opened = opener(root.as_fd(), Path::new(good), OFlags::RDONLY);
                assert!(opened.is_ok(), "{way}: {good}: {opened:?}");
            }
            let absolute = outside.path().join("secret");
            for bad in [
                "a/out",
                "a/out/secret",
                "a/b/link",
                "a/inside/file",
                "../x",
                "/",
                "/proc/self/root",
                absolute.to_str().unwrap(),
            ] {
                let opened = opener(root.as_fd(), Path::new(bad), OFlags::RDONLY);
                assert!(opened.is_err(), "{way}: {bad}");
            }
        }
    }

    #[test]
    fn permissions_come_back_to_a_directory_and_not_through_a_link() {
        use std::os::unix::fs::PermissionsExt;

        let place = tempfile::tempdir().unwrap();
        let mode = |name: &str| {
            fs::metadata(place.path().join(name))
                .unwrap()
                .permissions()
                .mode()
                & 0o7777
        };
        for name in ["shut", "victim"] {
            fs::create_dir(place.path().join(name)).unwrap();
            let nobody = fs::Permissions::from_mode(0o000);
            fs::set_permissions(place.path().join(name), nobody).unwrap();
        }
        symlink("victim", place.path().join("link")).unwrap();
        let root = fs::File::open(place.path()).unwrap();

        assert!(open_own_directory(&root, Path::new("shut")).is_ok());
        restore_permissions(root.as_fd(), Path::new("shut")).unwrap();
        assert_eq!(mode("shut"), 0o700);
        assert!(restore_permissions(root.as_fd(), Path::new("link")).is_err());
        assert_eq!(mode("victim"), 0);
    }
}
