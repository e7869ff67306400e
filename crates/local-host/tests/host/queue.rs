//! Queue triggers on the embedded queue.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use flexkeep_bus::{Message, QueueOptions};
use flexkeep_local_host::{HostEvent, Settlement};
use serde_json::json;

use crate::app::{App, QUEUE, Running};

async fn settled(host: &mut Running) -> (String, Settlement) {
    host.until(|event| match event {
        HostEvent::Settled { message_id, outcome, .. } => Some((message_id.clone(), *outcome)),
        _ => None,
    })
    .await
}

#[tokio::test]
async fn a_message_wakes_an_idle_host_before_its_next_look() {
    let app = App::new().queue_function("f", json!({}), &[]);
    let queues = app.queues();
    let mut host = app.start().await;
    host.listeners_started().await;
    let mut times = Vec::new();
    for number in 0..5 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        let sent = Instant::now();
        queues.send(QUEUE, &Message::new(format!("{number}"), "x")).unwrap();
        assert!(host.invoked("f").await.ok);
        times.push(sent.elapsed());
    }
    times.sort();
    // It looks twice a second without being woken; some of them may have met a busy machine.
    assert!(times[1] < Duration::from_millis(250), "{times:?}");
    host.stop().await;
}

#[tokio::test]
async fn a_poison_message_becomes_a_dead_letter_and_holds_nobody_up() {
    let app = App::new().service_bus(json!({"maxConcurrentCalls": 1})).queue_function(
        "f",
        json!({}),
        &[],
    );
    app.behave("f", "poison rotten");
    app.send("rotten");
    for number in 0..20 {
        app.send(&format!("good-{number}"));
    }
    let mut host = app.start().await;
    let mut order = Vec::new();
    while order.last() != Some(&("id-rotten".to_owned(), Settlement::DeadLettered)) {
        order.push(settled(&mut host).await);
    }
    let completed = order.iter().filter(|(_, outcome)| *outcome == Settlement::Completed).count();
    assert_eq!(completed, 20, "the others were done before: {order:?}");
    let abandoned = order.iter().filter(|(_, outcome)| *outcome == Settlement::Abandoned).count();
    assert_eq!(abandoned, 9);
    host.stop().await;
    let counts = app.queues().counts(QUEUE).unwrap();
    assert_eq!((counts.active, counts.locked, counts.dead), (0, 0, 1));
}

#[tokio::test]
async fn ten_thousand_messages_with_duplicates_are_drained_without_loss() {
    let app = App::new().queue_function("f", json!({}), &[]);
    let queues = app.queues();
    for start in (0..10_000).step_by(1000) {
        // Each id is sent twice; the queue drops the second one.
        let message = |number: u32| Message::new(format!("m-{number}"), format!("body {number}"));
        let messages: Vec<_> =
            (start..start + 1000).flat_map(|n| [message(n), message(n)]).collect();
        queues.send_all(QUEUE, &messages).unwrap();
    }
    let mut host = app.start().await;
    for _ in 0..10_000 {
        assert_eq!(settled(&mut host).await.1, Settlement::Completed);
    }
    host.stop().await;
    let counts = queues.counts(QUEUE).unwrap();
    assert_eq!((counts.active, counts.locked, counts.dead), (0, 0, 0));
    let envelopes = app.envelopes();
    let bodies: HashSet<_> = envelopes.iter().map(|e| e["Data"]["msg"].as_str().unwrap()).collect();
    assert_eq!((envelopes.len(), bodies.len()), (10_000, 10_000));
}

#[tokio::test]
async fn no_more_calls_run_at_once_than_configured() {
    let app = App::new().service_bus(json!({"maxConcurrentCalls": 3})).queue_function(
        "f",
        json!({}),
        &[],
    );
    app.behave("f", "sleep 300");
    for number in 0..9 {
        app.send(&format!("{number}"));
    }
    let mut host = app.start().await;
    host.listeners_started().await;
    let started = Instant::now();
    let mut most = 0;
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_millis(70)).await;
        let status = host.get("/admin/host/status").await;
        let status: serde_json::Value = serde_json::from_str(&status.body).unwrap();
        most = most.max(status["inFlight"].as_u64().unwrap());
    }
    for _ in 0..9 {
        assert!(host.invoked("f").await.ok);
    }
    assert!(started.elapsed() >= Duration::from_millis(850), "{:?}", started.elapsed());
    assert!((1..=3).contains(&most), "{most}");
    host.stop().await;
}

fn short_locks(app: &App) {
    let options = QueueOptions { lock_duration: Duration::from_secs(2), ..QueueOptions::default() };
    app.queues().declare(QUEUE, &options).unwrap();
}

#[tokio::test]
async fn locks_are_renewed_while_the_function_runs() {
    let app = App::new().queue_function("f", json!({}), &[]);
    short_locks(&app);
    app.behave("f", "sleep 5000");
    app.send("long");
    let mut host = app.start().await;
    assert_eq!(settled(&mut host).await.1, Settlement::Completed);
    assert_eq!(app.requests().len(), 1);
    assert_eq!(
        app.queues().queues().unwrap()[0].options.lock_duration.as_millis(),
        2000,
        "the host leaves the options of a queue that exists as they are"
    );
    host.stop().await;
}

#[tokio::test]
async fn without_renewal_the_lock_is_lost_and_the_message_comes_again() {
    let app = App::new()
        .service_bus(json!({"maxAutoLockRenewalDuration": "00:00:00"}))
        .queue_function("f", json!({}), &[]);
    short_locks(&app);
    app.behave("f", "sleep 5000\nok");
    app.send("long");
    let mut host = app.start().await;
    assert_eq!(settled(&mut host).await.1, Settlement::Completed, "the second delivery is quick");
    assert_eq!(settled(&mut host).await.1, Settlement::LockLost, "the first one comes too late");
    let counts: Vec<_> =
        app.envelopes().iter().map(|e| e["Metadata"]["DeliveryCount"].clone()).collect();
    assert_eq!(counts, [json!("1"), json!("2")]);
    host.stop().await;
}

#[tokio::test]
async fn a_batch_succeeds_or_fails_as_a_whole_and_one_runs_at_a_time() {
    let app = App::new().service_bus(json!({"maxMessageBatchSize": 4})).queue_function(
        "f",
        json!({"cardinality": "many", "dataType": "string"}),
        &[],
    );
    app.behave("f", "status 500\nok");
    for number in 0..6 {
        app.send(&format!("{number}"));
    }
    let mut host = app.start().await;
    let mut outcomes: HashMap<Settlement, usize> = HashMap::new();
    while outcomes.get(&Settlement::Completed) != Some(&6) {
        *outcomes.entry(settled(&mut host).await.1).or_default() += 1;
    }
    assert_eq!(outcomes.get(&Settlement::Abandoned), Some(&4));
    let envelopes = app.envelopes();
    assert_eq!(envelopes[0]["Data"]["msg"], json!(r#"["0","1","2","3"]"#));
    assert_eq!(envelopes[0]["Metadata"]["DeliveryCountArray"], json!("[1,1,1,1]"));
    host.stop().await;
}

#[tokio::test]
async fn scheduled_messages_come_when_they_are_due() {
    let app = App::new().queue_function("f", json!({}), &[]);
    let mut host = app.start().await;
    host.listeners_started().await;
    let due = jiff::Timestamp::now() + Duration::from_millis(1200);
    app.queues().send(QUEUE, &Message::new("later", "x").with_deliver_at(due)).unwrap();
    assert!(host.invoked("f").await.ok);
    let late = jiff::Timestamp::now().duration_since(due);
    assert!(!late.is_negative() && late.as_millis() < 500, "{late}");
    host.stop().await;
}
