//! The function `restore` on one machine: a message restores a backup into a target of the policy,
//! once, whatever is delivered twice or killed.

#[path = "function_app/mod.rs"]
mod app;

use flexkeep_tests::{Server, TestApp, Version, flexkeep_command, json, kill, run, wait_for};
use serde_json::Value;

use app::MINUTE;

/// A server with a database `shop`, and an app with a backup of it and the target `spare`.
struct Scene {
    source: Server,
    target: Server,
    app: TestApp,
    backup: String,
}

impl Scene {
    fn new(rows: u32, target_lines: &str) -> Self {
        let (source, target) = (Server::start(Version::V17), Server::start(Version::V17));
        source.create_database("shop");
        source.psql(
            "shop",
            &format!(
                "CREATE TABLE orders (id integer PRIMARY KEY, note text);
                 INSERT INTO orders SELECT i, repeat(md5(i::text), 4) FROM generate_series(1, {rows}) i;
                 CREATE TABLE parts (id integer, note text);
                 INSERT INTO parts SELECT * FROM orders;
                 CREATE INDEX ON orders (note); CREATE INDEX ON parts (note);"
            ),
        );
        let app = TestApp::new(&source);
        let policy = app.policy_of(&source, "src", "");
        app.write_policy(&format!("{policy}{}", app.target_of(&target, "spare", target_lines)));
        let backup = app.back_up(&source);
        Self { source, target, app, backup }
    }

    fn start(&mut self) {
        self.app.start(&self.source);
    }

    fn databases(&self, like: &str) -> String {
        let sql = format!("SELECT count(*) FROM pg_database WHERE datname LIKE '{like}'");
        self.target.psql("postgres", &sql)
    }

    #[track_caller]
    fn is_like_the_source(&self, database: &str) {
        let sql = "SELECT count(*), sum(hashtext(o::text)::bigint) FROM orders o \
                   UNION ALL SELECT count(*), sum(hashtext(p::text)::bigint) FROM parts p";
        assert_eq!(self.target.psql(database, sql), self.source.psql("shop", sql));
        let indexes = "SELECT count(*) FROM pg_indexes WHERE schemaname = 'public'";
        assert_eq!(self.target.psql(database, indexes), "3");
        let left = "SELECT count(*) FROM pg_namespace WHERE nspname = 'flexkeep_restore'";
        assert_eq!(self.target.psql(database, left), "0");
    }
}

fn message(request: &str, order: &str) -> String {
    format!(
        "{{\"version\":1,\"server\":\"src\",\"request\":\"src/{request}\",\
         \"requested\":\"2026-11-22T01:30:00Z\",\"restore\":{order}}}"
    )
}

const SHOP: &str = r#"{"target":"spare","databases":[{"name":"shop"}]}"#;

#[test]
fn a_request_restores_once_however_often_it_comes() {
    let mut scene = Scene::new(2000, "");
    scene.start();
    let url = scene.app.url();
    let ask = || {
        let mut command = flexkeep_command(&["restore", "src/latest", "--target", "spare"]);
        command.args(["--database", "shop=shop_b", "--json", "--wait", "1m", "--url", &url]);
        json(&run(command.args(["--idempotency-key", "k"]), MINUTE).expect_success())
    };
    let first = ask();
    assert_eq!(
        (&first["status"], &first["request"]),
        (&"completed".into(), &"src/by-hand/k".into())
    );
    scene.is_like_the_source("shop_b");
    let report = &first["report"];
    assert_eq!((&report["backup"], &report["rows"]), (&scene.backup.as_str().into(), &4000.into()));
    assert_eq!((&report["complete"], &report["target"]), (&true.into(), &"spare".into()));

    // What the users of the new database do to it stays, whatever comes twice; and a backup that is
    // newer by then is not restored over it.
    scene.target.psql("shop_b", "DELETE FROM orders WHERE id <= 7");
    scene.app.back_up(&scene.source);
    assert_eq!(ask()["report"], first["report"]);
    let order = r#"{"target":"spare","databases":[{"name":"shop","as":"shop_b"}]}"#;
    for id in ["again-1", "again-2"] {
        scene.app.send_restore(id, &message("by-hand/k", order));
    }
    scene.app.wait_until_drained(MINUTE);
    assert_eq!(scene.target.psql("shop_b", "SELECT count(*) FROM orders"), "1993");
    let completed = scene.app.events_of("restore.completed");
    assert_eq!(completed.len(), 3, "{completed:#?}");
    assert!(completed.iter().all(|event| *event == completed[0]), "{completed:#?}");
    assert_eq!(scene.app.events_of("restore.started").len(), 1);

    // Two that are worked on at once: one database, and no failure.
    for id in ["twin-1", "twin-2", "twin-3"] {
        scene.app.send_restore(id, &message("twins", SHOP));
    }
    scene.app.wait_for_event_id("src/twins~restore/completed", 3 * MINUTE);
    scene.is_like_the_source("shop");
    let completed = scene.app.events_of("restore.completed");
    assert!(completed[3..].iter().all(|event| *event == completed[3]), "{completed:#?}");
    assert_eq!(scene.app.events_of("restore.failed").len(), 0);
    scene.app.assert_events_keep_the_schema();
}

#[test]
fn a_handler_killed_at_any_point_goes_on_and_no_row_comes_twice() {
    let mut scene = Scene::new(60_000, "overwrite = true");
    scene.start();
    // How long a restore takes here.
    let started = std::time::Instant::now();
    scene.app.send_restore("whole", &message("whole", SHOP));
    scene.app.wait_for_event_id("src/whole~restore/completed", MINUTE);
    let whole = started.elapsed();
    scene.is_like_the_source("shop");
    let clean = r#"{"target":"spare","databases":[{"name":"shop"}],"clean":true}"#;
    for round in 1..=4_u32 {
        let (name, order) = match round % 2 {
            0 => ("shop".to_owned(), clean.to_owned()),
            _ => {
                let name = format!("shop_{round}");
                let order = SHOP.replace("\"shop\"", &format!("\"shop\",\"as\":\"{name}\""));
                (name, order)
            }
        };
        if round % 2 == 0 {
            // Three crashes within half an hour end a host; whoever watches over it starts it again.
            scene.app.stop();
            scene.app.start(&scene.source);
        }
        let id = format!("round-{round}");
        scene.app.send_restore(&id, &message(&id, &order));
        std::thread::sleep(whole * round / 5);
        kill(scene.app.handler_pid());
        scene.app.wait_for_event_id(&format!("src/{id}~restore/completed"), MINUTE);
        scene.is_like_the_source(&name);
    }
    scene.app.wait_until_drained(MINUTE);
    assert!(!scene.app.events_of("restore.continued").is_empty(), "no kill met a restore");
    assert_eq!(scene.app.events_of("restore.failed").len(), 0);
    scene.app.assert_events_keep_the_schema();
}

#[test]
fn what_can_never_work_is_answered_once_and_changes_nothing() {
    let mut scene = Scene::new(10, "");
    scene.target.create_database("shop");
    scene.start();
    let with = |more: &str| SHOP.replace("}]", &format!("}}],{more}"));
    let cases: [(&str, String, &str); 9] = [
        ("there", message("there", SHOP), "it is there already"),
        ("clean", message("clean", &with("\"clean\":true")), "overwrite = true"),
        ("existing", message("existing", &with("\"into_existing\":true")), "overwrite = true"),
        ("nowhere", message("nowhere", &SHOP.replace("spare", "hunter3")), "it has spare"),
        ("nothing", message("nothing", &SHOP.replace("\"shop\"", "\"none\"")), "no database"),
        (
            "gone",
            message("gone", &with("\"backup\":\"src-20200101T000000Z\"")),
            "there is no backup",
        ),
        ("json", "hunter2".to_owned(), "not JSON"),
        ("secret", message("secret", &with("\"connection\":\"password=hunter2\"")), "not known"),
        ("both", message("both", &format!("{SHOP},\"drill\":{{}}")), "either"),
    ];
    for (id, body, _) in &cases {
        scene.app.send_restore(id, body);
    }
    wait_for("all are answered", MINUTE, || {
        (scene.app.events_of("restore.failed").len() >= cases.len()).then_some(())
    });
    scene.app.wait_until_drained(MINUTE);
    let failed = scene.app.events_of("restore.failed");
    assert_eq!(failed.len(), cases.len(), "{failed:#?}");
    for (id, _, words) in &cases {
        let told: Vec<&Value> = failed
            .iter()
            .filter(|event| {
                event["data"]["message_id"] == *id
                    || event["id"] == format!("src/{id}~restore/failed")
            })
            .collect();
        assert_eq!(told.len(), 1, "{id}: {failed:#?}");
        let why = told[0]["data"]["why"].as_str().unwrap();
        assert!(why.contains(words), "{id}: {why}");
    }
    let said = format!("{}{:?}", scene.app.log(), scene.app.events());
    assert!(!said.contains("hunter2"), "{said}");
    assert_eq!(scene.databases("shop%"), "1");
    assert_eq!(
        scene.target.psql("shop", "SELECT count(*) FROM pg_class WHERE relname = 'orders'"),
        "0"
    );
    scene.app.assert_events_keep_the_schema();

    // Over HTTP most of it is said at once.
    let post = |body: &str| scene.app.request("POST", "/api/restores", Some(body));
    let cases = [
        ("{\"server\":\"src\"}", 400),
        ("{\"server\":\"src\",\"restore\":{\"target\":\"spare\",\"x\":1}}", 400),
        ("{\"server\":\"src\",\"restore\":{\"target\":\"other\"}}", 404),
        ("{\"server\":\"src\",\"drill\":{}}", 404),
        ("{\"server\":\"src\",\"restore\":{\"target\":\"spare\",\"backup\":\"x\"}}", 400),
    ];
    for (body, status) in cases {
        let (got, answer) = post(body);
        assert_eq!(got, status, "{body}: {answer}");
    }
    let (status, answer) =
        scene.app.request("GET", "/api/restores?what=restore&request=src/there", None);
    assert_eq!((status, &answer["is"]), (200, &"failed".into()), "{answer}");
}

#[test]
fn a_time_limit_of_the_function_puts_a_restore_off_and_it_goes_on() {
    let mut scene = Scene::new(10, "");
    // Five indexes of a second and a half each; there are four and a half for one delivery.
    scene.source.psql(
        "shop",
        "CREATE FUNCTION slow(x integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS
           $$ BEGIN PERFORM pg_catalog.pg_sleep(0.15); RETURN x; END $$;
         CREATE TABLE late (a integer); INSERT INTO late SELECT generate_series(1, 10);",
    );
    for index in 0..5 {
        scene
            .source
            .psql("shop", &format!("CREATE INDEX late_{index} ON late (slow(a + {index}))"));
    }
    scene.app.back_up(&scene.source);
    let policy = scene.app.policy_of(&scene.source, "src", "");
    let target = scene.app.target_of(&scene.target, "spare", "").replace("lanes = 2", "lanes = 1");
    scene.app.write_policy(&format!("{policy}{target}"));
    scene.app.set("AzureFunctionsJobHost__functionTimeout", "00:00:08");
    scene.start();
    scene.app.send_restore("slow", &message("slow", SHOP));
    scene.app.wait_for_event("restore.completed", 3 * MINUTE);
    let continued = scene.app.events_of("restore.continued");
    assert!(!continued.is_empty(), "{}", scene.app.log());
    let why = continued[0]["data"]["why"].as_str().unwrap();
    assert!(why.contains("time limit"), "{why}");
    assert_eq!(continued[0]["data"]["attempt"], 1, "a time limit is no failed try");
    let sql = "SELECT count(*) FROM pg_indexes WHERE indexname LIKE 'late%'";
    assert_eq!(scene.target.psql("shop", sql), "5");
    assert_eq!(scene.target.psql("shop", "SELECT count(*) FROM late"), "10");
    scene.app.wait_until_drained(MINUTE);
    scene.app.assert_events_keep_the_schema();
}

#[test]
fn a_password_of_a_target_is_nowhere() {
    let mut scene = Scene::new(10, "");
    let target = app::server_with_password("Hunter2-target");
    let lines = scene.app.target_of(&target, "spare", "password = { env = \"SPARE_PASSWORD\" }");
    let (postgres, keeper) =
        (target.conninfo("postgres"), target.conninfo_as("keeper", None, "postgres"));
    assert!(lines.contains(&postgres), "{lines}");
    let policy = scene.app.policy_of(&scene.source, "src", "");
    scene.app.write_policy(&format!("{policy}{}", lines.replace(&postgres, &keeper)));
    let mut said = String::new();
    for (password, event) in [("Hunter2-wrong", "failed"), ("Hunter2-target", "completed")] {
        scene.app.set("SPARE_PASSWORD", password);
        scene.start();
        scene.app.send_restore(event, &message(event, SHOP));
        scene.app.wait_for_event(&format!("restore.{event}"), MINUTE);
        said.push_str(&scene.app.log());
        scene.app.stop();
    }
    said.push_str(&format!("{:?}", scene.app.events()));
    for file in app::files(&[scene.app.root().join("state"), scene.app.place()]) {
        said.push_str(&String::from_utf8_lossy(&std::fs::read(&file).unwrap()));
    }
    assert!(!said.contains("Hunter2"), "{said}");
}
