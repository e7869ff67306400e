//! Restore drills: a backup is restored on trial, looked at, and dropped again.

#[path = "function_app/mod.rs"]
mod app;

use std::path::PathBuf;

use flexkeep_tests::{
    Output, Server, TestApp, Version, flexkeep_command, json, kill, run, wait_for,
};
use serde_json::Value;

use app::MINUTE;

/// Two databases with rows, an app with a backup of them, and a target for drills.
struct Scene {
    source: Server,
    target: Server,
    app: TestApp,
}

const DRILL: &str = "
[[drill]]
server = \"src\"
target = \"drills\"
schedule = { every = \"week\", on = \"monday\", at = \"05:00\" }
";

impl Scene {
    fn new(fill: impl Fn(&Server), drill: &str) -> Self {
        let (source, target) = (Server::start(Version::V17), Server::start(Version::V17));
        fill(&source);
        let scene = Self { app: TestApp::new(&source), source, target };
        scene.write_policy(drill);
        scene.app.back_up(&scene.source);
        scene
    }

    fn write_policy(&self, drill: &str) {
        let policy = self.app.policy_of(&self.source, "src", "");
        let target = self.app.target_of(&self.target, "drills", "");
        self.app.write_policy(&format!("{policy}{target}{DRILL}{drill}"));
    }

    /// A drill without the app.
    fn here(&self, more: &[&str]) -> Output {
        let mut command = flexkeep_command(&["drill", "src", "--json", "--policy"]);
        run(command.arg(self.app.root().join("policy.toml")).args(more), MINUTE)
    }

    #[track_caller]
    fn passes(&self, more: &[&str]) -> Value {
        let result = json(&self.here(more).expect_success());
        assert_eq!(result["status"], "passed", "{result:#}");
        self.nothing_is_left();
        result
    }

    #[track_caller]
    fn fails(&self, more: &[&str], words: &str) -> Value {
        let out = self.here(more);
        assert_eq!(out.code(), Some(1), "{}", out.errors());
        let result = json(&out);
        let why = result["why"].as_str().expect("a reason");
        assert!(why.contains(words), "{why}");
        assert_eq!(result["status"], "failed");
        self.nothing_is_left();
        result
    }

    fn scratch(&self) -> String {
        let sql = "SELECT coalesce(string_agg(datname, ','), '') FROM pg_database \
                   WHERE datname LIKE 'flexkeep%'";
        self.target.psql("postgres", sql)
    }

    #[track_caller]
    fn nothing_is_left(&self) {
        assert_eq!(self.scratch(), "");
        let roles = "SELECT count(*) FROM pg_roles WHERE rolname = 'shop_owner'";
        assert_eq!(self.target.psql("postgres", roles), "0", "drills make no roles");
    }
}

fn two_databases(server: &Server) {
    server.psql("postgres", "CREATE ROLE shop_owner");
    server.create_database("shop");
    server.psql(
        "shop",
        "CREATE SCHEMA app AUTHORIZATION shop_owner;
         CREATE TABLE app.orders (id integer PRIMARY KEY, price numeric);
         INSERT INTO app.orders SELECT i, i / 7.0 FROM generate_series(1, 5000) i;
         ALTER TABLE app.orders OWNER TO shop_owner;
         CREATE INDEX ON app.orders (price);
         SELECT lo_from_bytea(0, 'an object');
         -- The hash of an enum hangs on its OIDs, which are others in a copy.
         CREATE TYPE app.mood AS ENUM ('a', 'b', 'c', 'd', 'e', 'f', 'g', 'h');
         CREATE TABLE app.hashed (m app.mood, i integer) PARTITION BY HASH (m);
         CREATE TABLE app.hashed_0 PARTITION OF app.hashed
           FOR VALUES WITH (MODULUS 2, REMAINDER 0);
         CREATE TABLE app.hashed_1 PARTITION OF app.hashed
           FOR VALUES WITH (MODULUS 2, REMAINDER 1);
         INSERT INTO app.hashed SELECT (enum_range(NULL::app.mood))[1 + i % 8], i
           FROM generate_series(1, 200) i;
         ALTER DATABASE shop SET search_path = app;",
    );
    server.create_database("zoo");
    server.psql("zoo", "CREATE TABLE animals AS SELECT generate_series(1, 100) AS id");
}

/// The chunks of the vault, the largest last.
fn chunks(app: &TestApp) -> Vec<PathBuf> {
    let mut files = app::files(&[app.place().join("chunks")]);
    files.sort_by_key(|path| std::fs::metadata(path).expect("a file of the vault").len());
    files
}

#[test]
fn a_drill_passes_takes_the_databases_in_turn_and_leaves_nothing() {
    let scene = Scene::new(
        two_databases,
        "[[drill.assertion]]\nname = \"orders are there\"\ndatabase = \"shop\"\n\
         sql = \"SELECT count(*) = 5000 FROM orders;\"\n\
         [[drill.assertion]]\nname = \"anything\"\nsql = \"SELECT true -- always\"\n",
    );
    let first = scene.passes(&[]);
    let shop = &first["databases"][0];
    assert_eq!((&shop["database"], &shop["rows"]), (&"shop".into(), &5200.into()), "{first:#}");
    assert_eq!((&shop["tables"], &shop["large_objects"]), (&3.into(), &1.into()));
    assert_eq!((&shop["indexes_checked"], &shop["indexes_unchecked"]), (&2.into(), &Value::Null));
    assert_eq!(shop["assertions"].as_array().unwrap().len(), 2);
    let second = scene.passes(&[]);
    assert_eq!(second["databases"][0]["database"], "zoo");
    assert_eq!(second["databases"][0]["assertions"].as_array().unwrap().len(), 1);
    assert!(second["databases"][0]["indexes_unchecked"].as_str().unwrap().contains("no B-tree"));
    assert_eq!(scene.passes(&[])["databases"][0]["database"], "shop");
    assert_eq!(scene.passes(&["--database", "zoo"])["databases"][0]["database"], "zoo");

    scene.write_policy("databases = \"all\"\namcheck = \"off\"");
    let all = scene.passes(&[]);
    assert_eq!(all["databases"].as_array().unwrap().len(), 3, "{all:#}");
    scene.write_policy("databases = [\"shop\"]\nkeep = true\namcheck = \"require\"");
    for _ in 0..2 {
        // The one before is dropped by the next.
        let kept = json(&scene.here(&[]).expect_success());
        assert_eq!(kept["kept"][0].as_str().unwrap(), scene.scratch());
    }
    scene.write_policy("databases = [\"zoo\"]");
    scene.passes(&[]);
}

/// Databases that act on whoever comes: they forbid to write, and note each login.
fn restless(server: &Server) {
    server.create_database("shop");
    server.psql(
        "shop",
        "CREATE TABLE orders AS SELECT generate_series(1, 100) AS id;
         CREATE SUBSCRIPTION from_far CONNECTION 'dbname=x' PUBLICATION p WITH (connect = false);
         ALTER DATABASE shop SET default_transaction_read_only = on;",
    );
    server.create_database("zoo");
    server.psql(
        "zoo",
        "CREATE TABLE logins AS SELECT now() AS at;
         CREATE FUNCTION note_login() RETURNS event_trigger LANGUAGE plpgsql AS
           $$ BEGIN INSERT INTO public.logins VALUES (now()); END $$;
         CREATE EVENT TRIGGER note_login ON login EXECUTE FUNCTION note_login();
         ALTER EVENT TRIGGER note_login ENABLE ALWAYS;
         -- And what a restore into it has left.
         CREATE SCHEMA flexkeep_restore;
         COMMENT ON SCHEMA flexkeep_restore IS 'A restore by flexkeep that is not complete.';
         CREATE TABLE flexkeep_restore.done AS SELECT 1 AS entry;",
    );
}

#[test]
fn a_database_that_forbids_to_write_or_notes_logins_is_looked_at_and_dropped() {
    let scene = Scene::new(restless, "");
    let shop = scene.passes(&["--database", "shop"]);
    assert_eq!(shop["databases"][0]["rows"], 100, "{shop:#}");
    let zoo = scene.passes(&["--database", "zoo"]);
    assert_eq!(zoo["databases"][0]["tables"], 1, "{zoo:#}");
}

#[test]
fn a_database_that_no_drill_made_is_never_touched() {
    let mut scene = Scene::new(two_databases, "databases = [\"zoo\"]\nkeep = true");
    scene.app.start(&scene.source);
    let body = "{\"version\":1,\"server\":\"src\",\"request\":\"src/one\",\
                \"requested\":\"2026-11-22T01:30:00Z\",\"drill\":{}}";
    scene.app.send_restore("one", body);
    scene.app.wait_for_event("drill.passed", MINUTE);
    let name = scene.scratch();
    scene.target.psql(&name, "CREATE TABLE of_somebody AS SELECT 1");
    // As if nobody remembered it: then it is somebody else's.
    for folder in ["schedule", "restores"] {
        std::fs::remove_dir_all(scene.app.place().join(folder)).expect("our own vault");
    }
    scene.app.send_restore("again", body);
    let failed = scene.app.wait_for_event("drill.failed", MINUTE);
    let why = failed["data"]["why"].as_str().unwrap();
    assert!(why.contains(&name) && why.contains("that no drill made"), "{why}");
    assert_eq!(scene.target.psql(&name, "SELECT count(*) FROM of_somebody"), "1");
    scene.app.assert_events_keep_the_schema();
}

#[test]
fn what_does_not_hold_fails_the_drill_and_leaves_nothing() {
    let scene = Scene::new(two_databases, "databases = [\"shop\", \"none\"]");
    scene.fails(&[], "no database \"none\"");
    for (sql, words) in [
        ("SELECT count(*) = 5001 FROM orders", "\"it\" is false"),
        ("SELECT NULL::boolean", "is null"),
        ("SELECT 1", "type integer"),
        ("SELECT true, true", "2 columns"),
        ("SELECT true WHERE false", "no row"),
        ("SELECT true FROM orders", "several rows"),
        ("SELECT nothing FROM orders", "\\\"nothing\\\" does not exist"),
        ("SELECT lo_create(0) > 0", "read-only"),
        ("SELECT true FROM (SELECT pg_sleep(60)) x", "statement timeout"),
    ] {
        scene.write_policy(&format!(
            "databases = [\"shop\"]\n[[drill.assertion]]\nname = \"it\"\ntimeout_seconds = 1\n\
             sql = \"{sql}\"\n"
        ));
        let words = words.replace('\\', "");
        let result = scene.fails(&[], &words);
        assert_eq!(result["databases"][0]["assertions"][0]["holds"], false);
        assert_eq!(result["databases"][0]["rows"], 5200, "the rest was looked at too");
    }
    // A damaged chunk: the largest is that of the orders.
    scene.write_policy("databases = [\"shop\"]");
    let victim = chunks(&scene.app).pop().expect("a chunk");
    let whole = std::fs::read(&victim).unwrap();
    let mut hurt = whole.clone();
    let middle = hurt.len() / 2;
    hurt[middle] ^= 0xff;
    std::fs::write(&victim, &hurt).unwrap();
    scene.fails(&[], &victim.file_name().unwrap().to_string_lossy());
    std::fs::write(&victim, &whole).unwrap();
    scene.passes(&[]);
}

#[test]
fn a_drill_that_has_nothing_to_check_fails() {
    let empty = |server: &Server| {
        server.create_database("shop");
        server.psql("shop", "CREATE TABLE orders (id integer PRIMARY KEY)");
    };
    let scene = Scene::new(empty, "");
    scene.fails(&[], "nothing to restore");
    for databases in ["\"all\"", "[\"shop\"]"] {
        scene.write_policy(&format!("databases = {databases}"));
        scene.fails(&[], "nothing to compare");
    }
    std::fs::remove_dir_all(scene.app.place().join("backups")).expect("our own vault");
    scene.fails(&[], "the server has no backup");
}

#[test]
fn the_app_tells_how_a_drill_ended_and_a_killed_one_is_cleared_away_by_the_next() {
    let mut scene = Scene::new(
        two_databases,
        "databases = [\"shop\"]\n[[drill.assertion]]\nname = \"slowly\"\n\
         sql = \"SELECT true FROM (SELECT pg_sleep(2)) x\"\n",
    );
    scene.app.start(&scene.source);
    let url = scene.app.url();
    let body = |name: &str| {
        format!(
            "{{\"version\":1,\"server\":\"src\",\"request\":\"src/{name}\",\
             \"requested\":\"2026-11-22T01:30:00Z\",\"drill\":{{}}}}"
        )
    };
    scene.app.send_restore("killed", &body("killed"));
    wait_for("the scratch database is there", MINUTE, || {
        (!scene.scratch().is_empty()).then_some(())
    });
    let (_, status) = scene.app.request("GET", "/api/status", None);
    assert_eq!(status["servers"][0]["drill"]["scratch"][0]["name"], scene.scratch().as_str());
    kill(scene.app.handler_pid());
    let passed = scene.app.wait_for_event("drill.passed", MINUTE);
    assert_eq!(passed["id"], "src/killed~drill/passed");
    assert_eq!(
        (&passed["data"]["rows"], &passed["data"]["target"]),
        (&5200.into(), &"drills".into())
    );
    scene.nothing_is_left();

    // The same request again is told again, and not held again; another one is.
    scene.app.send_restore("again", &body("killed"));
    let drill = |more: &[&str]| {
        let mut command = flexkeep_command(&["drill", "src", "--wait", "1m", "--url", &url]);
        run(command.args(more), MINUTE)
    };
    let text = drill(&[]).expect_success().text();
    assert!(text.contains("the drill passed"), "{text}");
    scene.write_policy(
        "databases = [\"shop\"]\n[[drill.assertion]]\nname = \"no\"\nsql = \"SELECT false\"\n",
    );
    let out = drill(&["--idempotency-key", "no"]);
    assert_eq!(out.code(), Some(1), "{}", out.errors());
    assert!(out.errors().contains("assertion \"no\" is false"), "{}", out.errors());
    scene.app.wait_until_drained(MINUTE);
    scene.nothing_is_left();
    let passed = scene.app.events_of("drill.passed");
    assert_eq!(passed.len(), 3, "{passed:#?}");
    assert_eq!(passed.iter().filter(|event| **event == passed[0]).count(), 2);
    let failed = scene.app.events_of("drill.failed");
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0]["data"]["databases"][0]["assertions"][0]["holds"], false);
    scene.app.assert_events_keep_the_schema();
    let (_, status) = scene.app.request("GET", "/api/status", None);
    assert_eq!(status["servers"][0]["drill"]["last"]["passed"], false, "{status:#}");
}
