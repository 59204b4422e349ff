//! What a run left behind is reported exactly, whatever a hostile guest has left there too.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail like tests"
)]

mod support;

use std::{
    fs::{self, File, FileTimes, Permissions},
    io::Write,
    os::unix::{
        fs::{PermissionsExt, symlink},
        net::UnixListener,
    },
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, SystemTime},
};

use executor_application::Workspace;
use executor_domain::{Artifact, ArtifactKind, Artifacts};
use executor_infra_workspace::ScanLimits;
use support::{Place, is_root, swap};

/// `printf hello | sha256sum`
const HELLO: &str = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
/// `printf secret | sha256sum`
const SECRET: &str = "sha256:2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

/// Scans, and fails where a scan hangs.
async fn scan(run: &dyn Workspace) -> Artifacts {
    tokio::time::timeout(Duration::from_secs(60), run.changes())
        .await
        .expect("a scan ends")
        .unwrap()
}

/// The content of an artifact; `None` where it cannot be had.
async fn content(run: &dyn Workspace, artifact: &Artifact) -> Option<String> {
    let mut content = run.read(artifact).await.ok()?;
    let mut bytes = Vec::new();
    while let Some(chunk) = content.next().await.ok()? {
        bytes.extend(chunk);
    }
    Some(String::from_utf8(bytes).unwrap())
}

fn paths(found: &Artifacts) -> Vec<&str> {
    found.files.iter().map(|file| file.path.as_str()).collect()
}

/// The one line about a path, or none.
fn line_about<'a>(found: &'a Artifacts, path: &str) -> Option<&'a str> {
    let prefix = format!("{path}: ");
    let mut lines = found.skipped.iter().filter_map(|l| l.strip_prefix(&prefix));
    let line = lines.next();
    assert_eq!(lines.next(), None, "two lines about {path}");
    line
}

#[tokio::test]
async fn a_file_is_reported_with_all_that_is_known_of_it() {
    let place = Place::new();
    let run = place.run().await;
    fs::create_dir_all(run.path().join("output/deep")).unwrap();
    fs::write(run.path().join("output/deep/a.csv"), "hello").unwrap();
    fs::write(run.path().join("run.log"), "").unwrap();

    let found = scan(&*run).await;

    assert_eq!(paths(&found), ["output/deep/a.csv", "run.log"]);
    assert_eq!(found.skipped, [""; 0]);
    let [csv, log] = &found.files[..] else {
        panic!("{found:?}");
    };
    assert_eq!((csv.size, csv.checksum.as_str()), (5, HELLO));
    assert_eq!(csv.mime_type, "text/csv");
    assert_eq!(csv.kind(), ArtifactKind::Output);
    let modified = fs::metadata(run.path().join("output/deep/a.csv"))
        .unwrap()
        .modified()
        .unwrap()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    assert_eq!(
        u128::try_from(csv.created_at.unix_micros()).unwrap(),
        modified.as_micros()
    );
    assert_eq!((log.size, log.kind()), (0, ArtifactKind::Log));
    assert!(log.checksum.starts_with("sha256:e3b0c44298fc1c14"));
}

#[tokio::test]
async fn only_what_this_run_changed_is_reported() {
    let place = Place::new();
    let first = place.run().await;
    for name in ["kept", "overwritten", "disguised", "removed", "renamed"] {
        fs::write(first.path().join(name), "12345").unwrap();
    }
    assert_eq!(scan(&*first).await.files.len(), 5);
    place.well_after();

    let second = place.run().await;
    let at = |name: &str| second.path().join(name);
    fs::write(at("overwritten"), "hello").unwrap();
    // Same size, and a time stamp from before: what a guest would do to hide a change.
    let mut file = File::options().write(true).open(at("disguised")).unwrap();
    file.write_all(b"hello").unwrap();
    file.set_times(FileTimes::new().set_modified(SystemTime::UNIX_EPOCH))
        .unwrap();
    fs::remove_file(at("removed")).unwrap();
    fs::rename(at("renamed"), at("new-name")).unwrap();
    fs::read(at("kept")).unwrap();

    let found = scan(&*second).await;
    assert_eq!(paths(&found), ["disguised", "new-name", "overwritten"]);
    assert_eq!(found.files[0].checksum, HELLO);
    assert_eq!(found.files[0].created_at.unix_micros(), 0);
    assert_eq!(found.skipped, [""; 0]);

    place.well_after();
    assert_eq!(scan(&*place.run().await).await, Artifacts::default());
}

#[tokio::test]
async fn one_changed_file_is_found_among_ten_thousand() {
    let place = Place::new();
    let run = place.run().await;
    for directory in 0..100 {
        let directory = run.path().join(format!("d{directory}"));
        fs::create_dir(&directory).unwrap();
        for file in 0..100 {
            fs::write(directory.join(format!("f{file}")), "x").unwrap();
        }
    }
    place.well_after();
    let run = place.run().await;
    assert_eq!(scan(&*run).await, Artifacts::default());
    fs::write(run.path().join("d57/f42"), "hello").unwrap();
    let found = scan(&*run).await;
    assert_eq!(paths(&found), ["d57/f42"]);
    assert_eq!(found.files[0].checksum, HELLO);
}

#[tokio::test]
async fn no_change_is_overlooked_at_a_glance() {
    let place = Place::new();
    let run = place.run().await;
    fs::create_dir(run.path().join("directory")).unwrap();
    let mut names: Vec<String> = (10..30).map(|number| format!("f{number}")).collect();
    names.insert(0, "directory/inside".to_owned());
    // From one entry, a directory, to more than are looked at without a walk.
    for (count, name) in names.iter().enumerate() {
        fs::write(run.path().join(name), "12345").unwrap();
        place.well_after();
        let run = place.run().await;
        assert_eq!(scan(&*run).await, Artifacts::default());
        for changed in [0, count / 2, count] {
            place.well_after();
            let run = place.run().await;
            fs::write(run.path().join(&names[changed]), "hello").unwrap();
            let found = scan(&*run).await;
            assert_eq!(paths(&found), [&names[changed]], "{found:?}");
        }
    }
}

#[tokio::test]
async fn hidden_and_temporary_files_are_nobodys_business() {
    let place = Place::new();
    let run = place.run().await;
    for directory in [".cache", "__pycache__", "sub/.git", "sub/old.tmp"] {
        fs::create_dir_all(run.path().join(directory)).unwrap();
        fs::write(run.path().join(directory).join("inside"), "x").unwrap();
    }
    for name in [".hidden", "m.pyc", "a.tmp", "a~", "sub/.x", "sub/shown"] {
        fs::write(run.path().join(name), "x").unwrap();
    }
    let found = scan(&*run).await;
    assert_eq!(paths(&found), ["sub/shown"]);
    assert_eq!(found.skipped, [""; 0]);
}

#[tokio::test]
async fn links_are_named_and_not_followed() {
    let place = Place::new();
    fs::create_dir(place.outside().join("dir")).unwrap();
    fs::write(place.outside().join("dir/secret"), "secret").unwrap();
    let run = place.run().await;
    symlink(place.outside().join("dir/secret"), run.path().join("file")).unwrap();
    symlink(place.outside().join("dir"), run.path().join("directory")).unwrap();
    symlink("/nonexistent", run.path().join("dangling")).unwrap();
    symlink(".", run.path().join("loop")).unwrap();
    fs::write(run.path().join("plain"), "hello").unwrap();

    let found = scan(&*run).await;
    assert_eq!(paths(&found), ["plain"]);
    for link in ["file", "directory", "dangling", "loop"] {
        let line = line_about(&found, link);
        assert_eq!(line, Some("a symbolic link, not followed"), "{link}");
    }
    assert_eq!(found.skipped.len(), 4);
}

#[tokio::test]
async fn a_hard_link_is_reported_only_if_all_its_names_are_inside() {
    let place = Place::new();
    fs::write(place.outside().join("secret"), "secret").unwrap();
    let run = place.run().await;
    fs::hard_link(place.outside().join("secret"), run.path().join("stolen")).unwrap();
    fs::create_dir(run.path().join("sub")).unwrap();
    fs::write(run.path().join("one"), "hello").unwrap();
    fs::hard_link(run.path().join("one"), run.path().join("sub/two")).unwrap();

    let found = scan(&*run).await;
    assert_eq!(paths(&found), ["one", "sub/two"]);
    assert!(found.files.iter().all(|file| file.checksum == HELLO));
    assert!(line_about(&found, "stolen").unwrap().contains("hard link"));
}

#[tokio::test]
async fn what_is_no_regular_file_is_named_and_not_opened() {
    let place = Place::new();
    let run = place.run().await;
    let made = Command::new("mkfifo").arg(run.path().join("fifo")).status();
    assert!(made.unwrap().success());
    let _socket = UnixListener::bind(run.path().join("socket")).unwrap();
    fs::write(run.path().join("plain"), "hello").unwrap();

    let found = scan(&*run).await;
    assert_eq!(paths(&found), ["plain"]);
    assert_eq!(line_about(&found, "fifo"), Some("a FIFO, not read"));
    assert_eq!(line_about(&found, "socket"), Some("a socket, not read"));
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_device_is_named_and_not_opened() {
    use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

    let place = Place::new();
    let run = place.run().await;
    // /dev/zero: who reads this never ends.
    let made = mknodat(
        CWD,
        run.path().join("zero"),
        FileType::CharacterDevice,
        Mode::RWXU,
        makedev(1, 5),
    );
    // A container's root may lack CAP_MKNOD. Whoever cannot make a device cannot plant one.
    let expected = usize::from(made.is_ok());
    assert!(
        made.is_ok() || made == Err(rustix::io::Errno::PERM),
        "{made:?}"
    );

    let found = scan(&*run).await;
    assert_eq!(paths(&found), [""; 0]);
    assert_eq!(found.skipped, vec!["zero: a device, not read"; expected]);
}

#[tokio::test]
async fn a_sparse_terabyte_is_not_read() {
    let place = Place::new();
    let run = place.run().await;
    let file = File::create(run.path().join("huge")).unwrap();
    file.set_len(1 << 40).unwrap();
    fs::write(run.path().join("plain"), "hello").unwrap();

    let found = scan(&*run).await;
    assert_eq!(paths(&found), ["plain"]);
    assert_eq!(
        line_about(&found, "huge"),
        Some("1099511627776 bytes: files of more than 104857600 are not read")
    );
}

#[tokio::test]
async fn an_artifact_is_read_as_it_was_found_or_not_at_all() {
    let place = Place::new();
    let run = place.run().await;
    let at = |name: &str| run.path().join(name);
    for name in ["grown", "gone", "linked", "same"] {
        fs::write(at(name), "hello").unwrap();
    }
    let found = scan(&*run).await;
    fs::write(at("grown"), "hello, world").unwrap();
    fs::remove_file(at("gone")).unwrap();
    fs::remove_file(at("linked")).unwrap();
    symlink("same", at("linked")).unwrap();
    for file in &found.files {
        let expected = (file.path == "same").then_some("hello");
        let read = content(&*run, file).await;
        assert_eq!(read.as_deref(), expected, "{}", file.path);
    }
    assert_eq!(found.files.len(), 4);
    for path in ["../s/same", "/etc/passwd", ""] {
        let made_up = Artifact {
            path: path.into(),
            ..found.files[0].clone()
        };
        assert!(content(&*run, &made_up).await.is_none(), "{path}");
    }
}

/// Each of them is small enough to be read, and all of it would be zeros that nobody wrote.
#[tokio::test]
async fn what_nobody_wrote_is_not_read_for_long() {
    let place = Place::within(ScanLimits {
        hole_bytes: 64 << 10,
        ..ScanLimits::default()
    });
    let run = place.run().await;
    let make = |name: &str, written: &[u8], size: u64| {
        let mut file = File::create(run.path().join(name)).unwrap();
        file.write_all(written).unwrap();
        file.set_len(size).unwrap();
    };
    make("a-few-holes", b"x", 32 << 10);
    make("b-many-holes", b"x", 128 << 10);
    make("c-a-few-more", b"x", 16 << 10);
    make("d-too-many-in-all", b"", 32 << 10);
    make("e-none", &vec![b'x'; 192 << 10], 192 << 10);
    let found = scan(&*run).await;
    assert_eq!(
        paths(&found),
        ["a-few-holes", "c-a-few-more", "e-none"],
        "{found:?}"
    );
    for name in ["b-many-holes", "d-too-many-in-all"] {
        assert!(
            line_about(&found, name).unwrap().contains("sparse"),
            "{name}"
        );
    }
}

#[tokio::test]
async fn names_are_passed_on_exactly_or_refused() {
    let place = Place::new();
    let run = place.run().await;
    let longest = "é".repeat(127) + "x";
    assert_eq!(longest.len(), 255);
    let good = [
        "back\\slash",
        "quote\"'",
        "with space",
        longest.as_str(),
        "图.png",
    ];
    for name in good {
        fs::write(run.path().join(name), "hello").unwrap();
    }
    for name in ["new\nline", "escape\x1b[2J", "right-to-left\u{202e}gnp.exe"] {
        fs::write(run.path().join(name), "hello").unwrap();
    }
    fs::create_dir(run.path().join("dir\n")).unwrap();
    fs::write(run.path().join("dir\n/inside"), "hello").unwrap();

    let found = scan(&*run).await;
    let mut expected = good.to_vec();
    expected.sort_unstable();
    assert_eq!(paths(&found), expected);
    for shown in [
        r"new\nline",
        r"escape\u{1b}[2J",
        r"right-to-left\u{202e}gnp.exe",
        r"dir\n",
    ] {
        let line = line_about(&found, shown);
        assert_eq!(line, Some("its name has control characters"), "{shown}");
    }
    assert_eq!(found.skipped.len(), 4);
}

// File systems of macOS refuse such names themselves.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_name_that_is_not_text_is_refused() {
    let place = Place::new();
    let run = place.run().await;
    let name = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"a\xff\xfeb");
    fs::write(run.path().join(name), "hello").unwrap();
    let found = scan(&*run).await;
    assert_eq!(paths(&found), [""; 0]);
    assert_eq!(found.skipped, [r"a\xff\xfeb: its name is not UTF-8"]);
}

#[tokio::test]
async fn the_number_of_files_is_bounded() {
    let place = Place::within(ScanLimits {
        files: 3,
        ..ScanLimits::default()
    });
    let run = place.run().await;
    for name in ["c", "a", "b"] {
        fs::write(run.path().join(name), "hello").unwrap();
    }
    let found = scan(&*run).await;
    assert_eq!(paths(&found), ["a", "b", "c"]);
    assert_eq!(found.skipped, [""; 0]);

    fs::write(run.path().join("aa"), "hello").unwrap();
    let found = scan(&*run).await;
    assert_eq!(paths(&found), ["a", "aa", "b"]);
    assert_eq!(
        found.skipped,
        ["1 more files: more than 3 are not reported"]
    );
}

#[tokio::test]
async fn the_bytes_are_bounded() {
    let place = Place::within(ScanLimits {
        file_bytes: 10,
        total_bytes: 12,
        ..ScanLimits::default()
    });
    let run = place.run().await;
    fs::write(run.path().join("a"), [b'x'; 11]).unwrap();
    fs::write(run.path().join("b"), [b'x'; 10]).unwrap();
    fs::write(run.path().join("c"), [b'x'; 3]).unwrap();
    fs::write(run.path().join("d"), [b'x'; 2]).unwrap();
    fs::write(run.path().join("e"), "").unwrap();
    let found = scan(&*run).await;
    assert_eq!(paths(&found), ["b", "d", "e"]);
    assert!(line_about(&found, "a").unwrap().contains("more than 10"));
    assert!(line_about(&found, "c").unwrap().contains("more than 12"));
}

#[tokio::test]
async fn the_depth_is_bounded() {
    let place = Place::within(ScanLimits {
        depth: 2,
        ..ScanLimits::default()
    });
    let run = place.run().await;
    fs::create_dir_all(run.path().join("1/2/3")).unwrap();
    fs::write(run.path().join("1/2/in"), "hello").unwrap();
    fs::write(run.path().join("1/2/3/out"), "hello").unwrap();
    let found = scan(&*run).await;
    assert_eq!(paths(&found), ["1/2/in"]);
    assert_eq!(found.skipped, ["1/2/3: deeper than 2 directories"]);
}

#[tokio::test]
async fn the_entries_are_bounded_hidden_ones_included() {
    let place = Place::within(ScanLimits {
        entries: 20,
        ..ScanLimits::default()
    });
    let run = place.run().await;
    fs::write(run.path().join("file"), "hello").unwrap();
    for name in 1..20 {
        fs::write(run.path().join(format!(".{name}")), "").unwrap();
    }
    let found = scan(&*run).await;
    assert_eq!(paths(&found), ["file"]);
    assert_eq!(found.skipped, [""; 0]);

    fs::write(run.path().join(".20"), "").unwrap();
    let found = scan(&*run).await;
    assert_eq!(
        found.skipped,
        ["the rest of the workspace: more than 20 entries"]
    );
}

#[tokio::test]
async fn the_time_is_bounded() {
    let place = Place::within(ScanLimits {
        time: Duration::ZERO,
        ..ScanLimits::default()
    });
    let run = place.run().await;
    fs::write(run.path().join("file"), "hello").unwrap();
    for name in 0..1_000 {
        fs::write(run.path().join(format!(".{name}")), "").unwrap();
    }
    let found = scan(&*run).await;
    assert_eq!(paths(&found), [""; 0]);
    assert_eq!(
        found.skipped[0],
        "the rest of the workspace: no time left of 0ns"
    );
}

#[tokio::test]
async fn the_list_of_what_was_left_out_is_bounded() {
    let place = Place::new();
    let run = place.run().await;
    for link in 0..100 {
        symlink("x", run.path().join(format!("link{link}"))).unwrap();
    }
    assert_eq!(scan(&*run).await.skipped.len(), 100);
    for link in 100..150 {
        symlink("x", run.path().join(format!("link{link}"))).unwrap();
    }
    let found = scan(&*run).await;
    assert_eq!(found.skipped.len(), 101);
    assert_eq!(found.skipped[100], "and 50 more");
}

#[tokio::test]
async fn what_a_guest_shut_is_reported_or_named_and_fails_nothing() {
    let place = Place::new();
    let run = place.run().await;
    fs::create_dir(run.path().join("dir")).unwrap();
    for name in ["dir/inside", "file", "plain"] {
        fs::write(run.path().join(name), "hello").unwrap();
    }
    for (name, mode) in [("dir", 0o000), ("file", 0o200), ("", 0o000)] {
        let permissions = Permissions::from_mode(mode);
        fs::set_permissions(run.path().join(name), permissions).unwrap();
    }
    let found = scan(&*run).await;
    if is_root() {
        assert_eq!(paths(&found), ["dir/inside", "file", "plain"]);
    } else {
        assert_eq!(paths(&found), ["plain"]);
        assert!(line_about(&found, "dir").unwrap().contains("be opened"));
        assert!(line_about(&found, "file").unwrap().contains("be read"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swapping_files_and_links_during_scans_gives_away_nothing() {
    let place = Place::new();
    let run = place.run().await;
    let outside = place.outside().join("outside");
    fs::create_dir(&outside).unwrap();
    for name in ["file", "inside"] {
        fs::write(outside.join(name), "secret").unwrap();
    }
    fs::create_dir(run.path().join("directory")).unwrap();
    fs::write(run.path().join("directory/inside"), "hello").unwrap();
    let swapping = AtomicBool::new(true);
    let seen = std::thread::scope(|threads| {
        let swapper = threads.spawn(|| {
            for _ in 0..10_000 {
                swap(run.path(), &outside);
            }
            swapping.store(false, Ordering::Release);
        });
        let runtime = tokio::runtime::Handle::current();
        let (mut seen, mut uploaded) = (Vec::new(), 0);
        tokio::task::block_in_place(|| {
            while swapping.load(Ordering::Acquire) {
                let found = runtime.block_on(scan(&*run));
                // What is uploaded goes through the same door.
                for file in &found.files {
                    let content = runtime.block_on(content(&*run, file));
                    assert!(
                        matches!(content.as_deref(), None | Some("hello")),
                        "{content:?}"
                    );
                    uploaded += usize::from(content.is_some());
                }
                seen.push(found);
            }
        });
        swapper.join().unwrap();
        assert!(uploaded > 1, "{uploaded}");
        seen
    });
    let last = scan(&*run).await;
    assert_eq!(paths(&last), ["directory/inside", "file"]);

    assert!(seen.len() > 1);
    for file in seen.iter().flat_map(|found| &found.files) {
        assert_ne!(file.checksum, SECRET, "{file:?}");
        assert_eq!(file.checksum, HELLO, "{file:?}");
    }
}
