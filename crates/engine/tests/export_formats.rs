//! What exports hold, in every format and compression, as stock pg_restore and psql read it.

mod servers;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use flexkeep_engine::{
    BackupOptions, ExportCompression, ExportError, ExportFormat, ExportOptions, ExportReport,
    ExportTarget, Progress, backup, chain, export,
};
use flexkeep_vault::contents::{ChunkRef, EntryKind};
use flexkeep_vault::manifest::Manifest;
use flexkeep_vault::store::{
    BlockLimits, BlockStore, BlockUpload, CopyRefused, CopySource, StoreError,
};
use flexkeep_vault::{ChunkBuffer, ChunkEncoder, FoldersOnly, Place, Vault, chunk_name};
use servers::{Server, bin, names_in, run};
use tempfile::TempDir;

const ROLES: &str = "CREATE ROLE app_owner NOLOGIN; CREATE ROLE reader NOLOGIN";

/// Tables that belong together and that do not, and large objects of more than one chunk.
const SHOP: &str = r#"
    CREATE SCHEMA app AUTHORIZATION app_owner;
    GRANT USAGE ON SCHEMA app TO reader;
    SET ROLE app_owner;
    CREATE TYPE app.state AS ENUM ('new', 'paid');
    CREATE FUNCTION app.touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
    CREATE TABLE app.customers (id int PRIMARY KEY, name text NOT NULL UNIQUE);
    INSERT INTO app.customers SELECT i, 'name' || i FROM generate_series(1, 100) i;
    CREATE SEQUENCE app.invoice_no START 17;
    CREATE TABLE app.orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
                             customer int REFERENCES app.customers, state app.state DEFAULT 'new',
                             invoice int DEFAULT nextval('app.invoice_no'), note text,
                             CHECK (invoice > 0));
    ALTER SEQUENCE app.invoice_no OWNED BY app.orders.invoice;
    CREATE INDEX orders_note ON app.orders (left(note, 20));
    CREATE TRIGGER touch BEFORE UPDATE ON app.orders FOR EACH ROW EXECUTE FUNCTION app.touch();
    GRANT SELECT ON app.orders TO reader;
    COMMENT ON COLUMN app.orders.note IS 'free text';
    INSERT INTO app.orders (customer, note)
      SELECT 1 + i % 100, repeat(md5(i::text), 1 + i % 5) FROM generate_series(1, 30000) i;
    CREATE TABLE app.nothing ();
    INSERT INTO app.nothing SELECT FROM generate_series(1, 5);
    CREATE TABLE app."Empty ""one""" (a int);
    CREATE TABLE app.texts (t text);
    INSERT INTO app.texts VALUES (NULL), (''), (E'tab\tnew\nline\\back'), ('\.'), (E'\u20ac');
    INSERT INTO app.texts SELECT string_agg(md5(i::text), '') FROM generate_series(1, 300000) i;
    RESET ROLE;
    SELECT lo_create(70001);
    SELECT lo_from_bytea(70003, (SELECT string_agg(sha512(i::text::bytea), ''::bytea)
                                 FROM generate_series(1, 400000) i));
    SELECT lo_from_bytea(80000 + i, decode(repeat(md5(i::text), i), 'hex'))
      FROM generate_series(1, 20) i;
    GRANT SELECT ON LARGE OBJECT 80001 TO reader;
"#;

const ORDERS: &str = "SELECT count(*), md5(string_agg(o::text, '|' ORDER BY id)) FROM app.orders o";

const FINGERPRINT: &str = r#"
    SELECT 'orders', count(*), md5(string_agg(o::text, '|' ORDER BY id)) FROM app.orders o
    UNION ALL SELECT 'nothing', count(*), '' FROM app.nothing
    UNION ALL SELECT 'texts', count(*), md5(string_agg(md5(coalesce(t, 'null')), '|' ORDER BY t))
      FROM app.texts
    UNION ALL SELECT 'objects', count(*), md5(string_agg(oid || md5(lo_get(oid)) || lomowner::regrole
        || coalesce(lomacl::text, ''), '|' ORDER BY oid)) FROM pg_largeobject_metadata
    UNION ALL SELECT 'constraints', count(*), '' FROM pg_constraint
      WHERE connamespace = 'app'::regnamespace AND contype IN ('p', 'f', 'u', 'c')
    ORDER BY 1
"#;

struct Scene {
    source: Server,
    vault: Vault,
    manifest: Manifest,
    folder: TempDir,
}

impl Scene {
    fn of(major: u32) -> Self {
        let source = Server::start(major);
        source.sql("postgres", ROLES);
        source.sql("postgres", "CREATE DATABASE shop OWNER app_owner");
        source.sql("shop", SHOP);
        let folder = tempfile::tempdir().expect("a folder");
        let place = Place::Folder(folder.path().join("vault"));
        let vault = Vault::create(&place, &FoldersOnly).expect("makes a vault");
        let options = BackupOptions { pg_bin: Some(bin(18)), ..BackupOptions::default() };
        let manifest = backup(&source.config(), &vault, &options, &Arc::default())
            .unwrap_or_else(|error| panic!("backup: {error:?}"));
        Self { source, vault, manifest, folder }
    }

    fn to(&self, folder: &str) -> PathBuf {
        self.folder.path().join(folder)
    }

    fn try_export(
        &self,
        to: &str,
        change: impl FnOnce(&mut ExportOptions),
    ) -> Result<ExportReport, ExportError> {
        let mut options = ExportOptions::new(ExportTarget::Folder(self.to(to)));
        options.databases = vec!["shop".to_owned()];
        options.pg_bin = Some(bin(self.source.major));
        change(&mut options);
        export(&self.vault, &self.manifest, &options, &Arc::default())
    }

    fn export(&self, to: &str, change: impl FnOnce(&mut ExportOptions)) -> ExportReport {
        self.try_export(to, change).unwrap_or_else(|error| panic!("export: {error}"))
    }

    /// What pg_restore makes of an archive, as SQL without what differs each time.
    fn as_sql(&self, archive: &Path, client: u32) -> String {
        let mut restore = Command::new(bin(client).join("pg_restore"));
        let output = run(restore.args(["--file", "-"]).arg(archive).stdin(Stdio::null()));
        steady(&output.stdout)
    }

    /// A server with the roles of an export, and an empty database.
    fn target(&self, major: u32) -> Server {
        let target = Server::start(major);
        target.sql("postgres", ROLES);
        target.sql("postgres", "CREATE DATABASE copy TEMPLATE template0");
        target
    }
}

/// Without the random words of newer minor versions.
fn steady(sql: &[u8]) -> String {
    let text = String::from_utf8_lossy(sql);
    let random = |line: &&str| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict");
    text.lines().filter(random).map(|line| format!("{line}\n")).collect()
}

const COMPRESSIONS: [(&str, Option<ExportCompression>); 4] = [
    ("usual", None),
    ("zstd", Some(ExportCompression::Zstd(Some(3)))),
    ("gzip", Some(ExportCompression::Gzip(Some(1)))),
    ("none", Some(ExportCompression::None)),
];

#[test]
fn every_format_and_compression_holds_the_same() {
    let scene = Scene::of(18);
    scene.export("sql", |options| options.format = ExportFormat::Plain);
    let plain = steady(&std::fs::read(scene.to("sql/shop.sql")).expect("reads"));
    assert!(plain.contains("COPY app.orders (id, customer, state, invoice, note) FROM stdin;"));
    for (name, compression) in COMPRESSIONS {
        for (format, archive) in
            [(ExportFormat::Custom, "shop.dump"), (ExportFormat::Directory, "shop.dir")]
        {
            let to = format!("{name}-{archive}");
            let report = scene.export(&to, |options| {
                (options.format, options.compression) = (format, compression);
            });
            assert_eq!(report.pg_restore_major, 17);
            let path = scene.to(&to).join(archive);
            for client in [17, 18] {
                assert!(scene.as_sql(&path, client) == plain, "{to} by pg_restore {client}");
            }
            // As it is told.
            let of = |path: &Path| std::fs::metadata(path).expect("is there").len();
            let bytes = match format {
                ExportFormat::Directory => {
                    names_in(&path).iter().map(|name| of(&path.join(name))).sum()
                }
                _ => of(&path),
            };
            assert_eq!(report.files[1].bytes, bytes, "{to}");
        }
        assert!(
            names_in(&scene.to(&format!("{name}-shop.dir")))
                .iter()
                .all(|one| !one.starts_with('.'))
        );
    }
    // pg_dump's own folder has the same files.
    let own = scene.to("own");
    let mut dump = scene.source.client(18, "pg_dump");
    run(dump.args(["-Fd", "--compress", "zstd:1", "-f"]).arg(&own).arg("shop"));
    assert_eq!(names_in(&own), names_in(&scene.to("usual-shop.dir/shop.dir")));

    // In parallel, from a folder.
    let target = scene.target(18);
    let mut restore = target.client(17, "pg_restore");
    restore.args(["--jobs", "4", "--exit-on-error", "--dbname", "copy"]);
    run(restore.arg(scene.to("usual-shop.dir/shop.dir")));
    assert_eq!(target.sql("copy", FINGERPRINT), scene.source.sql("shop", FINGERPRINT));
    // As SQL, with the database itself, by the commands of the README.
    let zstd = Some(ExportCompression::Zstd(None));
    for (to, create, compression) in [("made", true, zstd), ("filled", false, None)] {
        scene.export(to, |options| {
            options.format = ExportFormat::Plain;
            (options.create, options.compression) = (create, compression);
        });
        let target = Server::start(18);
        assert_eq!(run_readme(&scene.to(to), &target), if create { 2 } else { 3 });
        assert_eq!(target.sql("shop", FINGERPRINT), scene.source.sql("shop", FINGERPRINT));
        let owner = "SELECT datdba::regrole FROM pg_database WHERE datname = 'shop'";
        let expected = if create { "app_owner\n" } else { "postgres\n" };
        assert_eq!(target.sql("postgres", owner), expected);
    }
}

/// Runs every command of a README as a user would, from its folder, and counts them.
fn run_readme(folder: &Path, target: &Server) -> usize {
    let text = std::fs::read_to_string(folder.join("README.txt")).expect("a README");
    let mut count = 0;
    for command in text.lines().filter_map(|line| line.strip_prefix("    ")) {
        let programs =
            ["psql ", "createdb ", "pg_restore --jobs", "PGDATABASE=", "zstd ", "gunzip "];
        if !programs.iter().any(|program| command.starts_with(program)) {
            continue;
        }
        let client = target.client(target.major, "psql");
        let mut sh = Command::new("bash");
        sh.envs(client.get_envs().filter_map(|(key, value)| Some((key, value?))));
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", bin(target.major).display());
        sh.env("PATH", path).args(["-o", "pipefail", "-e", "-c", command]).stdin(Stdio::null());
        run(sh.current_dir(folder));
        count += 1;
    }
    count
}

#[test]
fn old_programs_read_directories_and_sql_of_their_own() {
    let scene = Scene::of(15);
    let expected = scene.source.sql("shop", FINGERPRINT);
    let target = scene.target(15);
    for (to, compression) in [("gzip", None), ("none", Some(ExportCompression::None))] {
        let report = scene.export(to, |options| {
            (options.format, options.compression) = (ExportFormat::Directory, compression);
            options.pg_restore = Some(15);
        });
        assert_eq!(report.pg_restore_major, 12);
        target.sql("postgres", "DROP DATABASE copy");
        target.sql("postgres", "CREATE DATABASE copy TEMPLATE template0");
        let mut restore = target.client(15, "pg_restore");
        restore.args(["--jobs", "3", "--exit-on-error", "--dbname", "copy"]);
        run(restore.arg(scene.to(to).join("shop.dir")));
        assert_eq!(target.sql("copy", FINGERPRINT), expected, "{to}");
    }
    // 1.15 has one list of large objects too; newer programs read it.
    scene.export("sixteen", |options| {
        options.format = ExportFormat::Directory;
        options.pg_restore = Some(16);
    });
    let newer = scene.target(18);
    let mut restore = newer.client(17, "pg_restore");
    restore.args(["--jobs", "3", "--exit-on-error", "--dbname", "copy"]);
    run(restore.arg(scene.to("sixteen/shop.dir")));
    assert_eq!(newer.sql("copy", FINGERPRINT), expected);
    // The pg_restore of the server's own version writes what that server knows.
    scene.export("sql", |options| {
        options.format = ExportFormat::Plain;
        options.compression = Some(ExportCompression::Gzip(None));
    });
    let target = Server::start(15);
    assert_eq!(run_readme(&scene.to("sql"), &target), 3);
    assert_eq!(target.sql("shop", FINGERPRINT), expected);
}

#[test]
fn a_chosen_table_stands_by_itself() {
    let scene = Scene::of(18);
    let report = scene.export("out", |options| options.tables = vec!["app.orders".to_owned()]);
    let note = |part: &str| report.notes.iter().any(|note| note.contains(part));
    assert!(note("orders_customer_fkey"), "{:?}", report.notes);
    assert!(note("type app.state") && note("without large objects"), "{:?}", report.notes);
    let target = Server::start(18);
    assert_eq!(run_readme(&scene.to("out"), &target), 3);
    assert_eq!(target.sql("part", ORDERS), scene.source.sql("shop", ORDERS));
    for (what, sql) in [
        (
            "relations",
            "SELECT relname FROM pg_class WHERE relnamespace = 'app'::regnamespace \
                       AND relkind IN ('r', 'i', 'S') ORDER BY 1",
        ),
        ("rights", "SELECT relacl, relowner::regrole FROM pg_class WHERE relname = 'orders'"),
        ("schema's rights", "SELECT nspacl FROM pg_namespace WHERE nspname = 'app'"),
        ("trigger", "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal"),
        ("comment", "SELECT col_description('app.orders'::regclass, 5)"),
        (
            "sequences",
            "SELECT last_value FROM app.orders_id_seq UNION ALL \
                       SELECT last_value FROM app.invoice_no",
        ),
        ("owned", "SELECT pg_get_serial_sequence('app.orders', 'invoice')"),
        (
            "checks",
            "SELECT conname FROM pg_constraint WHERE conrelid = 'app.orders'::regclass \
                    AND contype IN ('p', 'c') ORDER BY 1",
        ),
    ] {
        let mut expected = scene.source.sql("shop", sql);
        if what == "relations" {
            let wanted = |name: &&str| name.starts_with("orders") || name.starts_with("invoice");
            expected = expected.lines().filter(wanted).map(|name| format!("{name}\n")).collect();
        }
        assert_eq!(target.sql("part", sql), expected, "{what}");
    }

    // A schema, as a folder, with all that is in it.
    scene.export("schema", |options| {
        options.schemas = vec!["app".to_owned()];
        options.format = ExportFormat::Directory;
    });
    let target = Server::start(18);
    assert_eq!(run_readme(&scene.to("schema"), &target), 3);
    let without_objects = |text: String| -> Vec<String> {
        text.lines().filter(|line| !line.starts_with("objects")).map(str::to_owned).collect()
    };
    assert_eq!(
        without_objects(target.sql("part", FINGERPRINT)),
        without_objects(scene.source.sql("shop", FINGERPRINT))
    );
}

/// A store of blocks with limits that a small database reaches, and a service that copies.
#[derive(Debug)]
struct SmallBlobs {
    vault: Vault,
    limits: BlockLimits,
    uploads: AtomicU32,
    blocks: Mutex<HashMap<(String, u32), Vec<u8>>>,
    blobs: Mutex<BTreeMap<String, Vec<u8>>>,
    /// All names that there ever were.
    seen: Mutex<Vec<String>>,
}

impl SmallBlobs {
    fn of(vault: &Vault, blocks: usize) -> Arc<Self> {
        Arc::new(Self {
            vault: vault.clone(),
            limits: BlockLimits { blocks, copied_bytes: 24 << 20 },
            uploads: AtomicU32::new(0),
            blocks: Mutex::default(),
            blobs: Mutex::default(),
            seen: Mutex::default(),
        })
    }

    fn put(&self, upload: &BlockUpload, index: u32, body: Vec<u8>) {
        self.blocks.lock().unwrap().insert((upload.id.clone(), index), body);
    }
}

impl BlockStore for SmallBlobs {
    fn location(&self) -> String {
        "https://small.example/c".to_owned()
    }

    fn limits(&self) -> BlockLimits {
        self.limits
    }

    fn may_copy(&self) -> bool {
        true
    }

    fn length(&self, name: &str) -> Result<Option<u64>, StoreError> {
        Ok(self.blobs.lock().unwrap().get(name).map(|blob| blob.len() as u64))
    }

    fn begin(&self, name: &str) -> BlockUpload {
        let id = self.uploads.fetch_add(1, Ordering::SeqCst).to_string();
        BlockUpload { name: name.to_owned(), id }
    }

    fn send(&self, upload: &BlockUpload, index: u32, body: Vec<u8>) -> Result<(), StoreError> {
        self.put(upload, index, body);
        Ok(())
    }

    fn copy(
        &self,
        upload: &BlockUpload,
        index: u32,
        source: &CopySource<'_>,
    ) -> Result<(), CopyRefused> {
        let body = match source {
            CopySource::Vault { name, .. } => {
                self.vault.data().get(name, u64::MAX).map_err(CopyRefused)?
            }
            CopySource::Own { name, range } => {
                assert!(range.end - range.start <= self.limits.copied_bytes);
                let blobs = self.blobs.lock().unwrap();
                blobs[*name][range.start as usize..range.end as usize].to_vec()
            }
        };
        self.put(upload, index, body);
        Ok(())
    }

    fn sizes(&self, upload: &BlockUpload) -> Result<HashMap<u32, u64>, StoreError> {
        let blocks = self.blocks.lock().unwrap();
        let ours = blocks.iter().filter(|((id, _), _)| *id == upload.id);
        Ok(ours.map(|((_, index), body)| (*index, body.len() as u64)).collect())
    }

    fn commit(
        &self,
        upload: &BlockUpload,
        list: &[u32],
        _overwrite: bool,
    ) -> Result<(), StoreError> {
        assert!(list.len() <= self.limits.blocks, "{} blocks", list.len());
        let blocks = self.blocks.lock().unwrap();
        let body = list.iter().flat_map(|index| blocks[&(upload.id.clone(), *index)].clone());
        self.blobs.lock().unwrap().insert(upload.name.clone(), body.collect());
        self.seen.lock().unwrap().push(upload.name.clone());
        Ok(())
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.blobs.lock().unwrap().remove(name);
        Ok(())
    }
}

#[test]
fn an_archive_of_too_many_blocks_is_copied_from_several_blobs() {
    let scene = Scene::of(18);
    scene.export("local", |_| ());
    let local = scene.to("local").join("shop.dump");
    let into = |blobs: &Arc<SmallBlobs>, verify: bool| {
        scene.try_export("-", |options| {
            options.to = ExportTarget::Blocks(Arc::clone(blobs) as Arc<dyn BlockStore>);
            options.verify = verify;
        })
    };
    let blobs = SmallBlobs::of(&scene.vault, 5);
    let report = into(&blobs, false).expect("exports");
    let transfer = report.files[1].transfer.clone().expect("a transfer");
    assert!(transfer.copied_bytes > transfer.sent_bytes, "{transfer:?}");
    let seen = blobs.seen.lock().unwrap().clone();
    let parts = seen.iter().filter(|name| name.starts_with("shop.dump.partial/")).count();
    assert!(parts >= 2, "{seen:?}");
    let left: Vec<String> = blobs.blobs.lock().unwrap().keys().cloned().collect();
    assert_eq!(left, ["README.txt", "roles.sql", "shop.dump"]);
    assert!(blobs.blobs.lock().unwrap()["shop.dump"] == std::fs::read(&local).expect("reads"));

    // Sent as a whole it is too long for so few.
    let error = into(&SmallBlobs::of(&scene.vault, 3), true).expect_err("too long");
    assert!(chain(&error).contains("the most that a blob can have"), "{error:?}");

    // A chunk that was stored anew has another length: it is sent, and the places are right.
    let summary = scene.manifest.databases.iter().find(|one| one.name == "shop").expect("it");
    let mut largest = None;
    let contents = scene.vault.read_contents(&summary.contents, |entry| {
        for chunk in entry.chunks.iter().filter(|_| entry.kind == EntryKind::Table) {
            if largest.is_none_or(|one: ChunkRef| one.stored_bytes < chunk.stored_bytes) {
                largest = Some(*chunk);
            }
        }
    });
    contents.expect("a contents list");
    let chunk = largest.expect("a chunk");
    let mut buffer = ChunkBuffer::new();
    scene.vault.get_chunk(EntryKind::Table, &chunk, &mut buffer).expect("reads");
    let mut encoder = ChunkEncoder::new(12).expect("an encoder");
    let anew = encoder.encode_table(buffer.raw()).expect("encodes").to_vec();
    assert_ne!(anew.len(), chunk.stored_bytes as usize);
    scene.vault.data().delete(&chunk_name(&chunk.hash)).expect("removes");
    scene.vault.put_chunk(&chunk.hash, &anew).expect("stores");
    let blobs = SmallBlobs::of(&scene.vault, 50_000);
    let again = into(&blobs, false).expect("exports").files[1].transfer.clone();
    assert!(again.expect("a transfer").copied_bytes < transfer.copied_bytes);
    let path = scene.to("anew.dump");
    std::fs::write(&path, &blobs.blobs.lock().unwrap()["shop.dump"]).expect("writes");
    assert!(scene.as_sql(&path, 18) == scene.as_sql(&local, 18));
    let target = scene.target(18);
    let mut restore = target.client(18, "pg_restore");
    restore.args(["--jobs", "4", "--exit-on-error", "--dbname", "copy"]);
    run(restore.arg(&path));
    assert_eq!(target.sql("copy", FINGERPRINT), scene.source.sql("shop", FINGERPRINT));
}

#[test]
fn contradictions_and_unknown_names_are_refused_before_anything_is_written() {
    let scene = Scene::of(18);
    let refused = |part: &str, change: &dyn Fn(&mut ExportOptions)| {
        let error = scene.try_export("no", |options| change(options)).expect_err(part).to_string();
        assert!(error.contains(part), "{error}");
        assert!(!scene.to("no").exists(), "{part}");
    };
    refused("no table \"app.ordres\"; it has app.orders", &|options| {
        options.tables = vec!["app.ordres".to_owned()];
    });
    refused("no schema \"ap\"; it has app", &|options| options.schemas = vec!["ap".to_owned()]);
    refused("from one database", &|options| {
        options.databases.clear();
        options.tables = vec!["orders".to_owned()];
    });
    refused("cannot read zstd", &|options| {
        options.pg_restore = Some(15);
        options.compression = Some(ExportCompression::Zstd(None));
    });
    refused("only plain SQL", &|options| options.create = true);
    refused("takes one database", &|options| {
        options.databases.clear();
        options.to = ExportTarget::Stdout;
    });
    refused("choose custom or plain", &|options| {
        options.format = ExportFormat::Directory;
        options.to = ExportTarget::Stdout;
    });

    // A folder in the way is replaced only if that is wanted.
    let directory = |options: &mut ExportOptions| options.format = ExportFormat::Directory;
    scene.export("dir", directory);
    let error = scene.try_export("dir", directory).expect_err("in the way");
    assert!(matches!(error, ExportError::Exists { .. }), "{error}");
    let mine = scene.to("dir/shop.dir/mine");
    std::fs::write(&mine, "1").expect("writes");
    let again = |options: &mut ExportOptions| {
        directory(options);
        options.overwrite = true;
    };
    let error = scene.try_export("dir", again).expect_err("a foreign file").to_string();
    assert!(error.contains("shop.dir/mine is not of an archive"), "{error}");
    assert!(scene.to("dir/shop.dir/toc.dat").exists() && mine.exists());
    std::fs::remove_file(&mine).expect("removes");
    scene.export("dir", again);
    assert!(!mine.exists());
    assert_eq!(names_in(&scene.to("dir")), ["README.txt", "roles.sql", "shop.dir"]);

    // What is interrupted leaves nothing under a final name.
    for format in [ExportFormat::Custom, ExportFormat::Directory, ExportFormat::Plain] {
        let progress = Arc::<Progress>::default();
        progress.cancel();
        let mut options = ExportOptions::new(ExportTarget::Folder(scene.to("cancelled")));
        (options.format, options.overwrite) = (format, true);
        options.pg_bin = Some(bin(18));
        options.databases = vec!["shop".to_owned()];
        let error = export(&scene.vault, &scene.manifest, &options, &progress);
        assert!(matches!(error, Err(ExportError::Cancelled)), "{error:?}");
        assert_eq!(names_in(&scene.to("cancelled")), ["roles.sql"], "{format:?}");
    }
    let error = scene.try_export("tool", |options| {
        options.format = ExportFormat::Plain;
        options.pg_bin = Some("/nonexistent".into());
    });
    let text = error.expect_err("no pg_restore").to_string();
    assert!(text.contains("no pg_restore") && text.contains("/nonexistent"), "{text}");
}
