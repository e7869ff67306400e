//! What a backup leaves alone on its source: the last connections, a replica that has to go on, and
//! the cache of others.

#[path = "function_app/mod.rs"]
mod app;

use std::process::{Command, Stdio};
use std::time::Duration;

use flexkeep_tests::{
    Running, Server, TestApp, TestVault, Version, flexkeep_command, json, run, wait_for,
};
use serde_json::Value;

use app::{MINUTE, request};

/// Tables of about a megabyte each, on a server with a database `shop`.
fn fill(server: &Server, tables: u32) {
    server.create_database("shop");
    for table in 0..tables {
        server.psql(
            "shop",
            &format!(
                "CREATE TABLE pad_{table} AS SELECT i AS id, repeat(md5(i::text), 8) AS text \
                 FROM generate_series(1, 4000) i"
            ),
        );
    }
}

/// A session of somebody else, which stays until it is dropped.
fn other_session(server: &Server) -> Running {
    let mut command = Command::new(server.version().bin().join("psql"));
    command.arg("-XAtqd").arg(server.conninfo("postgres")).args(["-c", "SELECT pg_sleep(600)"]);
    Running::start(command.stdin(Stdio::null()))
}

fn others(server: &Server, count: u32) -> Vec<Running> {
    let sessions = (0..count).map(|_| other_session(server)).collect();
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(600)'";
    wait_for("the others are connected", MINUTE, || {
        (server.psql("postgres", sql).trim() == count.to_string()).then_some(())
    });
    sessions
}

/// The newest run's progress, as `flexkeep status` tells it from the vault.
fn progress(app: &TestApp) -> Value {
    let place = app.place().display().to_string();
    let mut command = flexkeep_command(&["status", "--json", "--vault", &place]);
    let out = run(&mut command, MINUTE);
    // It is made with the first backup.
    if out.errors().contains("there is no vault") {
        return Value::Null;
    }
    let status = json(&out.expect_success());
    status["servers"][0]["runs"][0]["progress"].clone()
}

/// How many snapshots of a database were taken so far.
fn snapshots_of(app: &TestApp, name: &str) -> u64 {
    let progress = progress(app);
    let databases = progress["databases"].as_array().expect("databases");
    let one = databases.iter().find(|one| one["database"] == name).expect("the database");
    one["snapshot"].as_u64().expect("a number")
}

fn lane(progress: &Value, lane: usize) -> &Value {
    &progress["lanes"][lane]
}

fn manifest(app: &TestApp, backup: &str) -> Value {
    let path = app.place().join(format!("backups/src/{backup}.json"));
    let text = std::fs::read_to_string(path).expect("a manifest");
    serde_json::from_str(&text).expect("JSON")
}

fn database<'m>(manifest: &'m Value, name: &str) -> &'m Value {
    let databases = manifest["databases"].as_array().expect("databases");
    databases.iter().find(|one| one["name"] == name).expect("the database")
}

#[test]
fn near_the_limit_of_connections_a_backup_goes_on_with_one_lane_and_says_so() {
    // Seven for those who are not superusers.
    let server = Server::options(Version::V17).conf("max_connections = 10").start();
    fill(&server, 60);
    let mut app = TestApp::new(&server);
    // Half a minute for three lanes: each looks every ten seconds.
    app.write_policy(&app.policy_of(&server, "src", "lanes = 3\nmax_mb_per_second = 2\n"));
    app.start(&server);
    // Lanes come and go: two at work, and then others want connections.
    app.send("one", &request("src", "src/one", "2026-11-22T01:00:00Z"));
    wait_for("two lanes are at work", MINUTE, || {
        let progress = progress(&app);
        let lanes = progress["lanes"].as_array().map_or(&[][..], Vec::as_slice);
        (lanes.iter().filter(|lane| lane["database"] == "shop").count() >= 2).then_some(())
    });
    let sessions = others(&server, 5);
    let resting = wait_for("the others have left", MINUTE, || {
        let progress = progress(&app);
        let rests = |one| lane(&progress, one)["resting"].is_string();
        (rests(1) && rests(2)).then_some(progress)
    });
    for one in [1, 2] {
        let why = lane(&resting, one)["resting"].as_str().expect("why");
        assert!(why.contains("3 are kept free for others"), "{why}");
    }
    assert_eq!(lane(&resting, 0)["resting"], Value::Null, "{resting:#}");
    let done = app.wait_for_event("backup.completed", 2 * MINUTE);
    assert!(app.log().contains("3 are kept free for others"), "{}", app.log());
    assert!(app.events_of("backup.failed").is_empty());
    let backup = done["data"]["backup"].as_str().expect("a backup");
    assert_eq!(database(&manifest(&app, backup), "shop")["attempts"], 1);

    // From the beginning: no second lane reads anything, whether of the app or of the command.
    app.write_policy(&app.policy_of(&server, "src", "lanes = 3\n"));
    app.send("two", &request("src", "src/two", "2026-11-22T02:00:00Z"));
    let done = app.wait_for_event_id("src/two/completed", 2 * MINUTE);
    let second = manifest(&app, done["data"]["backup"].as_str().expect("a backup"));
    let holders = database(&second, "shop")["holders"].as_array().expect("holders").clone();
    assert!(holders.iter().all(|holder| holder["lane"] == 0), "{holders:#?}");
    let vault = TestVault::new();
    let out = run(vault.backup(&server).args(["--lanes", "3", "--progress", "lines"]), MINUTE);
    let out = out.expect_success();
    assert!(out.errors().contains("going on with a lane less"), "{}", out.errors());
    drop(sessions);
}

#[test]
fn a_replica_that_cancels_a_backup_is_named_and_given_time() {
    let primary = Server::start(Version::V17);
    fill(&primary, 50);
    let standby = primary.standby();
    for setting in ["hot_standby_feedback = off", "max_standby_streaming_delay = '100ms'"] {
        standby.psql("postgres", &format!("ALTER SYSTEM SET {setting}"));
    }
    standby.psql("postgres", "SELECT pg_reload_conf()");
    primary.wait_for_standby(&standby);
    let mut app = TestApp::new(&standby);
    app.write_policy(&app.policy_of(&standby, "src", "lanes = 2\nmax_mb_per_second = 6\n"));
    app.start(&standby);
    app.send("one", &request("src", "src/one", "2026-11-22T01:00:00Z"));
    wait_for("the database is read", MINUTE, || {
        let progress = progress(&app);
        let databases = progress["databases"].as_array()?.clone();
        let shop = databases.into_iter().find(|one| one["database"] == "shop")?;
        (shop["items_done"].as_u64() > Some(0)).then_some(())
    });
    // Rows that the snapshot sees go on the primary, and then on the replica, all the same. Unless
    // the replica took longer to notice that feedback is off: so it is done again.
    let restarted = wait_for("the replica cancels", MINUTE, || {
        primary.psql("shop", "UPDATE pad_0 SET id = id + 1; VACUUM pad_0;");
        app.events_of("backup.restarted").into_iter().next()
    });
    let why = restarted["data"]["why"].as_str().expect("why");
    for word in ["cancelled by the replica", "hot_standby_feedback", "max_standby_streaming_delay"]
    {
        assert!(why.contains(word), "{word:?} is not in {why}");
    }
    assert_eq!(restarted["data"]["snapshot"], 2);
    // Ten seconds, of which some may be over.
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(snapshots_of(&app, "shop"), 1);
    let waiting = progress(&app);
    let lost = waiting["databases"]
        .as_array()
        .expect("databases")
        .iter()
        .find_map(|one| one["lost"][0]["reason"].as_str().map(str::to_owned));
    assert!(lost.is_some_and(|reason| reason.contains("hot_standby_feedback")), "{waiting:#}");
    let done = app.wait_for_event("backup.completed", 3 * MINUTE);
    assert!(app.events_of("backup.failed").is_empty());
    let manifest = manifest(&app, done["data"]["backup"].as_str().expect("a backup"));
    let shop = database(&manifest, "shop");
    assert!(shop["attempts"].as_u64() > Some(1), "{shop:#}");
}

#[test]
fn tables_are_read_by_ranges_or_each_whole_as_the_policy_and_the_command_say() {
    let server = Server::options(Version::V17).conf("log_statement = all").start();
    server.create_database("shop");
    server.psql(
        "shop",
        "CREATE TABLE big AS SELECT i AS id, md5(i::text) || md5((i + 1)::text) AS text \
         FROM generate_series(1, 250000) i",
    );
    let copies = |server: &Server| {
        let log = server.log();
        let ranges = log.matches("WHERE ctid >=").count();
        (ranges, log.matches("COPY public.big (id, text) TO STDOUT").count())
    };
    let vault = TestVault::new();
    run(vault.backup(&server).args(["--lanes", "2"]), MINUTE).expect_success();
    let (ranges, whole) = copies(&server);
    assert!(ranges > 1 && whole == 0, "{ranges} ranges, {whole} whole");
    run(vault.backup(&server).args(["--lanes", "2", "--no-split"]), MINUTE).expect_success();
    assert_eq!(copies(&server), (ranges, 1));
    let mut app = TestApp::new(&server);
    app.write_policy(&app.policy_of(&server, "src", "lanes = 2\nsplit_tables = false\n"));
    app.start(&server);
    app.send("one", &request("src", "src/one", "2026-11-22T01:00:00Z"));
    app.wait_for_event("backup.completed", 2 * MINUTE);
    assert_eq!(copies(&server), (ranges, 2));
}
