//! Drills and restores as far as they need no server: when they are sent, what becomes of them while
//! the target is away, and that each is told once.

mod support;

use flexkeep_service::{DrillOrder, Incoming, RestoreMessage, RestoreOrder, RestoreWorked};
use jiff::Timestamp;
use support::*;

const TARGET: &str = "[[target]]\nname = \"drills\"\n\
     connection = \"host=127.0.0.1 port=1 user=restorer dbname=postgres connect_timeout=1\"\n\
     password = { env = \"SHOP_PASSWORD\" }\n";

fn drill(lines: &str) -> String {
    format!(
        "{TARGET}[[drill]]\nserver = \"shop\"\ntarget = \"drills\"\n\
         schedule = {{ every = \"week\", on = \"monday\", at = \"05:00\" }}\n{lines}\n"
    )
}

/// The messages on the queue of restores.
fn waiting(bench: &Bench) -> Vec<RestoreMessage> {
    let peeked = bench.queues.peek(RESTORE_QUEUE, 100).expect("a queue is read");
    peeked
        .iter()
        .map(|peeked| {
            let message = RestoreMessage::parse(&peeked.message.body, Timestamp::now()).unwrap();
            assert_eq!(peeked.message.id, message.message_id());
            message
        })
        .collect()
}

async fn work(bench: &Bench, message: &RestoreMessage, delivery_count: u32) -> RestoreWorked {
    let incoming = Incoming {
        body: serde_json::to_vec(message).unwrap(),
        message_id: message.message_id(),
        delivery_count,
        deadline: None,
    };
    bench.service.work_restore(incoming).await.expect("the message is answered")
}

#[tokio::test(start_paused = true)]
async fn a_drill_is_sent_at_its_next_instant_and_once() {
    let bench = Bench::new(&[daily("shop", "enabled = false"), drill("")]);
    // 2024-05-06 is a monday.
    for now in ["2024-05-01T00:00:00Z", "2024-05-06T04:59:59Z"] {
        assert!(bench.tick(at(now)).await.unwrap().drills.is_empty(), "{now}");
    }
    let ticked = bench.tick(at("2024-05-06T05:00:00Z")).await.unwrap();
    assert_eq!(ticked.drills.len(), 1);
    for now in ["2024-05-06T05:00:00Z", "2024-05-06T05:05:00Z", "2024-05-12T23:00:00Z"] {
        assert!(bench.tick(at(now)).await.unwrap().drills.is_empty(), "{now}");
    }
    let sent = waiting(&bench);
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].message_id(), "drill/shop/20240506T050000Z");
    assert_eq!(sent[0].drill, Some(DrillOrder::default()));
    // A record that is lost sends nothing at once, and the queue drops what is sent twice.
    std::fs::remove_file(bench.record_path("shop")).unwrap();
    assert!(bench.tick(at("2024-05-13T04:00:00Z")).await.unwrap().drills.is_empty());
    bench.tick(at("2024-05-13T05:00:00Z")).await.unwrap();
    assert_eq!(waiting(&bench).len(), 2);
    bench.write_policy(&[daily("shop", "enabled = false"), drill("enabled = false")]);
    assert!(bench.tick(at("2024-05-20T05:00:00Z")).await.unwrap().drills.is_empty());
    let status = bench.service.status().await.unwrap();
    let of_drill = status.servers[0].drill.as_ref().expect("there is a drill");
    assert_eq!((of_drill.next, of_drill.schedule.is_some()), (None, true));
}

#[tokio::test(start_paused = true)]
async fn a_target_that_is_away_puts_a_request_off_and_in_the_end_it_is_given_up() {
    let bench = Bench::new(&[daily("shop", ""), drill("")]);
    seal(&bench.vault(), &scheduled("shop", at("2024-05-01T01:30:00Z"), minutes(1)));
    let order = RestoreOrder {
        target: "drills".parse().unwrap(),
        ..serde_json::from_value(serde_json::json!({"target": "drills"})).unwrap()
    };
    let server = "shop".parse().unwrap();
    let restore = RestoreMessage::restore(&server, "k", order, Timestamp::now()).unwrap();
    let drill =
        RestoreMessage::drill(&server, "k", DrillOrder::default(), Timestamp::now()).unwrap();
    for message in [restore, drill] {
        let what = message.what();
        let mut message = message;
        let mut minutes = Vec::new();
        let why = loop {
            match work(&bench, &message, 1).await {
                RestoreWorked::PutOff { after, .. } => minutes.push(after.as_mins()),
                RestoreWorked::Failed { why } => break why,
                other => panic!("{other:?}"),
            }
            message = waiting(&bench).pop().expect("a later message");
        };
        assert_eq!(minutes, [1, 4, 16, 60], "{what}");
        assert!(why.contains("given up after 5 tries") && why.contains("127.0.0.1"), "{why}");
        // However often it comes again: it is over, and told as it was.
        let again = work(&bench, &message, 1).await;
        assert_eq!(again, RestoreWorked::Failed { why: why.clone() }, "{what}");
        let failed = bench.events_of(&format!("{what}.failed"));
        assert_eq!(failed.len(), 2, "{what}");
        assert_eq!(failed[0], failed[1], "{what}");
        assert!(failed[0].id.ends_with(&format!("by-hand/k~{what}/failed")), "{}", failed[0].id);
    }
    assert_eq!(bench.events_of("restore.started").len(), 1);
    assert_eq!(bench.events_of("restore.continued").len(), 4);
    let last = &bench.record("shop")["drill"]["last"];
    assert_eq!(last["passed"], false, "{last}");
    for (path, bytes) in bench.all_bytes() {
        let found = bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes());
        assert!(!found, "{} has a secret", path.display());
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_policy_does_not_have_is_given_up_at_once() {
    let bench = Bench::new(&[daily("shop", "")]);
    let server = "shop".parse().unwrap();
    let order = |target: &str| RestoreOrder {
        target: target.parse().unwrap(),
        ..serde_json::from_value(serde_json::json!({"target": "x"})).unwrap()
    };
    let now = Timestamp::now();
    let drill = RestoreMessage::drill(&server, "d", DrillOrder::default(), now).unwrap();
    let restore = RestoreMessage::restore(&server, "r", order("spare"), now).unwrap();
    for (message, words) in
        [(&drill, "no [[drill]]"), (&restore, "no target \"spare\"; it has none")]
    {
        let RestoreWorked::Failed { why } = work(&bench, message, 1).await else { panic!() };
        assert!(why.contains(words), "{why}");
    }
    // Without a backup there is nothing to restore, and a drill has failed.
    bench.write_policy(&[daily("shop", ""), self::drill("")]);
    let restore = RestoreMessage::restore(&server, "r2", order("drills"), now).unwrap();
    let RestoreWorked::Failed { why } = work(&bench, &restore, 1).await else { panic!() };
    assert!(why.contains("no backup of server \"shop\""), "{why}");
    // A message that killed five workers goes on as another try.
    seal(&bench.vault(), &scheduled("shop", at("2024-05-01T01:30:00Z"), minutes(1)));
    let restore = RestoreMessage::restore(&server, "r3", order("drills"), now).unwrap();
    let RestoreWorked::PutOff { why, .. } = work(&bench, &restore, 6).await else { panic!() };
    assert!(why.contains("ended without an answer 5 times"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn an_end_that_could_not_be_told_is_told_later_and_the_work_is_not_done_again() {
    let bench = Bench::new(&[daily("shop", "")]);
    let server = "shop".parse().unwrap();
    let drill =
        RestoreMessage::drill(&server, "d", DrillOrder::default(), Timestamp::now()).unwrap();
    bench.sink.faults.down();
    let RestoreWorked::PutOff { .. } = work(&bench, &drill, 1).await else { panic!() };
    bench.sink.faults.up();
    let next = waiting(&bench).pop().expect("a later message");
    assert_eq!((next.attempt, next.waits), (1, 1));
    assert!(matches!(work(&bench, &next, 1).await, RestoreWorked::Failed { .. }));
    assert_eq!(bench.events_of("drill.failed").len(), 1);
}
