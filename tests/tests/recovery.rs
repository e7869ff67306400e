//! The way without flexkeep, as `docs/recovery-without-flexkeep.md` has it: its blocks are taken
//! out of the page and run.

mod vaulted;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use flexkeep_tests::{
    SAMPLE_DATABASES, Server, Version, compare_databases, compare_roles, load_everything, run,
};
use vaulted::{Backup, LIMIT, Vaulted, assert_same_on, restore_in_parallel, stock};

/// Names that the page's examples have, and what stands for them.
type Substitutions<'a> = [(&'a str, &'a str)];

fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/recovery-without-flexkeep.md");
    fs::read_to_string(path).expect("the page is there")
}

/// The only fenced block of that language.
fn block(page: &str, language: &str) -> String {
    let fence = format!("```{language}\n");
    let mut parts = page.split(&fence).skip(1);
    let part = parts.next().unwrap_or_else(|| panic!("no block of {language}"));
    assert!(parts.next().is_none(), "more than one block of {language}");
    part.split("\n```").next().expect("there is a first part").to_owned() + "\n"
}

/// The line of the page that begins so, with the reader's names put in.
fn line(page: &str, start: &str, names: &Substitutions<'_>) -> String {
    let mut lines = page.lines().filter(|line| line.starts_with(start));
    let mut line = lines.next().unwrap_or_else(|| panic!("no line {start:?}")).to_owned();
    for (example, name) in names {
        assert!(line.contains(example), "{line:?} has no {example:?}");
        line = line.replace(example, name);
    }
    line
}

/// A vault, what the page needs of it, and a folder to work in.
struct Scene {
    vaulted: Vaulted,
    backup: Backup,
    page: String,
}

impl Scene {
    fn of(original: &Server) -> Self {
        let vaulted = Vaulted::new();
        let backup = vaulted.backup(original, original.version());
        let page = page();
        fs::create_dir(vaulted.path("work")).expect("our own folder");
        fs::write(vaulted.path("work/compose.py"), block(&page, "python")).expect("our own folder");
        fs::write(vaulted.path("work/table.sh"), block(&page, "sh")).expect("our own folder");
        Self { vaulted, backup, page }
    }

    /// Runs a line of the page in the folder, with that server's tools first in the path.
    #[track_caller]
    fn shell(&self, server: &Server, database: &str, line: &str) -> String {
        let bin = server.version().bin();
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").expect("it is set"));
        let mut sh = Command::new("bash");
        sh.args(["-e", "-o", "pipefail", "-c", line]).current_dir(self.vaulted.path("work"));
        sh.env("PATH", path).env("PGHOST", server.socket_dir()).env("PGUSER", "postgres");
        sh.env("PGPORT", server.port().to_string()).env("PGDATABASE", database);
        run(&mut sh, LIMIT).expect_success().text()
    }

    fn vault(&self) -> String {
        self.vaulted.vault().display().to_string()
    }

    #[track_caller]
    fn compose(&self, database: &str, out: &Path) {
        let mut python = Command::new("python3");
        python.arg(self.vaulted.path("work/compose.py")).arg(self.vaulted.vault());
        python.args([&self.backup.id, database]).arg(out);
        run(&mut python, LIMIT).expect_success();
    }

    fn hash<'s>(&'s self, database: Option<&str>, object: &str) -> &'s str {
        let manifest = &self.backup.manifest;
        let holder = database.map_or(manifest, |name| {
            let all = manifest["databases"].as_array().expect("a list");
            all.iter().find(|one| one["name"] == name).expect("it was backed up")
        });
        holder[object]["hash"].as_str().unwrap_or_else(|| panic!("no {object} in {holder:#}"))
    }
}

/// Roles, then every database, with the stock tools of one version.
fn whole_server(version: Version) {
    let original = Server::start(version);
    load_everything(&original);
    let scene = Scene::of(&original);
    let copy = Server::start(version);

    let hash = scene.hash(None, "globals");
    let names = [("VAULT", &*scene.vault()), ("<first 2 digits>", &hash[..2]), ("<hash>", hash)];
    let command = line(&scene.page, "zstd -dc VAULT/meta/<first 2 digits>/<hash> > ", &names);
    scene.shell(&copy, "postgres", &command);
    scene.shell(&copy, "postgres", &line(&scene.page, "psql -d postgres -f roles.sql", &[]));
    assert_eq!(compare_roles(&original, &copy), Vec::<String>::new());

    for (number, database) in SAMPLE_DATABASES.iter().enumerate() {
        let archive = scene.vaulted.path(&format!("work/{number}.dump"));
        scene.compose(database, &archive);
        restore_in_parallel(&copy, database, &archive, &["--create"], &[]);
        assert_same_on(&original, &copy, database);
    }
    as_text(&scene, &original, &copy, &scene.vaulted.path("work/0.dump"));
    single_tables(&scene, &original, &copy);
}

/// `pg_restore -f`, as the page says, makes the same database.
fn as_text(scene: &Scene, original: &Server, copy: &Server, archive: &Path) {
    let names = [("app.sql", "0.sql"), ("app.dump", archive.to_str().expect("a plain path"))];
    let command = line(&scene.page, "pg_restore -f app.sql app.dump", &names);
    scene.shell(copy, "postgres", &command);
    copy.create_database("text");
    copy.psql_file("text", &scene.vaulted.path("work/0.sql"));
    let differences = compare_databases(original, "everything", copy, "text");
    assert_eq!(differences, Vec::<String>::new());
}

/// One table after the other with zstd and psql: emptied in the copy, and filled again.
fn single_tables(scene: &Scene, original: &Server, copy: &Server) {
    // Tables without keys: a publication forbids to delete from them, not to truncate.
    for (database, encoding, empty, table) in [
        ("everything", "UTF8", "TRUNCATE", "app.wide"),
        ("everything", "UTF8", "TRUNCATE", "app.some_dropped"),
        ("everything", "UTF8", "TRUNCATE", "app.huge"),
        ("everything", "UTF8", "TRUNCATE", "app.no_columns"),
        ("everything", "UTF8", "TRUNCATE", "app.empty_table"),
        ("latin", "LATIN1", "TRUNCATE", "public.straße"),
    ] {
        let (schema, name) = table.split_once('.').expect("both are given");
        let empty = format!(
            "SET client_encoding = 'UTF8'; SET session_replication_role = replica; {empty} ONLY {table}"
        );
        copy.psql(database, &empty);
        // As the page says: in the contents list, a name that is not UTF-8 has U+FFFD.
        let listed =
            if encoding == "UTF8" { name.to_owned() } else { name.replace('ß', "\u{fffd}") };
        let names = [
            ("VAULT", &*scene.vault()),
            ("BACKUP", &scene.backup.id),
            (" app public orders ", &format!(" {database} {schema} {listed} ")),
        ];
        scene.shell(copy, database, &line(&scene.page, "sh table.sh VAULT BACKUP ", &names));
        let columns = columns(scene, original, database, table);
        let names = [
            ("-d app", &*format!("-d {database}")),
            ("public.orders (id, placed, total)", &format!("{table} {columns}")),
            ("UTF8", encoding),
        ];
        let command = line(&scene.page, "psql -d app -c \"COPY public.orders ", &names);
        // As for all who fill a table that has triggers, in a terminal of UTF-8.
        let settings = "PGCLIENTENCODING=UTF8 PGOPTIONS='-c session_replication_role=replica'";
        let command = format!("{settings} {command}");
        scene.shell(copy, database, &command);
    }
    for database in ["everything", "latin"] {
        let differences = compare_databases(original, database, copy, database);
        assert_eq!(differences, Vec::<String>::new(), "{database:?} by single tables");
    }
}

/// The list of columns, in parentheses and for a shell's double quotes: from the table of contents
/// as the page says, or where that is not ASCII from the server.
fn columns(scene: &Scene, original: &Server, database: &str, table: &str) -> String {
    let list = if table.is_ascii() {
        let hash = scene.hash(Some(database), "toc");
        let names = [
            ("VAULT", &*scene.vault()),
            ("<first 2 digits>", &hash[..2]),
            ("<hash of toc>", hash),
            ("public.orders", table),
        ];
        let start = "zstd -dc VAULT/meta/<first 2 digits>/<hash of toc> | ";
        let found = scene.shell(original, database, &line(&scene.page, start, &names));
        let rest = found.strip_prefix(&format!("COPY {table} ")).expect("grep found it");
        rest.strip_suffix(" FROM stdin;").expect("a COPY statement").to_owned()
    } else {
        let sql = format!(
            "SELECT '(' || string_agg(quote_ident(attname), ', ' ORDER BY attnum) || ')'
             FROM pg_attribute WHERE attrelid = '{table}'::regclass AND attnum > 0"
        );
        original.psql(database, &format!("SET client_encoding = 'UTF8'; {sql}"))
    };
    list.replace('"', "\\\"")
}

#[test]
#[ignore = "18 has all of it; make soak runs it"]
fn the_sample_of_17_comes_back_without_flexkeep() {
    whole_server(Version::V17);
}

#[test]
fn the_sample_of_18_comes_back_without_flexkeep() {
    whole_server(Version::V18);
}

#[test]
fn the_script_names_what_is_missing_or_damaged_and_what_there_is() {
    let original = Server::start(Version::V18);
    original.psql("postgres", "CREATE TABLE t AS SELECT i FROM generate_series(1, 1000) i");
    let scene = Scene::of(&original);
    let refused = |backup: &str, database: &str| {
        let mut python = Command::new("python3");
        python.arg(scene.vaulted.path("work/compose.py")).arg(scene.vaulted.vault());
        python.args([backup, database]).arg(scene.vaulted.path("work/out"));
        let out = run(&mut python, LIMIT);
        assert_ne!(out.code(), Some(0), "{out:?}");
        let _ = fs::remove_file(scene.vaulted.path("work/out"));
        out.errors()
    };
    assert!(refused(&scene.backup.id, "nope").contains("there is no database nope"));
    assert!(refused("source-20200101T000000Z", "postgres").contains("there is no backup"));

    let chunk = only_chunk(&scene.vaulted.vault().join("chunks"));
    let whole = fs::read(&chunk).expect("a chunk");
    fs::remove_file(&chunk).expect("a chunk");
    assert!(refused(&scene.backup.id, "postgres").contains("is missing"));
    fs::write(&chunk, &whole[..whole.len() - 1]).expect("our own folder");
    assert!(refused(&scene.backup.id, "postgres").contains("it is damaged"));
    fs::write(&chunk, &whole).expect("our own folder");
    let archive = scene.vaulted.path("work/whole");
    scene.compose("postgres", &archive);
    let list = stock("pg_restore", Version::V18, &["-l"], &archive);
    assert!(list.contains("TABLE DATA public t postgres"), "{list}");
}

fn only_chunk(folder: &Path) -> PathBuf {
    let mut found = Vec::new();
    for group in fs::read_dir(folder).expect("a vault has it").flatten() {
        found.extend(fs::read_dir(group.path()).expect("a folder").flatten().map(|f| f.path()));
    }
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}
