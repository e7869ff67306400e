//! A Service Bus that is not there, or is none: every wait ends. What one does that is there is
//! tested against a broker in the top-level tests.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use flexkeep_bus::{
    Bus, BusConnection, BusError, BusErrorKind, Message, ServiceBus, ServiceBusConnection,
    ServiceBusOptions,
};

const KEY: &str = "SharedAccessKeyName=k;SharedAccessKey=c2VjcmV0";

fn options() -> ServiceBusOptions {
    ServiceBusOptions {
        total_limit: Duration::from_secs(2),
        connect_limit: Duration::from_millis(500),
        first_pause: Duration::from_millis(20),
        ..ServiceBusOptions::default()
    }
}

fn connection(port: u16, more: &str) -> ServiceBusConnection {
    let text = format!("Endpoint=sb://127.0.0.1:{port}/;{KEY}{more}");
    match BusConnection::parse(&text, Path::new("/")).unwrap() {
        BusConnection::ServiceBus(connection) => connection,
        BusConnection::Local(_) => panic!("it is a Service Bus connection"),
    }
}

/// Sends one message to what listens on `port`, which must fail in time.
async fn failure(port: u16, more: &str) -> BusError {
    let bus = ServiceBus::new(connection(port, more), None, options()).unwrap();
    let started = Instant::now();
    let error = bus.send("backups", &Message::new("m-1", "")).await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    let shown = format!("{error} {error:?}");
    assert!(shown.contains("\"m-1\"") && shown.contains("\"backups\""), "{shown}");
    assert!(shown.contains(&format!("127.0.0.1:{port}")), "{shown}");
    assert!(!shown.contains("c2VjcmV0") && !shown.contains("sig="), "{shown}");
    error
}

const PLAIN: &str = ";UseDevelopmentEmulator=true";

/// Lets `answer` serve each connection to a port of 127.0.0.1.
fn listen(answer: impl Fn(TcpStream) + Send + Clone + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = answer.clone();
            thread::spawn(move || answer(stream));
        }
    });
    port
}

#[tokio::test]
async fn where_nobody_listens_or_answers_it_is_unreachable_in_time() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let silent = listen(|mut stream| drop(stream.read_to_end(&mut Vec::new())));
    let closing = listen(drop);
    for (port, more) in
        [(nobody, PLAIN), (silent, PLAIN), (silent, ""), (closing, PLAIN), (closing, "")]
    {
        let error = failure(port, more).await;
        assert_eq!(error.kind(), BusErrorKind::Unreachable, "{error}");
        assert!(error.is_transient() && error.to_string().contains("within 2 s"), "{error}");
    }
}

#[tokio::test]
async fn what_speaks_something_else_is_told_from_a_broker() {
    let web = listen(|mut stream| {
        let _ = stream.read(&mut [0; 100]);
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let error = failure(web, PLAIN).await;
    assert!(error.to_string().contains("check host and port"), "{error}");
    assert!(!error.is_transient());
}

#[tokio::test]
async fn what_breaks_a_rule_is_refused_before_anything_is_connected_to() {
    let bus = ServiceBus::new(connection(1, PLAIN), None, options()).unwrap();
    for (queue, message) in [
        ("backups", Message::new("", "")),
        ("backups", Message::new("m", vec![0; 256 * 1024])),
        ("back ups", Message::new("m", "")),
        ("backups", Message::new("m", "").with_content_type("tëxt")),
    ] {
        let error = bus.send(queue, &message).await.unwrap_err();
        assert_eq!(error.kind(), BusErrorKind::Invalid, "{error}");
        let error = bus.send_batch(queue, &[message]).await.unwrap_err();
        assert_eq!(error.kind(), BusErrorKind::Invalid, "{error}");
    }
    let only = ServiceBus::new(connection(1, ";EntityPath=events"), None, options()).unwrap();
    let error = only.send("backups", &Message::new("m", "")).await.unwrap_err();
    assert!(error.to_string().contains("EntityPath"), "{error}");
    assert!(!format!("{bus:?} {only:?}").contains("c2VjcmV0"));
}

#[test]
fn an_identity_needs_a_credential() {
    let address = ServiceBusConnection::with_identity("ns.servicebus.windows.net", None).unwrap();
    let error = ServiceBus::new(address.clone(), None, options()).unwrap_err();
    assert!(error.to_string().contains("connection string with a key"), "{error}");
    assert!(BusConnection::ServiceBus(address).open(None).is_err());
}
