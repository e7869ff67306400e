use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use flexkeep_functions::{App, BoxError, Context, Invocation, Outputs, TriggerKind};
use tokio::time::sleep;
use tower::{Layer, ServiceBuilder};
use tracing::Level;

use crate::host::{Host, Seen, TIMER, capture_logs, fixture, invocation, read_reply};

#[tokio::test]
async fn an_error_fails_the_invocation_with_its_whole_chain_in_one_line() {
    let (logs, _guard) = capture_logs();
    let mut app = App::new();
    app.timer("tick", TIMER, async |_, _| {
        let cause = std::io::Error::other("no route\nto host");
        Err::<(), _>(anyhow::Error::new(cause).context("no server").context("no backup"))
    })
    .unwrap();
    let reply = Host::start(app).await.invoke_fixture("tick", "timer.json").await;
    assert_eq!(reply.status, 500);
    assert_eq!(reply.error(), "no backup: no server: no route\\nto host");
    assert_eq!(reply.json()["invocationId"], "5b6c0000-1111-2222-3333-444455556666");
    let errors: Vec<_> =
        logs.take().into_iter().filter(|(level, _)| *level == Level::ERROR).collect();
    let [(_, line)] = errors.as_slice() else { panic!("{errors:?}") };
    let start = "error invocation{function=tick id=5b6c0000-1111-2222-3333-444455556666}: failed: \
                 no backup: no server: no route\\nto host ms=";
    assert!(line.starts_with(start), "{line}");
    assert_eq!(line.matches('\n').count(), 1);
}

#[tokio::test]
async fn a_panic_fails_its_own_invocation_and_no_other() {
    let (logs, _guard) = capture_logs();
    let mut app = App::new();
    let calls = Arc::new(AtomicUsize::new(0));
    app.timer("tick", TIMER, move |_, _| {
        let call = calls.fetch_add(1, Ordering::Relaxed);
        async move {
            sleep(Duration::from_millis(50)).await;
            assert!(call.is_multiple_of(2), "call {call}\nis odd");
            Ok::<_, BoxError>(())
        }
    })
    .unwrap();
    let host = Arc::new(Host::start(app).await);
    let mut replies = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let host = host.clone();
        replies.spawn(async move { host.invoke_fixture("tick", "timer.json").await });
    }
    let replies = replies.join_all().await;
    let (good, bad): (Vec<_>, Vec<_>) = replies.iter().partition(|reply| reply.status == 200);
    assert_eq!((good.len(), bad.len()), (5, 5));
    for reply in bad {
        assert_eq!(reply.status, 500);
        assert!(reply.error().contains("panicked"), "{}", reply.error());
        assert!(reply.error().contains("\\nis odd"), "{}", reply.error());
    }
    assert_eq!(logs.take().iter().filter(|(level, _)| *level == Level::ERROR).count(), 5);
    assert_eq!(host.invoke_fixture("tick", "timer.json").await.status, 200);
}

#[tokio::test]
async fn a_panic_before_the_future_exists_is_caught_too() {
    let mut app = App::new();
    let panics = |_, _: Context| {
        assert!(std::hint::black_box(false), "at once");
        async { Ok::<_, BoxError>(()) }
    };
    app.timer("tick", TIMER, panics).unwrap();
    let reply = Host::start(app).await.invoke_fixture("tick", "timer.json").await;
    assert_eq!(reply.status, 500);
    assert!(reply.error().contains("at once"), "{}", reply.error());
}

#[tokio::test]
async fn lines_of_the_invocation_go_to_the_host_on_success_and_to_the_log_on_failure() {
    let (logs, _guard) = capture_logs();
    let mut app = App::new();
    let calls = Arc::new(AtomicUsize::new(0));
    app.timer("tick", TIMER, move |_, cx: Context| {
        let call = calls.fetch_add(1, Ordering::Relaxed);
        async move {
            cx.log("one\ntwo");
            cx.log(format!("{:?}", "three"));
            if call == 0 { Ok(Outputs::new()) } else { Err("no") }
        }
    })
    .unwrap();
    let host = Host::start(app).await;
    let reply = host.invoke_fixture("tick", "timer.json").await;
    assert_eq!(reply.body, br#"{"Logs":["one","two","\"three\""]}"#);
    assert!(!logs.take().iter().any(|(_, line)| line.contains("two")));
    let reply = host.invoke_fixture("tick", "timer.json").await;
    assert_eq!(reply.status, 500);
    let lines = logs.take();
    let two = lines.iter().find(|(_, line)| line.ends_with(": two\n")).unwrap();
    assert!(two.0 == Level::INFO && two.1.contains("id=5b6c"), "{two:?}");
}

#[tokio::test]
async fn a_function_knows_its_invocation_and_its_deadline() {
    let seen = Seen::new();
    let put = seen.clone();
    let mut app = App::new();
    app.function_timeout(Duration::from_secs(600)).deadline_margin(Duration::from_secs(100));
    app.timer("tick", TIMER, move |_, cx: Context| {
        put.put(cx);
        async { Ok::<_, BoxError>(()) }
    })
    .unwrap();
    let host = Host::start(app).await;
    let mut request = String::from_utf8(invocation("tick", &fixture("timer.json"))).unwrap();
    request = request.replacen("User-Agent", "traceparent: 00-ab-cd-01\r\nUser-Agent", 1);
    host.raw(request.as_bytes()).await;
    let cx = seen.only();
    assert_eq!(cx.function_name(), "tick");
    assert_eq!(cx.invocation_id(), "5b6c0000-1111-2222-3333-444455556666");
    assert_eq!(cx.host_version(), Some("4.1052.300.26370"));
    assert_eq!(cx.traceparent(), Some("00-ab-cd-01"));
    let remaining = cx.remaining().unwrap();
    assert!(remaining <= Duration::from_secs(500), "{remaining:?}");
    assert!(remaining > Duration::from_secs(490), "{remaining:?}");
}

#[tokio::test]
async fn without_a_limit_there_is_no_deadline_and_without_an_id_there_is_one_made_up() {
    let seen = Seen::new();
    let put = seen.clone();
    let mut app = App::new();
    app.function_timeout(None);
    app.timer("tick", TIMER, move |_, cx: Context| {
        put.put((cx.invocation_id().to_owned(), cx.deadline()));
        async { Ok::<_, BoxError>(()) }
    })
    .unwrap();
    let host = Host::start(app).await;
    let request = b"POST /tick HTTP/1.1\r\nHost: x\r\nContent-Length: 27\r\n\r\n{\"Data\":{\"myTimer\":{ }   }}";
    assert_eq!(host.raw(request).await.status, 200);
    assert_eq!(host.raw(request).await.status, 200);
    assert_eq!(seen.take(), [("local-1".to_owned(), None), ("local-2".to_owned(), None)]);
}

#[tokio::test]
async fn an_invocation_that_ignores_its_deadline_is_cancelled_before_the_host_kills_the_process() {
    let mut app = App::new();
    app.function_timeout(Duration::from_millis(800)).deadline_margin(Duration::from_secs(10));
    app.timer("tick", TIMER, async |_, cx: Context| {
        assert!(cx.remaining().unwrap() <= Duration::from_millis(600));
        std::future::pending::<Result<(), BoxError>>().await
    })
    .unwrap();
    let started = Instant::now();
    let reply = Host::start(app).await.invoke_fixture("tick", "timer.json").await;
    assert_eq!(reply.status, 500);
    assert!(reply.error().contains("functionTimeout"), "{}", reply.error());
    let elapsed = started.elapsed();
    assert!(elapsed >= Duration::from_millis(700), "{elapsed:?}");
    assert!(elapsed < Duration::from_secs(5), "{elapsed:?}");
}

#[tokio::test]
async fn an_invocation_whose_host_hangs_up_is_dropped_and_logged() {
    let (logs, _guard) = capture_logs();
    struct Dropped(Seen<()>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.put(());
        }
    }
    let (started, dropped) = (Seen::new(), Seen::new());
    let (put, guard) = (started.clone(), dropped.clone());
    let mut app = App::new();
    app.timer("tick", TIMER, move |_, _| {
        put.put(());
        let guard = Dropped(guard.clone());
        async move {
            std::future::pending::<()>().await;
            drop(guard);
            Ok::<_, BoxError>(())
        }
    })
    .unwrap();
    let host = Host::start(app).await;
    let mut stream = host.connect().await;
    let request = invocation("tick", &fixture("timer.json"));
    tokio::io::AsyncWriteExt::write_all(&mut stream, &request).await.unwrap();
    while started.take().is_empty() {
        sleep(Duration::from_millis(5)).await;
    }
    drop(stream);
    while dropped.take().is_empty() {
        sleep(Duration::from_millis(5)).await;
    }
    let lines = logs.take();
    let line = lines.iter().find(|(_, line)| line.contains("dropped half-way")).unwrap();
    assert!(line.0 == Level::ERROR && line.1.contains("function=tick id=5b6c"), "{line:?}");
}

#[tokio::test]
async fn stopping_lets_a_running_invocation_finish_and_tells_it() {
    let mut app = App::new();
    app.timer("tick", TIMER, async |_, cx: Context| {
        assert!(!cx.is_stopping());
        cx.stopping().await;
        assert!(cx.is_stopping());
        cx.log("told");
        Ok::<_, BoxError>(())
    })
    .unwrap();
    let host = Host::start(app).await;
    let address = host.address;
    let mut stream = host.connect().await;
    let request = invocation("tick", &fixture("timer.json"));
    tokio::io::AsyncWriteExt::write_all(&mut stream, &request).await.unwrap();
    sleep(Duration::from_millis(100)).await;
    let (stopped, reply) = tokio::join!(host.stop(), read_reply(&mut stream));
    stopped.unwrap();
    assert_eq!(reply.body, br#"{"Logs":["told"]}"#);
    let refused = tokio::net::TcpStream::connect(address).await;
    assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn stopping_waits_no_longer_than_its_limit_and_says_what_was_running() {
    let mut app = App::new();
    app.shutdown_limit(Duration::from_millis(100));
    app.timer("tick", TIMER, async |_, _| std::future::pending::<Result<(), BoxError>>().await)
        .unwrap();
    let host = Host::start(app).await;
    let mut stream = host.connect().await;
    let request = invocation("tick", &fixture("timer.json"));
    tokio::io::AsyncWriteExt::write_all(&mut stream, &request).await.unwrap();
    sleep(Duration::from_millis(100)).await;
    let error = host.stop().await.unwrap_err().to_string();
    assert!(error.starts_with("1 invocations were still running"), "{error}");
}

#[tokio::test]
async fn stopping_does_not_wait_for_idle_or_half_open_connections() {
    let mut app = App::new();
    app.shutdown_limit(Duration::from_millis(300));
    app.timer("tick", TIMER, async |_, _| Ok::<_, BoxError>(())).unwrap();
    let host = Host::start(app).await;
    let mut half = host.connect().await;
    tokio::io::AsyncWriteExt::write_all(&mut half, b"POST /tick HT").await.unwrap();
    let _idle = host.connect().await;
    sleep(Duration::from_millis(50)).await;
    host.stop().await.unwrap();
}

/// Counts invocations, and refuses messages: a layer as an app would write it.
#[derive(Clone)]
struct Gate(Seen<(String, TriggerKind)>);

impl<S> Layer<S> for Gate
where
    S: tower::Service<Invocation, Error = BoxError> + Clone + Send + 'static,
    S::Future: Send,
{
    type Service = tower::util::BoxCloneSyncService<Invocation, S::Response, BoxError>;

    fn layer(&self, inner: S) -> Self::Service {
        let seen = self.0.clone();
        let inner = std::sync::Mutex::new(inner);
        let inner = Arc::new(inner);
        tower::util::BoxCloneSyncService::new(tower::service_fn(move |invocation: Invocation| {
            seen.put((invocation.context().function_name().to_owned(), invocation.trigger()));
            let inner = inner.lock().unwrap().clone();
            async move {
                if invocation.trigger() == TriggerKind::ServiceBus {
                    return Err("closed".into());
                }
                tower::ServiceExt::oneshot(inner, invocation).await
            }
        }))
    }
}

#[tokio::test]
async fn a_layer_sees_every_invocation_and_may_refuse_it() {
    let seen = Seen::new();
    let mut app = App::new();
    app.layer(Gate(seen.clone()));
    app.timer("tick", TIMER, async |_, _| Ok::<_, BoxError>(())).unwrap();
    app.service_bus("onMsg", &crate::host::service_bus("msg", ""), async |_, _| {
        Ok::<_, BoxError>(())
    })
    .unwrap();
    let host = Host::start(app).await;
    assert_eq!(host.invoke_fixture("tick", "timer.json").await.status, 200);
    let reply = host.invoke_fixture("onMsg", "service_bus_string.json").await;
    assert_eq!((reply.status, reply.error().as_str()), (500, "closed"));
    let expected = [("tick", TriggerKind::Timer), ("onMsg", TriggerKind::ServiceBus)];
    let expected = expected.map(|(name, kind)| (name.to_owned(), kind));
    assert_eq!(seen.take(), expected);
}

#[tokio::test]
async fn towers_own_layers_fit() {
    let running = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let mut app = App::new();
    app.layer(ServiceBuilder::new().concurrency_limit(2).into_inner());
    let (now, peak) = (running.clone(), most.clone());
    app.timer("tick", TIMER, move |_, _| {
        let (now, peak) = (now.clone(), peak.clone());
        async move {
            peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            sleep(Duration::from_millis(10)).await;
            now.fetch_sub(1, Ordering::SeqCst);
            Ok::<_, BoxError>(())
        }
    })
    .unwrap();
    let host = Arc::new(Host::start(app).await);
    let mut replies = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let host = host.clone();
        replies.spawn(async move { host.invoke_fixture("tick", "timer.json").await.status });
    }
    assert_eq!(replies.join_all().await, [200; 10]);
    assert_eq!(most.load(Ordering::SeqCst), 2);
}
