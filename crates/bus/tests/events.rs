//! Events against the rules of CloudEvents 1.0, and the sinks that take them.

use std::fs;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use flexkeep_bus::{
    BusError, BusErrorKind, CloudEvent, EventSink, FileSink, LogSink, MAX_EVENT_BYTES, Sinks,
};
use serde_json::{Value, json};

fn event(id: &str) -> CloudEvent {
    let time = "2026-11-22T01:02:03.5Z".parse().unwrap();
    CloudEvent::new(id, "/servers/one", "flexkeep.backup.completed", time, json!({ "bytes": 5 }))
}

fn full() -> Value {
    json!({
        "specversion": "1.0",
        "id": "e-1",
        "source": "https://example.com/servers/one%20two?x=1#f",
        "type": "flexkeep.backup.completed",
        "subject": "größe/1",
        "time": "2026-11-22T02:02:03.5+01:00",
        "datacontenttype": "application/json",
        "dataschema": "https://example.com/schema.json",
        "server": "one",
        "attempt2": 2,
        "complete": true,
        "data": { "bytes": 5, "skipped": null }
    })
}

fn parse(json: &Value) -> Result<CloudEvent, String> {
    serde_json::from_value(json.clone()).map_err(|error| error.to_string())
}

#[test]
fn an_event_is_written_with_the_attributes_of_the_specification() {
    let event = event("e-1")
        .with_subject("one")
        .with_dataschema("urn:flexkeep:1")
        .with_extension("server", "one");
    let line = String::from_utf8(event.to_json().unwrap()).unwrap();
    assert_eq!(
        line,
        concat!(
            r#"{"specversion":"1.0","id":"e-1","source":"/servers/one","#,
            r#""type":"flexkeep.backup.completed","subject":"one","#,
            r#""time":"2026-11-22T01:02:03.5Z","dataschema":"urn:flexkeep:1","server":"one","#,
            r#""datacontenttype":"application/json","data":{"bytes":5}}"#
        )
    );
    assert_eq!(serde_json::from_str::<CloudEvent>(&line).unwrap(), event);
}

#[test]
fn every_attribute_is_read_and_written_again() {
    let event = parse(&full()).unwrap();
    assert_eq!(event.time.to_string(), "2026-11-22T01:02:03.5Z");
    assert_eq!(event.subject.as_deref(), Some("größe/1"));
    assert_eq!(event.extensions.len(), 3);
    assert_eq!(event.extensions["attempt2"], 2);
    assert_eq!(event.data["bytes"], 5);
    let mut again = serde_json::to_value(&event).unwrap();
    again["time"] = full()["time"].clone();
    assert_eq!(again, full());
}

#[test]
fn optional_attributes_may_be_absent_or_null() {
    let mut json = full();
    let map = json.as_object_mut().unwrap();
    for name in ["subject", "datacontenttype", "server", "attempt2", "complete", "data"] {
        map.remove(name);
    }
    map.insert("dataschema".to_owned(), Value::Null);
    map.insert("extra".to_owned(), Value::Null);
    let event = parse(&json).unwrap();
    assert_eq!((&event.subject, &event.dataschema, &event.data), (&None, &None, &Value::Null));
    assert!(event.extensions.is_empty());
    let written = serde_json::to_value(&event).unwrap();
    assert!(written.get("data").is_none() && written.get("datacontenttype").is_none());
}

#[test]
fn a_missing_or_empty_required_attribute_is_named() {
    for name in ["specversion", "id", "source", "type", "time"] {
        let mut json = full();
        json.as_object_mut().unwrap().remove(name);
        let error = parse(&json).unwrap_err();
        assert!(error.contains(&format!("{name} is missing")), "{error}");
        for bad in [json!(""), json!(1), json!({})] {
            json[name] = bad;
            let error = parse(&json).unwrap_err();
            assert!(error.contains(name), "{name}: {error}");
        }
    }
}

#[test]
fn values_that_the_specification_forbids_are_refused_by_name() {
    for (name, bad) in [
        ("specversion", json!("0.3")),
        ("id", json!("a\u{7}")),
        ("source", json!("has space")),
        ("source", json!("größe")),
        ("source", json!("100%")),
        ("source", json!("a%zz")),
        ("subject", json!("")),
        ("subject", json!("a\u{ffff}")),
        ("type", json!("a\u{fdd0}")),
        ("time", json!("yesterday")),
        ("time", json!("2026-11-22")),
        ("time", json!("2026-11-22T01:02:03")),
        ("datacontenttype", json!("text/plain")),
        ("dataschema", json!("schema.json")),
        ("dataschema", json!("")),
        ("data_base64", json!("AAAA")),
        ("Server", json!("x")),
        ("my_name", json!("x")),
        ("averylongnameofover20", json!("x")),
        ("ratio", json!(0.5)),
        ("big", json!(2_147_483_648_u64)),
        ("list", json!([1])),
        ("nested", json!({})),
        ("text", json!("a\nb")),
    ] {
        let mut json = full();
        json[name] = bad.clone();
        let error = parse(&json).expect_err(&format!("{name}: {bad}"));
        assert!(error.contains(name), "{name}: {error}");
    }
    assert!(parse(&json!([])).is_err() && parse(&json!("x")).is_err());
}

#[test]
fn an_event_that_breaks_a_rule_is_not_written() {
    for (named, bad) in [
        ("id is empty", event("")),
        ("id is an attribute", event("e").with_extension("id", "x")),
        ("data_base64", event("e").with_extension("data_base64", "x")),
        ("source", CloudEvent { source: String::new(), ..event("e") }),
        ("limit", CloudEvent { data: json!("x".repeat(MAX_EVENT_BYTES)), ..event("e") }),
    ] {
        let error = bad.to_json().unwrap_err();
        assert_eq!(error.kind(), BusErrorKind::Invalid);
        assert!(error.to_string().contains(named), "{named}: {error}");
    }
    assert!(serde_json::to_string(&event("")).is_err());
}

fn lines(path: &std::path::Path) -> Vec<CloudEvent> {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.ends_with('\n'), "the last line is whole");
    text.lines().map(|line| serde_json::from_str(line).expect("a whole line")).collect()
}

#[tokio::test]
async fn a_file_gets_a_line_for_each_event() {
    let folder = tempfile::tempdir().unwrap();
    let sink = FileSink::new(folder.path().join("events.jsonl"));
    let multiline = CloudEvent { data: json!("a\nb\u{2028}"), ..event("2") };
    for event in [event("1"), multiline.clone()] {
        sink.publish(&event).await.unwrap();
    }
    assert_eq!(lines(sink.path()), [event("1"), multiline]);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(sink.path()).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[tokio::test]
async fn a_line_torn_anywhere_is_removed_by_the_next_writer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.jsonl");
    let sink = FileSink::new(&path);
    let torn = event("torn").to_json().unwrap();
    let first = [event("first").to_json().unwrap(), b"\n".to_vec()].concat();
    for before in [&first[..], b""] {
        for cut in 1..=torn.len() {
            fs::write(&path, [before, &torn[..cut]].concat()).unwrap();
            sink.publish(&event("next")).await.unwrap();
            let ids: Vec<_> = lines(&path).into_iter().map(|event| event.id).collect();
            let mut expected = Vec::new();
            expected.extend((!before.is_empty()).then_some("first"));
            // With all but its end of line, it lacks nothing that matters.
            expected.extend((cut == torn.len()).then_some("torn"));
            expected.push("next");
            assert_eq!(ids, expected, "cut at {cut}");
        }
    }
}

#[tokio::test]
async fn zeros_that_a_loss_of_power_left_are_removed() {
    let folder = tempfile::tempdir().unwrap();
    let sink = FileSink::new(folder.path().join("events.jsonl"));
    sink.publish(&event("1")).await.unwrap();
    let mut file = fs::OpenOptions::new().append(true).open(sink.path()).unwrap();
    file.write_all(&[0; 5000]).unwrap();
    sink.publish(&event("2")).await.unwrap();
    assert_eq!(lines(sink.path()), [event("1"), event("2")]);
}

#[tokio::test]
async fn a_file_that_holds_something_else_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes.txt");
    let long = format!("{}{}", r#"{"specversion":"1.0","id":""#, "x".repeat(MAX_EVENT_BYTES));
    for text in ["my notes", "first\nsecond", "{\"specversion\":\"0.3", &long] {
        fs::write(&path, text).unwrap();
        let error = FileSink::new(&path).publish(&event("1")).await.unwrap_err();
        assert_eq!(error.kind(), BusErrorKind::Foreign);
        assert!(error.to_string().contains("notes.txt"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
}

#[tokio::test]
async fn a_place_that_takes_no_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    for path in [folder.path().join("no/events.jsonl"), folder.path().to_owned()] {
        let error = FileSink::new(&path).publish(&event("1")).await.unwrap_err();
        assert_eq!(error.kind(), BusErrorKind::CannotOpen);
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_writers_at_once_lose_no_event() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.jsonl");
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let sink = FileSink::new(&path);
            tokio::spawn(async move {
                for n in 0..25 {
                    sink.publish(&event(&format!("{writer}-{n}"))).await.unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let mut ids: Vec<_> = lines(&path).into_iter().map(|event| event.id).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_waits_for_another_but_not_without_end() {
    let folder = tempfile::tempdir().unwrap();
    let sink = FileSink::new(folder.path().join("events.jsonl"));
    sink.publish(&event("1")).await.unwrap();
    let other = fs::File::open(sink.path()).unwrap();
    other.lock().unwrap();
    let error = sink.publish(&event("2")).await.unwrap_err();
    assert_eq!(error.kind(), BusErrorKind::Busy);
    assert!(error.is_transient() && error.to_string().contains("events.jsonl"), "{error}");
    let waiting = tokio::spawn(async move { (sink.publish(&event("3")).await, sink) });
    tokio::time::sleep(Duration::from_millis(100)).await;
    other.unlock().unwrap();
    let (published, sink) = waiting.await.unwrap();
    published.unwrap();
    assert_eq!(lines(sink.path()), [event("1"), event("3")]);
}

/// A sink that always fails, in one way.
struct Failing(BusErrorKind);

#[async_trait]
impl EventSink for Failing {
    async fn publish(&self, _event: &CloudEvent) -> Result<(), BusError> {
        Err(BusError::new(self.0, "the sink is closed"))
    }
}

#[tokio::test]
async fn all_sinks_are_tried_and_a_failure_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = Arc::new(FileSink::new(folder.path().join("events.jsonl")));
    let sinks = Sinks(vec![
        Arc::new(Failing(BusErrorKind::NoSpace)),
        Arc::new(LogSink),
        Arc::new(Failing(BusErrorKind::Busy)),
        file.clone(),
    ]);
    let error = sinks.publish(&event("1")).await.unwrap_err();
    assert_eq!(lines(file.path()), [event("1")]);
    assert_eq!(error.to_string(), "2 of 4 event sinks did not take the event \"1\"");
    assert!(error.is_transient(), "one of them may do better");
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(source, "the sink is closed");
    let sinks = Sinks(vec![Arc::new(LogSink), file.clone()]);
    sinks.publish(&event("2")).await.unwrap();
    assert_eq!(lines(file.path()).len(), 2);
    Sinks::default().publish(&event("3")).await.unwrap();
}

/// A log in memory.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_log_is_told_the_attributes_of_an_event_and_not_its_data() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber =
        tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let told = CloudEvent { data: json!({ "password": "c2VjcmV0" }), ..event("e-1") }
        .with_subject("one")
        .with_extension("outcome", "partial");
    LogSink.publish(&told).await.unwrap();
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    for attribute in ["INFO", "e-1", "flexkeep.backup.completed", "/servers/one", "partial"] {
        assert!(text.contains(attribute), "{attribute} in {text}");
    }
    assert!(!text.contains("c2VjcmV0"), "{text}");
    assert!(LogSink.publish(&event("")).await.is_err(), "it keeps the rules as the others do");
}
