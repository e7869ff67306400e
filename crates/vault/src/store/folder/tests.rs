use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::super::{SharedStore, conformance};
use super::*;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// Stores of one test, whose folders live as long as this does.
fn run_conformance(no_unnamed: bool) {
    let root = folder();
    let counter = AtomicU64::new(0);
    conformance::run(&|| {
        let number = counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let store = FolderStore::create(root.path().join(number.to_string())).unwrap();
        store.no_unnamed.store(no_unnamed, std::sync::atomic::Ordering::Relaxed);
        Arc::new(store) as SharedStore
    });
    for entry in std::fs::read_dir(root.path()).unwrap() {
        let leftovers: Vec<_> = std::fs::read_dir(entry.unwrap().path().join(TMP))
            .map(|entries| entries.map(|entry| entry.unwrap().file_name()).collect())
            .unwrap_or_default();
        let only_locks = |name: &std::ffi::OsString| name.to_string_lossy().starts_with("lock-");
        assert!(leftovers.iter().all(only_locks), "{leftovers:?}");
    }
}

#[test]
fn a_folder_keeps_the_contract() {
    run_conformance(false);
}

#[test]
fn a_folder_without_unnamed_files_keeps_the_contract() {
    run_conformance(true);
}

#[test]
fn opening_what_is_not_there_says_so() {
    let root = folder();
    let error = FolderStore::open(root.path().join("nowhere")).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::NoSuchPlace);
    assert!(error.to_string().contains("nowhere"), "{error}");
    let file = root.path().join("file");
    std::fs::write(&file, b"").unwrap();
    assert_eq!(FolderStore::open(&file).unwrap_err().kind, StoreErrorKind::NoSuchPlace);
    let error = FolderStore::create(root.path().join("no/parent")).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::NoSuchPlace);
}

#[test]
fn a_folder_that_vanishes_says_so() {
    let root = folder();
    let path = root.path().join("v");
    let store = FolderStore::create(&path).unwrap();
    store.put("a/b", b"x", PutMode::Create).unwrap();
    std::fs::remove_dir_all(&path).unwrap();
    let gone = StoreErrorKind::NoSuchPlace;
    assert_eq!(store.get("a/b", 9).unwrap_err().kind, gone);
    assert_eq!(store.head("a/b").unwrap_err().kind, gone);
    assert_eq!(store.list("", &mut |_| {}).unwrap_err().kind, gone);
    assert_eq!(store.put("a/c", b"x", PutMode::Create).unwrap_err().kind, gone);
    assert_eq!(store.put("a/c", b"x", PutMode::Overwrite).unwrap_err().kind, gone);
    assert_eq!(store.delete("a/c").unwrap_err().kind, gone);
    assert_eq!(store.sync().unwrap_err().kind, gone);
    assert!(!path.exists(), "nothing is made where a mount is missing");
}

#[test]
fn objects_are_private() {
    let root = folder();
    let store = FolderStore::create(root.path().join("v")).unwrap();
    store.put("a/b", b"x", PutMode::Create).unwrap();
    store.put("a/c", b"x", PutMode::Overwrite).unwrap();
    for (name, mode) in [("", 0o700), ("a", 0o700), ("a/b", 0o600), ("a/c", 0o600)] {
        let metadata = std::fs::metadata(root.path().join("v").join(name)).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, mode, "{name}");
    }
}

#[test]
fn what_dead_processes_left_is_swept_and_what_live_ones_write_is_not() {
    let root = folder();
    let tmp = root.path().join(TMP);
    std::fs::create_dir(&tmp).unwrap();
    let old = SystemTime::now() - Duration::from_secs(3600);
    for name in ["1-0", "1-1", "1-2", "lock-00"] {
        let file = File::create(tmp.join(name)).unwrap();
        if name != "1-1" {
            file.set_modified(old).unwrap();
        }
    }
    let live = File::open(tmp.join("1-2")).unwrap();
    rustix::fs::flock(&live, rustix::fs::FlockOperation::LockExclusive).unwrap();
    FolderStore::open(root.path()).unwrap();
    let mut left: Vec<_> = std::fs::read_dir(&tmp)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(left, ["1-1", "1-2", "lock-00"]);
}

#[test]
fn a_put_into_a_full_file_system_is_no_space_and_leaves_nothing() {
    // Needs root, for a small file system of its own; run by the tests of the whole project too.
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let root = folder();
    let mount = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
        .arg(root.path())
        .output();
    if !mount.is_ok_and(|output| output.status.success()) {
        return;
    }
    let store = FolderStore::open(root.path()).unwrap();
    let result = store.put("a", &vec![7; 4 << 20], PutMode::Create);
    let replaced = store.put("a", &vec![7; 4 << 20], PutMode::Overwrite);
    let small = store.put("b", b"fits", PutMode::Create);
    let mut names = Vec::new();
    store.list("", &mut |meta| names.push(meta.name)).unwrap();
    let unmounted = Command::new("umount").arg(root.path()).status();
    assert_eq!(result.unwrap_err().kind, StoreErrorKind::NoSpace);
    assert_eq!(replaced.unwrap_err().kind, StoreErrorKind::NoSpace);
    small.unwrap();
    assert_eq!(names, ["b"]);
    assert!(unmounted.unwrap().success());
}

#[test]
fn an_etag_differs_from_that_of_the_object_replaced_even_if_the_clock_goes_back() {
    let root = folder();
    let store = FolderStore::open(root.path()).unwrap();
    store.put("x", b"1", PutMode::Create).unwrap();
    let future = SystemTime::now() + Duration::from_secs(1_000_000);
    File::options().write(true).open(root.path().join("x")).unwrap().set_modified(future).unwrap();
    store.put("x", b"2", PutMode::Overwrite).unwrap();
    let modified = std::fs::metadata(root.path().join("x")).unwrap().modified().unwrap();
    assert!(modified > future);
}

#[test]
fn strange_files_are_not_listed_but_links_are() {
    let root = folder();
    let store = FolderStore::open(root.path()).unwrap();
    store.put("a/b", b"1", PutMode::Create).unwrap();
    for name in ["a/.b.swp", "a/b c", "a/b~"] {
        std::fs::write(root.path().join(name), b"").unwrap();
    }
    std::os::unix::fs::symlink("b", root.path().join("a/link")).unwrap();
    std::fs::create_dir(root.path().join("a/empty")).unwrap();
    let mut names = Vec::new();
    store.list("", &mut |meta| names.push(meta.name)).unwrap();
    // A link may stand where an object was: what reads it refuses it, and names it.
    assert_eq!(names, ["a/b", "a/link"]);
    assert_eq!(store.head("a/link").unwrap(), None);
    assert_eq!(store.get("a/link", 9).unwrap_err().kind, StoreErrorKind::Other);
}

#[test]
fn what_is_no_file_is_not_waited_for() {
    let root = folder();
    let store = FolderStore::open(root.path()).unwrap();
    let pipe = root.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    assert_eq!(store.get("pipe", 9).unwrap_err().kind, StoreErrorKind::NotFound);
    assert_eq!(store.head("pipe").unwrap(), None);
}

#[test]
fn the_folder_of_temporary_files_may_be_removed_at_any_time() {
    let root = folder();
    let store = FolderStore::open(root.path()).unwrap();
    for no_unnamed in [false, true] {
        store.no_unnamed.store(no_unnamed, std::sync::atomic::Ordering::Relaxed);
        for body in [b"1", b"2"] {
            store.put("x", body, PutMode::Overwrite).unwrap();
            std::fs::remove_dir_all(root.path().join(TMP)).unwrap();
        }
        store.put("y", b"3", PutMode::Create).unwrap();
        store.delete("y").unwrap();
        std::fs::remove_dir_all(root.path().join(TMP)).unwrap();
    }
}
