//! Authentication and TLS with real servers and certificates of the test's own.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use flexkeep_pg_copy::{Config, ConnectOptions, Connection, Environment, Error};
use support::{Cluster, config, server_bins};

const HBA: &str = "
local   all scram_user scram-sha-256
local   all clear_user password
host    all scram_user 127.0.0.1/32 scram-sha-256
host    all md5_user   127.0.0.1/32 md5
host    all clear_user 127.0.0.1/32 password
hostssl all tls_user   127.0.0.1/32 trust
hostnossl all plain_user 127.0.0.1/32 trust
hostssl all cert_user  127.0.0.1/32 cert
";

fn openssl(folder: &Path, arguments: &str) {
    let output = Command::new("openssl")
        .args(arguments.split_whitespace())
        .current_dir(folder)
        .output()
        .expect("these tests need the openssl command");
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// An authority and what it signs, in one folder.
struct Authority(tempfile::TempDir);

impl Authority {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        openssl(
            folder.path(),
            "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -days 30 -subj /CN=test-ca",
        );
        Authority(folder)
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    /// `name.crt` and `name.key`, for a DNS name; `how` is the signature's.
    fn sign(&self, name: &str, subject: &str, dns: &str, how: &str) {
        let folder = self.0.path();
        fs::write(folder.join("ext"), format!("subjectAltName=DNS:{dns}\n")).unwrap();
        openssl(
            folder,
            &format!(
                "req -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.csr -subj /CN={subject}"
            ),
        );
        openssl(
            folder,
            &format!(
                "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 \
                 -extfile ext -out {name}.crt {how}"
            ),
        );
    }

    /// A server that uses `server.crt`.
    fn cluster(&self, bin: &Path) -> Cluster {
        let conf = "ssl=on\nssl_ca_file='ca.crt'\npassword_encryption='scram-sha-256'";
        let cluster = Cluster::start_with(bin, conf, HBA, |data| {
            for file in ["server.crt", "server.key", "ca.crt"] {
                fs::copy(self.0.path().join(file), data.join(file)).unwrap();
                fs::set_permissions(data.join(file), fs::Permissions::from_mode(0o600)).unwrap();
            }
        });
        cluster
            .connect()
            .execute(
                "CREATE ROLE scram_user LOGIN PASSWORD 'sécret';
                 CREATE ROLE clear_user LOGIN PASSWORD 'sécret';
                 CREATE ROLE tls_user LOGIN; CREATE ROLE plain_user LOGIN; CREATE ROLE cert_user LOGIN;
                 SET password_encryption = 'md5'; CREATE ROLE md5_user LOGIN PASSWORD 'sécret'",
            )
            .unwrap();
        cluster
    }
}

fn advice(result: Result<Connection, Error>) -> String {
    let error = result.expect_err("it should have failed");
    let text = error.to_string();
    assert!(!text.contains("sécret") && !format!("{error:?}").contains("sécret"));
    text
}

/// Over TCP by the certificate's name.
fn named(cluster: &Cluster, name: &str, more: &str) -> String {
    format!("host={name} hostaddr=127.0.0.1 port={} dbname=postgres {more}", cluster.port)
}

#[test]
fn every_method_of_authentication_works_and_a_wrong_password_is_named() {
    let authority = Authority::new();
    authority.sign("server", "db.example.test", "db.example.test", "-sha256");
    for bin in server_bins() {
        let cluster = authority.cluster(&bin);
        for user in ["scram_user", "md5_user", "clear_user"] {
            for sslmode in ["require", "prefer"] {
                let keys = format!("user={user} password=sécret sslmode={sslmode}");
                let connection = cluster.try_connect(&cluster.tcp(&keys)).unwrap();
                assert!(connection.is_encrypted());
            }
            let wrong = cluster.tcp(&format!("user={user} password=nö sslmode=require"));
            let error = cluster.try_connect(&wrong).unwrap_err();
            assert_eq!(error.sqlstate(), Some("28P01"));
            assert!(!error.is_transient());
            assert!(advice(Err(error)).contains("the password is wrong"));
            let none = advice(cluster.try_connect(&cluster.tcp(&format!("user={user}"))));
            assert!(none.contains("none is given; set PGPASSWORD"), "{none}");
        }
        let plain = "user=scram_user password=sécret sslmode=disable";
        assert!(!cluster.try_connect(&cluster.tcp(plain)).unwrap().is_encrypted());
        let unix = |user: &str| {
            let socket = cluster.conninfo().replace("user=postgres", &format!("user={user}"));
            cluster.try_connect(&format!("{socket} password=sécret")).unwrap();
        };
        unix("scram_user");
        unix("clear_user");
        let clear = "user=clear_user password=sécret sslmode=disable";
        let refused = advice(cluster.try_connect(&cluster.tcp(clear)));
        assert!(refused.contains("clear text on an unencrypted connection"), "{refused}");
        cluster.try_connect(&cluster.tcp(&format!("{clear} require_auth=password"))).unwrap();
        let options = ConnectOptions { allow_cleartext_password: true, ..Default::default() };
        Connection::connect(&config(&cluster.tcp(clear)), &options).unwrap();
        for (user, required) in [("md5_user", "scram-sha-256"), ("tls_user", "!none")] {
            let keys =
                format!("user={user} password=sécret sslmode=require require_auth={required}");
            let text = advice(cluster.try_connect(&cluster.tcp(&keys)));
            assert!(text.contains(&format!("which require_auth={required} forbids")), "{text}");
        }
    }
}

#[test]
fn access_rules_and_missing_databases_are_told_apart() {
    let authority = Authority::new();
    authority.sign("server", "db.example.test", "db.example.test", "-sha256");
    let cluster = authority.cluster(&server_bins()[0]);
    let nobody = advice(cluster.try_connect(&cluster.tcp("user=nobody sslmode=disable")));
    assert!(nobody.contains("access rules (pg_hba.conf"), "{nobody}");
    let error = cluster
        .try_connect(&cluster.tcp("user=postgres").replace("dbname=postgres", "dbname=nothing"))
        .unwrap_err();
    assert_eq!(error.sqlstate(), Some("3D000"));
    assert!(matches!(error, Error::Refused { .. }), "{error:?}");
    // The other way of encryption is tried where the mode allows it.
    assert!(
        !cluster
            .try_connect(&cluster.tcp("user=plain_user sslmode=prefer"))
            .unwrap()
            .is_encrypted()
    );
    assert!(
        cluster.try_connect(&cluster.tcp("user=tls_user sslmode=allow")).unwrap().is_encrypted()
    );
    assert!(cluster.try_connect(&cluster.tcp("user=plain_user sslmode=require")).is_err());
    assert!(cluster.try_connect(&cluster.tcp("user=tls_user sslmode=disable")).is_err());
}

#[test]
fn certificates_are_verified_as_the_mode_asks() {
    let authority = Authority::new();
    authority.sign("server", "db.example.test", "db.example.test", "-sha256");
    let stranger = Authority::new();
    for bin in server_bins() {
        let cluster = authority.cluster(&bin);
        let attempt = |name: &str, mode: &str, root: Option<&Authority>| {
            let root = root.map(|root| format!("sslrootcert={}", root.path("ca.crt")));
            let keys = format!("user=tls_user {mode} {}", root.unwrap_or_default());
            cluster.try_connect(&named(&cluster, name, &keys))
        };
        let (right, other) = ("db.example.test", "other.example.test");
        assert!(attempt(right, "sslmode=verify-full", Some(&authority)).unwrap().is_encrypted());
        attempt(other, "sslmode=verify-ca", Some(&authority)).unwrap();
        attempt(other, "sslmode=require", None).unwrap();
        let text = advice(attempt(other, "sslmode=verify-full", Some(&authority)));
        assert!(text.contains("for another host name") && text.contains("sslmode="), "{text}");
        for (mode, root) in [
            ("sslmode=verify-full", Some(&stranger)),
            ("sslmode=verify-ca", Some(&stranger)),
            // As in libpq, a root file turns `require` into `verify-ca`.
            ("sslmode=require", Some(&stranger)),
            ("sslmode=verify-full", None),
        ] {
            let text = advice(attempt(right, mode, root));
            assert!(text.contains("not trusted") && text.contains("sslmode="), "{text}");
        }
        let text = advice(cluster.try_connect(&named(
            &cluster,
            right,
            "user=tls_user sslmode=verify-full sslrootcert=/nonexistent.crt",
        )));
        assert!(text.contains("cannot read sslrootcert=/nonexistent.crt"), "{text}");
    }
}

#[test]
fn tls_carries_copies_cancels_and_versions() {
    let authority = Authority::new();
    authority.sign("server", "db.example.test", "db.example.test", "-sha256");
    for bin in server_bins() {
        let cluster = authority.cluster(&bin);
        for version in ["TLSv1.2", "TLSv1.3"] {
            let keys = format!(
                "user=tls_user sslrootcert={} ssl_min_protocol_version={version} \
                 ssl_max_protocol_version={version}",
                authority.path("ca.crt")
            );
            let mut connection =
                cluster.try_connect(&named(&cluster, "db.example.test", &keys)).unwrap();
            let sql = "SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
            assert_eq!(connection.query(sql).unwrap()[0].get(0), Some(version));
            connection.execute("CREATE TEMP TABLE c (a text)").unwrap();
            let mut left = 50;
            let rows = connection.copy_in("COPY c FROM STDIN", &mut |buffer| {
                buffer.extend_from_slice(&b"0123456789abcdef\n".repeat(10_000));
                left -= 1;
                Ok(left > 0)
            });
            assert_eq!(rows.unwrap(), 500_000);
            let mut sink = Sum::default();
            connection.send_query("COPY c TO STDOUT").unwrap();
            connection.send_query("COPY (SELECT repeat('x', 3000000)) TO STDOUT").unwrap();
            assert_eq!(connection.read_copy_out(&mut sink).unwrap(), 500_000);
            assert_eq!(connection.read_copy_out(&mut sink).unwrap(), 1);
            assert_eq!(sink.0, 500_000 * 17 + 3_000_001);
            let handle = connection.cancel_handle();
            let canceller = thread::spawn(move || {
                thread::sleep(Duration::from_millis(300));
                handle.cancel()
            });
            let started = Instant::now();
            let error = connection.execute("SELECT pg_sleep(30)").unwrap_err();
            canceller.join().unwrap().unwrap();
            assert_eq!(error.sqlstate(), Some("57014"));
            assert!(started.elapsed() < Duration::from_secs(8));
        }
    }
}

#[derive(Default)]
struct Sum(u64);

impl flexkeep_pg_copy::CopySink for Sum {
    type Error = std::convert::Infallible;
    fn data(&mut self, part: &[u8], _: bool) -> Result<(), Self::Error> {
        self.0 += part.len() as u64;
        Ok(())
    }
}

#[test]
fn scram_is_bound_to_the_certificate_whatever_its_signature() {
    let authority = Authority::new();
    let pss = "-sha384 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:-1";
    for how in ["-sha256", "-sha384", "-sha512", pss] {
        authority.sign("server", "db.example.test", "db.example.test", how);
        let cluster = authority.cluster(&server_bins()[0]);
        let keys = "user=scram_user password=sécret sslmode=require channel_binding=require";
        let connection = cluster.try_connect(&cluster.tcp(keys));
        assert!(connection.is_ok(), "{how}: {connection:?}");
        if how == "-sha256" {
            let plain = keys.replace("sslmode=require", "sslmode=disable");
            let text = advice(cluster.try_connect(&cluster.tcp(&plain)));
            assert!(text.contains("channel_binding=require, but the connection does not use TLS"));
            for user in ["md5_user", "tls_user"] {
                let keys = keys.replace("scram_user", user);
                let text = advice(cluster.try_connect(&cluster.tcp(&keys)));
                assert!(text.contains("channel_binding=require, but the server"), "{text}");
            }
        }
    }
}

#[test]
fn a_client_certificate_logs_in() {
    let authority = Authority::new();
    authority.sign("server", "db.example.test", "db.example.test", "-sha256");
    authority.sign("client", "cert_user", "client", "-sha256");
    let stranger = Authority::new();
    stranger.sign("client", "cert_user", "client", "-sha256");
    let cluster = authority.cluster(&server_bins()[0]);
    let keys = |who: &Authority| {
        let (cert, key) = (who.path("client.crt"), who.path("client.key"));
        cluster.tcp(&format!("user=cert_user sslmode=require sslcert={cert} sslkey={key}"))
    };
    cluster.try_connect(&keys(&authority)).unwrap();
    let text = advice(cluster.try_connect(&keys(&stranger)));
    assert!(text.contains("does not accept the client's certificate"), "{text}");
    let none = cluster.try_connect(&cluster.tcp("user=cert_user sslmode=require")).unwrap_err();
    assert_eq!(none.sqlstate(), Some("28000"));
}

#[test]
fn a_self_signed_certificate_is_trusted_when_it_is_the_root_file() {
    let authority = Authority::new();
    let folder = authority.0.path();
    openssl(
        folder,
        "req -x509 -newkey rsa:2048 -nodes -keyout server.key -out server.crt -days 30 \
         -subj /CN=x -addext subjectAltName=DNS:db.example.test",
    );
    let cluster = authority.cluster(&server_bins()[0]);
    let root = authority.path("server.crt");
    let keys = format!("user=tls_user sslmode=verify-full sslrootcert={root}");
    cluster.try_connect(&named(&cluster, "db.example.test", &keys)).unwrap();
    let text = advice(cluster.try_connect(&named(&cluster, "other.test", &keys)));
    assert!(text.contains("for another host name"), "{text}");
}

#[test]
fn a_server_without_tls_is_refused_unless_allowed() {
    let cluster = Cluster::start(&server_bins()[0]);
    let text = advice(cluster.try_connect(&named(
        &cluster,
        "localhost",
        "user=postgres sslmode=verify-full",
    )));
    assert!(text.contains("does not speak TLS") && text.contains("sslmode=disable"), "{text}");
    assert!(!cluster.try_connect(&cluster.tcp("user=postgres")).unwrap().is_encrypted());
}

#[test]
fn unreachable_servers_are_explained() {
    for (text, words) in [
        ("host=/nonexistent user=u", "there is no such socket"),
        ("host=127.0.0.1 port=1 user=u", "refused; check that the server runs"),
        ("host=no.such.host.invalid user=u connect_timeout=5", "the name could not be resolved"),
    ] {
        let error = Connection::connect(&config(text), &ConnectOptions::default()).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert!(error.is_transient());
    }
}

#[test]
fn a_server_that_never_answers_ends_in_a_time_out() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    for mode in ["disable", "require"] {
        let options =
            ConnectOptions { connect_timeout: Some(Duration::from_secs(1)), ..Default::default() };
        let target = config(&format!("host=127.0.0.1 port={port} user=u sslmode={mode}"));
        let started = Instant::now();
        let error = Connection::connect(&target, &options).unwrap_err();
        assert!(matches!(error, Error::TimedOut { .. }), "{error:?}");
        assert!(started.elapsed() < Duration::from_secs(3));
    }
}

#[test]
fn the_next_host_is_used_when_the_first_will_not_do() {
    let cluster = Cluster::start(&server_bins()[0]);
    let folder = cluster.folder.path().display();
    let port = cluster.port;
    let both = format!("host=/nonexistent,{folder} port={port} user=postgres");
    cluster.try_connect(&both).unwrap();
    cluster.try_connect(&format!("{both} target_session_attrs=primary")).unwrap();
    cluster.try_connect(&format!("{both} target_session_attrs=prefer-standby")).unwrap();
    let text = advice(cluster.try_connect(&format!("{both} target_session_attrs=standby")));
    assert!(
        text.contains("/nonexistent") && text.contains("the server is not a standby"),
        "{text}"
    );
}

#[test]
fn password_and_service_files_are_used() {
    let authority = Authority::new();
    authority.sign("server", "db.example.test", "db.example.test", "-sha256");
    let cluster = authority.cluster(&server_bins()[0]);
    let home = tempfile::tempdir().unwrap();
    let pass = home.path().join(".pgpass");
    fs::write(&pass, format!("127.0.0.1:{}:postgres:scram_user:sécret\n", cluster.port)).unwrap();
    fs::set_permissions(&pass, fs::Permissions::from_mode(0o600)).unwrap();
    let services = home.path().join(".pg_service.conf");
    let service = format!("[it]\nhost=127.0.0.1\nport={}\nuser=scram_user\n", cluster.port);
    fs::write(services, service).unwrap();
    let environment = Environment::empty().with("HOME", home.path());
    let target = Config::parse_in("service=it dbname=postgres", &environment).unwrap();
    Connection::connect(&target, &ConnectOptions::default()).unwrap();
    // A child gets there by the same means.
    let mut child = Command::new(cluster.bin.join("psql"));
    child
        .env("PGHOST", "/nonexistent")
        .env("PGSERVICE", "other")
        .args(["-Atc", "SELECT current_user"]);
    target.apply_to(&mut child).unwrap();
    let output = child.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "scram_user", "{error}");
    fs::set_permissions(&pass, fs::Permissions::from_mode(0o644)).unwrap();
    let text = advice(Connection::connect(&target, &ConnectOptions::default()));
    assert!(text.contains(".pgpass is left aside as others may read it (chmod 0600)"), "{text}");
}
