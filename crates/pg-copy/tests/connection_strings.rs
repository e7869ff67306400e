//! Connection strings, right and wrong, in an environment of the test's own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use flexkeep_pg_copy::{
    Config, ConnectOptions, Connection, Environment, PasswordError, PasswordProvider, SslMode,
};

fn home() -> Environment {
    Environment::empty().with("HOME", "/nonexistent").with("USER", "me")
}

fn parse(text: &str) -> Config {
    Config::parse_in(text, &home()).unwrap()
}

fn wrong(text: &str) -> String {
    Config::parse_in(text, &home()).unwrap_err().to_string()
}

fn variable(config: &Config, name: &str) -> Option<String> {
    let found = config.libpq_env().into_iter().find(|(set, _)| set == name);
    found.map(|(_, value)| value.into_string().unwrap())
}

#[test]
fn both_spellings_mean_the_same() {
    let uri = parse(
        "postgresql://u%20x:p%40ss@[::1]:6000,db.example/my%2Fdb?application_name=a%20b&sslmode=require",
    );
    let words = parse(
        "user='u x' password=p@ss host=::1,db.example port=6000, dbname=my/db application_name='a b' \
         sslmode=require",
    );
    for config in [&uri, &words] {
        assert_eq!(config.describe(), "user='u x' host=::1,db.example port=6000,5432 dbname=my/db");
        assert_eq!(variable(config, "PGPASSWORD").as_deref(), Some("p@ss"));
        assert_eq!(config.application_name(), Some("a b"));
        assert_eq!(config.ssl_mode(), SslMode::Require);
        assert_eq!((config.host().as_str(), config.port()), ("::1", 6000));
    }
}

#[test]
fn uris_may_leave_everything_out() {
    assert_eq!(parse("postgresql://").database(), "me");
    assert_eq!(
        parse("postgres:///shop?host=/run/x&port=7").describe(),
        "user=me host=/run/x port=7 dbname=shop"
    );
    assert_eq!(parse("postgresql://%2Frun%2Fx/shop").host(), "/run/x");
    assert_eq!(parse("postgresql://h?ssl=true").ssl_mode(), SslMode::Require);
    assert_eq!(parse("postgresql://a:p@w@h/d").host(), "h");
    // As in libpq.
    let password = variable(&parse("postgresql://a:p#w@h/d"), "PGPASSWORD");
    assert_eq!(password.as_deref(), Some("p#w"));
    assert!(wrong("postgresql://a:pw@h/d#part").contains("`#`"));
}

#[test]
fn the_mode_of_tls_depends_on_where_the_host_is() {
    for (text, mode) in [
        ("host=/tmp", SslMode::Prefer),
        ("host=localhost", SslMode::Prefer),
        ("host=127.0.0.1", SslMode::Prefer),
        ("host=::1", SslMode::Prefer),
        ("host=db.example.org", SslMode::VerifyFull),
        ("host=10.0.0.1", SslMode::VerifyFull),
        ("host=localhost hostaddr=10.0.0.1", SslMode::VerifyFull),
        ("host=localhost,db.example.org", SslMode::VerifyFull),
        ("host=localhost sslrootcert=system", SslMode::VerifyFull),
        ("host=db.example.org sslmode=disable", SslMode::Disable),
    ] {
        assert_eq!(parse(text).ssl_mode(), mode, "{text}");
    }
}

#[test]
fn the_string_wins_over_the_service_and_that_over_the_environment() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("services");
    fs::write(&file, "[s]\nhost=from-service\nport=1111\nuser=su\n").unwrap();
    let environment = home()
        .with("PGSERVICEFILE", &file)
        .with("PGSERVICE", "s")
        .with("PGHOST", "from-env")
        .with("PGPORT", "2222")
        .with("PGDATABASE", "envdb")
        .with("PGCONNECT_TIMEOUT", "7");
    let config = Config::parse_in("port=3333", &environment).unwrap();
    assert_eq!(config.describe(), "user=su host=from-service port=3333 dbname=envdb");
    assert_eq!(config.connect_timeout(), Some(Duration::from_secs(7)));
    let missing = Config::parse_in("service=t", &environment).unwrap_err().to_string();
    assert_eq!(missing, format!("service \"t\" is not in {}", file.display()));
}

#[test]
fn an_error_names_the_place_where_the_value_was_read() {
    let environment = home().with("PGSSLMODE", "on");
    let error = Config::parse_in("", &environment).unwrap_err().to_string();
    assert_eq!(
        error,
        "sslmode=on in the environment (PGSSLMODE) is wrong; it must be one of disable, allow, \
         prefer, require, verify-ca, verify-full"
    );
}

#[test]
fn wrong_strings_are_explained() {
    for (text, message) in [
        ("hots=x", "unknown key \"hots\" in the connection string; did you mean \"host\"?"),
        (
            "database=x",
            "unknown key \"database\" in the connection string; did you mean \"dbname\"?",
        ),
        (
            "host",
            "missing `=` after \"host\" in the connection string; a value with blanks must stand in single quotes: key='a value'",
        ),
        ("port=99999", "port=99999 in the connection string is wrong; it must be 1 to 65535"),
        ("port=1,2", "2 ports are given for 1 hosts; give one port, or one for each host"),
        (
            "host='x",
            "the quoted value of host in the connection string has no closing quote; inside quotes write \\' for ' and \\\\ for \\",
        ),
        (
            "connect_timeout=soon",
            "connect_timeout=soon in the connection string is wrong; it must be a whole number",
        ),
        (
            "sslmode=yes",
            "sslmode=yes in the connection string is wrong; it must be one of disable, allow, prefer, require, verify-ca, verify-full",
        ),
        (
            "hostaddr=db.example",
            "hostaddr=db.example is not an IP address; a name belongs in host=",
        ),
        (
            "host=a,b hostaddr=1.1.1.1",
            "host names 2 servers and hostaddr 1; the lists must be of equal length",
        ),
        ("sslcert=c", "sslcert is given without sslkey; name the key's file"),
        (
            "sslcrl=c",
            "sslcrl in the connection string is not supported: revocation lists are not supported; remove it",
        ),
        (
            "gssencmode=require",
            "gssencmode=require in the connection string is not supported; remove it or use disable or prefer",
        ),
        (
            "sslmode=prefer sslnegotiation=direct",
            "sslmode=prefer in the connection string is wrong; sslnegotiation=direct needs sslmode=require or more",
        ),
        (
            "sslmode=require sslrootcert=system",
            "sslmode=require in the connection string is wrong; sslrootcert=system needs sslmode=verify-full",
        ),
        (
            "target_session_attrs=master",
            "target_session_attrs=master in the connection string is wrong; it must be one of any, read-write, read-only, primary, standby, prefer-standby",
        ),
        (
            "require_auth=!md5,password",
            "require_auth=!md5,password in the connection string is wrong; `!` must stand before all methods or none",
        ),
        (
            "postgresql://h:port/d",
            "the port in the connection URI is not a number from 1 to 65535; the characters / ? # @ : % in a user's name or password must be percent-encoded, and an IPv6 address must stand in brackets",
        ),
        (
            "postgresql://h/d?sslmod=x",
            "unknown key \"sslmod\" in the connection URI; did you mean \"sslmode\"?",
        ),
        ("postgresql://[::1/d", "an IPv6 address in the connection URI has no closing `]`"),
        (
            "postgresql://u:a%zz@h",
            "the password in the connection URI has a `%` that two hexadecimal digits do not follow; write %25 for %",
        ),
        (
            "service=s",
            "service \"s\" is asked for, but there is no service file; name one in PGSERVICEFILE or write ~/.pg_service.conf",
        ),
    ] {
        assert_eq!(wrong(text), message, "{text}");
    }
    let nobody = Config::parse_in("", &Environment::empty()).unwrap_err().to_string();
    assert_eq!(nobody, "no user is named; add user=… or set PGUSER (USER is not set either)");
}

#[test]
fn no_password_is_ever_shown() {
    let secret = "hunter2";
    let config = parse(&format!("host=h password={secret}"));
    let environment = home().with("PGPASSWORD", secret);
    let from_environment = Config::parse_in("host=h", &environment).unwrap();
    for shown in [
        format!("{config:?} {config} {}", config.describe()),
        format!("{from_environment:?} {environment:?}"),
        wrong(&format!("postgresql://u:{secret}/x@h/d")),
        wrong(&format!("postgresql://u:x/{secret}@h/d")),
        wrong(&format!("postgresql://u:{secret}#x/@h/d")),
        wrong(&format!("postgresql://u:1/{secret}@h/d")),
        wrong(&format!("password=a {secret} host=h")),
        wrong(&format!("u:{secret}@h")),
        wrong(&format!("host=u:{secret}@h")),
        wrong(secret),
        wrong(&format!("{secret}='x")),
        wrong(&format!("host=h {secret}=1")),
        wrong(&format!("host=h password=my {secret}=1 user=x")),
        wrong(&format!("host=h,password={secret}")),
        wrong(&format!("host=h;Password={secret}")),
        wrong(&format!("host=h,{secret}=1")),
        wrong(&format!("host=/run,{secret}=1 hostaddr=")),
        wrong(&format!("host=@h,{secret}=1")),
        wrong(&format!("user=u,password={secret} host=h")),
        wrong(&format!("dbname=d;pwd={secret} host=h")),
        wrong(&format!("port=5432,{secret}=1 host=h")),
        wrong(&format!("hostaddr=1.1.1.1;{secret}=1")),
        wrong(&format!("sslmode=require,password={secret}")),
        wrong(&format!("service=s,password={secret}")),
        wrong(&format!("gssencmode=x,{secret}=1")),
        wrong(&format!("Server=h;Port=5432;Password={secret}")),
        wrong(&format!("postgresql://u:1?{secret}=2@h/d")),
        wrong(&format!("postgresql://u@h,password={secret}/d")),
        wrong(&format!("postgresql://u@h/d?password=my&{secret}=1")),
    ] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

#[test]
fn a_key_behind_a_password_is_not_shown_however_well_it_looks() {
    let told = wrong("host=h password=my users=1");
    assert!(told.contains("the key behind password in the connection string is unknown"), "{told}");
    assert!(!told.contains("users"), "{told}");
    assert!(wrong("host=h users=1").contains("unknown key \"users\""));
    // Nothing that is meant so is refused.
    parse("host=h user=a=b dbname=c=d password=x=y options='-c app.password=z'");
}

#[test]
fn a_child_gets_the_same_target_and_nothing_else() {
    let environment = home().with("PGSERVICE", "").with("PGOPTIONS", "-c x=1");
    let config = Config::parse_in(
        "host=db.example.org,/run/x hostaddr=10.0.0.9, port=1,2 user=u password=p sslmode=verify-ca \
         sslrootcert=/ca connect_timeout=1 channel_binding=require target_session_attrs=primary",
        &environment,
    )
    .unwrap()
    .with_database("other");
    for (name, value) in [
        ("PGHOST", Some("db.example.org,/run/x")),
        ("PGHOSTADDR", Some("10.0.0.9,")),
        ("PGPORT", Some("1,2")),
        ("PGDATABASE", Some("other")),
        ("PGPASSWORD", Some("p")),
        ("PGSSLMODE", Some("verify-ca")),
        ("PGSSLROOTCERT", Some("/ca")),
        ("PGOPTIONS", Some("-c x=1")),
        ("PGCONNECT_TIMEOUT", Some("2")),
        ("PGCHANNELBINDING", Some("require")),
        ("PGTARGETSESSIONATTRS", Some("primary")),
        ("PGSERVICE", None),
    ] {
        assert_eq!(variable(&config, name).as_deref(), value, "{name}");
    }
    let unset = config.libpq_unset();
    for name in ["PGSERVICE", "PGSERVICEFILE", "PGREQUIREPEER", "PGPASSFILE"] {
        assert!(unset.iter().any(|unset| unset == name), "{name}");
    }
    assert!(config.libpq_env().iter().all(|(set, _)| !unset.contains(set)));
}

#[test]
fn a_database_name_that_looks_like_a_connection_string_is_quoted_as_one() {
    let of = |name: &str| parse("host=h").with_database(name).database_conninfo();
    assert_eq!(of("shop"), "dbname=shop");
    assert_eq!(of("a=b c'd\\e"), "dbname='a=b c\\'d\\\\e'");
}

#[test]
fn a_setting_comes_after_the_options_that_are_given() {
    let of = |text: &str| {
        let environment = parse(text).with_setting("event_triggers", "off").libpq_env();
        let found = environment.into_iter().find(|(name, _)| name.as_os_str() == "PGOPTIONS");
        found.map(|(_, value)| value.into_string().unwrap())
    };
    assert_eq!(of("host=h").as_deref(), Some("-c event_triggers=off"));
    let both = of("host=h options='-c role=crew'");
    assert_eq!(both.as_deref(), Some("-c role=crew -c event_triggers=off"));
}

#[test]
fn the_default_root_file_is_used_when_it_exists() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join(".postgresql");
    fs::create_dir(&folder).unwrap();
    let root = folder.join("root.crt");
    fs::write(&root, "").unwrap();
    fs::set_permissions(&root, fs::Permissions::from_mode(0o600)).unwrap();
    let environment = Environment::empty().with("HOME", home.path()).with("USER", "me");
    let config = Config::parse_in("host=db.example.org", &environment).unwrap();
    assert_eq!(variable(&config, "PGSSLROOTCERT"), Some(root.display().to_string()));
}

/// Gives another password each time, as tokens are.
struct Counting(std::sync::atomic::AtomicU32);

impl PasswordProvider for Counting {
    fn password(&self) -> Result<String, PasswordError> {
        match self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
            2 => Err(PasswordError::new("the endpoint is busy", true)),
            at => Ok(format!("token-{at}")),
        }
    }
}

#[test]
fn a_provider_is_asked_for_each_program_and_each_connection() {
    let plain = parse("host=h user=u password=old passfile=/some/file");
    let config = plain.with_password_provider(std::sync::Arc::new(Counting(0.into())));
    assert!(config.has_password_provider() && !config.has_password());
    assert_eq!(variable(&config, "PGPASSWORD"), None);
    for token in ["token-0", "token-1"] {
        let mut child = std::process::Command::new("pg_dump");
        config.with_database("other").apply_to(&mut child).unwrap();
        let set = child.get_envs().find(|(name, _)| *name == "PGPASSWORD");
        assert_eq!(set.unwrap().1.unwrap(), token);
        assert!(!child.get_envs().any(|(name, value)| name == "PGPASSFILE" && value.is_some()));
    }
    let options = ConnectOptions::default();
    let error = Connection::connect(&config, &options).err().unwrap();
    assert_eq!(error.to_string(), "cannot get the password for h:5432");
    assert!(error.is_transient());
    assert!(!format!("{config:?}{error:?}").contains("token"));
    let fixed = config.with_password("fixed");
    assert!(!fixed.has_password_provider() && fixed.has_password());
}

#[test]
fn who_and_where_is_known_before_a_token_is_sent() {
    assert!(!parse("host=h").names_user());
    assert!(parse("host=h user=x").names_user());
    assert!(parse("host=h").with_user("x").names_user());
    let from_variable = home().with("PGUSER", "x");
    assert!(Config::parse_in("host=h", &from_variable).unwrap().names_user());
    for (text, verified) in [
        ("host=h", true),
        ("host=h sslmode=verify-ca", true),
        ("host=h sslmode=require", false),
        ("host=h,/tmp sslmode=disable", false),
        ("host=/tmp,localhost sslmode=disable", true),
    ] {
        assert_eq!(parse(text).verifies_server(), verified, "{text}");
    }
}
