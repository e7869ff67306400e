//! The whole road on a look-alike of Flexible Server, by those who have rights there: the backup
//! is made by the dump user and restored by the administrator, and nobody is a superuser.

mod entra;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flexkeep_tests::{
    ADMIN, DUMP_USER, Lookalike, Output, TestVault, Version, compare_databases, compare_properties,
    flexkeep_command, json, pg_command, run,
};
use serde_json::Value;

use entra::Entra;

const LIMIT: Duration = Duration::from_secs(150);
const ODD_DATABASE: &str = "Odd \"Db\" 100%";

/// `flexkeep` as the dump user; the password is not on the command line.
fn flexkeep_on(server: &Lookalike, arguments: &[&str]) -> std::process::Command {
    let mut command = flexkeep_command(arguments);
    command.env("FLEXKEEP_FROM", server.dump_url("postgres"));
    command.env("FLEXKEEP_PG_BIN", Version::V18.bin());
    command
}

#[track_caller]
fn back_up(server: &Lookalike, vault: &TestVault, more: &[&str]) -> Output {
    let mut command = flexkeep_on(server, &["backup", "--json", "--name", "src"]);
    run(command.arg("--vault").arg(vault.place()).args(more), LIMIT)
}

/// Count and kind of each loss, with its database and the objects.
fn losses(manifest: &Value) -> BTreeSet<String> {
    let losses = manifest["losses"].as_array().expect("a list");
    let words = |one: &Value| {
        let database = one["database"].as_str().unwrap_or("-");
        let objects: Vec<&str> =
            one["objects"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
        format!("{database}: {} {}: {}", one["count"], one["kind"].as_str().unwrap_or_default(), {
            objects.join(", ")
        })
    };
    losses.iter().map(words).collect()
}

/// What no role of a customer can read on the sample server.
const LOST: [&str; 4] = [
    "-: 5 role password: 0, anna@contoso.example, flexadmin, flexkeep_dump, reporting",
    "-: 1 subscription: from_far",
    "shop: 2 user mapping options: public on far, reporting on far",
    "shop: 2 large object: 70002, 70003",
];

fn lost() -> BTreeSet<String> {
    LOST.map(str::to_owned).into()
}

/// An export in a folder of its own.
struct Exported {
    folder: PathBuf,
    files: Value,
}

impl Exported {
    #[track_caller]
    fn of(vault: &TestVault, name: &str, more: &[&str]) -> Self {
        let folder = vault.beside(name);
        let out = run(vault.export("src/latest", &folder).args(more), LIMIT).expect_success();
        Self { folder, files: json(&out)["files"].clone() }
    }

    fn archive(&self, database: &str) -> PathBuf {
        let files = self.files.as_array().expect("a list");
        let file = files.iter().find(|file| file["database"] == database);
        let path = file.unwrap_or_else(|| panic!("no {database:?} in {files:#?}"));
        path["path"].as_str().expect("a path").into()
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.folder.join(name)).expect("a file of the export")
    }

    /// Runs `roles.sql` by the command of README.txt, and gives its warnings.
    #[track_caller]
    fn restore_roles(&self, target: &Lookalike) -> Vec<String> {
        let mut command = target.admin_command("psql", target.version());
        command.args(["-X", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-f", "roles.sql"]);
        let out = run(command.current_dir(&self.folder), LIMIT).expect_success();
        let errors = out.errors();
        errors.lines().filter(|line| line.contains("WARNING")).map(str::to_owned).collect()
    }

    /// Runs the command that README.txt has for a database, and gives what pg_restore said.
    #[track_caller]
    fn restore(&self, target: &Lookalike, database: &str) -> Output {
        let archive = self.archive(database);
        let file = archive.file_name().expect("a file").to_string_lossy().into_owned();
        let readme = self.read("README.txt");
        let line = readme
            .lines()
            .map(str::trim)
            .find(|line| line.starts_with("pg_restore ") && line.ends_with(&format!("'{file}'")));
        let line = line.unwrap_or_else(|| panic!("no command for {file} in\n{readme}"));
        let program = pg_command("pg_restore", target.version());
        let folder = Path::new(program.get_program()).parent().expect("a folder");
        let mut shell = target.admin_command("pg_restore", target.version());
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = std::process::Command::new("sh");
        for (name, value) in shell.env("PATH", format!("{}:{path}", folder.display())).get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        run(command.args(["-c", line]).current_dir(&self.folder), LIMIT)
    }
}

/// All memberships but those of the administrator, which is in every role after a restore.
/// `since_16`: with the options that came then.
fn memberships(server: &Lookalike, since_16: bool) -> String {
    let options = if since_16 { ", m.inherit_option, m.set_option" } else { "" };
    server.psql(
        "postgres",
        &format!(
            "SELECT r.rolname, u.rolname, m.admin_option {options} FROM pg_auth_members m
               JOIN pg_roles r ON r.oid = m.roleid JOIN pg_roles u ON u.oid = m.member
             WHERE u.rolname NOT IN ('{ADMIN}', 'azure_pg_admin') AND u.rolname !~ '^pg_'
             ORDER BY 1, 2, 3"
        ),
    )
}

/// Roles without what belongs to the platform and without passwords.
fn roles(server: &Lookalike) -> String {
    server.psql(
        "postgres",
        "SELECT rolname, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolconnlimit,
                rolvaliduntil, (SELECT array_agg(setconfig::text ORDER BY setdatabase)
                  FROM pg_db_role_setting s WHERE s.setrole = r.oid AND s.setdatabase = 0),
                shobj_description(r.oid, 'pg_authid')
         FROM pg_roles r WHERE rolname !~ '^(pg_|azure|replication$)' ORDER BY 1",
    )
}

/// What differs between the copy of a database and the original, apart from what is lost.
fn differences(original: &Lookalike, copy: &Lookalike, database: &str) -> Vec<String> {
    let mut found = compare_databases(original, database, copy, database);
    found.extend(compare_properties(original, database, copy, database));
    let expected = ["SUBSCRIPTION", "USER MAPPING", "large object 70002", "large object 70003"];
    found.retain(|one| !expected.iter().any(|words| one.contains(words)));
    found
}

/// A backup of the sample server, and what is seen of its losses.
fn backed_up(version: Version) -> (Lookalike, TestVault) {
    let server = Lookalike::with_sample(Lookalike::options(version));
    let vault = TestVault::new();
    let out = back_up(&server, &vault, &["--exclude-database", "guarded"]);
    assert_eq!(out.code(), Some(3), "{}\n{}", out.text(), out.errors());
    let manifest = &json(&out)["manifest"];
    assert_eq!(losses(manifest), lost(), "{manifest:#}");
    assert_eq!(manifest["source"]["flexible_server"], true);
    let databases: Vec<&str> = manifest["databases"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|one| one["name"].as_str())
        .collect();
    assert_eq!(databases, [ODD_DATABASE, "legacy", "postgres", "shop"]);
    let notes = manifest["notes"].to_string();
    assert!(notes.contains("azure_sys") && notes.contains("azure_maintenance"), "{notes}");
    (server, vault)
}

/// Exports for a target and restores roles and databases there as the administrator.
fn restored(source: &Lookalike, vault: &TestVault, to: Version, left: &[&str]) {
    let target = Lookalike::options(to).allow_extension("postgres_fdw").start();
    let oldest = to.major().to_string();
    let exported = Exported::of(vault, &format!("for-{to}"), &["--pg-restore", &oldest]);
    let text = exported.read("roles.sql");
    for gone in ["azuresu", "TO azure_pg_admin", "SUPERUSER", "reporting secret", "SCRAM-SHA"] {
        assert!(!text.contains(gone), "{gone} in\n{text}");
    }
    for _ in 0..2 {
        assert_eq!(exported.restore_roles(&target), Vec::<String>::new(), "{text}");
    }
    let since_16 = source.version().major().min(to.major()) >= 16;
    assert_eq!(memberships(source, since_16), memberships(&target, since_16));
    assert_eq!(roles(source), roles(&target));
    for database in ["shop", ODD_DATABASE, "postgres"] {
        let out = exported.restore(&target, database);
        assert!(out.status.success(), "{database}: {}", out.errors());
        let mut differences = differences(source, &target, database);
        differences.retain(|one| !left.iter().any(|words| one.contains(words)));
        assert_eq!(differences, Vec::<String>::new(), "{database}");
    }
    // The one error that is expected: the owner of a table of the old days may not create in
    // public, and its right to do so could only come after.
    let out = exported.restore(&target, "legacy");
    assert_eq!(out.code(), Some(1), "{}", out.errors());
    let errors = out.errors();
    let errors: Vec<&str> = errors.lines().filter(|line| line.contains("ERROR")).collect();
    assert!(matches!(errors[..], [one] if one.contains("permission denied for schema public")));
    assert_eq!(target.psql("legacy", "SELECT count(*) FROM old"), "10");
}

#[test]
fn a_server_of_15_is_backed_up_and_restored_into_15_and_18_without_a_superuser() {
    let (source, vault) = backed_up(Version::V15);
    restored(&source, &vault, Version::V15, &[]);
    // What 18 writes otherwise, and rights on columns of catalogs that 15 does not have.
    let other = ["; Type: VIEW; ", "; Type: MATERIALIZED VIEW; ", "COLUMN pg_subscription."];
    restored(&source, &vault, Version::V18, &other);
}

#[test]
fn a_server_of_17_is_backed_up_and_restored_without_a_superuser() {
    let (source, vault) = backed_up(Version::V17);
    restored(&source, &vault, Version::V17, &[]);
}

#[test]
fn a_server_of_18_is_backed_up_and_restored_without_a_superuser() {
    let (source, vault) = backed_up(Version::V18);
    restored(&source, &vault, Version::V18, &[]);
}

#[test]
fn what_cannot_be_read_is_told_before_and_after() {
    let server = Lookalike::with_sample(Lookalike::options(Version::V17));
    let vault = TestVault::new();
    let mut command = flexkeep_on(&server, &["check", "--json", "--vault"]);
    let out = run(command.arg(vault.place()), LIMIT);
    assert_eq!(out.code(), Some(1), "{}", out.text());
    let said = out.text();
    for words in [
        "(Flexible Server)",
        "is not a superuser",
        "the connection is encrypted (TLS)",
        "5 role passwords would not be in the backup",
        "1 subscription would not be in the backup (from_far)",
        "2 user mapping options would not be in the backup",
        "2 large objects would not be in the backup (70002, 70003)",
        "1 of 1 tables cannot be read by \\\"flexkeep_dump\\\": public.tenants",
        "BYPASSRLS",
    ] {
        assert!(said.contains(words), "{words} in\n{said}");
    }
    // A table under row security fails the backup, and is named.
    let out = back_up(&server, &vault, &[]);
    assert_eq!(out.code(), Some(1), "{}", out.text());
    assert!(out.text().contains("public.tenants"), "{}", out.text());
    assert_eq!(vault.backups(), Vec::<String>::new());
    // Left out, the rest is backed up, and what is not in it is shown.
    let out = back_up(&server, &vault, &["--exclude-database", "guarded"]);
    assert_eq!(out.code(), Some(3), "{}", out.errors());
    let mut command = flexkeep_command(&["show", "latest", "--vault"]);
    let shown = run(command.arg(vault.place()), LIMIT).expect_success().text();
    let exported = Exported::of(&vault, "out", &[]);
    let readme = exported.read("README.txt");
    for text in [&shown, &readme] {
        for words in ["from_far", "reporting on far", "70002, 70003", "anna@contoso.example"] {
            assert!(text.contains(words), "{words} in\n{text}");
        }
        for secret in ["far secret", "subscription_secret", "reporting secret"] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}

#[test]
fn with_bypassrls_tables_under_row_security_are_backed_up_whole() {
    let server = Lookalike::with_sample(Lookalike::options(Version::V18).bypass_rls());
    let vault = TestVault::new();
    let out = back_up(&server, &vault, &[]);
    assert_eq!(out.code(), Some(3), "{}", out.errors());
    assert_eq!(losses(&json(&out)["manifest"]), lost());
    let target = Lookalike::options(Version::V18).allow_extension("postgres_fdw").start();
    let exported = Exported::of(&vault, "out", &[]);
    exported.restore_roles(&target);
    let out = exported.restore(&target, "guarded");
    assert!(out.status.success(), "{}", out.errors());
    assert_eq!(differences(&server, &target, "guarded"), Vec::<String>::new());
    assert_eq!(target.psql("guarded", "SELECT count(*) FROM tenants"), "2");
}

#[test]
fn only_tls_with_a_trusted_certificate_for_the_name_will_do() {
    let server = Lookalike::start(Version::V18);
    let vault = TestVault::new();
    let url = server.dump_url("postgres");
    let check = |url: &str| {
        let mut command = flexkeep_command(&["check", "--json", "--vault"]);
        command.arg(vault.place()).env("FLEXKEEP_FROM", url);
        run(command.env("FLEXKEEP_PG_BIN", Version::V18.bin()), LIMIT)
    };
    assert_eq!(check(&url).code(), Some(3), "{}", check(&url).text());
    let root = server.root_cert().display().to_string();
    for (wrong, said) in [
        (url.replace("verify-full", "disable"), "pg_hba.conf"),
        (url.replace("lookalike.", "other."), "is for another host name"),
        (url.replace(&root, "/etc/ssl/certs/ca-certificates.crt"), "is not trusted"),
    ] {
        let out = check(&wrong);
        assert_eq!(out.code(), Some(1), "{wrong}");
        assert!(out.text().contains(said), "{said} in {}", out.text());
    }
    assert!(!server.log().contains(DUMP_USER) || !server.log().contains("dump-p"));
}

/// `flexkeep` as the app does it: by tokens of its identity.
fn with_tokens(server: &Lookalike, entra: &Entra, arguments: &[&str]) -> std::process::Command {
    let mut command = flexkeep_command(arguments);
    command
        .env("FLEXKEEP_FROM", server.url_as(DUMP_USER, None, "postgres"))
        .env("FLEXKEEP_AUTH", "entra")
        .env("FLEXKEEP_PG_BIN", Version::V18.bin())
        .env("IDENTITY_ENDPOINT", &entra.endpoint)
        .env("IDENTITY_HEADER", entra::HEADER);
    for name in ["AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_TOKEN_CREDENTIALS"] {
        command.env_remove(name);
    }
    command
}

#[test]
fn an_entra_token_is_the_password_of_every_connection() {
    let entra = Entra::start(3600);
    let options = Lookalike::options(Version::V18).hba(&entra.hba()).bypass_rls();
    let server = Lookalike::with_sample(options);
    let vault = TestVault::new();
    let back_up = || {
        let mut command = with_tokens(&server, &entra, &["backup", "--json", "--name", "src"]);
        run(command.arg("--vault").arg(vault.place()), LIMIT)
    };
    // One that lives for long serves all connections of a run.
    let out = back_up();
    assert_eq!(out.code(), Some(3), "{}\n{}", out.errors(), server.log());
    let (shown, issued) = entra.take();
    assert_eq!(issued.len(), 1);
    assert!(shown.len() >= 8 && shown.iter().all(|token| *token == issued[0]), "{}", shown.len());

    // One that is near its end is replaced for each connection, those of pg_dump and pg_dumpall
    // included. The earlier one is good no more.
    entra.tokens().life = 120;
    entra.tokens().good.clear();
    let out = back_up();
    assert_eq!(out.code(), Some(3), "{}\n{}", out.errors(), server.log());
    let (shown, second) = entra.take();
    let distinct: BTreeSet<&String> = shown.iter().collect();
    assert_eq!(distinct.len(), second.len(), "each is shown, once or more");
    assert!(second.len() >= 8, "{}", second.len());
    assert!(!shown.contains(&issued[0]));
    assert_eq!(vault.backups().len(), 2);
    let mut psql = server.admin_command("psql", Version::V18);
    psql.args(["-d", "postgres", "-c", "SELECT 1"]).env("PGUSER", DUMP_USER);
    assert!(run(psql.env("PGPASSWORD", &second[0]), LIMIT).status.success());
    assert!(!run(psql.env("PGPASSWORD", &issued[0]), LIMIT).status.success());

    // No identity: an error with the way out, and no token anywhere.
    entra.tokens().life = 0;
    let out = back_up();
    assert_eq!(out.code(), Some(1), "{}", out.text());
    for words in ["cannot get the password for", "has not been assigned", "system-assigned"] {
        assert!(out.text().contains(words), "{words} in {}", out.text());
    }
    assert!(!server.log().contains("tttttttt"));
}

#[test]
fn a_policy_says_that_a_server_takes_tokens() {
    let entra = Entra::start(3600);
    let server = Lookalike::options(Version::V17).hba(&entra.hba()).start();
    let vault = TestVault::new();
    let policy = vault.beside("policy.toml");
    let text = format!(
        "[vault]\nplace = '{}'\n[defaults]\npassword = {{ env = \"NOT_SET\" }}\n\
         [[server]]\nname = \"shop\"\nauth = \"entra\"\nconnection = \"{}\"\n\
         schedule = {{ every = \"day\", at = \"03:15\" }}\n",
        vault.place().display(),
        server.url_as(DUMP_USER, None, "postgres")
    );
    fs::write(&policy, text).expect("our own folder");
    let mut command = with_tokens(&server, &entra, &["check", "--json", "--policy"]);
    let out = run(command.arg(&policy).env_remove("FLEXKEEP_AUTH"), LIMIT);
    assert_eq!(out.code(), Some(3), "{}{}", out.text(), out.errors());
    assert!(out.text().contains("the role \\\"flexkeep_dump\\\" is not a superuser"));
    assert_eq!(entra.take().1.len(), 1);
}

#[test]
fn what_does_not_go_with_a_token_is_refused_before_anything_is_asked() {
    let entra = Entra::start(3600);
    let server = "host=x.postgres.database.azure.com";
    for (from, said) in [
        (format!("{server} user=u password=hunter2"), "a password is given beside"),
        (server.to_owned(), "needs the user"),
        (format!("{server} user=u sslmode=require"), "does not prove who it is"),
    ] {
        let mut command = flexkeep_command(&["check", "--json", "--vault", "/nonexistent/vault"]);
        command.env("FLEXKEEP_AUTH", "entra").env("IDENTITY_ENDPOINT", &entra.endpoint);
        command.env("IDENTITY_HEADER", entra::HEADER).env("FLEXKEEP_FROM", from);
        command.env("USER", "somebody");
        let out = run(&mut command, LIMIT);
        assert_eq!(out.code(), Some(2), "{}", out.text());
        assert!(out.text().contains(said), "{said} in {}", out.text());
        assert!(!out.text().contains("hunter2"));
    }
    let mut command = flexkeep_command(&["check", "--json", "--from", server, "--vault", "/x"]);
    let out = run(command.env("USER", "somebody").env("FLEXKEEP_AUTH", "magic"), LIMIT);
    assert_eq!(out.code(), Some(2));
    assert!(out.text().contains("expected password or entra"), "{}", out.text());
    assert!(entra.take().1.is_empty());
}
