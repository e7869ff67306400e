//! Queue files that are not as they should be, and connections.

mod support;

use std::fs;
use std::path::Path;

use flexkeep_bus::{
    Bus, BusErrorKind, LocalBus, LocalQueues, Message, Sent, local_queues_path, open_bus,
};
use support::{Bench, QUEUE, text};

/// That opening `path` fails with `kind` and names the file.
fn refused(path: &Path, kind: BusErrorKind) -> String {
    let error = LocalQueues::open(path).unwrap_err();
    let shown = error.to_string();
    assert_eq!(error.kind(), kind, "{shown}");
    assert!(shown.contains(&path.display().to_string()), "{shown}");
    let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    assert!(source.is_empty() || !shown.contains(&source), "{shown} repeats {source}");
    shown
}

#[test]
fn what_was_sent_is_there_when_the_file_is_opened_again() {
    let bench = Bench::new();
    bench.send_ids(&["a"]);
    let reopened = bench.reopened();
    assert_eq!(reopened.send(QUEUE, &text("a")).unwrap(), Sent::Duplicate);
    assert_eq!(reopened.queues().unwrap(), bench.queues.queues().unwrap());
    assert_eq!(reopened.receive(QUEUE, "test").unwrap().unwrap().message, text("a"));
}

#[cfg(unix)]
#[test]
fn a_new_file_and_its_logs_are_readable_by_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let bench = Bench::new();
    bench.send_ids(&["a"]);
    let path = bench.queues.path().display().to_string();
    for file in [path.clone(), format!("{path}-wal"), format!("{path}-shm")] {
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
}

#[test]
fn a_missing_folder_and_a_folder_are_no_files() {
    let folder = tempfile::tempdir().unwrap();
    let shown = refused(&folder.path().join("no/queues.db"), BusErrorKind::CannotOpen);
    assert!(shown.contains("create that first"), "{shown}");
    let shown = refused(folder.path(), BusErrorKind::CannotOpen);
    assert!(shown.contains("a folder"), "{shown}");
}

#[test]
fn a_newer_format_is_refused_by_its_number_and_left_alone() {
    let bench = Bench::new();
    let raw = rusqlite::Connection::open(bench.queues.path()).unwrap();
    raw.pragma_update(None, "user_version", 2).unwrap();
    let shown = refused(bench.queues.path(), BusErrorKind::NewerFormat);
    assert!(shown.contains("format 2") && shown.contains("knows 1"), "{shown}");
}

#[test]
fn another_programs_sqlite_file_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("contacts.db");
    rusqlite::Connection::open(&path).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    let before = fs::read(&path).unwrap();
    refused(&path, BusErrorKind::Foreign);
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn a_file_that_is_no_sqlite_file_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes.txt");
    let text = "not a database, though long enough to have a header of one\n".repeat(20);
    fs::write(&path, &text).unwrap();
    refused(&path, BusErrorKind::Foreign);
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
}

#[test]
fn an_empty_file_becomes_a_queue_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queues.db");
    fs::write(&path, "").unwrap();
    assert!(LocalQueues::open(&path).unwrap().queues().unwrap().is_empty());
}

#[test]
fn a_damaged_file_is_told_from_an_empty_queue() {
    let bench = Bench::new();
    let batch: Vec<_> = (0..500).map(|n| text(&n.to_string())).collect();
    bench.queues.send_all(QUEUE, &batch).unwrap();
    let path = bench.queues.path().to_owned();
    let raw = rusqlite::Connection::open(&path).unwrap();
    raw.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(raw);
    let copy = path.with_file_name("copy.db");
    let mut bytes = fs::read(&path).unwrap();
    // All but the first page, which says how large the file is and where its tables are.
    bytes[4096..].fill(0xa5);
    fs::write(&copy, &bytes).unwrap();
    let error = LocalQueues::open(&copy)
        .and_then(|queues| queues.receive(QUEUE, "test"))
        .expect_err("the pages are not there");
    assert_eq!(error.kind(), BusErrorKind::Damaged, "{error:?}");
    assert!(!error.is_transient());
    let shown = error.to_string();
    assert!(shown.contains("copy.db") && shown.contains("move it away"), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bus_of_a_connection_sends_to_the_file_it_names() {
    let bench = Bench::new();
    let base = bench.queues.path().parent().unwrap();
    let absolute = format!("sqlite:{}", bench.queues.path().display());
    for (connection, id) in
        [("sqlite:queues.db", "a"), (" sqlite:./queues.db\n", "b"), (&absolute, "c")]
    {
        let bus = open_bus(connection, base).unwrap();
        bus.send(QUEUE, &text(id)).await.unwrap();
        bus.send(QUEUE, &text(id)).await.expect("a duplicate is dropped without an error");
    }
    let error = LocalBus(bench.queues.clone()).send("other", &text("a")).await.unwrap_err();
    assert_eq!(error.kind(), BusErrorKind::UnknownQueue);
    assert_eq!(bench.queues.counts(QUEUE).unwrap().active, 3);
    LocalBus(bench.queues.clone()).send_batch(QUEUE, &[text("c"), text("d")]).await.unwrap();
    assert_eq!(bench.queues.counts(QUEUE).unwrap().active, 4);
}

#[test]
fn a_connection_of_another_form_is_refused_without_being_shown() {
    let service_bus = "Endpoint=sb://ns.servicebus.windows.net/;SharedAccessKeyName=k;\
                       SharedAccessKey=c2VjcmV0";
    let base = Path::new("/");
    let others = ["", "postgres://u:c2VjcmV0@h", "queues-c2VjcmV0.db", "SQLITE:x"];
    let mut errors: Vec<_> = others
        .iter()
        .map(|connection| open_bus(connection, base).err().expect("no such form"))
        .collect();
    errors.push(local_queues_path(service_bus, base).expect_err("it has no file"));
    for error in errors {
        assert_eq!(error.kind(), BusErrorKind::Unsupported);
        let shown = format!("{error} {error:?}");
        assert!(shown.contains("sqlite:PATH") && shown.contains("Endpoint=sb://"), "{shown}");
        assert!(!shown.contains("c2VjcmV0"), "{shown}");
    }
    let error = open_bus("sqlite:", base).err().expect("no path");
    assert_eq!(error.kind(), BusErrorKind::Invalid);
    assert!(open_bus(service_bus, base).is_ok(), "nothing is connected to yet");
}

#[test]
fn a_message_that_breaks_a_rule_is_refused_by_its_field() {
    let bench = Bench::new();
    let long = "ä".repeat(129);
    let a = || text("a");
    for (named, message) in [
        ("id has 1 to 128", text("")),
        ("id has 1 to 128", text(&long)),
        ("control character", text("a\nb")),
        ("subject", a().with_subject(&long)),
        ("content type", a().with_content_type("")),
        ("correlation id", a().with_correlation_id("\0")),
        ("session id", a().with_session_id(&long)),
        ("name of a property", a().with_property("", 1)),
        ("\"p\"", a().with_property("p", serde_json::Value::Null)),
        ("\"p\"", a().with_property("p", vec![1])),
        ("the limit is 262144", Message::new("a", vec![0; 256 * 1024])),
        ("the limit is 262144", a().with_property("p", "x".repeat(256 * 1024))),
    ] {
        let error = bench.queues.send(QUEUE, &message).unwrap_err();
        assert_eq!(error.kind(), BusErrorKind::Invalid);
        assert!(error.to_string().contains(named), "{named}: {error}");
    }
    assert_eq!(bench.queues.counts(QUEUE).unwrap().active, 0);
    bench.send(&text(&"ä".repeat(128)));
    bench.send(&Message::new("largest", vec![0; 256 * 1024 - 7]));
}
