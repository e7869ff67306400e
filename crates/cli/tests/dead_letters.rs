//! dead-letters, on a queue file without a host.

mod common;

use std::fs;
use std::path::Path;

use common::flexkeep;
use flexkeep_bus::{LocalQueues, Message, QueueOptions};
use predicates::str::contains;
use serde_json::Value;
use tempfile::TempDir;

/// An app with one function, whose queue has these messages as dead letters.
fn app(dead: &[&str]) -> (TempDir, LocalQueues) {
    let folder = tempfile::tempdir().unwrap();
    let function = r#"{"bindings": [{"type": "serviceBusTrigger", "direction": "in", "name": "message",
        "queueName": "%FLEXKEEP_QUEUE%", "connection": "FLEXKEEP_BUS"}]}"#;
    fs::create_dir(folder.path().join("backup")).unwrap();
    fs::write(folder.path().join("backup/function.json"), function).unwrap();
    let settings = r#"{"Values": {"FLEXKEEP_QUEUE": "backups", "FLEXKEEP_BUS": "sqlite:q.db"}}"#;
    fs::write(folder.path().join("local.settings.json"), settings).unwrap();
    let queues = LocalQueues::open(&folder.path().join("q.db")).unwrap();
    let once = QueueOptions { max_delivery_count: 1, ..QueueOptions::default() };
    queues.declare("backups", &once).unwrap();
    for id in dead {
        queues.send("backups", &Message::new(*id, "{\"server\": \"shop\"}")).unwrap();
        let delivery = queues.receive_many("backups", "test", 1).unwrap().remove(0);
        queues.abandon(&delivery.lock).unwrap();
    }
    (folder, queues)
}

fn run(app: &Path, more: &[&str]) -> assert_cmd::assert::Assert {
    flexkeep().args(["dead-letters", "--app"]).arg(app).args(more).assert()
}

fn json(app: &Path, more: &[&str]) -> Value {
    let assert = run(app, &[more, &["--json"]].concat()).code(0);
    serde_json::from_slice(&assert.get_output().stdout).unwrap()
}

#[test]
fn dead_letters_are_listed_sent_again_and_removed() {
    let (folder, queues) = app(&["shop/one", "shop/two", "shop/three"]);
    let listed = json(folder.path(), &[]);
    let letters = listed["dead_letters"].as_array().unwrap();
    assert_eq!(letters.len(), 3);
    assert_eq!(letters[0]["message"], "shop/one");
    assert_eq!(letters[0]["queue"], "backups");
    assert_eq!(letters[0]["deliveries"], 1);
    assert_eq!(letters[0]["body"]["server"], "shop");
    let id = |at: usize| letters[at]["id"].to_string();
    run(folder.path(), &[])
        .code(0)
        .stdout(contains("shop/two"))
        .stdout(contains("received 1 times"));

    run(folder.path(), &["--resubmit", &id(0)]).code(0).stdout(contains("resubmitted"));
    run(folder.path(), &["--purge", &id(1), "-q"]).code(0).stdout(format!("{}\n", id(1)));
    let left = json(folder.path(), &[]);
    assert_eq!(left["dead_letters"].as_array().unwrap().len(), 1);
    assert_eq!(left["dead_letters"][0]["message"], "shop/three");
    let again = queues.receive_many("backups", "test", 10).unwrap();
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].message.id, "shop/one");
}

#[test]
fn an_unknown_dead_letter_leaves_the_known_ones_alone() {
    let (folder, _queues) = app(&["shop/one"]);
    let id = json(folder.path(), &[])["dead_letters"][0]["id"].to_string();
    run(folder.path(), &["--purge", &id, "--purge", "999"])
        .code(2)
        .stderr(contains("no dead letter 999"));
    assert_eq!(json(folder.path(), &[])["dead_letters"].as_array().unwrap().len(), 1);
    run(folder.path(), &["--purge", &id, "--resubmit", &id]).code(2);
}

#[test]
fn a_queue_file_that_is_not_there_is_named_and_not_made() {
    let (folder, queues) = app(&[]);
    run(folder.path(), &[]).code(0).stdout("There are no dead letters.\n");
    drop(queues);
    fs::remove_file(folder.path().join("q.db")).unwrap();
    run(folder.path(), &[]).code(2).stderr(contains("q.db"));
    assert!(!folder.path().join("q.db").exists());
}
