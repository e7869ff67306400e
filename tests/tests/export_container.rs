//! `flexkeep export` into a blob container and into a pipe, on Azurite: copied by the service, sent,
//! and interrupted.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use flexkeep_tests::{
    Azurite, FaultProxy, HttpFault, Requests, Rights, Running, Server, TestVault, Version,
    flexkeep_command, json, pg_command, run,
};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(150);

/// Azurite refuses Put Block From URL to a signature for the account.
const RIGHTS: Rights = Rights { letters: "rcwdl", expired: false };

/// Blocks of the archive, not those of the small files.
const ARCHIVE_BLOCKS: Requests = Requests("PUT", "shop.dump?blockid=");
const ARCHIVE_COMMIT: Requests = Requests("PUT", "shop.dump?comp=blocklist");

struct Scene {
    server: Server,
    azurite: Azurite,
    proxy: FaultProxy,
    beside: TestVault,
}

impl Scene {
    /// A backup in a container, of tables large and small and a large object.
    fn start() -> Self {
        let server = Server::start(Version::V18);
        server.create_database("shop");
        server.psql(
            "shop",
            "CREATE TABLE orders (i int PRIMARY KEY, note text); \
             INSERT INTO orders SELECT i, md5(i::text) || md5((i * 7)::text) \
               FROM generate_series(1, 60000) i; \
             CREATE TABLE small AS SELECT i FROM generate_series(1, 10) i; \
             CREATE TABLE empty (i int); \
             SELECT lo_from_bytea(4711, (SELECT string_agg(sha512(i::text::bytea), ''::bytea) \
               FROM generate_series(1, 60000) i))",
        );
        let azurite = Azurite::start();
        let proxy = FaultProxy::start(azurite.port());
        let scene = Self { server, azurite, proxy, beside: TestVault::new() };
        let mut backup = flexkeep_command(&["backup", "--json", "--name", "src", "--from"]);
        backup.arg(scene.server.conninfo("postgres")).arg("--pg-bin").arg(Version::V18.bin());
        backup.env("FLEXKEEP_VAULT", scene.azurite.container_url("vault"));
        run(&mut backup, LIMIT).expect_success();
        // The command makes no container for exports.
        let url = format!(
            "{}/out?restype=container&{}",
            scene.azurite.endpoint(),
            scene.azurite.account_sas(Rights::ALL)
        );
        ureq::put(&url).header("x-ms-version", "2022-11-02").send_empty().expect("makes it");
        scene
    }

    fn url(&self, port: u16, path: &str) -> String {
        let container = path.split('/').next().unwrap_or_default();
        let sas = self.azurite.container_sas(container, RIGHTS);
        let endpoint = self.azurite.endpoint();
        let endpoint = endpoint.replace(&self.azurite.port().to_string(), &port.to_string());
        format!("{endpoint}/{path}?{sas}")
    }

    /// An export into a folder of the container, through the proxy.
    fn export(&self, folder: &str) -> Command {
        let mut command = flexkeep_command(&["export", "src/latest", "--json", "-vvv"]);
        command.env("FLEXKEEP_VAULT", self.url(self.proxy.port(), "vault"));
        command.args(["--database", "shop", "--to"]);
        command.arg(self.url(self.proxy.port(), &format!("out/{folder}")));
        command
    }

    /// Runs it, proves that it shows no secret, and gives the archive's line.
    #[track_caller]
    fn exported(&self, command: &mut Command) -> Value {
        let output = run(command, LIMIT).expect_success();
        for text in [output.text(), output.errors()] {
            for container in ["vault", "out"] {
                let sas = self.azurite.container_sas(container, RIGHTS);
                let secret = sas.split("sig=").nth(1).expect("a signature");
                assert!(!text.contains(secret), "a signature is shown");
                let plain = secret.replace("%2B", "+").replace("%2F", "/").replace("%3D", "=");
                assert!(!text.contains(&plain), "a signature is shown");
            }
        }
        let report = json(&output);
        let files = report["files"].as_array().expect("files");
        files.iter().find(|file| file["database"] == "shop").expect("the archive").clone()
    }

    /// A blob, `None` if there is none.
    fn download(&self, name: &str) -> Option<PathBuf> {
        let url = self.url(self.azurite.port(), &format!("out/{name}"));
        let agent: ureq::Agent =
            ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let mut answer = agent.get(&url).call().expect("an answer");
        if answer.status().as_u16() == 404 {
            return None;
        }
        assert_eq!(answer.status().as_u16(), 200);
        let body = answer.body_mut().with_config().limit(1 << 30).read_to_vec().expect("a body");
        let path = self.beside.beside(&name.replace('/', "-"));
        std::fs::write(&path, body).expect("writes");
        Some(path)
    }

    /// The archive of an export into a folder.
    fn local(&self) -> Vec<u8> {
        let to = self.beside.beside("local");
        let mut command = flexkeep_command(&["export", "src/latest", "--database", "shop", "--to"]);
        command.arg(&to).env("FLEXKEEP_VAULT", self.url(self.azurite.port(), "vault"));
        run(&mut command, LIMIT).expect_success();
        read(&to.join("shop.dump"))
    }
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).expect("reads")
}

#[test]
fn an_archive_in_a_container_is_the_same_whether_it_was_copied_or_sent() {
    let scene = Scene::start();
    let local = scene.local();
    let is_local = |name: &str| {
        let path = scene.download(name).unwrap_or_else(|| panic!("no {name}"));
        assert!(read(&path) == local, "{name} differs");
        path
    };

    let copied = scene.exported(&mut scene.export("copied"));
    let transfer = &copied["transfer"];
    assert!(transfer["copied_bytes"].as_u64() > Some(local.len() as u64 / 2), "{copied:#}");
    assert_eq!(transfer["refused"], Value::Null, "{copied:#}");
    let sum = transfer["copied_bytes"].as_u64().zip(transfer["sent_bytes"].as_u64());
    assert_eq!(sum.map(|(a, b)| a + b), Some(local.len() as u64), "{copied:#}");
    let path = is_local("copied/shop.dump");
    for name in ["roles.sql", "README.txt"] {
        assert!(scene.download(&format!("copied/{name}")).is_some(), "{name}");
    }

    // Back by the stock pg_restore.
    scene.server.create_database("copy");
    let mut restore = pg_command("pg_restore", Version::V17);
    restore.args(["--jobs", "3", "--exit-on-error", "--dbname"]);
    run(restore.arg(scene.server.conninfo("copy")).arg(&path), LIMIT).expect_success();
    let rows = "SELECT md5(string_agg(o::text, '|' ORDER BY i)), md5(lo_get(4711)) FROM orders o";
    let rows = |database: &str| scene.server.psql(database, rows);
    assert_eq!(rows("copy"), rows("shop"));

    // Refused at once, in the middle, and not wanted.
    let no = HttpFault::Answer(403, "CannotVerifyCopySource", None);
    scene.proxy.fail(ARCHIVE_BLOCKS, 1, no.clone());
    let sent = scene.exported(&mut scene.export("sent"));
    assert_eq!(sent["transfer"]["copied_bytes"], 0, "{sent:#}");
    let reason = sent["transfer"]["refused"].as_str().expect("a reason");
    assert!(reason.contains("403 CannotVerifyCopySource"), "{reason}");
    is_local("sent/shop.dump");
    scene.proxy.fail_later(ARCHIVE_BLOCKS, 1, 2, no);
    let mixed = scene.exported(&mut scene.export("mixed"));
    assert!(mixed["transfer"]["copied_bytes"].as_u64() < transfer["copied_bytes"].as_u64());
    is_local("mixed/shop.dump");
    scene.proxy.heal();
    let verified = scene.exported(scene.export("verified").arg("--verify"));
    let expected = serde_json::json!({
        "copied_bytes": 0, "sent_bytes": local.len(), "refused": null
    });
    assert_eq!(verified["transfer"], expected);
    is_local("verified/shop.dump");

    // The answer to the commit is lost.
    scene.proxy.fail(ARCHIVE_COMMIT, 1, HttpFault::DropAnswer);
    scene.exported(&mut scene.export("lost"));
    is_local("lost/shop.dump");

    // What is there stays; other formats go there too.
    let again = run(&mut scene.export("copied"), LIMIT);
    assert_eq!(again.status.code(), Some(2), "{}", again.errors());
    assert!(again.errors().contains("exists already"), "{}", again.errors());
    scene.exported(scene.export("copied").arg("--overwrite"));
    let mut plain = scene.export("plain");
    plain.args(["--format", "plain", "--compress", "gzip", "--pg-bin"]);
    scene.exported(plain.arg(Version::V18.bin()));
    assert!(scene.download("plain/shop.sql.gz").is_some());
    let directory = run(scene.export("dir").args(["--format", "directory"]), LIMIT);
    assert_eq!(directory.status.code(), Some(2), "{}", directory.errors());
}

#[test]
fn an_export_that_is_killed_or_finds_damage_leaves_no_archive_under_its_name() {
    let scene = Scene::start();
    for requests in [ARCHIVE_BLOCKS, ARCHIVE_COMMIT] {
        scene.proxy.fail(requests.clone(), u32::MAX, HttpFault::Freeze);
        let export = Running::start(scene.export("killed").arg("--overwrite"));
        let end = Instant::now() + LIMIT;
        while scene.proxy.count(requests.clone()) == 0 {
            assert!(Instant::now() < end, "{}", export.errors_so_far());
            std::thread::sleep(Duration::from_millis(20));
        }
        export.kill_nine();
        export.finish(LIMIT);
        scene.proxy.heal();
        assert_eq!(scene.download("killed/shop.dump"), None);
    }
    // A chunk that is cut short has another length: it is read, and found to be damaged.
    let chunk = largest_chunk(&scene);
    let sas = scene.azurite.account_sas(Rights::ALL);
    let url = format!("{}/vault/{chunk}?{sas}", scene.azurite.endpoint());
    let put = ureq::put(&url).header("x-ms-version", "2022-11-02");
    put.header("x-ms-blob-type", "BlockBlob").send(&[0; 300_000][..]).expect("replaces it");
    let damaged = run(scene.export("killed").arg("--overwrite"), LIMIT);
    assert_eq!(damaged.status.code(), Some(4), "{}", damaged.errors());
    let text = damaged.errors();
    assert!(text.contains(&chunk), "{text}");
    assert_eq!(scene.download("killed/shop.dump"), None);
}

/// The name of a chunk that the service would copy.
fn largest_chunk(scene: &Scene) -> String {
    let sas = scene.azurite.account_sas(Rights::ALL);
    let url = format!(
        "{}/vault?restype=container&comp=list&prefix=chunks/&{sas}",
        scene.azurite.endpoint()
    );
    let request = ureq::get(&url).header("x-ms-version", "2022-11-02");
    let list = request.call().expect("lists").body_mut().read_to_string().expect("text");
    let value = |blob: &str, tag: &str| {
        let (_, rest) = blob.split_once(&format!("<{tag}>"))?;
        Some(rest.split_once('<')?.0.to_owned())
    };
    let blobs = list.split("<Blob>").skip(1);
    let sized = blobs.filter_map(|blob| {
        let bytes: u64 = value(blob, "Content-Length")?.parse().ok()?;
        Some((bytes, value(blob, "Name")?))
    });
    sized.max().expect("a chunk").1
}

#[test]
fn one_database_goes_through_a_pipe() {
    let scene = Scene::start();
    let vault = scene.url(scene.azurite.port(), "vault");
    let export = |arguments: &[&str]| {
        let mut command = flexkeep_command(&["export", "src/latest", "--to", "-"]);
        command.env("FLEXKEEP_VAULT", &vault).env("FLEXKEEP_PG_BIN", Version::V18.bin());
        run(command.args(arguments), LIMIT)
    };
    let output = export(&["--database", "shop"]).expect_success();
    assert!(output.stdout.starts_with(b"PGDMP"));
    assert!(output.errors().contains("into standard output"), "{}", output.errors());
    let archive = scene.beside.beside("piped.dump");
    std::fs::write(&archive, &output.stdout).expect("writes");
    let mut list = pg_command("pg_restore", Version::V18);
    let sql = run(list.args(["--file", "-"]).arg(&archive), LIMIT).expect_success().text();
    let plain = export(&["--database", "shop", "--format", "plain"]).expect_success().text();
    let steady = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| !line.contains("restrict "));
        lines.map(str::to_owned).collect()
    };
    assert!(steady(&sql) == steady(&plain), "the same SQL");
    assert!(plain.contains("COPY public.orders (i, note) FROM stdin;"));

    for (arguments, part) in [
        (&["--database", "shop", "--json"][..], "standard output"),
        (&[], "takes one database"),
        (&["--database", "shop", "--format", "directory"], "does not fit"),
    ] {
        let refused = export(arguments);
        assert_eq!(refused.status.code(), Some(2), "{}", refused.errors());
        assert!(refused.errors().contains(part), "{}", refused.errors());
        assert!(refused.stdout.is_empty() || arguments.contains(&"--json"));
    }
}
