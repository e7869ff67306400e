//! Sending to Service Bus, against a broker made of another implementation of AMQP.

use std::collections::BTreeSet;
use std::future::Future;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use azure_core::credentials::{AccessToken, TokenCredential, TokenRequestOptions};
use azure_core::time::OffsetDateTime;
use flexkeep_bus::{
    Bus, BusConnection, BusErrorKind, CloudEvent, EventSink, Message, ServiceBus,
    ServiceBusConnection, ServiceBusOptions, TopicSink,
};
use flexkeep_tests::{AmqpPeer, run};
use serde_json::{Value, json};

/// No test may hang; a busy machine needs a while.
const LIMIT: Duration = Duration::from_secs(120);
const QUEUE: &str = "backups";

fn connection(peer: &AmqpPeer) -> ServiceBusConnection {
    match BusConnection::parse(&peer.connection_string(), Path::new("/")).unwrap() {
        BusConnection::ServiceBus(connection) => connection,
        BusConnection::Local(_) => panic!("it is a Service Bus connection"),
    }
}

fn bus_with(peer: &AmqpPeer, options: ServiceBusOptions) -> ServiceBus {
    ServiceBus::new(connection(peer), None, options).unwrap()
}

fn bus(peer: &AmqpPeer) -> ServiceBus {
    bus_with(peer, ServiceBusOptions::default())
}

/// Limits for what is bound to fail: long enough for a busy machine, not worth waiting for.
fn impatient() -> ServiceBusOptions {
    ServiceBusOptions {
        total_limit: Duration::from_secs(8),
        connect_limit: Duration::from_secs(3),
        authorize_limit: Duration::from_secs(3),
        send_limit: Duration::from_secs(3),
        busy_pause: Duration::from_millis(200),
        ..ServiceBusOptions::default()
    }
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, work).await.expect("it hangs")
}

fn message(id: &str) -> Message {
    Message::new(id, format!("the body of {id}"))
}

fn ids(messages: &[Value]) -> BTreeSet<String> {
    messages.iter().map(|line| line["id"].as_str().expect("an id").to_owned()).collect()
}

#[tokio::test]
async fn every_field_of_a_message_arrives() {
    let peer = AmqpPeer::start(&[]);
    let bus = bus(&peer);
    let at = "2100-01-02T03:04:05.678Z".parse().unwrap();
    let full = Message::json("backup/shop/1", &json!({"server": "shop"}))
        .unwrap()
        .with_subject("a subject")
        .with_correlation_id("a correlation")
        .with_session_id("a session")
        .with_property("text", "ä")
        .with_property("whole", -7)
        .with_property("real", 1.5)
        .with_property("yes", true)
        .with_deliver_at(at);
    within(bus.send("some/path", &full)).await.unwrap();
    within(bus.send(QUEUE, &Message::new("bare", ""))).await.unwrap();
    let got = &peer.messages("some/path")[0];
    assert_eq!(got["id"], "backup/shop/1");
    assert_eq!(got["body"], r#"{"server":"shop"}"#);
    assert_eq!(got["content_type"], "application/json");
    assert_eq!(got["subject"], "a subject");
    assert_eq!(got["correlation"], "a correlation");
    assert_eq!(got["group"], "a session");
    let properties = json!({"text": "ä", "whole": -7, "real": 1.5, "yes": true});
    assert_eq!(got["properties"], properties);
    let scheduled = json!({"x-opt-scheduled-enqueue-time": at.as_millisecond()});
    assert_eq!(got["annotations"], scheduled);
    let bare = &peer.messages(QUEUE)[0];
    assert_eq!((&bare["id"], &bare["body"]), (&json!("bare"), &json!("")));
    assert_eq!((&bare["subject"], &bare["annotations"]), (&Value::Null, &json!({})));
    // One connection, one link and one token for each entity.
    assert_eq!(peer.log_of("connection").len(), 1);
    let names: Vec<_> = peer.log_of("put-token").iter().map(|line| line["name"].clone()).collect();
    assert_eq!(names, ["amqps://localhost/some/path", "amqps://localhost/backups"]);
}

#[tokio::test]
async fn a_batch_is_unpacked_and_a_duplicate_dropped() {
    let peer = AmqpPeer::start(&[]);
    let bus = bus(&peer);
    let some: Vec<_> = (0..100).map(|n| message(&format!("m-{n}"))).collect();
    within(bus.send_batch(QUEUE, &some)).await.unwrap();
    within(bus.send_batch(QUEUE, &some[90..])).await.expect("duplicates are no error");
    within(bus.send_batch(QUEUE, &[])).await.unwrap();
    // Three deliveries: 256 KiB hold two of these.
    let large: Vec<_> =
        (0..5).map(|n| Message::new(format!("l-{n}"), vec![b'x'; 100_000])).collect();
    within(bus.send_batch("large", &large)).await.unwrap();
    let got = peer.messages(QUEUE);
    assert_eq!(got.len(), 110);
    assert!(got[..100].iter().all(|line| line["batch"] == 100 && line["stored"] == true));
    assert!(got[100..].iter().all(|line| line["duplicate"] == true && line["stored"] == false));
    assert_eq!(got[7]["body"], "the body of m-7");
    let batches: Vec<_> = peer.messages("large").iter().map(|line| line["batch"].clone()).collect();
    assert_eq!(batches, [2, 2, 2, 2, 1]);
}

#[tokio::test]
async fn what_can_not_pass_is_told_at_once_and_the_rest_goes_on() {
    let peer = AmqpPeer::start(&["--max-message-size", "10000"]);
    let bus = bus(&peer);
    let too_large = Message::new("m", vec![0; 20_000]);
    let started = Instant::now();
    for (entity, message, kind, named) in [
        ("missing", message("m"), BusErrorKind::UnknownQueue, "create it"),
        ("full", message("m"), BusErrorKind::NoSpace, "raise its size"),
        ("forbidden", message("m"), BusErrorKind::Denied, "Azure Service Bus Data Sender"),
        (QUEUE, too_large, BusErrorKind::Invalid, "the limit is 10000"),
    ] {
        let error = within(bus.send(entity, &message)).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(!error.is_transient());
        let shown = error.to_string();
        assert!(shown.contains(&format!("{entity:?} of the Service Bus localhost:")), "{shown}");
        assert!(shown.contains(named), "{shown}");
        within(bus.send("good", &message_for(entity))).await.unwrap();
    }
    assert!(started.elapsed() < Duration::from_secs(50), "{:?}", started.elapsed());
    assert_eq!(peer.messages("good").len(), 4);
    assert!(peer.messages(QUEUE).is_empty());
}

fn message_for(entity: &str) -> Message {
    message(&format!("after-{entity}"))
}

#[tokio::test]
async fn a_refused_token_is_told_and_never_shown() {
    let peer = AmqpPeer::start(&["--bad-token"]);
    let bus = bus(&peer);
    let error = within(bus.send(QUEUE, &message("m"))).await.unwrap_err();
    assert_eq!(error.kind(), BusErrorKind::Denied);
    let shown = format!("{error} {error:?} {bus:?}");
    assert!(shown.contains("InvalidSignature"), "{shown}");
    for secret in ["c2VjcmV0", "SharedAccessSignature", "sig="] {
        assert!(!shown.contains(secret), "{shown}");
    }
    assert_eq!(peer.log_of("put-token").len(), 2, "once more with another token, no more");
}

#[tokio::test]
async fn what_passes_is_tried_again_with_the_same_id() {
    let peer = AmqpPeer::start(&[]);
    let bus = bus_with(&peer, impatient());
    for entity in ["released", "busy", "idle", "expired", "silent"] {
        within(bus.send(entity, &message("m"))).await.unwrap_or_else(|e| panic!("{entity}: {e}"));
        let got = peer.messages(entity);
        let stored: Vec<_> = got.iter().map(|line| line["stored"].clone()).collect();
        assert_eq!(stored, [false, true], "{entity}");
        assert_eq!(ids(&got).len(), 1, "{entity}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_send_over_one_connection() {
    let peer = AmqpPeer::start(&[]);
    let bus = bus(&peer);
    let tasks: Vec<_> = (0..8)
        .map(|task| {
            let bus = bus.clone();
            tokio::spawn(async move {
                for n in 0..250 {
                    bus.send(QUEUE, &message(&format!("{task}-{n}"))).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        within(task).await.unwrap();
    }
    let got = peer.messages(QUEUE);
    assert_eq!((got.len(), ids(&got).len()), (2000, 2000));
    assert_eq!(peer.log_of("connection").len(), 1);
    assert_eq!(peer.log_of("put-token").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_the_broker_is_killed_and_comes_back() {
    let mut peer = AmqpPeer::start(&["--settle-delay", "5"]);
    let bus = bus(&peer);
    let sent = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = (0..4)
        .map(|task| {
            let (bus, sent) = (bus.clone(), Arc::clone(&sent));
            tokio::spawn(async move {
                for n in 0..50 {
                    bus.send(QUEUE, &message(&format!("{task}-{n}"))).await.unwrap();
                    sent.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    for enough in [40, 120] {
        within(async {
            while sent.load(Ordering::SeqCst) < enough {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        peer.kill();
        peer.restart();
    }
    for task in tasks {
        within(task).await.unwrap();
    }
    // What the log has twice was sent again, with its id.
    assert_eq!(ids(&peer.messages(QUEUE)).len(), 200);
    assert!(peer.log_of("connection").len() >= 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_broker_is_not_waited_for_without_end() {
    let peer = AmqpPeer::start(&[]);
    let bus = bus_with(&peer, impatient());
    within(bus.send(QUEUE, &message("before"))).await.unwrap();
    peer.freeze();
    let started = Instant::now();
    let all: Vec<_> = (0..4)
        .map(|n| {
            let bus = bus.clone();
            tokio::spawn(async move { bus.send(QUEUE, &message(&format!("during-{n}"))).await })
        })
        .collect();
    for one in all {
        let error = within(one).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), BusErrorKind::Unreachable, "{error}");
        assert!(error.is_transient());
        assert!(error.to_string().contains("within"), "{error}");
    }
    assert!(started.elapsed() < Duration::from_secs(40), "{:?}", started.elapsed());
    peer.thaw();
    within(bus.send(QUEUE, &message("after"))).await.unwrap();
    assert!(ids(&peer.messages(QUEUE)).contains("after"));
    // What serves a connection ends with it, also if the other side is frozen just then.
    peer.freeze();
    drop(bus);
    let tasks = tokio::runtime::Handle::current().metrics();
    within(async {
        while tasks.num_alive_tasks() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_token_is_renewed_before_it_expires() {
    let peer = AmqpPeer::start(&[]);
    let options =
        ServiceBusOptions { token_lifetime: Duration::from_secs(4), ..Default::default() };
    let bus = bus_with(&peer, options);
    for n in 0..10 {
        within(bus.send(QUEUE, &message(&n.to_string()))).await.unwrap();
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    let shown = peer.log_of("put-token");
    assert!((2..=6).contains(&shown.len()), "{shown:?}");
    let expirations: BTreeSet<_> =
        shown.iter().map(|line| line["expiration"].as_i64().expect("a moment")).collect();
    assert_eq!(expirations.len(), shown.len(), "each holds longer than the last");
    assert_eq!(peer.log_of("attach").iter().filter(|line| line["address"] == QUEUE).count(), 1);
}

#[tokio::test]
async fn a_connection_that_was_idle_for_long_is_not_used_again() {
    let peer = AmqpPeer::start(&[]);
    let options = ServiceBusOptions { max_idle: Duration::from_millis(100), ..Default::default() };
    let bus = bus_with(&peer, options);
    within(bus.send(QUEUE, &message("one"))).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    within(bus.send(QUEUE, &message("two"))).await.unwrap();
    assert_eq!(peer.log_of("connection").len(), 2);
    assert_eq!(peer.messages(QUEUE).len(), 2);
}

#[tokio::test]
async fn an_event_goes_to_a_topic_with_what_filters_need() {
    let peer = AmqpPeer::start(&[]);
    let sink = TopicSink::new(Arc::new(bus(&peer)), "events");
    let data = json!({"server": "shop", "backup": "shop-1"});
    let time = "2026-11-23T01:30:00Z".parse().unwrap();
    let event =
        CloudEvent::new("shop/1/completed", "file:///v", "flexkeep.backup.completed", time, data)
            .with_subject("shop")
            .with_extension("tenant", "acme");
    within(sink.publish(&event)).await.unwrap();
    within(sink.publish(&event)).await.unwrap();
    let got = peer.messages("events");
    assert_eq!(got[0]["content_type"], "application/cloudevents+json; charset=utf-8");
    assert_eq!(got[0]["subject"], "flexkeep.backup.completed");
    let properties = json!({
        "id": "shop/1/completed", "type": "flexkeep.backup.completed", "source": "file:///v",
        "subject": "shop", "server": "shop", "tenant": "acme"
    });
    assert_eq!(got[0]["properties"], properties);
    let told: CloudEvent = serde_json::from_str(got[0]["body"].as_str().unwrap()).unwrap();
    assert_eq!(told, event);
    assert_eq!((&got[1]["id"], &got[1]["duplicate"]), (&got[0]["id"], &json!(true)));
}

#[derive(Debug, Default)]
struct Credential(AtomicUsize);

#[async_trait]
impl TokenCredential for Credential {
    async fn get_token(
        &self,
        scopes: &[&str],
        _: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<AccessToken> {
        assert_eq!(scopes, ["https://servicebus.azure.net/.default"]);
        self.0.fetch_add(1, Ordering::SeqCst);
        let expires = OffsetDateTime::now_utc() + Duration::from_secs(600);
        Ok(AccessToken::new("eyJ.c2VjcmV0.x".to_owned(), expires))
    }
}

/// The body of a test with TLS. `SSL_CERT_FILE` is read by the whole process, so it runs in one
/// of its own.
async fn send_with_tls(port: u16) -> Result<(), flexkeep_bus::BusError> {
    let address = ServiceBusConnection::with_identity(&format!("localhost:{port}"), None)?;
    assert!(address.wants_credential() && address.has_tls());
    let credential = Arc::new(Credential::default());
    let bus = ServiceBus::new(address, Some(credential.clone()), ServiceBusOptions::default())?;
    for n in 0..20 {
        within(bus.send(QUEUE, &message(&n.to_string()))).await?;
    }
    assert_eq!(credential.0.load(Ordering::SeqCst), 1);
    Ok(())
}

const PORT_VARIABLE: &str = "FLEXKEEP_TEST_TLS_PORT";

/// Runs [`in_a_process_of_its_own`] with that authority to trust, and gives what it printed.
fn send_trusting(authority: &Path, port: u16) -> String {
    let mut command = Command::new(std::env::current_exe().expect("a path"));
    command
        .args(["in_a_process_of_its_own", "--exact", "--nocapture", "--test-threads=1"])
        .env("SSL_CERT_FILE", authority)
        .env(PORT_VARIABLE, port.to_string());
    run(&mut command, LIMIT).expect_success().text()
}

#[tokio::test]
async fn in_a_process_of_its_own() {
    let Ok(port) = std::env::var(PORT_VARIABLE) else { return };
    let shown = match send_with_tls(port.parse().unwrap()).await {
        Ok(()) => "SENT".to_owned(),
        Err(error) => format!("FAILED {:?} {error} {error:?}", error.kind()),
    };
    use std::io::Write;
    writeln!(std::io::stdout(), "{shown}").unwrap();
}

#[test]
fn tls_is_verified_and_an_identity_shows_its_token() {
    let peer = AmqpPeer::start_tls(&[]);
    let said = send_trusting(&peer.authority(), peer.port());
    assert!(said.contains("SENT"), "{said}");
    assert_eq!(ids(&peer.messages(QUEUE)).len(), 20);
    let tokens = peer.log_of("put-token");
    assert_eq!((tokens.len(), &tokens[0]["type"]), (1, &json!("jwt")));

    let stranger = AmqpPeer::start_tls(&[]);
    let said = send_trusting(&peer.authority(), stranger.port());
    assert!(said.contains("FAILED Refused") && said.contains("certificate"), "{said}");
    assert!(!said.contains("c2VjcmV0"), "{said}");
    assert!(stranger.messages(QUEUE).is_empty());
}
