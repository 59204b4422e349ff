//! Removing a tree that a guest made: as deep as it likes, without permissions, full of links.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{AtFlags, Mode, fchmod, renameat, unlinkat},
    io::{Errno, Result},
};

use crate::{beneath, names};

/// How often the tree is gone through. Reading a directory while it is changed may miss entries (readdir(3)), so one
/// time may not be enough; somebody who keeps adding files must not keep us here for ever.
const PASSES: usize = 8;

/// Removes the directory `name` in `parent` with everything below it. Links are removed, never followed.
///
/// Directories are not descended into: each one's subdirectories are moved up to the top and emptied there in turn. So
/// neither the stack nor open descriptors nor the length of a path grow with the depth of the tree.
pub(crate) fn remove_tree(parent: impl AsFd, name: &Path) -> Result<()> {
    let parent = parent.as_fd();
    let top = open_to_empty(parent, name)?;
    let mut moved = Moved::new();
    for _ in 0..PASSES {
        for entry in beneath::entries(top.as_fd())? {
            remove_entry(top.as_fd(), beneath::as_path(&entry?), &mut moved)?;
        }
        while let Some(name) = moved.next_to_empty() {
            remove_entry(top.as_fd(), Path::new(&name), &mut moved)?;
        }
        match unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            decided => return decided,
        }
    }
    Err(Errno::NOTEMPTY)
}

/// Opens a directory whose entries are to be removed.
fn open_to_empty(parent: BorrowedFd<'_>, name: &Path) -> Result<OwnedFd> {
    let directory = beneath::open_own_directory(parent, name)?;
    // It could be listed, yet its owner may have given up the right to change it. Where this fails, so will the removal,
    // and it says why.
    let _ = fchmod(&directory, Mode::RWXU);
    Ok(directory)
}

/// Removes one entry of the top directory. Of a directory, what is in it; itself only if nothing was missed.
fn remove_entry(top: BorrowedFd<'_>, name: &Path, moved: &mut Moved) -> Result<()> {
    if unlink(top, name)? {
        return Ok(());
    }
    let directory = match open_to_empty(top, name) {
        // Moved names are numbered; not every number became a name.
        Err(Errno::NOENT) => return Ok(()),
        opened => opened?,
    };
    for entry in beneath::entries(directory.as_fd())? {
        let entry = entry?;
        let child = beneath::as_path(&entry);
        if !unlink(directory.as_fd(), child)? {
            moved.take_up(directory.as_fd(), child, top)?;
        }
    }
    unlink(top, name).map(|_| ())
}

/// Removes a name, unless it is a directory with something in it: then the answer is `false`.
fn unlink(directory: BorrowedFd<'_>, name: &Path) -> Result<bool> {
    match unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        // POSIX answers EPERM for a directory, Linux EISDIR.
        Err(Errno::ISDIR | Errno::PERM) => match unlinkat(directory, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(true),
            Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
            Err(other) => Err(other),
        },
        Err(other) => Err(other),
    }
}

/// Directories that were moved to the top and are yet to be emptied: a range of numbers, whatever their count.
struct Moved {
    /// What no name of the guest's begins with, except by a guess that costs us a number.
    prefix: String,
    next: u64,
    emptied: u64,
}

impl Moved {
    fn new() -> Self {
        Self {
            prefix: names::random_name(".removed"),
            next: 0,
            emptied: 0,
        }
    }

    fn name(&self, number: u64) -> String {
        format!("{}-{number}", self.prefix)
    }

    fn next_to_empty(&mut self) -> Option<String> {
        (self.emptied < self.next).then(|| {
            let name = self.name(self.emptied);
            self.emptied += 1;
            name
        })
    }

    /// Moves a directory to the top.
    fn take_up(&mut self, from: BorrowedFd<'_>, name: &Path, top: BorrowedFd<'_>) -> Result<()> {
        let mut permissions_restored = false;
        loop {
            let new_name = self.name(self.next);
            match renameat(from, name, top, new_name.as_str()) {
                // A directory that changes its parent must be writable itself (rename(2)).
                Err(Errno::ACCESS) if !permissions_restored => {
                    beneath::restore_permissions(from, name)?;
                    permissions_restored = true;
                }
                Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => self.next += 1,
                Ok(()) => {
                    self.next += 1;
                    return Ok(());
                }
                Err(other) => return Err(other),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{PermissionsExt, symlink},
    };

    use rustix::fs::mkdirat;

    use super::*;

    fn remove(place: &Path, name: &str) -> Result<()> {
        remove_tree(fs::File::open(place).unwrap(), Path::new(name))
    }

    #[test]
    fn links_are_removed_and_not_followed() {
        let place = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("kept"), "k").unwrap();
        fs::create_dir_all(place.path().join("top/a/b")).unwrap();
        for link in ["top/out", "top/a/out", "top/a/b/out"] {
            symlink(outside.path(), place.path().join(link)).unwrap();
        }
        symlink(outside.path(), place.path().join("link")).unwrap();

        remove(place.path(), "top").unwrap();
        assert!(remove(place.path(), "link").is_err());

        assert!(!place.path().join("top").exists());
        assert!(outside.path().join("kept").exists());
    }

    #[test]
    fn a_tree_deeper_than_any_path_is_removed() {
        let place = tempfile::tempdir().unwrap();
        let mut directory = OwnedFd::from(fs::File::open(place.path()).unwrap());
        // 1000 levels of 200 bytes: 50 times what a path may be long.
        let name = "d".repeat(200);
        for _ in 0..1000 {
            mkdirat(&directory, name.as_str(), Mode::RWXU).unwrap();
            directory = beneath::open_directory(&directory, Path::new(&name)).unwrap();
        }
        remove(place.path(), &name).unwrap();
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    }

    #[test]
    fn directories_without_permissions_are_removed() {
        let place = tempfile::tempdir().unwrap();
        let deepest = place.path().join("top/a/b/c");
        fs::create_dir_all(&deepest).unwrap();
        fs::write(deepest.join("file"), "f").unwrap();
        for (directory, mode) in deepest.ancestors().zip([0o000, 0o400, 0o100, 0o500]) {
            fs::set_permissions(directory, fs::Permissions::from_mode(mode)).unwrap();
        }
        remove(place.path(), "top").unwrap();
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    }

    #[test]
    fn every_entry_of_a_wide_tree_is_removed() {
        let place = tempfile::tempdir().unwrap();
        for outer in 0..40 {
            let directory = place.path().join(format!("top/{outer}/inner"));
            fs::create_dir_all(&directory).unwrap();
            for file in 0..40 {
                fs::write(directory.join(format!("f{file}")), "").unwrap();
            }
        }
        remove(place.path(), "top").unwrap();
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_name_that_was_guessed_is_only_skipped() {
        let place = tempfile::tempdir().unwrap();
        let top = place.path().join("top");
        fs::create_dir_all(top.join("from/child/x")).unwrap();
        let mut moved = Moved::new();
        fs::create_dir_all(top.join(moved.name(0)).join("full")).unwrap();
        fs::write(top.join(moved.name(1)), "file").unwrap();

        let from = fs::File::open(top.join("from")).unwrap();
        let to = fs::File::open(&top).unwrap();
        moved
            .take_up(from.as_fd(), Path::new("child"), to.as_fd())
            .unwrap();
        assert!(top.join(moved.name(2)).join("x").exists());
    }
}
