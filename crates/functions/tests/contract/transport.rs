use std::{sync::Arc, time::Duration};

use flexkeep_functions::{App, BoxError};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::sleep,
};

use crate::host::{Host, Seen, TIMER, fixture, head, invocation, read_reply, service_bus};

fn app() -> (App, Seen<usize>) {
    let seen = Seen::new();
    let put = seen.clone();
    let mut app = App::new();
    app.timer("tick", TIMER, async |_, _| Ok::<_, BoxError>(())).unwrap();
    app.service_bus("onMsg", &service_bus("msg", r#""dataType":"binary","#), move |message, _| {
        put.put(message.body.len());
        async { Ok::<_, BoxError>(()) }
    })
    .unwrap();
    (app, seen)
}

#[tokio::test]
async fn the_hosts_readiness_request_is_answered() {
    let host = Host::start(app().0).await;
    let reply = host.raw(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").await;
    assert_eq!(reply.status, 200);
    reply.json();
}

#[tokio::test]
async fn a_body_may_be_chunked_in_any_way_or_have_a_length() {
    let host = Host::start(app().0).await;
    let body = fixture("timer.json");
    let mut bytewise = head("tick", "Transfer-Encoding: chunked").into_bytes();
    for byte in &body {
        bytewise.extend(b"1;name=value\r\n");
        bytewise.push(*byte);
        bytewise.extend(b"\r\n");
    }
    bytewise.extend(b"000\r\nTrailer: x\r\n\r\n");
    let mut sized = head("tick", &format!("Content-Length: {}", body.len())).into_bytes();
    sized.extend(&body);
    for request in [bytewise, sized] {
        let reply = host.raw(&request).await;
        assert_eq!((reply.status, reply.body.as_slice()), (200, &b"{}"[..]));
    }
}

#[tokio::test]
async fn a_connection_serves_one_invocation_after_the_other() {
    let host = Host::start(app().0).await;
    let mut stream = host.connect().await;
    for name in ["tick", "nothing", "tick"] {
        stream.write_all(&invocation(name, &fixture("timer.json"))).await.unwrap();
        let status = if name == "tick" { 200 } else { 404 };
        assert_eq!(read_reply(&mut stream).await.status, status);
    }
}

#[tokio::test]
async fn a_slow_body_is_waited_for() {
    let host = Host::start(app().0).await;
    let mut stream = host.connect().await;
    for piece in invocation("tick", &fixture("timer.json")).chunks(100) {
        stream.write_all(piece).await.unwrap();
        stream.flush().await.unwrap();
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(read_reply(&mut stream).await.status, 200);
}

#[tokio::test]
async fn a_body_that_stops_is_given_up() {
    let (mut app, seen) = app();
    app.body_idle_limit(Duration::from_millis(100));
    let host = Host::start(app).await;
    let mut stream = host.connect().await;
    stream.write_all(head("onMsg", "Content-Length: 100").as_bytes()).await.unwrap();
    stream.write_all(b"{\"Data\":").await.unwrap();
    let reply = read_reply(&mut stream).await;
    assert_eq!(reply.status, 408);
    assert!(reply.error().contains("stopped for 0.1 s"), "{}", reply.error());
    assert!(seen.take().is_empty());
}

#[tokio::test]
async fn a_connection_that_breaks_in_the_middle_of_a_body_calls_no_function() {
    let (app, seen) = app();
    let host = Host::start(app).await;
    let request = invocation("onMsg", &fixture("service_bus_binary.json"));
    for reset in [false, true] {
        let mut stream = host.connect().await;
        stream.write_all(&request[..request.len() - 20]).await.unwrap();
        if reset {
            // Closing with bytes unread, or without lingering, is a reset.
            stream.set_zero_linger().unwrap();
        }
        drop(stream);
    }
    // Closed in one direction only: the answer can still be read, or the connection is gone.
    let mut stream = host.connect().await;
    stream.write_all(&request[..request.len() - 20]).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    assert!(
        rest.is_empty() || rest.starts_with(b"HTTP/1.1 400"),
        "{:?}",
        String::from_utf8_lossy(&rest)
    );
    sleep(Duration::from_millis(50)).await;
    assert!(seen.take().is_empty());
    assert_eq!(host.invoke_fixture("onMsg", "service_bus_binary.json").await.status, 200);
}

#[tokio::test]
async fn a_body_at_the_limit_is_read_and_one_byte_more_is_refused_with_words() {
    let (mut app, seen) = app();
    let body = fixture("service_bus_binary.json");
    app.body_limit(body.len());
    let host = Host::start(app).await;
    assert_eq!(host.invoke("onMsg", &body).await.status, 200);
    let mut larger = body.clone();
    larger.push(b' ');
    let mut sized = head("onMsg", &format!("Content-Length: {}", larger.len())).into_bytes();
    sized.extend(&larger);
    for request in [invocation("onMsg", &larger), sized] {
        let reply = host.raw(&request).await;
        assert_eq!(reply.status, 413);
        let words = format!("larger than {} bytes", body.len());
        assert!(reply.error().contains(&words), "{}", reply.error());
        assert!(reply.error().contains("body_limit"), "{}", reply.error());
    }
    assert_eq!(seen.take().len(), 1);
}

#[tokio::test]
async fn a_length_that_is_announced_and_never_sent_takes_no_memory() {
    let (mut app, _) = app();
    app.body_idle_limit(Duration::from_millis(200));
    let host = Host::start(app).await;
    let before = resident_kib();
    let mut streams = Vec::new();
    for _ in 0..50 {
        let mut stream = host.connect().await;
        stream.write_all(head("onMsg", "Content-Length: 100000000").as_bytes()).await.unwrap();
        stream.write_all(b"{\"Data\":").await.unwrap();
        streams.push(stream);
    }
    sleep(Duration::from_millis(100)).await;
    let grown = resident_kib().saturating_sub(before);
    assert!(grown < 50_000, "{grown} KiB");
    for stream in &mut streams {
        assert_eq!(read_reply(stream).await.status, 408);
    }
}

/// What the process holds in memory.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_large_message_is_decoded_while_others_go_on() {
    let (app, seen) = app();
    let host = Arc::new(Host::start(app).await);
    let large =
        format!("{{\"Data\":{{\"msg\":\"{}\"}},\"Metadata\":{{}}}}", "QUJD".repeat(5_000_000));
    let other = host.clone();
    let large = tokio::spawn(async move { other.invoke("onMsg", large.as_bytes()).await.status });
    for _ in 0..20 {
        assert_eq!(host.invoke_fixture("tick", "timer.json").await.status, 200);
    }
    assert_eq!(large.await.unwrap(), 200);
    assert_eq!(seen.only(), 15_000_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_invocations_run_in_parallel() {
    let barrier = Arc::new(tokio::sync::Barrier::new(50));
    let mut app = App::new();
    app.timer("tick", TIMER, move |_, _| {
        let barrier = barrier.clone();
        async move {
            // Only all of them together get past this.
            barrier.wait().await;
            Ok::<_, BoxError>(())
        }
    })
    .unwrap();
    let host = Arc::new(Host::start(app).await);
    let mut replies = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let host = host.clone();
        replies.spawn(async move { host.invoke_fixture("tick", "timer.json").await.status });
    }
    assert_eq!(replies.join_all().await, [200; 50]);
}

#[tokio::test]
async fn an_unknown_function_is_told_which_are_known() {
    let host = Host::start(app().0).await;
    for path in ["Tick", "api/tick", "tick/", "%74ick", "nothing?x=1"] {
        let reply = host.invoke(path, b"{}").await;
        assert_eq!(reply.status, 404, "{path}");
        assert_eq!(reply.json()["functions"], serde_json::json!(["onMsg", "tick"]));
        assert!(reply.error().contains("no function has the path"), "{}", reply.error());
    }
}

#[tokio::test]
async fn another_method_than_post_is_refused() {
    let host = Host::start(app().0).await;
    for method in ["GET", "PUT", "DELETE"] {
        let request = format!("{method} /tick HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
        let reply = host.raw(request.as_bytes()).await;
        assert_eq!((reply.status, reply.headers["allow"].as_str()), (405, "POST"));
        assert!(reply.error().contains(method), "{}", reply.error());
    }
}

#[tokio::test]
async fn a_request_that_is_no_envelope_is_refused_with_what_is_missing() {
    let (app, seen) = app();
    let host = Host::start(app).await;
    let deep = format!(r#"{{"Data":{{"msg":{}{}}}}}"#, "[".repeat(200_000), "]".repeat(200_000));
    let open = "[".repeat(1_000_000);
    for (body, words) in [
        (&b""[..], "has no body"),
        (b" \r\n", "has no body"),
        (b"hello", "not JSON"),
        (b"{\"Data\":{\"msg\":\"\xff\xfe\"}}", "not JSON"),
        (b"\xff", "not JSON"),
        (b"null", "not JSON"),
        (b"[]", "not JSON of the form"),
        (b"[{\"msg\":\"eA==\"},{}]", "not JSON of the form"),
        (b"{}", "has no Data"),
        (b"{\"Metadata\":{}}", "has no Data"),
        (b"{\"Data\":null}", "has no Data"),
        (b"{\"Data\":5}", "not JSON"),
        (b"{\"Data\":{}}", "Data has no \"msg\""),
        (b"{\"Data\":{\"Msg\":\"\"}}", "it has \"Msg\""),
        (b"{\"Data\":{\"msg\":null}}", "expected a JSON string"),
        (b"{\"Data\":{\"msg\":\"eA==\"}} x", "not JSON"),
        (deep.as_bytes(), "expected a JSON string"),
        (open.as_bytes(), "not JSON"),
    ] {
        let reply = host.invoke("onMsg", body).await;
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        assert_eq!(reply.status, 400, "{shown}");
        assert!(reply.error().contains(words), "{shown}: {}", reply.error());
    }
    assert!(seen.take().is_empty());
}

#[tokio::test]
async fn what_is_not_http_gets_no_further_than_its_connection() {
    let host = Host::start(app().0).await;
    for junk in [&b"\x16\x03\x01\x02\x00\x01\x00"[..], b"hello\r\n\r\n", b"POST tick\r\n\r\n"] {
        let mut stream = host.connect().await;
        stream.write_all(junk).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        assert!(!rest.starts_with(b"HTTP/1.1 2"));
    }
    assert_eq!(host.invoke_fixture("tick", "timer.json").await.status, 200);
}
