//! The arguments of `flexkeep restore`.

use std::time::Duration;

use clap::Args;
use flexkeep_engine::{DatabaseChoice, Existing, RestoreOptions, RestoreParts};
use flexkeep_service::{DatabaseOrder, RestoreOrder};
use flexkeep_vault::{BackupId, ServerName};

use super::functions::RequestArgs;
use super::{MAX_LANES, VaultArgs, count, stall_timeout};
use crate::exit::Failure;

pub(super) const EXAMPLES: &str = "\
Examples:
  flexkeep restore shop/latest --vault /srv/vault --into 'host=new.example.org user=admin'
  flexkeep restore shop/latest --vault /srv/vault --into ... --database orders
  flexkeep restore shop/latest --vault /srv/vault --into ... --database orders --as orders_then
  flexkeep restore shop/latest --vault /srv/vault --into ... --database orders \\
      --table app.customers --into-existing           one table that was dropped by mistake
  flexkeep restore shop/latest --vault /srv/vault --into ... --preview
  flexkeep restore shop/latest --vault /srv/vault --into ... --continue
  flexkeep restore shop/latest --target spare --wait 6h     by the function app, into its target

Exit code 0: all is there; 3: all rows are there, but the server refused definitions that are named;
1: it could not begin, or something is missing that --continue can bring; 4: the vault is damaged.";

#[derive(Args, Debug)]
pub(crate) struct RestoreArgs {
    /// An id, the beginning of one, SERVER/latest, or latest
    #[arg(value_name = "BACKUP")]
    pub(crate) backup: String,
    #[command(flatten)]
    pub(crate) vault: VaultArgs,
    /// The server to restore into, as `key=value ...` or postgresql://...; '' for PGHOST, ... alone
    #[arg(long, value_name = "CONNECTION", required_unless_present = "target")]
    pub(crate) into: Option<String>,
    /// Let a function app restore into this target of its policy. BACKUP is an id or SERVER/latest
    #[arg(long, value_name = "NAME",
        conflicts_with_all = ["into", "preview", "vault", "lanes", "stall_timeout"])]
    pub(crate) target: Option<ServerName>,
    #[command(flatten)]
    pub(crate) request: RequestArgs,
    /// Only this database, or OLD=NEW to give it another name; may be given several times
    #[arg(long, value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    database: Vec<String>,
    /// The name under which the one chosen database is restored
    #[arg(long = "as", value_name = "NAME", requires = "database",
        value_parser = clap::builder::NonEmptyStringValueParser::new())]
    restored_as: Option<String>,
    /// Only this schema of the one chosen database; may be given several times
    #[arg(long, value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    schema: Vec<String>,
    /// Only this table, with its rows, indexes, constraints, triggers and rights; may be given
    /// several times
    #[arg(long, value_name = "[SCHEMA.]NAME",
        value_parser = clap::builder::NonEmptyStringValueParser::new())]
    table: Vec<String>,
    /// Definitions without rows
    #[arg(long, conflicts_with = "data_only")]
    schema_only: bool,
    /// Rows without definitions, into tables that are there and empty
    #[arg(long)]
    data_only: bool,
    /// Restore into a database that is there; what is restored must not be in it
    #[arg(long, conflicts_with = "clean")]
    into_existing: bool,
    /// Drop what is in the way first: the database, or the chosen schemas and tables; with
    /// --data-only the tables are emptied
    #[arg(long)]
    clean: bool,
    /// Go on with a restore that was interrupted, with the same options
    #[arg(long = "continue")]
    resume: bool,
    /// Make no roles
    #[arg(long)]
    no_roles: bool,
    /// Let everything belong to the restoring role
    #[arg(long)]
    no_owner: bool,
    /// Grant no rights
    #[arg(long)]
    no_acl: bool,
    /// Read and check every chunk that is needed before anything is changed
    #[arg(long)]
    verify: bool,
    /// Show what would be done, and change nothing
    #[arg(long)]
    pub(crate) preview: bool,
    /// Connections that write at once
    #[arg(long, value_name = "N", default_value_t = 4,
        value_parser = clap::value_parser!(u64).range(1..=MAX_LANES))]
    lanes: u64,
    /// Longest silence of the server before it counts as gone, and longest wait for a lock
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = stall_timeout)]
    stall_timeout: Duration,
}

impl RestoreArgs {
    /// The server and what a function app is to restore of it into a target.
    pub(crate) fn order(&self, target: &ServerName) -> Result<(ServerName, RestoreOrder), Failure> {
        let (server, backup) = server_and_backup(&self.backup)?;
        let databases = self.databases()?.into_iter();
        let order = RestoreOrder {
            target: target.clone(),
            backup,
            databases: databases
                .map(|one| DatabaseOrder { name: one.name, restored_as: one.restored_as })
                .collect(),
            schemas: self.schema.clone(),
            tables: self.table.clone(),
            schema_only: self.schema_only,
            data_only: self.data_only,
            into_existing: self.into_existing,
            clean: self.clean,
            resume: self.resume,
            no_roles: self.no_roles,
            no_owner: self.no_owner,
            no_acl: self.no_acl,
            verify: self.verify,
        };
        Ok((server, order))
    }

    pub(crate) fn options(&self) -> Result<RestoreOptions, Failure> {
        Ok(RestoreOptions {
            databases: self.databases()?,
            schemas: self.schema.clone(),
            tables: self.table.clone(),
            parts: match (self.schema_only, self.data_only) {
                (true, _) => RestoreParts::SchemaOnly,
                (_, true) => RestoreParts::DataOnly,
                _ => RestoreParts::Everything,
            },
            existing: if self.clean {
                Existing::Clean
            } else if self.into_existing {
                Existing::Keep
            } else {
                Existing::Refuse
            },
            resume: self.resume,
            roles: !self.no_roles,
            owners: !self.no_owner,
            acls: !self.no_acl,
            verify: self.verify,
            lanes: count(self.lanes),
            stall_timeout: self.stall_timeout,
        })
    }

    fn databases(&self) -> Result<Vec<DatabaseChoice>, Failure> {
        if let Some(new) = &self.restored_as {
            let [name] = self.database.as_slice() else {
                return Err(Failure::usage("--as names one database, and several are chosen")
                    .hint("give each of them a name: --database OLD=NEW"));
            };
            let restored_as = Some(new.clone());
            return Ok(vec![DatabaseChoice { name: name.clone(), restored_as }]);
        }
        let choice = |text: &String| match text.split_once('=') {
            Some((name, new)) if !name.is_empty() && !new.is_empty() => {
                DatabaseChoice { name: name.to_owned(), restored_as: Some(new.to_owned()) }
            }
            _ => DatabaseChoice { name: text.clone(), restored_as: None },
        };
        Ok(self.database.iter().map(choice).collect())
    }
}

/// An id of a backup, or SERVER/latest: what says itself which server is meant.
fn server_and_backup(text: &str) -> Result<(ServerName, String), Failure> {
    if let Some(server) = text.strip_suffix("/latest") {
        let server = server.parse().map_err(|error| Failure::usage(format!("{error}")))?;
        return Ok((server, "latest".to_owned()));
    }
    match text.parse::<BackupId>() {
        Ok(id) => Ok((id.server().clone(), id.to_string())),
        Err(_) => Err(Failure::usage(
            "with --target, BACKUP is SERVER/latest or the whole id of a backup",
        )
        .hint("`flexkeep list` shows the ids")),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn parsed(more: &[&str]) -> RestoreArgs {
        let line =
            [&["flexkeep", "restore", "latest", "--vault", "v", "--into", ""], more].concat();
        let Command::Restore(args) = Cli::try_parse_from(line).unwrap().command else { panic!() };
        *args
    }

    #[test]
    fn what_is_not_given_is_as_the_engine_has_it() {
        let (ours, engine) = (parsed(&[]).options().unwrap(), RestoreOptions::default());
        assert_eq!(format!("{ours:?}"), format!("{engine:?}"));
    }

    #[test]
    fn a_function_app_is_asked_for_the_same_that_is_done_here() {
        let line = |more: &[&str]| {
            let line =
                [&["flexkeep", "restore", "shop/latest", "--target", "spare"], more].concat();
            Cli::try_parse_from(line).map(|cli| cli.command)
        };
        let more = ["--database", "a=b", "--table", "t", "--clean", "--no-roles", "--verify"];
        let Ok(Command::Restore(args)) = line(&more) else { panic!() };
        let (server, order) = args.order(&"spare".parse().unwrap()).unwrap();
        assert_eq!((server.as_str(), order.backup.as_str()), ("shop", "latest"));
        let here = serde_json::to_value(&order).unwrap();
        let expected = serde_json::json!({
            "target": "spare", "backup": "latest", "databases": [{"name": "a", "as": "b"}],
            "tables": ["t"], "clean": true, "no_roles": true, "verify": true,
        });
        assert_eq!(here, expected);
        let Ok(Command::Restore(args)) = line(&["--clean", "--continue"]) else { panic!() };
        let options = args.options().unwrap();
        assert_eq!((options.existing, options.resume), (Existing::Clean, true));
        for wrong in [["--into", ""], ["--vault", "v"], ["--lanes", "2"]] {
            assert!(line(&wrong).is_err(), "{wrong:?}");
        }
        assert!(server_and_backup("shop-2026").is_err());
        assert!(server_and_backup("shop-20261122T225300Z").is_ok());
    }

    #[test]
    fn a_database_may_get_another_name_in_two_ways() {
        let names = |more: &[&str]| {
            let all = parsed(more).options().unwrap().databases;
            all.into_iter().map(|one| (one.name, one.restored_as)).collect::<Vec<_>>()
        };
        let (a, b) = ("a".to_owned(), "b".to_owned());
        assert_eq!(names(&["--database", "a=b"]), [(a.clone(), Some(b.clone()))]);
        assert_eq!(names(&["--database", "a", "--as", "b"]), [(a.clone(), Some(b.clone()))]);
        assert_eq!(names(&["--database", "a", "--database", "b"]), [(a, None), (b, None)]);
        let several = parsed(&["--database", "a", "--database", "b", "--as", "c"]);
        assert!(several.options().is_err());
    }
}
