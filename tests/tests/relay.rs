//! The relay: lanes in several processes share one snapshot and hand it on, and any of them may be
//! killed. What was sealed is restored and must be one state that was: every transfer between
//! accounts whole, and of the commits those before one moment and no others.

#[path = "function_app/mod.rs"]
mod app;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use flexkeep_bus::{LocalQueues, Message, QueueOptions};
use flexkeep_tests::{Server, TestApp, Version, flexkeep_command, kill, run, wait_for};
use serde_json::Value;

use app::{MINUTE, expect_server_free, request};

/// Short, so that a test need not wait a minute for what a dead host had locked.
const LOCK: Duration = Duration::from_secs(2);

/// Tables of about a megabyte, each an item of its own.
const TABLES: u32 = 90;

/// What all accounts have together.
const MONEY: i64 = 100_000;

fn server() -> Server {
    let server = Server::start(Version::V17);
    server.create_database("bank");
    server.psql(
        "bank",
        "CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL);
         INSERT INTO accounts SELECT i, 100 FROM generate_series(1, 1000) i;
         CREATE TABLE first_log (id bigint PRIMARY KEY);
         CREATE TABLE last_log (id bigint PRIMARY KEY);",
    );
    for table in 0..TABLES {
        server.psql(
            "bank",
            &format!(
                "CREATE TABLE pad_{table} AS SELECT i AS id, repeat(md5(i::text), 8) AS text \
                 FROM generate_series(1, 4000) i"
            ),
        );
    }
    server
}

/// Moves money and logs each commit at both ends of the database, until it is told to stop. Each
/// commit is a transaction of its own; the one after it begins when it is over.
fn write_until(server: &Server, stop: &AtomicBool) -> u64 {
    let mut id = 0;
    while !stop.load(Ordering::Relaxed) {
        let mut sql = String::new();
        for _ in 0..20 {
            id += 1;
            let (from, to) = (id * 7 % 1000 + 1, id * 13 % 1000 + 1);
            sql.push_str(&format!(
                "BEGIN; INSERT INTO first_log VALUES ({id});
                 UPDATE accounts SET balance = balance - 1 WHERE id = {from};
                 UPDATE accounts SET balance = balance + 1 WHERE id = {to};
                 INSERT INTO last_log VALUES ({id}); COMMIT;"
            ));
        }
        server.psql("bank", &sql);
    }
    id
}

/// Restores a backup beside the original, and proves that it is one state that was.
#[track_caller]
fn expect_one_state(app: &TestApp, server: &Server, backup: &str) {
    let place = app.place().display().to_string();
    let into = server.conninfo("postgres");
    let restore =
        ["restore", backup, "--vault", &place, "--into", &into, "--database", "bank=copy"];
    let mut command = flexkeep_command(&restore);
    command.arg("--no-roles").env("FLEXKEEP_PG_BIN", server.version().bin());
    run(&mut command, 2 * MINUTE).expect_success();
    let sql = "SELECT (SELECT sum(balance) FROM accounts), \
               (SELECT count(*) FROM first_log), (SELECT coalesce(max(id), 0) FROM first_log), \
               (SELECT count(*) FROM last_log), (SELECT coalesce(max(id), 0) FROM last_log)";
    let row = server.psql("copy", sql);
    let values: Vec<i64> =
        row.trim().split('|').map(|value| value.trim().parse().expect("a number")).collect();
    assert_eq!(values[0], MONEY, "{backup}");
    assert!(values[1..].iter().all(|&value| value == values[1]), "{backup}: {values:?}");
    for table in [0, TABLES / 2, TABLES - 1] {
        assert_eq!(
            server.psql("copy", &format!("SELECT count(*) FROM pad_{table}")).trim(),
            "4000"
        );
    }
    server.psql("postgres", "DROP DATABASE copy");
}

fn manifest(app: &TestApp, backup: &str) -> Value {
    let path = app.place().join(format!("backups/src/{backup}.json"));
    let manifest = std::fs::read_to_string(path).expect("a manifest");
    serde_json::from_str(&manifest).expect("JSON")
}

/// The manifest's entry of the database.
fn bank(app: &TestApp, backup: &str) -> Value {
    let manifest = manifest(app, backup);
    let databases = manifest["databases"].as_array().expect("databases");
    databases.iter().find(|database| database["name"] == "bank").expect("the bank").clone()
}

/// One lane's baton is the other's beginning: every holder but the first has the snapshot from
/// another one of the list.
fn expect_a_chain(database: &Value) {
    let holders = database["holders"].as_array().expect("holders");
    let batons: Vec<&Value> = holders.iter().map(|holder| &holder["baton"]).collect();
    let first: Vec<_> = holders.iter().filter(|holder| holder["from"].is_null()).collect();
    assert_eq!(first.len(), 1, "{holders:#?}");
    for holder in holders.iter().filter(|holder| !holder["from"].is_null()) {
        assert!(batons.contains(&&holder["from"]), "{holder}");
    }
}

/// Ends the writer also when the test fails: whoever waits for it would wait for ever.
struct StopWhenDropped<'a>(&'a AtomicBool);

impl Drop for StopWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn app_with(server: &Server, lane_seconds: u32, policy: &str) -> TestApp {
    let mut app = TestApp::new(server);
    app.write_policy(&app.policy_of(server, "src", policy));
    app.set("FLEXKEEP_LANE_SECONDS", &lane_seconds.to_string());
    let queues = LocalQueues::open(&app.root().join("state/queues.db")).expect("a new file");
    let options = QueueOptions { lock_duration: LOCK, ..QueueOptions::default() };
    for queue in ["backups", "lanes"] {
        queues.declare(queue, &options).expect("declared");
    }
    app
}

/// Sends a lane's message, one that waits or is worked on, once more under another id; whether there
/// was one.
fn double_a_message(app: &TestApp, number: u32) -> bool {
    let queues = app.queues();
    let messages = queues.peek("lanes", 20).expect("a look");
    let Some(last) = messages.last() else { return false };
    let again = Message::new(format!("again-{number}"), last.message.body.clone());
    queues.send("lanes", &again).expect("a message is sent");
    true
}

/// What the sessions of two apps are called, to tell them apart.
const ONE: &str = "relay one";
const OTHER: &str = "relay other";

/// Gives the sessions of two apps on one policy names of their own.
fn name_sessions(server: &Server, one: &mut TestApp, other: &mut TestApp) {
    let path = one.root().join("policy.toml");
    let policy = std::fs::read_to_string(&path).expect("a policy");
    let line = policy.lines().find(|line| line.starts_with("connection = ")).expect("its server");
    one.write_policy(&policy.replace(line, "connection = \"${RELAY_SOURCE}\""));
    for (app, name) in [(one, ONE), (other, OTHER)] {
        let source = format!("{} application_name='{name}'", server.conninfo("postgres"));
        app.set("RELAY_SOURCE", &source);
    }
}

/// Sessions that hold the bank's snapshot (docs/relay.md: its lock, key 0): of which app, and which.
fn holders(server: &Server) -> Vec<(String, String)> {
    let sql = "SELECT DISTINCT a.application_name, a.pid FROM pg_locks l \
               JOIN pg_stat_activity a USING (pid) JOIN pg_database d ON d.oid = l.database \
               WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2 AND l.objid = 0 \
               AND l.mode = 'ShareLock' AND d.datname = 'bank' AND a.application_name ~ '^relay'";
    let pair = |line: &str| {
        let (app, pid) = line.split_once('|')?;
        Some((app.to_owned(), pid.to_owned()))
    };
    server.psql("postgres", sql).lines().filter_map(pair).collect()
}

#[test]
fn a_backup_of_twenty_times_a_lane_s_time_is_of_one_snapshot_through_twenty_hands() {
    let server = server();
    let mut app = app_with(&server, 1, "lanes = 1\nmax_mb_per_second = 1\n");
    app.start(&server);
    let stop = AtomicBool::new(false);
    let (backup, most) = std::thread::scope(|scope| {
        scope.spawn(|| write_until(&server, &stop));
        let stopping = StopWhenDropped(&stop);
        app.send("one", &request("src", "src/one", "2026-11-22T01:00:00Z"));
        let mut most = 0;
        let mut doubled = 0;
        let began = Instant::now();
        let done = loop {
            let done = app.events_of("backup.completed");
            if !done.is_empty() || began.elapsed() > 4 * MINUTE {
                break done;
            }
            // A second delivery looks whether its lane's place is taken, and goes.
            let sql = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' \
                       AND pid <> pg_backend_pid() AND application_name !~ 'psql' \
                       AND backend_start < clock_timestamp() - interval '1 s'";
            most = most.max(server.psql("postgres", sql).trim().parse::<u32>().expect("a number"));
            // A lane's message that comes twice makes no second lane of it.
            if doubled < 5 && began.elapsed() > Duration::from_secs(3) * (doubled + 1) {
                doubled += u32::from(double_a_message(&app, doubled));
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        drop(stopping);
        assert_eq!(done.len(), 1, "{}", app.log());
        assert!(doubled > 0, "no message was doubled");
        (done[0]["data"]["backup"].as_str().expect("a backup").to_owned(), most)
    });
    // One lane, and one that takes over or plans.
    assert!((1..=2).contains(&most), "{most} connections at once");
    let database = bank(&app, &backup);
    assert_eq!(database["attempts"], 1, "{database:#}");
    let holders = database["holders"].as_array().expect("holders");
    assert!(holders.len() >= 20, "{} holders\n{}", holders.len(), app.log());
    expect_a_chain(&database);
    expect_one_state(&app, &server, &backup);
    app.wait_until_drained(3 * MINUTE);
    expect_server_free(&server);
}

/// What `flexkeep status` tells of the run, from the vault alone; `None` without one.
fn run_in_flight(app: &TestApp) -> Option<Value> {
    let place = app.place().display().to_string();
    let mut command = flexkeep_command(&["status", "--json", "--vault", &place]);
    let out = run(&mut command, MINUTE);
    // It is made with the first backup.
    if out.errors().contains("there is no vault") {
        return None;
    }
    let status: Value = serde_json::from_str(&out.expect_success().text()).expect("JSON");
    status["servers"][0]["runs"].as_array()?.first().cloned()
}

/// The run's progress, if two lanes hold a snapshot that has changed hands, and their speed is known.
fn tells_all(run: &Value) -> bool {
    let progress = &run["progress"];
    let lanes = progress["lanes"].as_array().map_or(&[][..], Vec::as_slice);
    let at_work = lanes.iter().filter(|lane| lane["database"] == "bank" && lane["silent"] == false);
    let bank = bank_of(progress);
    at_work.count() == 2
        && lanes.iter().any(|lane| lane["generation"].as_u64() > Some(0))
        && bank["holders"] == 2
        && bank["holders_so_far"].as_u64() >= Some(3)
        && progress["bytes_per_second"].as_u64() > Some(0)
        && progress["seconds_left"].is_u64()
        && (1..100).contains(&run["percent"].as_u64().unwrap_or_default())
}

fn bank_of(progress: &Value) -> Value {
    let databases = progress["databases"].as_array().map_or(&[][..], Vec::as_slice);
    let bank = databases.iter().find(|one| one["database"] == "bank");
    bank.cloned().unwrap_or_default()
}

#[test]
fn anybody_who_sees_the_vault_sees_lanes_batons_and_the_time_left_of_a_run_in_flight() {
    let server = server();
    let mut app = app_with(&server, 4, "lanes = 2\nmax_mb_per_second = 7\n");
    app.set("FLEXKEEP_PROGRESS_SECONDS", "2");
    app.start(&server);
    app.send("one", &request("src", "src/one", "2026-11-22T01:00:00Z"));
    let (began, mut told, mut page) = (Instant::now(), None, String::new());
    let (mut most_read, mut percents) = (0, Vec::new());
    while app.events_of("backup.completed").is_empty() && began.elapsed() < 4 * MINUTE {
        if let Some(run_now) = run_in_flight(&app) {
            most_read = most_read.max(run_now["progress"]["read_bytes"].as_u64().unwrap_or(0));
            percents.extend(run_now["percent"].as_u64());
            if told.is_none() && tells_all(&run_now) {
                let place = app.place().display().to_string();
                let mut command = flexkeep_command(&["status", "--vault", &place]);
                page = run(&mut command, MINUTE).expect_success().text();
                told = Some(run_now);
            }
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    let done = app.events_of("backup.completed");
    assert_eq!(done.len(), 1, "{}", app.log());
    let told = told.unwrap_or_else(|| panic!("percents: {percents:?}\n{}", app.log()));
    let progress = &told["progress"];
    // No faster than it may be, but for what is on its way.
    assert!(progress["bytes_per_second"].as_u64() < Some(14_000_000), "{told:#}");
    assert!(progress["seconds_left"].as_u64() < Some(120), "{told:#}");
    assert_eq!(bank_of(progress)["snapshot"], 1, "{told:#}");
    assert_eq!(bank_of(progress)["state"], "reading", "{told:#}");
    assert_eq!(told["attempt"], 1);
    for lane in progress["lanes"].as_array().expect("lanes") {
        assert!(lane["pid"].as_u64() > Some(0) && lane["host"].is_string(), "{lane}");
    }
    for line in
        ["  Running   begun ", "  Database  bank: ", "held by 2 lanes", "  Lane 1    generation "]
    {
        assert!(page.contains(line), "{line:?} is not in\n{page}");
    }
    // What one holder has read is not forgotten by the next one.
    let raw = done[0]["data"]["raw_bytes"].as_u64().expect("a number");
    assert!(most_read > raw / 2 && most_read <= raw * 5 / 4, "{most_read} of {raw}");
    assert!(percents.last() >= Some(&60), "{percents:?}");
    let events = app.events_of("backup.progress");
    assert!(!events.is_empty(), "{}", app.log());
    app.assert_events_keep_the_schema();
    app.wait_until_drained(3 * MINUTE);
}

#[test]
fn of_two_hosts_that_share_a_backup_either_may_be_killed_at_any_moment() {
    const ROUNDS: u32 = 6;
    let server = server();
    let mut one = app_with(&server, 5, "lanes = 3\nmax_mb_per_second = 12\n");
    let mut other = TestApp::new(&server);
    other.share(&one);
    name_sessions(&server, &mut one, &mut other);
    one.start(&server);
    other.start(&server);
    let stop = AtomicBool::new(false);
    let mut survived = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| write_until(&server, &stop));
        let stopping = StopWhenDropped(&stop);
        for round in 0..ROUNDS {
            let name = format!("src/round-{round}");
            let time = format!("2026-11-22T01:{round:02}:00Z");
            one.send(&name, &request("src", &name, &time));
            std::thread::sleep(Duration::from_millis(700) * round);
            // In turn: the handler of the one, the whole other host, ...
            let before = holders(&server);
            let victim = match round % 3 {
                0 => {
                    kill(one.handler_pid());
                    ONE
                }
                1 => {
                    other.kill_host();
                    OTHER
                }
                _ => {
                    kill(other.handler_pid());
                    OTHER
                }
            };
            let after = holders(&server);
            if round % 3 == 1 {
                other.start(&server);
            }
            let done = one.wait_for_event_id(&format!("{name}/completed"), 3 * MINUTE);
            // Who was not killed held the snapshot all the time.
            if before.iter().any(|one| one.0 != victim && after.contains(one)) {
                let backup = done["data"]["backup"].as_str().expect("a backup").to_owned();
                assert_eq!(bank(&one, &backup)["attempts"], 1, "{name}: {before:?}, {after:?}");
                survived += 1;
            }
            if round % 2 == 1 {
                // Three crashes within half an hour end a host.
                for app in [&mut one, &mut other] {
                    app.stop();
                    app.start(&server);
                }
            }
        }
        drop(stopping);
    });
    assert!(one.events_of("backup.failed").is_empty(), "{:#?}", one.events_of("backup.failed"));
    assert!(survived > 0, "no kill left somebody who held the snapshot");
    let backups = one.backups();
    assert_eq!(backups.len(), ROUNDS as usize);
    for backup in &backups {
        expect_a_chain(&bank(&one, backup));
        expect_one_state(&one, &server, backup);
    }
    one.wait_until_drained(3 * MINUTE);
    expect_server_free(&server);
}

/// Databases that get other names while another one is read: each is in the backup under its new
/// name, one that took an old name is not taken for it, and one that was dropped is told.
#[test]
fn a_database_that_is_renamed_is_read_under_its_new_name_and_none_is_taken_for_another() {
    let server = app::server();
    server.create_database("zz_doomed");
    let mut app = app_with(&server, 60, "lanes = 1\nmax_mb_per_second = 3\n");
    app.start(&server);
    app.send("one", &request("src", "src/one", "2026-11-22T01:00:00Z"));
    wait_for("the shop is read", MINUTE, || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'shop' \
                   AND application_name ~ 'flexkeep' AND query ~ '^COPY'";
        (server.psql("postgres", sql).trim() != "0").then_some(())
    });
    server.psql("postgres", "ALTER DATABASE zoo RENAME TO menagerie");
    server.create_database("zoo");
    server.psql("zoo", "CREATE TABLE animals AS SELECT 1 AS other");
    server.psql("postgres", "DROP DATABASE zz_doomed");
    wait_for("the end", 2 * MINUTE, || {
        (!app.events_of("backup.completed").is_empty()).then_some(())
    });
    let done = app.events_of("backup.completed");
    let manifest = manifest(&app, done[0]["data"]["backup"].as_str().expect("a backup"));
    let databases = manifest["databases"].as_array().expect("databases");
    let names: Vec<_> = databases.iter().map(|one| one["name"].as_str()).collect();
    assert_eq!(names, [Some("postgres"), Some("shop"), Some("menagerie")], "{manifest:#}");
    assert_eq!(databases[2]["totals"]["rows"], 100, "{manifest:#}");
    let notes = manifest["notes"].to_string();
    assert!(notes.contains("was renamed to") && notes.contains("menagerie"), "{notes}");
    assert!(notes.contains("zz_doomed") && notes.contains("dropped during"), "{notes}");
    app.wait_until_drained(MINUTE);
    expect_server_free(&server);
}
