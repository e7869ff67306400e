//! The whole road as it is on Azure, with the nearest real thing in each place: a server like
//! Flexible Server, Azurite for Blob Storage, a broker on another AMQP implementation for Service
//! Bus, and the real handler, to which the test speaks as the host does.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use flexkeep_tests::{
    AmqpPeer, Azurite, BareHandler, FaultProxy, HttpFault, Lookalike, Requests, Server, TestVault,
    Version, flexkeep_command, json, pg_command, rounds, run,
};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(240);

const DUMP_PASSWORD_VARIABLE: &str = "DUMP_CONNECTION";

/// A policy with the server under the name `src`, whose connection and vault are app settings. What
/// fails is not tried again.
fn policy() -> String {
    format!(
        "[vault]\nplace = \"${{FLEXKEEP_VAULT}}\"\n\n[[server]]\nname = \"src\"\n\
         connection = \"${{{DUMP_PASSWORD_VARIABLE}}}\"\n\
         schedule = {{ every = \"week\", on = \"sunday\", at = \"02:30\", zone = \"UTC\" }}\n\
         max_attempts = 1\n"
    )
}

/// `flexkeep` on a vault in Azurite.
fn on_vault(arguments: &[&str], vault: &str) -> std::process::Command {
    let mut command = flexkeep_command(arguments);
    command.env("FLEXKEEP_VAULT", vault);
    command
}

#[test]
fn a_tick_leads_to_a_sealed_backup_in_blob_storage_and_an_event_on_the_topic() {
    let server = Lookalike::with_sample(Lookalike::options(Version::V17).bypass_rls());
    let azurite = Azurite::start();
    let (peer, proxy) = (AmqpPeer::start(&[]), FaultProxy::start(azurite.port()));
    let vault = azurite.container_url("vault");
    let through = vault.replace(&azurite.port().to_string(), &proxy.port().to_string());
    let (bus, bin) = (peer.connection_string(), Version::V18.bin());
    let connection = server.dump_url("postgres");
    let handler = BareHandler::start(
        &policy(),
        &[
            ("FLEXKEEP_BUS", &bus),
            ("FLEXKEEP_EVENTS", "topic:events,log"),
            ("FLEXKEEP_VAULT", &through),
            (DUMP_PASSWORD_VARIABLE, &connection),
            ("FLEXKEEP_PG_BIN", &bin.to_string_lossy()),
        ],
    );

    // The server was never backed up, so it is due; a second tick changes nothing.
    for _ in 0..2 {
        let (status, answer) = handler.tick();
        assert_eq!(status, 200, "{answer}\n{}", handler.log());
    }
    let sent: Vec<Value> = peer.messages("backups");
    let stored: Vec<&Value> = sent.iter().filter(|one| one["stored"] == true).collect();
    assert_eq!(stored.len(), 1, "{sent:#?}");
    let (id, body) = (stored[0]["id"].as_str().unwrap(), stored[0]["body"].as_str().unwrap());
    // Delivered twice, as queues may do.
    for _ in 0..2 {
        let (status, answer) = handler.deliver("backup", id, body);
        assert_eq!(status, 200, "{answer}\n{}", handler.log());
    }

    let events = peer.messages("events");
    let of = |type_: &str| {
        let full = format!("flexkeep.backup.{type_}");
        let of_type = |one: &&Value| one["properties"]["type"] == full.as_str();
        events.iter().filter(of_type).cloned().collect::<Vec<_>>()
    };
    let completed = of("completed");
    assert!(!completed.is_empty(), "{events:#?}\n{}", handler.log());
    let ids: std::collections::BTreeSet<_> =
        completed.iter().map(|one| one["id"].to_string()).collect();
    assert_eq!(ids.len(), 1, "told again under the same id only: {completed:#?}");
    assert_eq!(completed[0]["properties"]["server"], "src");
    let event: Value = serde_json::from_str(completed[0]["body"].as_str().unwrap()).unwrap();
    assert_eq!(event["specversion"], "1.0");
    // What a customer's role may not read is told.
    assert_eq!(event["data"]["complete"], false, "{event:#}");

    let list = json(&run(&mut on_vault(&["list", "--json"], &vault), LIMIT).expect_success());
    assert_eq!(list["backups"].as_array().unwrap().len(), 1, "{list:#}");
    let sound = run(&mut on_vault(&["verify", "--json"], &vault), LIMIT).expect_success();
    assert_eq!(json(&sound)["status"], "sound");

    // The storage answers nothing else any more, and asks for more time than there is.
    proxy.fail_at_random(1, 1000, &[HttpFault::Answer(503, "ServerBusy", Some(3600))]);
    let body =
        r#"{"version":1,"server":"src","request":"src/busy","requested":"2026-11-23T09:00:00Z"}"#;
    let (status, answer) = handler.deliver("backup", "backup/src/busy", body);
    assert_eq!(status, 200, "{answer}\n{}", handler.log());
    let failed: Vec<Value> = peer
        .messages("events")
        .into_iter()
        .filter(|one| one["properties"]["type"] == "flexkeep.backup.failed")
        .collect();
    assert_eq!(failed.len(), 1, "{failed:#?}\n{}", handler.log());
    let event: Value = serde_json::from_str(failed[0]["body"].as_str().unwrap()).unwrap();
    let why = event["data"]["why"].as_str().expect("a reason");
    assert!(why.contains("503 ServerBusy"), "{why}");

    // Back by stock pg_restore.
    let beside = TestVault::new();
    let to = beside.beside("export");
    let mut export = on_vault(&["export", "src/latest", "--to"], &vault);
    run(export.arg(&to), LIMIT).expect_success();
    let mut archive = pg_command("pg_restore", Version::V18);
    run(archive.arg("--list").arg(to.join("postgres.dump")), LIMIT).expect_success();

    // No key, signature or password anywhere.
    let secrets = secrets_of(&[&vault, &bus, &connection]);
    let texts = [handler.log(), azurite_texts(&azurite), format!("{events:?}{sent:?}")];
    for secret in &secrets {
        for text in &texts {
            assert!(!text.contains(secret.as_str()), "a secret is shown");
        }
    }
}

/// What must not be shown of these connections.
fn secrets_of(texts: &[&str]) -> Vec<String> {
    let mut secrets = Vec::new();
    for text in texts {
        for mark in ["sig=", "SharedAccessKey=", "password="] {
            let after = text.split(mark).skip(1);
            let value = |rest: &str| rest.split(['&', ';', ' ']).next().unwrap_or("").to_owned();
            secrets.extend(after.map(value).map(|value| value.trim_matches('\'').to_owned()));
        }
    }
    assert_eq!(secrets.len(), texts.len(), "each has its secret");
    assert!(secrets.iter().all(|secret| secret.len() > 5));
    secrets
}

/// What Azurite has stored of small objects: manifests, records, journals.
fn azurite_texts(azurite: &Azurite) -> String {
    let mut folders = vec![azurite.data()];
    let mut texts = String::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder of Azurite").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if entry.metadata().is_ok_and(|meta| meta.len() < 1 << 20) {
                let bytes = std::fs::read(&path).unwrap_or_default();
                texts.push_str(&String::from_utf8_lossy(&bytes));
            }
        }
    }
    assert!(texts.contains("system_identifier"), "a manifest is among them");
    texts
}

/// A server with a table of a few chunks.
fn small_server() -> Server {
    let server = Server::start(Version::V18);
    server.create_database("shop");
    server.psql(
        "shop",
        "CREATE TABLE orders AS SELECT i, md5(i::text) || md5((i * 7)::text) AS note \
         FROM generate_series(1, 120000) i",
    );
    server
}

fn backup(server: &Server, vault: &str) -> std::process::Command {
    let mut command = on_vault(&["backup", "--json", "--name", "src", "--from"], vault);
    command.arg(server.conninfo("postgres")).arg("--pg-bin").arg(server.version().bin());
    command
}

#[test]
fn faults_on_the_wire_end_in_a_whole_backup_or_a_clear_error_never_in_a_damaged_one() {
    let server = small_server();
    let azurite = Azurite::start();
    let proxy = FaultProxy::start(azurite.port());
    let direct = azurite.container_url("vault");
    let through = direct.replace(&azurite.port().to_string(), &proxy.port().to_string());
    let faults = [
        HttpFault::CutRequest(1000),
        HttpFault::DropAnswer,
        HttpFault::CutAnswer(10),
        HttpFault::Answer(500, "InternalError", None),
        HttpFault::Answer(503, "ServerBusy", Some(1)),
        HttpFault::Answer(429, "TooManyRequests", None),
        HttpFault::Delay(Duration::from_millis(300)),
        HttpFault::FlipBit(77),
    ];
    let seeds = rounds(2);
    for seed in 1..=seeds {
        proxy.fail_at_random(u64::from(seed), 150, &faults);
        let out = run(&mut backup(&server, &through), LIMIT).expect_success();
        assert_eq!(json(&out)["status"], "complete", "seed {seed}");
        // A change, so that the next one has something to store.
        server.psql("shop", &format!("UPDATE orders SET note = note || '{seed}' WHERE i % 3 = 0"));
    }
    assert!(proxy.count(Requests::ALL) > 30, "{:?}", proxy.seen());
    proxy.heal();
    let report = json(&run(&mut on_vault(&["verify", "--json"], &direct), LIMIT).expect_success());
    assert_eq!(report["counts"]["backups"], seeds, "{report:#}");

    // What is read breaks off, now here, now there: it is read to its end all the same.
    let cuts = [HttpFault::CutAnswer(0), HttpFault::CutAnswer(300), HttpFault::CutAnswer(20_000)];
    proxy.fail_at_random(1, 300, &cuts);
    let report = json(&run(&mut on_vault(&["verify", "--json"], &through), LIMIT).expect_success());
    assert_eq!((&report["status"], &report["counts"]["backups"]), (&"sound".into(), &seeds.into()));
    let beside = TestVault::new();
    let export = |vault: &str, name: &str| {
        let to = beside.beside(name);
        let mut export = on_vault(&["export", "src/latest", "--to"], vault);
        run(export.arg(&to), LIMIT).expect_success();
        std::fs::read(to.join("shop.dump")).expect("an archive")
    };
    assert!(export(&through, "cut") == export(&direct, "whole"), "the archives differ");
}

/// The endpoint of App Service for tokens, 2019-08-01: it fails so often, and then gives this one.
/// Each request leaves its resource.
fn identity_endpoint(token: String, failures: usize) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}/msi/token", listener.local_addr().expect("bound"));
    let asked = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&asked);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let lines = BufReader::new(&stream).lines().map_while(Result::ok);
            let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
            assert!(head.iter().any(|line| line.eq_ignore_ascii_case("x-identity-header: ours")));
            let mut noted = noted.lock().expect("no panic");
            noted.push(head[0].clone());
            give_token(stream, (noted.len() > failures).then_some(&token));
        }
    });
    (url, asked)
}

fn give_token(mut stream: TcpStream, token: Option<&String>) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let (status, body) = match token {
        None => (500, "{}".to_owned()),
        Some(token) => (
            200,
            format!(
                r#"{{"access_token":"{token}","expires_on":"{}","token_type":"Bearer","resource":"r"}}"#,
                now + 3600
            ),
        ),
    };
    // Who hangs up early is no matter.
    let _ = write!(
        stream,
        "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{body}",
        body.len()
    );
}

#[test]
fn a_managed_identity_that_fails_at_first_opens_the_vault_over_https() {
    let server = small_server();
    let azurite = Azurite::start_https();
    let (endpoint, asked) = identity_endpoint(azurite.bearer_token(), 2);
    let beside = TestVault::new();
    let trusted = beside.beside("azurite.pem");
    std::fs::write(&trusted, azurite.certificate_pem()).expect("our own folder");
    let vault = format!("{}/vault", azurite.endpoint());
    let as_app = |mut command: std::process::Command| {
        command
            .env("IDENTITY_ENDPOINT", &endpoint)
            .env("IDENTITY_HEADER", "ours")
            .env("SSL_CERT_FILE", &trusted);
        run(&mut command, LIMIT).expect_success()
    };
    assert_eq!(json(&as_app(backup(&server, &vault)))["status"], "complete");
    let requests = asked.lock().expect("no panic").clone();
    // Two failures, and one token for both containers.
    assert_eq!(requests.len(), 3, "{requests:#?}");
    assert!(requests.iter().all(|one| one.contains("storage.azure.com")), "{requests:#?}");
    assert_eq!(json(&as_app(on_vault(&["verify", "--json"], &vault)))["status"], "sound");
}

#[test]
fn a_vault_that_refuses_or_is_not_there_is_a_clear_error_without_secrets() {
    let server = small_server();
    let azurite = Azurite::start();
    let vault = azurite.container_url("vault");
    run(&mut backup(&server, &vault), LIMIT).expect_success();
    // A signature that has no rights, and a container that is not there.
    let signature = vault.split("sig=").nth(1).unwrap().to_owned();
    let wrong = vault.replace(&signature, "AAAA");
    let out = run(&mut backup(&server, &wrong), LIMIT);
    assert_eq!(out.code(), Some(1), "{}", out.errors());
    assert!(out.errors().contains("permission denied"), "{}", out.errors());
    let away = vault.replace("/vault?", "/other?");
    let out = run(&mut on_vault(&["list"], &away), LIMIT);
    assert_eq!(out.code(), Some(2), "{}", out.errors());
    for text in [out.errors(), out.text()] {
        assert!(!text.contains(&signature), "{text}");
    }
    run(&mut backup(&server, &vault), LIMIT).expect_success();
}
