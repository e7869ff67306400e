//! Policy files that are wrong, one fixture for each way, with what they are told; files that
//! cannot be read at all; and policies that are right.

use std::path::{Path, PathBuf};
use std::{fs, io};

use flexkeep_pg_copy::SslMode;
use flexkeep_policy::{Amcheck, Auth, DrillDatabases, Every, Policy, PolicyError};
use flexkeep_vault::Place;
use jiff::civil::{Weekday, time};
use proptest::prelude::*;

/// Part of every planted secret, in files and in the environment.
const SECRET: &str = "hunter2";

fn env(name: &str) -> Option<String> {
    let value = match name {
        "EMPTY" => "",
        "SECRET_PLACE" => "az://hunter2",
        "FOLDER" => "/srv/vaults",
        "HOST" => "db.example.org",
        "SHOP_PASSWORD" => "hunter2 with 'quotes' and blanks",
        "SHOP_CONNECTION" => "host=db user=backup dbname=shop password=hunter2",
        "BROKEN_CONNECTION" => "host=db user=backup password=my hunter2",
        "JUST_A_SECRET" => "hunter2",
        "NOT_RESOLVED" => "@Microsoft.KeyVault(SecretUri=https://hunter2.vault.azure.net/x)",
        _ => return None,
    };
    Some(value.to_owned())
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

fn parse(text: &str) -> Result<Policy, PolicyError> {
    Policy::parse(text, "policy.toml", &env)
}

/// A policy of one server with these lines.
fn one_server(lines: &str) -> String {
    format!(
        "[vault]\nplace = \"/v\"\n[[server]]\nname = \"shop\"\n\
         schedule = {{ every = \"day\", at = \"03:15\" }}\n{lines}\n"
    )
}

#[test]
fn every_wrong_file_is_told_where_what_and_the_way_out() {
    let mut count = 0;
    for entry in fs::read_dir(folder().join("bad")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let text = fs::read_to_string(&path).unwrap();
        // A fixture's last lines are what it is told: `#= line:column: key: message`.
        let expected: Vec<&str> =
            text.lines().filter_map(|line| line.strip_prefix("#= ")).collect();
        assert!(!expected.is_empty(), "{name} expects nothing");
        let error = Policy::load(&path, &env).expect_err(&name);
        let file = path.display().to_string();
        let problems: Vec<String> =
            error.problems().iter().map(|problem| problem.to_string()).collect();
        let told: Vec<&str> = problems
            .iter()
            .map(|problem| problem.strip_prefix(&format!("{file}:")).expect("it names the file"))
            .collect();
        assert_eq!(told, expected, "{name}");
        for shown in [error.to_string(), format!("{error:?}")] {
            assert!(!shown.contains(SECRET), "{name}: {shown}");
        }
        count += 1;
    }
    assert!(count >= 80, "only {count} fixtures were found");
}

#[test]
fn a_problem_tells_its_parts() {
    let error = parse(&one_server("connection = \"host=db user=u\"\nlanes = 0")).unwrap_err();
    let [problem] = error.problems() else { panic!("{error}") };
    assert_eq!((problem.line(), problem.column(), problem.key()), (7, 9, "lanes"));
    assert_eq!(problem.server(), Some("shop"));
    assert!(problem.message().starts_with("expected a whole number"), "{problem}");
}

#[test]
fn a_file_that_cannot_be_read_is_named_with_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let told = |name: &str| {
        let path = folder.path().join(name);
        let error = Policy::load(&path, &env).unwrap_err();
        let message = error.to_string();
        assert!(message.contains(path.to_str().unwrap()), "{message}");
        (message, error)
    };
    let (message, error) = told("nowhere.toml");
    assert!(message.ends_with("check the path, or write one (docs/policy.md has an example)"));
    let source = std::error::Error::source(&error).and_then(|e| e.downcast_ref::<io::Error>());
    assert_eq!(source.unwrap().kind(), io::ErrorKind::NotFound);
    assert!(error.problems().is_empty());

    assert!(told("").0.contains("it is a folder; name the TOML file in it"));

    fs::write(folder.path().join("large.toml"), vec![b'#'; (1 << 20) + 1]).unwrap();
    assert!(told("large.toml").0.contains("larger than 1 MiB"));

    fs::write(folder.path().join("latin1.toml"), b"[vault]\nplace = \"/v\xe4ult\"\n").unwrap();
    let (message, error) = told("latin1.toml");
    assert!(message.contains("latin1.toml:2:12: place: expected UTF-8"), "{message}");
    assert_eq!(error.problems().len(), 1);
}

#[cfg(unix)]
#[test]
fn a_pipe_is_refused_without_waiting_for_its_writer() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let message = Policy::load(&pipe, &env).unwrap_err().to_string();
    assert!(message.contains("it is no regular file; name a TOML file"), "{message}");
}

#[cfg(unix)]
#[test]
fn a_file_without_rights_is_told_so() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.toml");
    fs::write(&path, "").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    let message = Policy::load(&path, &env).unwrap_err().to_string();
    // The superuser reads it nevertheless, and is told that it is empty.
    let as_root = fs::File::open(&path).is_ok();
    let expected = if as_root { "vault: missing" } else { "let the user that flexkeep runs as" };
    assert!(message.contains(expected), "{message}");
}

#[test]
fn the_example_of_the_documentation_is_right_and_has_the_values_that_it_shows() {
    let docs = fs::read_to_string(folder().join("../../../docs/policy.md")).unwrap();
    let example = docs.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let env = |name: &str| match name {
        "FLEXKEEP_VAULT" => Some("/var/lib/flexkeep/vault".to_owned()),
        "SHOP_PASSWORD" | "BACKUP_PASSWORD" => Some(SECRET.to_owned()),
        _ => None,
    };
    let policy = Policy::parse(example, "policy.toml", &env).unwrap().strict().unwrap();
    assert_eq!(policy.vault(), &Place::Folder("/var/lib/flexkeep/vault".into()));
    let names: Vec<&str> = policy.servers().iter().map(|server| server.name().as_str()).collect();
    assert_eq!(names, ["shop", "warehouse"]);

    let shop = policy.server("shop").unwrap();
    assert_eq!(shop.schedule().every(), Every::Day { weekly_on: Weekday::Saturday });
    assert_eq!(shop.schedule().at(), time(3, 15, 0, 0));
    assert_eq!(shop.schedule().zone_name(), "UTC");
    assert_eq!((shop.lanes(), shop.max_attempts(), shop.enabled()), (4, 3, true));
    assert_eq!(shop.exclude_databases(), ["scratch"]);
    let config = shop.connection().unwrap();
    assert_eq!((config.user(), config.database()), ("backup", "postgres"));
    assert_eq!((config.has_password(), config.ssl_mode()), (true, SslMode::VerifyFull));

    let warehouse = policy.server("warehouse").unwrap();
    assert_eq!(warehouse.schedule().to_string(), "every week on sunday at 02:30 Europe/Berlin");
    assert_eq!((warehouse.lanes(), warehouse.max_attempts()), (2, 5));
    assert!(warehouse.exclude_databases().is_empty());
    assert!(!format!("{policy:?}").contains(SECRET));
}

#[test]
fn what_a_server_says_itself_replaces_the_defaults() {
    let text = "[vault]\nplace = \"${FOLDER}/$${x}\"\n\
         [defaults]\nenabled = false\nlanes = 8\nexclude_databases = [\"a\"]\nmax_attempts = 2\n\
         schedule = { every = \"week\", on = \"Friday\", at = \"23:59\", zone = \"europe/berlin\" }\n\
         [[server]]\nname = \"a\"\nconnection = \"host=a user=u\"\n\
         [[server]]\nname = \"b\"\nconnection = \"host=b user=u\"\nenabled = true\nlanes = 1\n\
         exclude_databases = []\nmax_attempts = 20\nschedule = { every = \"day\", at = \"00:00\" }\n";
    let policy = parse(text).unwrap();
    assert_eq!(policy.vault(), &Place::Folder("/srv/vaults/${x}".into()));
    let (a, b) = (policy.server("a").unwrap(), policy.server("b").unwrap());
    assert_eq!((a.enabled(), a.lanes(), a.max_attempts()), (false, 8, 2));
    assert_eq!(a.exclude_databases(), ["a"]);
    assert_eq!(a.schedule().to_string(), "every week on friday at 23:59 Europe/Berlin");
    assert_eq!((b.enabled(), b.lanes(), b.max_attempts()), (true, 1, 20));
    assert!(b.exclude_databases().is_empty());
    assert_eq!(b.schedule().every(), Every::Day { weekly_on: Weekday::Sunday });
    assert_eq!(b.schedule().zone_name(), "UTC");
    assert!(policy.server("c").is_none());
}

#[test]
fn a_secret_that_is_missing_stops_its_server_only() {
    let text = "[vault]\nplace = \"/v\"\n\
         [defaults]\nschedule = { every = \"day\", at = \"03:15\" }\n\
         [[server]]\nname = \"broken\"\nconnection = \"host=${NO_HOST} user=u\"\n\
         password = { env = \"NO_PASSWORD\" }\n\
         [[server]]\nname = \"empty\"\nconnection = \"host=b user=u\"\npassword = { env = \"EMPTY\" }\n\
         [[server]]\nname = \"off\"\nconnection = \"host=b user=u\"\nenabled = false\n\
         password = { env = \"NO_PASSWORD\" }\n\
         [[server]]\nname = \"good\"\nconnection = \"host=${HOST} user=u\"\n\
         password = { env = \"SHOP_PASSWORD\" }\n";
    let policy = parse(text).unwrap();
    let good = policy.server("good").unwrap().connection().unwrap();
    assert_eq!((good.host(), good.has_password()), ("db.example.org".to_owned(), true));
    let told: Vec<String> = policy.problems().iter().map(|problem| problem.to_string()).collect();
    assert_eq!(
        told,
        [
            "policy.toml:7:14: server \"broken\": connection: the environment variable NO_HOST is \
             not set; set it where flexkeep runs, or correct its name here",
            "policy.toml:8:20: server \"broken\": password.env: the environment variable \
             NO_PASSWORD is not set; set it where flexkeep runs, or correct its name here",
            "policy.toml:12:20: server \"empty\": password.env: the environment variable EMPTY is \
             empty; give it a value where flexkeep runs, or correct its name here",
        ]
    );
    // One that is disabled is an error when it is used, and no reason to fail a check.
    let off = policy.server("off").unwrap().connection().unwrap_err();
    assert!(off[0].message().contains("NO_PASSWORD is not set"), "{off:?}");
    let error = policy.strict().unwrap_err();
    assert_eq!(error.problems().len(), 3);
    assert!(error.to_string().starts_with("the policy has 3 errors:\n  policy.toml:7:14: "));
}

#[test]
fn what_a_server_has_of_auth_and_password_replaces_both_of_the_defaults() {
    let server = |name: &str, more: &str| {
        format!("[[server]]\nname = \"{name}\"\nconnection = \"host=h user=u\"\n{more}\n")
    };
    let schedule = "schedule = { every = \"day\", at = \"03:15\" }\n";
    let password = "password = { env = \"SHOP_PASSWORD\" }";
    for (defaults, with_nothing) in [
        ("", (Auth::Password, false)),
        ("auth = \"entra\"", (Auth::Entra, false)),
        (password, (Auth::Password, true)),
    ] {
        let text = format!(
            "[vault]\nplace = \"/v\"\n[defaults]\n{schedule}{defaults}\n{}{}{}{}",
            server("nothing", ""),
            server("entra", "auth = \"entra\""),
            server("word", "auth = \"password\""),
            server("own", password),
        );
        let policy = parse(&text).unwrap().strict().unwrap();
        let found: Vec<(Auth, bool)> = policy
            .servers()
            .iter()
            .map(|one| (one.auth(), one.connection().unwrap().has_password()))
            .collect();
        let entra = (Auth::Entra, false);
        let own = (Auth::Password, true);
        assert_eq!(found, [with_nothing, entra, (Auth::Password, false), own], "{defaults}");
    }
}

#[test]
fn a_token_goes_neither_with_a_password_nor_to_a_server_that_proves_nothing() {
    for (connection, said) in [
        ("${SHOP_CONNECTION}", "has one too"),
        ("host=h user=u sslmode=require", "does not prove who it is"),
    ] {
        let lines = format!("connection = \"{connection}\"\nauth = \"entra\"");
        let error = parse(&one_server(&lines)).unwrap().strict().unwrap_err().to_string();
        assert!(error.contains("policy.toml:7:8: server \"shop\": auth: "), "{error}");
        assert!(error.contains(said) && !error.contains(SECRET), "{error}");
    }
}

#[test]
fn a_password_of_the_defaults_is_told_of_each_server() {
    let text = "[vault]\nplace = \"/v\"\n\
         [defaults]\nschedule = { every = \"day\", at = \"03:15\" }\npassword = { env = \"NO\" }\n\
         [[server]]\nname = \"a\"\nconnection = \"host=a user=u\"\n\
         [[server]]\nname = \"b\"\nconnection = \"host=b user=u\"\n";
    let policy = parse(text).unwrap();
    let told: Vec<String> = policy.problems().iter().map(|problem| problem.to_string()).collect();
    assert_eq!(told.len(), 2);
    assert!(told[0].starts_with("policy.toml:5:20: server \"a\": defaults.password.env: "));
    assert!(told[1].starts_with("policy.toml:5:20: server \"b\": defaults.password.env: "));
}

#[test]
fn a_connection_may_come_from_the_environment_with_its_password() {
    for lines in [
        "connection = \"${SHOP_CONNECTION}\"",
        "connection = \"host=db user=backup password=${JUST_A_SECRET}\"",
        "connection = \"postgresql://backup:${JUST_A_SECRET}@db/shop\"",
        "connection = \"host=db user=backup\"\npassword = { env = \"SHOP_PASSWORD\" }",
    ] {
        let policy = parse(&one_server(lines)).unwrap().strict().unwrap();
        let config = policy.servers()[0].connection().unwrap();
        assert_eq!((config.user(), config.has_password()), ("backup", true), "{lines}");
        assert!(!format!("{policy:?} {config}").contains(SECRET), "{lines}");
    }
}

#[test]
fn a_wrong_connection_from_the_environment_is_told_without_its_value() {
    for (lines, what) in [
        ("connection = \"${BROKEN_CONNECTION}\"", "once ${BROKEN_CONNECTION} is filled in"),
        ("connection = \"${JUST_A_SECRET}\"", "is no connection string of libpq"),
        ("connection = \"host=db user=u port=${JUST_A_SECRET}\"", "once ${JUST_A_SECRET} is"),
        ("connection = \"host=${HOST}\"", "names no user; add user=… to it"),
        ("connection = \"${NOT_RESOLVED}\"", "NOT_RESOLVED is a Key Vault reference"),
        (
            "connection = \"host=db user=u\"\npassword = { env = \"NOT_RESOLVED\" }",
            "NOT_RESOLVED is a Key Vault reference",
        ),
    ] {
        let policy = parse(&one_server(lines)).unwrap();
        let problems = policy.servers()[0].connection().unwrap_err();
        assert!(problems[0].message().contains(what), "{}", problems[0]);
        let error = policy.clone().strict().unwrap_err();
        let all = format!("{error} {error:?} {policy:?} {problems:?}");
        assert!(!all.contains(SECRET), "{all}");
    }
}

#[test]
fn libpq_variables_of_the_process_do_not_reach_the_servers() {
    let env = |name: &str| match name {
        "PGPASSWORD" | "PGHOSTADDR" | "PGSERVICE" | "PGPORT" => Some("7".to_owned()),
        _ => None,
    };
    let text = one_server("connection = \"host=db user=u\"");
    let policy = Policy::parse(&text, "p", &env).unwrap().strict().unwrap();
    let config = policy.servers()[0].connection().unwrap();
    assert_eq!((config.has_password(), config.port()), (false, 5432));
}

#[test]
fn hundreds_of_servers_and_thousands_of_errors_are_no_burden() {
    let mut text = "[vault]\nplace = \"/v\"\n".to_owned();
    for number in 0..5000 {
        text += &format!("[[server]]\nname = \"s{number}\"\nconnection = \"host=h user=u\"\n");
        text += "schedule = { every = \"day\", at = \"1:00\", zone = \"Berlin\" }\nlane = 0\n";
    }
    let began = std::time::Instant::now();
    let error = parse(&text).unwrap_err();
    let PolicyError::Wrong(problems) = &error else { panic!("{error}") };
    assert_eq!((problems.count(), problems.listed().len()), (15_000, 50));
    assert!(error.to_string().ends_with("\n  policy.toml: and 14950 more"), "{error}");
    assert!(began.elapsed().as_secs() < 20, "{:?}", began.elapsed());
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,200}") {
        let _ = parse(&text);
    }

    /// A policy with planted secrets, damaged by hand in some places.
    #[test]
    fn a_damaged_policy_never_shows_the_secrets_in_it(
        edits in proptest::collection::vec((0.0..1.0f64, 0..3u8, "[ -~\n]"), 1..4),
        lines in proptest::sample::select(vec![
            "connection = \"host=db user=u password=hunter2\"\npassword = \"hunter2\"",
            "connection = \"postgresql://u:hunter2@db/x?sslmode=require\"",
            "connection = \"host=db user=u\"\npassword = { env = \"JUST_A_SECRET\" }",
            "connection = \"${BROKEN_CONNECTION}\"",
            "connection = \"postgresql://u:${JUST_A_SECRET}@db/x\"",
        ]),
    ) {
        let mut text: Vec<char> = one_server(lines).chars().collect();
        for (place, kind, replacement) in edits {
            let at = (place * text.len() as f64) as usize;
            // Not within a secret, of which a part would be another text.
            let around: String = text[at.saturating_sub(7)..(at + 8).min(text.len())].iter().collect();
            if around.contains(SECRET) {
                continue;
            }
            match kind {
                0 => { text.remove(at); }
                1 => text.splice(at..at, replacement.chars()).for_each(drop),
                _ => text.splice(at..=at, replacement.chars()).for_each(drop),
            }
        }
        let text: String = text.into_iter().collect();
        if let Ok(policy) = parse(&text)
            && let Ok(config) = policy.servers()[0].connection()
        {
            // A variable that was put into the place of the user or host is one, and is shown.
            prop_assume!(!config.describe().contains(SECRET) || !text.contains("{JUST_A"));
        }
        let shown = match parse(&text) {
            Err(error) => format!("{error} {error:?}"),
            Ok(policy) => format!("{policy:?} {:?}", policy.clone().strict().map_err(|e| e.to_string())),
        };
        prop_assert!(!shown.contains(SECRET), "{text}\n{shown}");
    }
}

#[test]
fn the_example_of_drills_in_the_documentation_is_right_and_has_the_values_that_it_shows() {
    let docs = fs::read_to_string(folder().join("../../../docs/restore.md")).unwrap();
    let example = docs.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let env = |name: &str| match name {
        "FLEXKEEP_VAULT" => Some("/var/lib/flexkeep/vault".to_owned()),
        "SHOP_PASSWORD" | "DRILLS_PASSWORD" => Some(SECRET.to_owned()),
        _ => None,
    };
    let policy = Policy::parse(example, "policy.toml", &env).unwrap().strict().unwrap();
    let target = policy.target("drills").unwrap();
    assert_eq!((target.lanes(), target.overwrite(), target.auth()), (4, false, Auth::Password));
    assert!(target.connection().unwrap().has_password());
    let drill = policy.drill("shop").unwrap();
    assert_eq!(drill.schedule().to_string(), "every week on monday at 05:00 Europe/Berlin");
    assert_eq!((drill.target().as_str(), drill.databases()), ("drills", &DrillDatabases::Rotate));
    assert_eq!((drill.amcheck(), drill.keep(), drill.roles()), (Amcheck::Auto, false, false));
    let [first, second] = drill.assertions() else { panic!("two assertions") };
    assert_eq!(first.database(), Some("orders"));
    assert_eq!((first.timeout().as_secs(), second.timeout().as_secs()), (300, 900));
    assert!(second.sql().contains("NOT EXISTS"));
}

#[test]
fn what_a_target_lacks_is_its_own_problem_and_defaults_are_not_its() {
    let text = one_server("connection = \"host=db user=u\"")
        + "[defaults]\nauth = \"entra\"\n[[target]]\nname = \"drills\"\n\
           connection = \"${NOT_SET}\"\npassword = { env = \"NOT_SET_EITHER\" }\n\
           [[target]]\nname = \"spare\"\nconnection = \"host=t user=u\"\noverwrite = true\n";
    let policy = parse(&text).unwrap();
    let problems = policy.target("drills").unwrap().connection().unwrap_err();
    assert_eq!(problems.len(), 2);
    let spare = policy.target("spare").unwrap();
    assert_eq!((spare.auth(), spare.overwrite()), (Auth::Password, true));
    assert_eq!(policy.problems().len(), 2);
    assert!(policy.strict().is_err());
}
