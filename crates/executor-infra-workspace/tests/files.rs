//! The files of sessions, brought and fetched from outside of a run.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail like tests"
)]

mod support;

use std::{
    fs::{self, Permissions},
    io::{Cursor, Write},
    os::unix::{
        fs::{MetadataExt, PermissionsExt, symlink},
        net::UnixListener,
    },
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
};

use executor_application::{
    ArchiveFormat, Condition, Content, Entry, EntryKind, FilesError, Found, ListQuery, Listing,
    Overflow, SessionFiles, Stored, Workspaces,
};
use executor_domain::{SessionId, WorkspacePath};
use support::{Place, guest, is_root, session};

const MANY: u64 = 1 << 30;

fn path(text: &str) -> WorkspacePath {
    WorkspacePath::parse(text).unwrap()
}

fn s() -> SessionId {
    session("s")
}

async fn put_if(
    place: &Place,
    name: &str,
    content: &[u8],
    condition: Condition,
    max_bytes: u64,
) -> Result<Entry, FilesError> {
    let files = &place.workspaces;
    let mut upload = files
        .create(&s(), &path(name), condition, max_bytes)
        .await?;
    for chunk in content.chunks(100_000) {
        upload.write(chunk).await?;
    }
    match upload.commit().await? {
        Stored::Created(entry) | Stored::Replaced(entry) => Ok(entry),
        unpacked @ Stored::Unpacked(_) => panic!("{unpacked:?}"),
    }
}

async fn put(place: &Place, name: &str, content: &[u8]) -> Result<Entry, FilesError> {
    put_if(place, name, content, Condition::Always, MANY).await
}

async fn unpack(
    place: &Place,
    directory: Option<&str>,
    archive: &[u8],
    format: ArchiveFormat,
    max_bytes: u64,
) -> Result<Stored, FilesError> {
    let files = &place.workspaces;
    let directory = directory.map(path);
    let mut upload = files.unpack(&s(), directory, format, max_bytes).await?;
    upload.write(archive).await?;
    upload.commit().await
}

async fn read(mut content: Box<dyn Content>) -> Result<Vec<u8>, FilesError> {
    let mut all = Vec::new();
    while let Some(chunk) = content.next().await? {
        all.extend(chunk);
    }
    Ok(all)
}

async fn get(place: &Place, name: &str) -> Result<(Entry, Vec<u8>), FilesError> {
    match place.workspaces.find(&s(), &path(name)).await? {
        Found::File(entry, content) => Ok((entry, read(content).await?)),
        Found::Directory(_) => Err(FilesError::IsDirectory),
    }
}

async fn remove(place: &Place, name: &str, recursive: bool) -> Result<(), FilesError> {
    let files = &place.workspaces;
    files
        .remove(&s(), &path(name), Condition::Always, recursive)
        .await
}

async fn list(place: &Place, directory: Option<&str>, recursive: bool) -> Listing {
    let query = ListQuery {
        directory: directory.map(path),
        recursive,
        limit: 1000,
        after: None,
    };
    place.workspaces.list(&s(), query).await.unwrap()
}

fn shown(listing: &Listing) -> Vec<&str> {
    listing.entries.iter().map(|e| e.path.as_str()).collect()
}

/// Where the session's files are on the host.
fn directory(place: &Place) -> std::path::PathBuf {
    place.workspaces.root().join("s")
}

/// What is on its way in.
fn staged(place: &Place) -> usize {
    let staging = place.workspaces.root().join(".sandbox-executor/staging");
    let own = fs::read_dir(staging).unwrap().next().unwrap().unwrap();
    fs::read_dir(own.path()).unwrap().count()
}

#[tokio::test]
async fn what_was_put_is_what_is_got() {
    let place = Place::new();
    let content = vec![7; 3_000_000];
    let put = put(&place, "a/b/data.csv", &content).await.unwrap();
    assert_eq!((put.size, put.kind), (3_000_000, EntryKind::File));
    let (entry, got) = get(&place, "a/b/data.csv").await.unwrap();
    assert_eq!(entry, put);
    assert!(got == content);
    let (_, empty) = {
        self::put(&place, "empty", b"").await.unwrap();
        get(&place, "empty").await.unwrap()
    };
    assert_eq!(empty, b"");

    for name in ["a", "a/b", "a/b/data.csv"] {
        let found = fs::symlink_metadata(directory(&place).join(name)).unwrap();
        assert_eq!(found.uid(), guest(), "{name}");
        let mode = if found.is_dir() { 0o755 } else { 0o644 };
        assert_eq!(found.mode() & 0o7777, mode, "{name}");
    }
    assert_eq!(staged(&place), 0);
}

#[tokio::test]
async fn part_of_a_file_can_be_read() {
    let place = Place::new();
    put(&place, "f", b"0123456789").await.unwrap();
    let Found::File(_, mut content) = place.workspaces.find(&s(), &path("f")).await.unwrap() else {
        panic!("not a file");
    };
    content.skip_to(7);
    assert_eq!(read(content).await.unwrap(), b"789");
}

#[tokio::test]
async fn a_file_that_shrinks_under_its_reader_is_an_error_and_one_that_grows_is_cut() {
    let place = Place::new();
    put(&place, "f", &vec![1; 3 << 20]).await.unwrap();
    let host = directory(&place).join("f");
    let open = async || match place.workspaces.find(&s(), &path("f")).await.unwrap() {
        Found::File(entry, content) => (entry, content),
        Found::Directory(_) => panic!("not a file"),
    };
    let (_, mut shrinking) = open().await;
    assert!(shrinking.next().await.unwrap().is_some());
    fs::File::options()
        .write(true)
        .open(&host)
        .unwrap()
        .set_len(1 << 20)
        .unwrap();
    assert!(read(shrinking).await.is_err());

    let (entry, growing) = open().await;
    fs::write(&host, vec![2; 5 << 20]).unwrap();
    assert_eq!(read(growing).await.unwrap().len() as u64, entry.size);
}

fn failed<T: std::fmt::Debug>(result: Result<T, FilesError>) {
    let error = result.unwrap_err();
    assert!(matches!(error, FilesError::ConditionFailed), "{error:?}");
}

#[tokio::test]
async fn conditions_hold_when_the_file_is_replaced() {
    let place = Place::new();
    failed(put_if(&place, "f", b"x", Condition::Present, MANY).await);
    let first = put_if(&place, "f", b"one", Condition::Absent, MANY)
        .await
        .unwrap();
    failed(put_if(&place, "f", b"x", Condition::Absent, MANY).await);
    let etag = |entry: &Entry| Condition::Etag(vec![entry.etag.clone()]);
    let second = put_if(&place, "f", b"two", etag(&first), MANY)
        .await
        .unwrap();
    failed(put_if(&place, "f", b"x", etag(&first), MANY).await);
    assert_eq!(get(&place, "f").await.unwrap().1, b"two");

    // Both begin while the condition holds; only one can win.
    let begin = async || {
        let files = &place.workspaces;
        let mut upload = files
            .create(&s(), &path("f"), etag(&second), MANY)
            .await
            .unwrap();
        upload.write(b"three").await.unwrap();
        upload
    };
    let (one, other) = (begin().await, begin().await);
    one.commit().await.unwrap();
    failed(other.commit().await);
    assert_eq!(get(&place, "f").await.unwrap().1, b"three");

    let begin = async || {
        let files = &place.workspaces;
        let absent = Condition::Absent;
        files
            .create(&s(), &path("new"), absent, MANY)
            .await
            .unwrap()
    };
    let (one, other) = (begin().await, begin().await);
    one.commit().await.unwrap();
    failed(other.commit().await);
}

#[tokio::test]
async fn an_upload_that_is_dropped_leaves_everything_as_it_was() {
    let place = Place::new();
    put(&place, "f", b"old").await.unwrap();
    let files = &place.workspaces;
    let mut upload = files
        .create(&s(), &path("f"), Condition::Always, MANY)
        .await
        .unwrap();
    upload.write(&vec![0; 2 << 20]).await.unwrap();
    assert_eq!(get(&place, "f").await.unwrap().1, b"old");
    drop(upload);
    assert_eq!(get(&place, "f").await.unwrap().1, b"old");
    support::eventually("the upload is gone", || staged(&place) == 0).await;
}

#[tokio::test]
async fn an_upload_stays_within_the_workspaces_size() {
    const MIB: usize = 1 << 20;
    let place = Place::new();
    let full = |result: Result<Entry, FilesError>| {
        assert!(matches!(result, Err(FilesError::Full(_))), "{result:?}");
    };
    put_if(&place, "a", &vec![1; MIB], Condition::Always, 2 << 20)
        .await
        .unwrap();
    full(
        put_if(
            &place,
            "b",
            &vec![1; MIB * 5 / 4],
            Condition::Always,
            2 << 20,
        )
        .await,
    );
    put_if(&place, "b", &vec![1; MIB], Condition::Always, 2 << 20)
        .await
        .unwrap();
    full(put_if(&place, "c", &vec![1; MIB], Condition::Always, 2 << 20).await);
    // What it replaces makes room.
    put_if(&place, "b", &vec![2; MIB], Condition::Always, 2 << 20)
        .await
        .unwrap();

    // Two at the same time share the room.
    remove(&place, "b", false).await.unwrap();
    let begin = async |name: &str| {
        let files = &place.workspaces;
        files
            .create(&s(), &path(name), Condition::Always, 2 << 20)
            .await
            .unwrap()
    };
    let mut one = begin("b").await;
    let mut other = begin("c").await;
    one.write(&vec![1; MIB * 3 / 4]).await.unwrap();
    let refused = other.write(&vec![1; MIB * 3 / 4]).await;
    assert!(matches!(refused, Err(FilesError::Full(_))), "{refused:?}");
    drop(other);
    one.commit().await.unwrap();
    support::eventually("nothing is staged", || staged(&place) == 0).await;
}

#[tokio::test]
async fn what_others_take_of_the_disk_refuses_no_upload() {
    const MIB: usize = 1 << 20;
    let place = Place::new();
    put_if(&place, "a", b"", Condition::Always, 4 << 20)
        .await
        .unwrap();
    // From here on nobody knows without counting whose these bytes are.
    fs::write(place.outside().join("other"), vec![1; 3 * MIB]).unwrap();
    put_if(&place, "b", &vec![1; 2 * MIB], Condition::Always, 4 << 20)
        .await
        .unwrap();
}

#[tokio::test]
async fn nothing_but_files_is_read_and_no_link_is_followed() {
    let place = Place::new();
    put(&place, "f", b"x").await.unwrap();
    fs::write(place.outside().join("secret"), "secret").unwrap();
    let at = |name: &str| directory(&place).join(name);
    symlink(place.outside().join("secret"), at("link")).unwrap();
    symlink(place.outside(), at("way-out")).unwrap();
    symlink("f", at("inside")).unwrap();
    let made = Command::new("mkfifo").arg(at("fifo")).status();
    assert!(made.unwrap().success());
    let _socket = UnixListener::bind(at("socket")).unwrap();

    for name in ["link", "inside", "fifo", "socket"] {
        let got = get(&place, name).await.map(|_| ());
        assert!(
            matches!(got, Err(FilesError::NotReadable(_))),
            "{name}: {got:?}"
        );
    }
    for name in ["way-out/secret", "f/below"] {
        let got = get(&place, name).await.map(|_| ());
        assert!(
            matches!(got, Err(FilesError::NotDirectory)),
            "{name}: {got:?}"
        );
        let put = put(&place, name, b"y").await;
        assert!(put.is_err(), "{name}");
        let removed = remove(&place, name, true).await;
        assert!(removed.is_err(), "{name}");
    }
    let got = get(&place, "nowhere").await.map(|_| ());
    assert!(matches!(got, Err(FilesError::NoFile)), "{got:?}");

    // A link's name can be taken by a file, and be removed: the link is, not what it leads to.
    put(&place, "link", b"mine").await.unwrap();
    assert_eq!(get(&place, "link").await.unwrap().1, b"mine");
    remove(&place, "way-out", true).await.unwrap();
    assert_eq!(
        fs::read_to_string(place.outside().join("secret")).unwrap(),
        "secret"
    );

    let listing = list(&place, None, true).await;
    assert_eq!(shown(&listing), ["f", "link"]);
    assert_eq!(listing.skipped.len(), 3, "{:?}", listing.skipped);
}

#[tokio::test]
async fn a_list_has_pages_and_an_order() {
    let place = Place::new();
    for name in ["b/x", "b/y/z", "a", "b-c", "b.txt", "c"] {
        put(&place, name, b"x").await.unwrap();
    }
    let flat = list(&place, None, false).await;
    assert_eq!(shown(&flat), ["a", "b", "b-c", "b.txt", "c"]);
    assert_eq!(flat.entries[1].kind, EntryKind::Directory);
    assert_eq!(shown(&list(&place, Some("b"), false).await), ["b/x", "b/y"]);
    let all = ["a", "b", "b-c", "b.txt", "b/x", "b/y", "b/y/z", "c"];
    assert_eq!(shown(&list(&place, None, true).await), all);

    for limit in 1..10 {
        let mut pages: Vec<String> = Vec::new();
        loop {
            let query = ListQuery {
                directory: None,
                recursive: true,
                limit,
                after: pages.last().cloned(),
            };
            let page = place.workspaces.list(&s(), query).await.unwrap();
            assert!(page.entries.len() <= limit);
            pages.extend(shown(&page).into_iter().map(str::to_owned));
            if !page.more {
                break;
            }
        }
        assert_eq!(pages, all, "pages of {limit}");
    }
}

#[tokio::test]
async fn odd_names_are_named_and_not_shown() {
    let place = Place::new();
    put(&place, "plain", b"x").await.unwrap();
    let name = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"a\xffb");
    let _ = fs::write(directory(&place).join(name), "");
    fs::write(directory(&place).join("new\nline"), "").unwrap();
    let listing = list(&place, None, true).await;
    assert_eq!(shown(&listing), ["plain"]);
    assert!(
        listing
            .skipped
            .iter()
            .any(|line| line.starts_with(r"new\nline: "))
    );
    assert!(listing.skipped.iter().all(|line| !line.contains('\n')));
}

#[tokio::test]
async fn directories_are_removed_when_somebody_says_so() {
    let place = Place::new();
    put(&place, "d/e/f", b"x").await.unwrap();
    let removed = remove(&place, "d", false).await;
    assert!(matches!(removed, Err(FilesError::NotEmpty)), "{removed:?}");
    remove(&place, "d", true).await.unwrap();
    assert_eq!(shown(&list(&place, None, true).await), [""; 0]);
    let removed = remove(&place, "d", true).await;
    assert!(matches!(removed, Err(FilesError::NoFile)), "{removed:?}");
}

#[tokio::test]
async fn sessions_do_not_see_each_other() {
    let place = Place::new();
    put(&place, "mine", b"x").await.unwrap();
    for other in ["other", "S", "s-"] {
        let other = session(other);
        let files = &place.workspaces;
        let found = files.find(&other, &path("mine")).await.map(|_| ());
        assert!(matches!(found, Err(FilesError::NoSession)), "{found:?}");
        assert!(files.describe(&other).await.is_err());
    }
    // To ask for a session does not make one.
    let known = place.workspaces.sessions().await.unwrap();
    assert_eq!(known.len(), 1);
    assert_eq!(known[0].session, s());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swapping_files_and_links_ten_thousand_times_gives_away_nothing() {
    const SWAPS: usize = 10_000;
    let place = Place::new();
    put(&place, "directory/inside", b"hello").await.unwrap();
    put(&place, "file", b"hello").await.unwrap();
    let outside = place.outside().join("outside");
    fs::create_dir(&outside).unwrap();
    for name in ["file", "inside"] {
        fs::write(outside.join(name), "secret").unwrap();
    }
    let workspace = directory(&place);
    let swapping = AtomicBool::new(true);
    let looks = std::thread::scope(|threads| {
        let swapper = threads.spawn(|| {
            for _ in 0..SWAPS {
                support::swap(&workspace, &outside);
            }
            swapping.store(false, Ordering::Release);
        });
        let runtime = tokio::runtime::Handle::current();
        let mut looks = 0;
        tokio::task::block_in_place(|| {
            while swapping.load(Ordering::Acquire) {
                for name in ["file", "directory/inside"] {
                    if let Ok((_, content)) = runtime.block_on(get(&place, name)) {
                        assert_eq!(content, b"hello");
                        looks += 1;
                    }
                }
                let packed = runtime.block_on(async {
                    let files = &place.workspaces;
                    read(files.pack(&s(), None, ArchiveFormat::Tar).await.unwrap()).await
                });
                let packed = packed.unwrap_or_default();
                assert!(!packed.windows(6).any(|bytes| bytes == b"secret"));
            }
        });
        swapper.join().unwrap();
        looks
    });
    assert!(looks > 10, "{looks}");
}

fn tar_of(entries: &[(&str, tar::EntryType, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, kind, content) in entries {
        let mut header = tar::Header::new_ustar();
        // By hand: the crate's own setters refuse what a hostile archive has.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o755);
        header.set_size(content.len() as u64);
        if matches!(kind, tar::EntryType::Symlink | tar::EntryType::Link) {
            header.set_link_name("/etc/passwd").unwrap();
        }
        header.set_cksum();
        archive.append(&header, *content).unwrap();
    }
    archive.into_inner().unwrap()
}

fn zip_of(entries: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, mode, content) in entries {
        let options = zip::write::SimpleFileOptions::default().unix_permissions(*mode);
        if *mode & 0o170_000 == 0o120_000 {
            archive.add_symlink(*name, "/etc/passwd", options).unwrap();
        } else {
            archive.start_file(*name, options).unwrap();
            archive.write_all(content).unwrap();
        }
    }
    archive.finish().unwrap().into_inner()
}

#[tokio::test]
async fn a_directory_travels_as_one_file_both_ways() {
    let place = Place::new();
    let large = vec![9; 2_000_000];
    put(&place, "d/large", &large).await.unwrap();
    put(&place, "d/e/small", b"x").await.unwrap();
    put(&place, "d/.hidden", b"h").await.unwrap();
    let longest = format!("d/{}", "é".repeat(127));
    put(&place, &longest, b"long").await.unwrap();
    fs::create_dir(directory(&place).join("d/empty")).unwrap();
    let script = directory(&place).join("d/e/small");
    fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
    symlink("/etc/passwd", directory(&place).join("d/link")).unwrap();

    for format in [ArchiveFormat::Tar, ArchiveFormat::Zip] {
        let files = &place.workspaces;
        let packed = files.pack(&s(), Some(path("d")), format).await.unwrap();
        let packed = read(packed).await.unwrap();
        unpack(&place, Some("to"), &packed, format, MANY)
            .await
            .unwrap();
        let listing = list(&place, Some("to"), true).await;
        assert_eq!(
            shown(&listing),
            [
                "to/.hidden",
                "to/e",
                "to/e/small",
                "to/empty",
                "to/large",
                &longest.replace("d/", "to/")
            ]
        );
        assert!(get(&place, "to/large").await.unwrap().1 == large);
        let unpacked = fs::metadata(directory(&place).join("to/e/small")).unwrap();
        assert_eq!(unpacked.mode() & 0o777, 0o755);
        assert_eq!(unpacked.uid(), guest());
        remove(&place, "to", true).await.unwrap();
    }
    support::eventually("nothing is staged", || staged(&place) == 0).await;
}

#[tokio::test]
async fn hostile_archives_change_nothing() {
    use tar::EntryType::{Block, Directory, Fifo, Link, Regular, Symlink};

    let place = Place::new();
    put(&place, "kept", b"old").await.unwrap();
    put(&place, "directory/x", b"x").await.unwrap();
    let good = ("new", Regular, &b"n"[..]);
    let tars = [
        tar_of(&[good, ("../escape", Regular, b"x")]),
        tar_of(&[good, ("a/../../escape", Regular, b"x")]),
        tar_of(&[good, ("/tmp/escape", Regular, b"x")]),
        tar_of(&[good, ("link", Symlink, b"")]),
        tar_of(&[good, ("kept", Link, b"")]),
        tar_of(&[good, ("fifo", Fifo, b"")]),
        tar_of(&[good, ("device", Block, b"")]),
        tar_of(&[good, ("new\nline", Regular, b"x")]),
        tar_of(&[good, ("new/below", Regular, b"x")]),
        tar_of(&[good, ("directory", Regular, b"x")]),
        tar_of(&[good, ("kept", Directory, b"")]),
        tar_of(&[good, ("kept/below", Regular, b"x")]),
        tar_of(&[good])[..700].to_vec(),
        [&tar_of(&[good])[..1024], &[0xff; 1024]].concat(),
        b"\x1f\x8b\x08compressed".to_vec(),
    ];
    let mut long = tar::Header::new_gnu();
    long.set_entry_type(tar::EntryType::GNULongName);
    long.set_size(1 << 20);
    long.set_cksum();
    let long = [long.as_bytes(), &vec![b'x'; 1 << 20][..], &[0; 1024]].concat();
    for (number, archive) in tars.iter().chain([&long]).enumerate() {
        let taken = unpack(&place, None, archive, ArchiveFormat::Tar, MANY).await;
        assert!(
            matches!(taken, Err(FilesError::Archive(_))),
            "{number}: {taken:?}"
        );
    }
    let good = ("new", 0o644, &b"n"[..]);
    let zips = [
        zip_of(&[good, ("../escape", 0o644, b"x")]),
        zip_of(&[good, ("/tmp/escape", 0o644, b"x")]),
        zip_of(&[good, ("link", 0o120_777, b"")]),
        zip_of(&[good, ("new/below", 0o644, b"x")]),
        zip_of(&[good, ("directory", 0o644, b"x")]),
        zip_of(&[good])[..20].to_vec(),
        b"no archive".to_vec(),
    ];
    for (number, archive) in zips.iter().enumerate() {
        let taken = unpack(&place, None, archive, ArchiveFormat::Zip, MANY).await;
        assert!(
            matches!(taken, Err(FilesError::Archive(_))),
            "{number}: {taken:?}"
        );
    }
    let left = list(&place, None, true).await;
    assert_eq!(shown(&left), ["directory", "directory/x", "kept"]);
    assert_eq!(get(&place, "kept").await.unwrap().1, b"old");
    assert!(!Path::new("/tmp/escape").exists());
    assert!(!place.workspaces.root().join("escape").exists());
    support::eventually("nothing is staged", || staged(&place) == 0).await;
}

#[tokio::test]
async fn an_archive_that_swells_is_stopped() {
    let place = Place::within_files(50);
    let zeros = vec![0; 4 << 20];
    let bomb = zip_of(&[("a", 0o644, &zeros), ("b", 0o644, &zeros)]);
    assert!(bomb.len() < 1 << 20);
    let taken = unpack(&place, None, &bomb, ArchiveFormat::Zip, 5 << 20).await;
    assert!(
        matches!(taken, Err(FilesError::Full(Overflow::Bytes { .. }))),
        "{taken:?}"
    );
    // A file that is all hole takes nothing in a tar archive either.
    let names: Vec<String> = (0..60).map(|number| format!("d{number}/f")).collect();
    let many: Vec<_> = names
        .iter()
        .map(|name| (name.as_str(), 0o644, &b""[..]))
        .collect();
    let taken = unpack(&place, None, &zip_of(&many), ArchiveFormat::Zip, MANY).await;
    assert!(
        matches!(taken, Err(FilesError::Full(Overflow::Files { .. }))),
        "{taken:?}"
    );
    let many: Vec<_> = names
        .iter()
        .map(|name| (name.as_str(), tar::EntryType::Regular, &b""[..]))
        .collect();
    let taken = unpack(&place, None, &tar_of(&many), ArchiveFormat::Tar, MANY).await;
    assert!(
        matches!(taken, Err(FilesError::Full(Overflow::Files { .. }))),
        "{taken:?}"
    );
    let few = tar_of(&[("f", tar::EntryType::Regular, b"x")]);
    unpack(&place, None, &few, ArchiveFormat::Tar, MANY)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_session_is_described_and_removed() {
    let place = Place::new();
    put(&place, "d/f", &vec![1; 100_000]).await.unwrap();
    let held = place.workspaces.describe(&s()).await.unwrap();
    assert_eq!(held.files, 2);
    assert!((100_000..300_000).contains(&held.bytes), "{held:?}");
    assert!(held.complete);

    let run = place.run().await;
    let removed = place.workspaces.remove_session(&s(), None).await;
    assert!(matches!(removed, Err(FilesError::InUse)), "{removed:?}");
    drop(run);
    let used = place.workspaces.sessions().await.unwrap()[0].last_used_at;
    let before = executor_domain::Timestamp::from_unix_micros(used.unix_micros() - 1);
    let removed = place.workspaces.remove_session(&s(), Some(before)).await;
    assert!(
        matches!(removed, Err(FilesError::ConditionFailed)),
        "{removed:?}"
    );
    place
        .workspaces
        .remove_session(&s(), Some(used))
        .await
        .unwrap();

    assert!(!directory(&place).exists());
    assert!(place.workspaces.sessions().await.unwrap().is_empty());
    let removed = place.workspaces.remove_session(&s(), None).await;
    assert!(matches!(removed, Err(FilesError::NoSession)), "{removed:?}");
    // And it can begin anew.
    put(&place, "f", b"x").await.unwrap();
    assert_eq!(shown(&list(&place, None, true).await), ["f"]);
}

#[tokio::test]
async fn a_run_that_begins_while_its_session_is_removed_finds_a_whole_one() {
    let place = std::sync::Arc::new(Place::new());
    for _ in 0..50 {
        put(&place, "old", b"x").await.unwrap();
        let remover = {
            let place = std::sync::Arc::clone(&place);
            tokio::spawn(async move { place.workspaces.remove_session(&s(), None).await })
        };
        let run = place.run().await;
        fs::write(run.path().join("new"), "n").unwrap();
        let _ = remover.await.unwrap();
        assert!(run.path().join("new").exists());
        let changes = run.changes().await.unwrap();
        assert!(changes.files.iter().any(|file| file.path == "new"));
    }
}

#[tokio::test]
async fn what_a_stranger_owns_is_not_removed() {
    let place = Place::new();
    let theirs = place.workspaces.root().join("theirs");
    fs::create_dir(&theirs).unwrap();
    if is_root() {
        std::os::unix::fs::chown(&theirs, Some(3), Some(3)).unwrap();
        let removed = place
            .workspaces
            .remove_session(&session("theirs"), None)
            .await;
        assert!(removed.is_err());
        assert!(theirs.exists());
    }
    // What nobody has used as a session is none, and is not among those that are cleaned up.
    assert!(place.workspaces.sessions().await.unwrap().is_empty());
}

#[tokio::test]
async fn the_disk_is_described() {
    let place = Place::new();
    let disk = place.workspaces.disk().await.unwrap();
    assert!(
        disk.total > disk.available && disk.available > 0,
        "{disk:?}"
    );
}

#[tokio::test]
async fn what_was_brought_right_before_a_run_is_not_of_its_making() {
    let place = Place::new();
    for round in 0..50 {
        put(&place, "brought", format!("{round}").as_bytes())
            .await
            .unwrap();
        let archive = tar_of(&[("packed", tar::EntryType::Regular, b"x")]);
        unpack(&place, None, &archive, ArchiveFormat::Tar, MANY)
            .await
            .unwrap();
        place.next_tick();
        let run = place.run().await;
        fs::write(run.path().join("made"), "x").unwrap();
        let found = run.changes().await.unwrap();
        let paths: Vec<_> = found.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["made"], "round {round}");
        // Nor is what the run before it has made.
        place.next_tick();
        assert_eq!(place.run().await.changes().await.unwrap().files.len(), 0);
    }
}

#[tokio::test]
async fn nothing_comes_in_that_nobody_could_count() {
    let place = Place::new();
    let deep = |parts: usize| vec!["d"; parts].join("/");
    put(&place, &deep(128), b"x").await.unwrap();
    let put = put(&place, &format!("e/{}", deep(128)), b"x").await;
    assert!(
        matches!(put, Err(FilesError::Full(Overflow::Depth { .. }))),
        "{put:?}"
    );
    let archive = tar_of(&[(&deep(40), tar::EntryType::Regular, b"x")]);
    unpack(&place, Some("f"), &archive, ArchiveFormat::Tar, MANY)
        .await
        .unwrap();
    let far = deep(100).replace('d', "f");
    let taken = unpack(&place, Some(&far), &archive, ArchiveFormat::Tar, MANY).await;
    assert!(
        matches!(taken, Err(FilesError::Full(Overflow::Depth { .. }))),
        "{taken:?}"
    );
    assert!(place.workspaces.describe(&s()).await.unwrap().complete);
}
