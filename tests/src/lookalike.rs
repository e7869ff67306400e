//! A look-alike of Azure Database for PostgreSQL Flexible Server.
//!
//! What it has of the real one: no superuser but the platform's (`azuresu`, over the socket only);
//! an administrator with CREATEROLE and CREATEDB in `azure_pg_admin`; the platform's databases
//! and roles; `public` owned by `azure_pg_admin`, also in template0; TLS with a certificate for a
//! remote name, and nothing else; the setting `azure.extensions`. It is made after the platform's
//! documentation. What it has not: the platform's own refusals (a GRANT to `azure_pg_admin`, an
//! extension that is not allowed) and its own extensions. Here `pg_read_all_data` opens catalogs
//! too, such as password hashes, which it does not there: so the dump user reads by
//! [`Lookalike::grant_reading`] instead.

use std::fs;
use std::ops::Deref;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::geteuid;
use tempfile::TempDir;

use crate::server::postgres_ids;
use crate::{Output, Server, ServerOptions, Version, fixture, pg_command, run, run_with_input};

/// The administrator: not a superuser.
pub const ADMIN: &str = "flexadmin";
/// The role that backups are made as.
pub const DUMP_USER: &str = "flexkeep_dump";
/// The name that the server's certificate bears; it is reached by `hostaddr`.
pub const LOOKALIKE_HOST: &str = "lookalike.postgres.database.azure.com";

const SUPERUSER: &str = "azuresu";
const ADMIN_PASSWORD: &str = "admin's pass word";
const DUMP_PASSWORD: &str = "dump-pässword";
const LIMIT: Duration = Duration::from_secs(300);

/// What a [`Lookalike`] is to be.
pub struct LookalikeOptions {
    server: ServerOptions,
    host: String,
    bypass_rls: bool,
    extensions: Vec<String>,
}

impl LookalikeOptions {
    /// The dump user has BYPASSRLS, as its administrator can let it have since PostgreSQL 16.
    #[must_use]
    pub fn bypass_rls(mut self) -> Self {
        self.bypass_rls = true;
        self
    }

    /// Lets the administrator make an extension that is not a trusted one: it is in every new
    /// database already, owned by `azure_pg_admin`, as if the administrator had made it.
    #[must_use]
    pub fn allow_extension(mut self, name: &str) -> Self {
        self.extensions.push(name.into());
        self
    }

    /// The server's name, for which its certificate is made.
    #[must_use]
    pub fn host(mut self, name: &str) -> Self {
        self.host = name.into();
        self
    }

    /// A line for postgresql.conf; a later one wins.
    #[must_use]
    pub fn conf(mut self, line: &str) -> Self {
        self.server = self.server.conf(line);
        self
    }

    /// A line for pg_hba.conf, before the general ones.
    #[must_use]
    pub fn hba(mut self, line: &str) -> Self {
        self.server = self.server.hba(line);
        self
    }

    /// Makes the server and waits until it takes connections.
    #[track_caller]
    pub fn start(self) -> Lookalike {
        let tls = Tls::make(&self.host);
        let mut server = self
            .server
            .superuser(SUPERUSER)
            .conf("ssl = on")
            .conf(&format!("ssl_cert_file = '{}'", tls.path("server.crt").display()))
            .conf(&format!("ssl_key_file = '{}'", tls.path("server.key").display()))
            .conf("ssl_min_protocol_version = 'TLSv1.2'")
            .conf("password_encryption = 'scram-sha-256'");
        if !self.extensions.is_empty() {
            // Its list is a parameter of the platform.
            server = server.conf(&format!("azure.extensions = '{}'", self.extensions.join(",")));
        }
        for line in HBA {
            server = server.hba(line);
        }
        let lookalike =
            Lookalike { server: server.start(), tls, host: self.host, bypass_rls: self.bypass_rls };
        lookalike.set_up(&self.extensions);
        lookalike
    }
}

/// Nobody comes in without TLS and a password, but the platform itself.
const HBA: [&str; 4] = [
    "local all azuresu trust",
    "local all all reject",
    "hostssl all all all scram-sha-256",
    "hostnossl all all all reject",
];

/// A server like Flexible Server; a [`Server`] besides, whose `psql` is the platform's superuser.
pub struct Lookalike {
    server: Server,
    tls: Tls,
    host: String,
    bypass_rls: bool,
}

impl Deref for Lookalike {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl Lookalike {
    /// An empty one.
    #[track_caller]
    pub fn start(version: Version) -> Self {
        Self::options(version).start()
    }

    /// Starts with options to choose.
    pub fn options(version: Version) -> LookalikeOptions {
        LookalikeOptions {
            server: ServerOptions::new(version),
            host: LOOKALIKE_HOST.into(),
            bypass_rls: false,
            extensions: Vec::new(),
        }
    }

    /// One with the sample databases of `fixtures/sql/lookalike/sample.sql` and `postgres_fdw`.
    #[track_caller]
    pub fn with_sample(options: LookalikeOptions) -> Self {
        let lookalike = options.allow_extension("postgres_fdw").start();
        lookalike.psql_file("postgres", &fixture("sql/lookalike/sample.sql"));
        for database in ["postgres", "shop", "guarded", "legacy", "Odd \"Db\" 100%"] {
            lookalike.grant_reading(database);
        }
        lookalike
    }

    /// The certificate to trust.
    pub fn root_cert(&self) -> PathBuf {
        self.tls.path("ca.crt")
    }

    /// The connection string of a role, over TLS with `verify-full`; without a password if none is
    /// given.
    pub fn url_as(&self, role: &str, password: Option<&str>, database: &str) -> String {
        let mut text = format!(
            "host={} hostaddr=127.0.0.1 port={} sslrootcert={} user={} \
             dbname={} sslmode=verify-full",
            self.host,
            self.port(),
            value(&self.root_cert().to_string_lossy()),
            value(role),
            value(database)
        );
        if let Some(password) = password {
            text += &format!(" password={}", value(password));
        }
        text
    }

    /// The administrator's connection string.
    pub fn admin_url(&self, database: &str) -> String {
        self.url_as(ADMIN, Some(ADMIN_PASSWORD), database)
    }

    /// The dump user's connection string.
    pub fn dump_url(&self, database: &str) -> String {
        self.url_as(DUMP_USER, Some(DUMP_PASSWORD), database)
    }

    /// The connection string of the platform's superuser, over the socket.
    pub fn superuser_url(&self, database: &str) -> String {
        self.server.conninfo(database)
    }

    /// A stock program of a version, with the administrator's connection in its environment, as
    /// README.txt of an export asks for.
    pub fn admin_command(&self, program: &str, version: Version) -> Command {
        let mut command = pg_command(program, version);
        command
            .env("PGHOST", &self.host)
            .env("PGHOSTADDR", "127.0.0.1")
            .env("PGPORT", self.port().to_string())
            .env("PGUSER", ADMIN)
            .env("PGPASSWORD", ADMIN_PASSWORD)
            .env("PGSSLMODE", "verify-full")
            .env("PGSSLROOTCERT", self.root_cert());
        command
    }

    /// Runs a script as the administrator.
    ///
    /// # Panics
    ///
    /// If a statement fails.
    #[track_caller]
    pub fn admin_psql(&self, database: &str, sql: &str) -> String {
        self.try_admin_psql(database, sql).expect_success().text()
    }

    /// Like [`Lookalike::admin_psql`], but gives failures back.
    #[track_caller]
    pub fn try_admin_psql(&self, database: &str, sql: &str) -> Output {
        let mut command = self.admin_command("psql", self.version());
        command.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-f", "-", "-d", database]);
        run_with_input(&mut command, sql.as_bytes(), LIMIT)
    }

    /// Lets the dump user read all that is in a database by now, but for large objects.
    #[track_caller]
    pub fn grant_reading(&self, database: &str) {
        self.psql(database, GRANT_READING);
    }

    fn set_up(&self, extensions: &[String]) {
        let major = self.version().major();
        let with_admin = if major >= 16 { " WITH ADMIN OPTION" } else { "" };
        let bypass = if major >= 16 { " BYPASSRLS" } else { "" };
        let quoted = |text: &str| text.replace('\'', "''");
        let mut sql = format!(
            "CREATE ROLE azure_pg_admin NOLOGIN;
             CREATE ROLE azure_superuser NOLOGIN;
             CREATE ROLE replication NOLOGIN REPLICATION;
             GRANT pg_monitor, pg_signal_backend, pg_checkpoint, pg_read_all_data
               TO azure_pg_admin{with_admin};
             CREATE ROLE {ADMIN} LOGIN CREATEROLE CREATEDB{bypass} PASSWORD '{}';
             GRANT azure_pg_admin TO {ADMIN}{with_admin};
             CREATE DATABASE azure_maintenance;
             REVOKE ALL ON DATABASE azure_maintenance FROM PUBLIC;
             CREATE DATABASE azure_sys;
             ALTER DATABASE template0 ALLOW_CONNECTIONS true;
             SELECT pg_reload_conf();",
            quoted(ADMIN_PASSWORD),
        );
        let rights = if self.bypass_rls { " BYPASSRLS" } else { "" };
        sql += &format!(
            "SET SESSION AUTHORIZATION {ADMIN};
             CREATE ROLE {DUMP_USER} LOGIN{rights} PASSWORD '{}';",
            quoted(DUMP_PASSWORD),
        );
        self.psql("postgres", &sql);
        for database in ["template0", "template1", "postgres", "azure_sys", "azure_maintenance"] {
            let mut sql = OF_EACH_DATABASE.to_owned();
            for name in extensions.iter().filter(|_| !database.starts_with("azure_")) {
                sql += &ALLOWED_EXTENSION.replace("$NAME", name);
            }
            self.psql(database, &sql);
        }
        self.psql(
            "azure_sys",
            "CREATE SCHEMA query_store; CREATE TABLE query_store.runtime AS SELECT 1 AS id;
             ALTER DATABASE template0 ALLOW_CONNECTIONS false;",
        );
    }
}

const OF_EACH_DATABASE: &str = "
    ALTER SCHEMA public OWNER TO azure_pg_admin;
    REVOKE ALL ON pg_authid, pg_largeobject, pg_statistic, pg_subscription, pg_user_mapping
      FROM PUBLIC;
    REVOKE ALL ON pg_config, pg_file_settings, pg_hba_file_rules, pg_replication_origin_status,
      pg_shadow FROM PUBLIC;
";

const ALLOWED_EXTENSION: &str = "
    ALTER ROLE azure_pg_admin SUPERUSER;
    SET ROLE azure_pg_admin;
    CREATE EXTENSION $NAME;
    RESET ROLE;
    ALTER ROLE azure_pg_admin NOSUPERUSER;
";

const GRANT_READING: &str = "
    SELECT format('GRANT USAGE ON SCHEMA %1$I TO flexkeep_dump;
                   GRANT SELECT ON ALL TABLES IN SCHEMA %1$I TO flexkeep_dump;
                   GRANT SELECT ON ALL SEQUENCES IN SCHEMA %1$I TO flexkeep_dump', nspname)
      FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' \\gexec
";

/// An authority of the test's own, and the server's certificate.
struct Tls(TempDir);

impl Tls {
    fn make(host: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("fkt-tls-").tempdir_in("/tmp");
        let tls = Self(folder.expect("a folder in /tmp"));
        fs::set_permissions(tls.0.path(), PermissionsExt::from_mode(0o755)).expect("our folder");
        fs::write(tls.path("ext"), format!("subjectAltName=DNS:{host}\n")).expect("our folder");
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
        tls.openssl(&format!("req -x509 {key} -keyout ca.key -out ca.crt -days 30 -subj /CN=test"));
        tls.openssl(&format!("req {key} -keyout server.key -out server.csr -subj /CN=server"));
        tls.openssl(
            "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 \
             -extfile ext -out server.crt",
        );
        if geteuid().is_root() {
            let (uid, gid) = postgres_ids();
            let key = tls.path("server.key");
            chown(&key, Some(uid), Some(gid)).expect("root may give a file away");
        }
        tls
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn openssl(&self, arguments: &str) {
        let mut command = Command::new("openssl");
        command.args(arguments.split_whitespace()).current_dir::<&Path>(self.0.path());
        run(&mut command, Duration::from_secs(60)).expect_success();
    }
}

/// A value of a connection string, quoted.
fn value(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}
