//! The arguments of `flexkeep export`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use flexkeep_engine::{ExportCompression, ExportFormat, ExportOptions, ExportTarget, RolesFor};

use super::{VaultArgs, count};
use crate::env_vars;

pub(super) const EXAMPLES: &str = "\
Examples:
  flexkeep export shop/latest --vault /srv/vault --to /srv/export/shop
  flexkeep export shop/latest --vault /srv/vault --to /tmp/one --database orders
  flexkeep export latest --vault /srv/vault --to /tmp/old --pg-restore 14
  flexkeep export latest --vault /srv/vault --to /tmp/dir --format directory --compress gzip:6
  flexkeep export latest --vault /srv/vault --to /tmp/part --database orders --table app.customers
  flexkeep export latest --vault https://acct.blob.core.windows.net/vault \\
      --to https://acct.blob.core.windows.net/exports/shop
  flexkeep export latest --vault /srv/vault --to - --format plain --database orders | psql -d new

The place then holds one archive a database for the stock pg_restore (or SQL for psql), roles.sql,
and README.txt with the commands that restore them.";

#[derive(Args, Debug)]
pub(crate) struct ExportArgs {
    /// An id, the beginning of one, SERVER/latest, or latest
    #[arg(value_name = "BACKUP")]
    pub(crate) backup: String,
    #[command(flatten)]
    pub(crate) vault: VaultArgs,
    /// A folder, which is made when it is not there, the https:// URL of a container or of a folder
    /// in one, or - for standard output, which takes one database and nothing else
    #[arg(long, value_name = "PLACE", allow_hyphen_values = true,
        value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) to: String,
    /// What each database is written as
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    format: FormatArg,
    /// zstd, gzip or none, with a level after a colon: zstd:-50 to zstd:19, gzip:1 to gzip:9. When
    /// not given, zstd as the vault has it (the fast way), gzip for pg_restore 15 and older, and
    /// none for plain
    #[arg(long, value_name = "METHOD[:LEVEL]", value_parser = compression)]
    compress: Option<ExportCompression>,
    /// Only this database; may be given several times
    #[arg(long, value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    database: Vec<String>,
    /// Only this schema of the one chosen database; may be given several times
    #[arg(long, value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    schema: Vec<String>,
    /// Only this table, with its rows, indexes, constraints, triggers and rights, and what it needs
    /// in an empty database; may be given several times
    #[arg(long, value_name = "[SCHEMA.]NAME",
        value_parser = clap::builder::NonEmptyStringValueParser::new())]
    table: Vec<String>,
    /// Major version of the oldest pg_restore that shall read the archives, 12 or newer; when not
    /// given that of the backup's pg_dump, but at least 16: the fast way. With plain, that of the
    /// pg_restore that writes the SQL; when not given that of the server
    #[arg(long, value_name = "MAJOR", value_parser = clap::value_parser!(u32).range(9..=99))]
    pg_restore: Option<u32>,
    /// Begin plain SQL with CREATE DATABASE
    #[arg(long)]
    create: bool,
    /// Folder of the pg_restore that writes plain SQL; searched for when not given
    /// [env: FLEXKEEP_PG_BIN]
    #[arg(long, value_name = "DIR")]
    pg_bin: Option<PathBuf>,
    /// For which kind of server roles.sql is written
    #[arg(long, value_name = "KIND", value_enum, default_value_t)]
    roles_for: RolesForArg,
    /// Replace the files of an earlier export
    #[arg(long)]
    overwrite: bool,
    /// Read and check every chunk, also where the storage service could copy it by itself
    #[arg(long)]
    verify: bool,
    /// Threads that verify and compress; as many as there are processors when not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=256))]
    threads: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum FormatArg {
    /// One file for pg_restore
    #[default]
    Custom,
    /// A folder for pg_restore
    Directory,
    /// SQL for psql, written by the stock pg_restore
    Plain,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum RolesForArg {
    /// For Flexible Server when the backup came from one, else for PostgreSQL
    #[default]
    Same,
    /// As pg_dumpall wrote it, but safe to replay
    Postgres,
    /// Without what Azure Database for PostgreSQL Flexible Server refuses
    FlexibleServer,
}

impl ExportArgs {
    pub(crate) fn options(&self, to: ExportTarget) -> ExportOptions {
        let processors =
            || std::thread::available_parallelism().map_or(2, std::num::NonZeroUsize::get);
        ExportOptions {
            to,
            databases: self.database.clone(),
            schemas: self.schema.clone(),
            tables: self.table.clone(),
            format: match self.format {
                FormatArg::Custom => ExportFormat::Custom,
                FormatArg::Directory => ExportFormat::Directory,
                FormatArg::Plain => ExportFormat::Plain,
            },
            compression: self.compress,
            pg_restore: self.pg_restore,
            create: self.create,
            pg_bin: self.pg_bin.clone().or_else(env_vars::pg_bin),
            roles_for: match self.roles_for {
                RolesForArg::Same => RolesFor::Same,
                RolesForArg::Postgres => RolesFor::Postgres,
                RolesForArg::FlexibleServer => RolesFor::FlexibleServer,
            },
            threads: self.threads.map_or_else(processors, count),
            overwrite: self.overwrite,
            verify: self.verify,
        }
    }
}

fn compression(text: &str) -> Result<ExportCompression, String> {
    let (method, level) = match text.split_once(':') {
        Some((method, level)) => (method, Some(level)),
        None => (text, None),
    };
    let level_in = |range: std::ops::RangeInclusive<i32>| -> Result<Option<i32>, String> {
        let number = level.map(|level| level.parse().ok().filter(|number| range.contains(number)));
        match number {
            Some(None) => {
                Err(format!("{method} has the levels {} to {}", range.start(), range.end()))
            }
            number => Ok(number.flatten()),
        }
    };
    match method {
        "zstd" => Ok(ExportCompression::Zstd(level_in(-50..=19)?)),
        "gzip" => Ok(ExportCompression::Gzip(level_in(1..=9)?.map(i32::unsigned_abs))),
        "none" if level.is_none() => Ok(ExportCompression::None),
        "none" => Err("none has no level".to_owned()),
        _ => Err("there are zstd, gzip and none".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compression_has_a_method_and_a_level_that_fits() {
        assert_eq!(compression("zstd"), Ok(ExportCompression::Zstd(None)));
        assert_eq!(compression("zstd:-7"), Ok(ExportCompression::Zstd(Some(-7))));
        assert_eq!(compression("gzip:9"), Ok(ExportCompression::Gzip(Some(9))));
        assert_eq!(compression("none"), Ok(ExportCompression::None));
        for wrong in ["", "lz4", "zstd:", "zstd:20", "gzip:0", "gzip:10", "none:1", "gzip:a"] {
            assert!(compression(wrong).is_err(), "{wrong:?}");
        }
    }
}
