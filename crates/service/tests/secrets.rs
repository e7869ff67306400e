//! Secrets that are missing or wrong are told by the names of their variables; no value of one is
//! ever written anywhere.

mod support;

use flexkeep_service::Worked;
use support::*;

const SCHEDULE: &str = r#"every = "day", at = "01:30", zone = "UTC""#;

/// Servers with what is told of each.
fn servers() -> Vec<(String, &'static [&'static str])> {
    let one = |name, connection, lines| server(name, connection, SCHEDULE, lines);
    vec![
        (daily("unset", "password = { env = \"NOT_SET\" }"), &["NOT_SET", "is not set"]),
        (daily("empty", "password = { env = \"EMPTY\" }"), &["EMPTY", "is empty"]),
        (
            daily("unresolved", "password = { env = \"NOT_RESOLVED\" }"),
            &["NOT_RESOLVED", "Key Vault"],
        ),
        (one("broken", "${BROKEN_TARGET}", ""), &["BROKEN_TARGET"]),
        (one("absent", "${NO_TARGET}", ""), &["NO_TARGET", "is not set"]),
        // These can be used, and nobody is there.
        (daily("wrong", "password = { env = \"SHOP_PASSWORD\" }"), &["127.0.0.1"]),
        (one("target", "${SHOP_TARGET}", ""), &["127.0.0.1"]),
    ]
}

#[tokio::test(start_paused = true)]
async fn what_lacks_is_named_and_no_value_is_written_anywhere() {
    let echoing = FakeServer::denying("password authentication failed for user backup");
    let mut policy: Vec<String> = servers().into_iter().map(|(server, _)| server).collect();
    let password = "password = { env = \"SHOP_PASSWORD\" }";
    policy.push(server("denied", &echoing.conninfo(), SCHEDULE, password));
    let bench = Bench::new(&policy);
    let mut seen = String::new();
    for day in 0..2 {
        seen += &format!("{:?}", bench.tick(at("2024-05-01T01:30:00Z") + days(day)).await.unwrap());
        for worked in bench.work_all().await {
            assert!(matches!(worked, Worked::Failed { .. }), "{worked:?}");
            seen += &format!("{worked:?}");
        }
    }
    for (server, words) in servers() {
        let name = server.split('"').nth(1).unwrap();
        let failed: Vec<_> = bench
            .events_of("backup.failed")
            .into_iter()
            .filter(|event| event.subject.as_deref() == Some(name))
            .collect();
        assert_eq!(failed.len(), 2, "{name}");
        let why = failed[0].data["why"].as_str().unwrap();
        assert!(words.iter().all(|word| why.contains(word)), "{name}: {why}");
    }
    assert_eq!(bench.ids_of("schedule.degraded").len(), policy.len());
    let status = bench.service.status().await.unwrap();
    let problems = status.servers.iter().filter(|server| !server.problems.is_empty()).count();
    assert_eq!(problems, 5, "{status:?}");
    seen += &serde_json::to_string(&status).unwrap();
    seen += &format!("{status:?}{:?}", bench.waiting());
    assert!(!seen.contains(SECRET), "{seen}");
    for (path, bytes) in bench.all_bytes() {
        let found = bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes());
        assert!(!found, "{} has a secret", path.display());
    }
    assert!(bench.all_bytes().len() > policy.len(), "the search looks at files");
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_is_set_later_counts_at_the_next_message() {
    let bench = Bench::new(&[daily("shop", "password = { env = \"NOT_SET\" }")]);
    let first = scheduled("shop", at("2024-05-01T01:30:00Z"), minutes(1));
    let Worked::Failed { why } = bench.work(&first).await.unwrap() else { panic!("no secret") };
    assert!(why.contains("NOT_SET") && why.contains("shop"), "{why}");
    assert_eq!(bench.ids_of("backup.started"), [""; 0], "nothing had begun");
    bench.write_policy(&[daily("shop", "password = { env = \"SHOP_PASSWORD\" }")]);
    let second = scheduled("shop", at("2024-05-02T01:30:00Z"), minutes(1));
    let Worked::Failed { why } = bench.work(&second).await.unwrap() else { panic!("no server") };
    assert!(why.contains("127.0.0.1"), "{why}");
    assert_eq!(bench.ids_of("backup.started").len(), 1);
}
