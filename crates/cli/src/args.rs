//! The command line.

mod export;
mod functions;
mod restore;
mod verify;

pub(crate) use export::ExportArgs;
pub(crate) use functions::{
    AppArgs, DeadLettersArgs, DrillArgs, HostArgs, RequestArgs, StatusArgs, TriggerArgs,
};
pub(crate) use restore::RestoreArgs;
pub(crate) use verify::VerifyArgs;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use flexkeep_engine::{BackupOptions, DEFAULT_LEVEL};
use flexkeep_vault::ServerName;
use jiff::SignedDuration;

use crate::env_vars;
use crate::output::{Output, ProgressMode};

/// Most connections that one backup may open for data; a server has few hundred in all.
const MAX_LANES: u64 = 64;

/// The longest `--stall-timeout`.
const MAX_STALL_HOURS: i64 = 24;

const ABOUT: &str = "Backs up PostgreSQL servers into a deduplicating vault, natively restorable";

pub(crate) const EXIT_CODES: &str = "\
Exit codes:
    0  success
    1  failed: nothing was sealed, a restore is incomplete, or a drill did not pass
    2  usage or bad input: arguments, connection string, policy, settings, unknown backup
    3  sealed with losses (backup), losses to expect (check), or definitions refused (restore)
    4  damage found in the vault
    5  busy: another backup or drill of this server, or restore into this database, is running
    6  done, but the report could not be written to standard output (backup, export, restore)
  130  cancelled by Ctrl-C or SIGTERM; nothing was sealed, and a restore can be continued

Environment:
  FLEXKEEP_FROM   connection string, where --from is not given
  FLEXKEEP_VAULT  the vault, where --vault is not given
  FLEXKEEP_URL    the function app, for trigger, status, drill and restore --target; FLEXKEEP_API_KEY its key
  FLEXKEEP_PG_BIN folder of pg_dump, where --pg-bin is not given
  FLEXKEEP_LOG    log filter, such as debug or flexkeep_engine=trace
  PGPASSWORD, PGHOST, PGSSLMODE, ...  complete the connection string, as in libpq";

const EXAMPLES: &str = "\
Examples:
  export FLEXKEEP_VAULT=/srv/vault
  flexkeep check  --from 'host=db.example.org user=backup'
  flexkeep backup --from 'host=db.example.org user=backup' --name shop
  flexkeep list
  flexkeep show   shop/latest
  flexkeep export shop/latest --to /srv/export/shop
  flexkeep restore shop/latest --into 'host=new.example.org user=admin'";

const BACKUP_EXAMPLES: &str = "\
Examples:
  PGPASSWORD=... flexkeep backup --from 'host=db.example.org user=backup dbname=postgres' \\
      --vault /srv/vault --name shop --lanes 4
  flexkeep backup --from 'service=shop' --vault /srv/vault --exclude-database scratch
  flexkeep backup --from '' --vault /srv/vault      everything from PGHOST, PGUSER, ...
  id=$(flexkeep backup -q --from ... --vault ...)   prints the id only

Exit code 3 means: sealed, and good to restore from, but without what the block NOT BACKED UP
names.";

const LIST_EXAMPLES: &str = "\
Examples:
  flexkeep list --vault /srv/vault
  flexkeep list --vault /srv/vault --name shop
  flexkeep list --vault /srv/vault --json | jq -r '.backups[-1].backup'";

const SHOW_EXAMPLES: &str = "\
Examples:
  flexkeep show shop/latest --vault /srv/vault
  flexkeep show shop-20261122 --vault /srv/vault    the only backup of that day
  flexkeep show latest --vault /srv/vault --json | jq '.manifest.losses'";

const CHECK_EXAMPLES: &str = "\
Examples:
  flexkeep check --from 'host=db.example.org user=backup' --vault /srv/vault
  flexkeep check --policy policy.toml            all servers of a function app
  flexkeep check --policy policy.toml --name shop

Exit code 0: a backup will succeed; 1: it would fail; 3: it would succeed with losses.";

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  flexkeep completions bash > ~/.local/share/bash-completion/completions/flexkeep
  flexkeep completions zsh > \"${fpath[1]}/_flexkeep\"
  flexkeep completions fish > ~/.config/fish/completions/flexkeep.fish";

#[derive(Debug, Parser)]
#[command(name = "flexkeep", version, about = ABOUT, after_help = EXIT_CODES,
    after_long_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"), max_term_width = 100,
    subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Output")]
pub(crate) struct CommonArgs {
    /// Write the result to standard output as one JSON document
    #[arg(long, global = true)]
    json: bool,
    /// Only errors, losses and the bare result; no progress
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Log what is done to standard error; -vv for details
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// How progress is shown on standard error
    #[arg(long, global = true, value_enum, default_value_t, value_name = "HOW")]
    progress: ProgressArg,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum ProgressArg {
    /// One live line on a terminal, lines elsewhere, nothing with --json or --quiet
    #[default]
    Auto,
    /// One line that is rewritten
    Live,
    /// A line every ten seconds
    Lines,
    /// A JSON document a line, every second
    Json,
    /// Nothing
    None,
}

impl CommonArgs {
    /// What and how the command writes.
    pub(crate) fn output(&self) -> Output {
        let mode = match self.progress {
            ProgressArg::Auto if self.json || self.quiet => ProgressMode::None,
            ProgressArg::Auto => ProgressMode::for_stderr(),
            ProgressArg::Live => ProgressMode::Live,
            ProgressArg::Lines => ProgressMode::Lines,
            ProgressArg::Json => ProgressMode::Json,
            ProgressArg::None => ProgressMode::None,
        };
        Output { json: self.json, quiet: self.quiet, verbose: self.verbose, progress: mode }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Back up all databases and roles of a server into a vault
    #[command(after_help = BACKUP_EXAMPLES)]
    Backup(BackupArgs),
    /// List the backups of a vault, newest last
    #[command(after_help = LIST_EXAMPLES)]
    List(ListArgs),
    /// Show one backup: its databases, its losses, and how to restore it
    #[command(after_help = SHOW_EXAMPLES)]
    Show(ShowArgs),
    /// Write a backup as archives for pg_restore, verifying every byte
    #[command(after_help = export::EXAMPLES)]
    Export(Box<ExportArgs>),
    /// Restore a backup, or a part of it, into a server
    #[command(after_help = restore::EXAMPLES)]
    Restore(Box<RestoreArgs>),
    /// Restore the newest backup of a server into a scratch database, check it, and drop it
    #[command(after_help = functions::DRILL_EXAMPLES)]
    Drill(Box<DrillArgs>),
    /// Read a vault and find out whether its backups are whole
    #[command(after_help = verify::EXAMPLES)]
    Verify(VerifyArgs),
    /// Find out whether a backup would succeed, and what it could not read
    #[command(after_help = CHECK_EXAMPLES)]
    Check(CheckArgs),
    /// Show for each server what is scheduled, running, and backed up last
    #[command(after_help = functions::STATUS_EXAMPLES)]
    Status(StatusArgs),
    /// Ask a function app for a backup, or run its schedule
    #[command(after_help = functions::TRIGGER_EXAMPLES)]
    Trigger(TriggerArgs),
    /// Run the function app on this machine, as the Azure Functions host does
    #[command(after_help = functions::HOST_EXAMPLES)]
    Host(HostArgs),
    /// Show the messages of a function app that failed too often; send them again, or remove them
    #[command(after_help = functions::DEAD_LETTERS_EXAMPLES)]
    DeadLetters(DeadLettersArgs),
    /// Write the completion script of a shell to standard output
    #[command(after_help = COMPLETIONS_EXAMPLES)]
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
}

#[derive(Args, Debug)]
pub(crate) struct VaultArgs {
    /// The vault: a folder, or the https:// URL of a blob container [env: FLEXKEEP_VAULT]
    #[arg(long, value_name = "PLACE")]
    pub(crate) vault: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct SourceArgs {
    /// The server, as `key=value ...` or postgresql://...; '' for PGHOST, PGUSER, ... alone
    /// [env: FLEXKEEP_FROM]
    ///
    /// Passwords belong in PGPASSWORD, a password file or FLEXKEEP_FROM: other users of the
    /// machine can read a command line.
    #[arg(long, value_name = "CONNECTION")]
    pub(crate) from: Option<String>,
    /// The server's name in the vault; made from the host (and a port other than 5432) when not given
    #[arg(long, value_name = "SERVER")]
    pub(crate) name: Option<ServerName>,
    /// Leave this database out; may be given several times
    #[arg(long, value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) exclude_database: Vec<String>,
    /// Folder of pg_dump and pg_dumpall; the newest that is installed when not given
    /// [env: FLEXKEEP_PG_BIN]
    #[arg(long, value_name = "DIR")]
    pub(crate) pg_bin: Option<PathBuf>,
    /// Leave out the password hashes of roles
    #[arg(long)]
    pub(crate) no_role_passwords: bool,
    /// Connections that read data at once
    #[arg(long, value_name = "N", default_value_t = 2,
        value_parser = clap::value_parser!(u64).range(1..=MAX_LANES))]
    pub(crate) lanes: u64,
    /// Longest silence of the server before it counts as gone, such as 90s, 10m or 1h30m
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = stall_timeout)]
    pub(crate) stall_timeout: Duration,
}

#[derive(Args, Debug)]
pub(crate) struct BackupArgs {
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    #[command(flatten)]
    pub(crate) vault: VaultArgs,
    /// Leave this many of the server's connections to others: go on with fewer lanes where fewer are
    /// free
    #[arg(long, value_name = "N", default_value_t = 3,
        value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub(crate) keep_connections_free: u32,
    /// Read each table whole, by one lane, which leaves the server's cache to others; large tables
    /// are read by several lanes at once otherwise
    #[arg(long)]
    pub(crate) no_split: bool,
    /// zstd level of the data, -50 (fast) to 19 (small)
    #[arg(long, value_name = "N", default_value_t = DEFAULT_LEVEL, allow_negative_numbers = true,
        value_parser = clap::value_parser!(i32).range(-50..=19))]
    pub(crate) level: i32,
    /// Snapshots that are tried for one database before the backup fails
    #[arg(long, value_name = "N", default_value_t = 5,
        value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) attempts: u32,
}

#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub(crate) vault: VaultArgs,
    /// Only the backups of this server
    #[arg(long, value_name = "SERVER")]
    pub(crate) name: Option<ServerName>,
}

#[derive(Args, Debug)]
pub(crate) struct ShowArgs {
    /// An id, the beginning of one, SERVER/latest, or latest
    #[arg(value_name = "BACKUP")]
    pub(crate) backup: String,
    #[command(flatten)]
    pub(crate) vault: VaultArgs,
}

#[derive(Args, Debug)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    /// Check a policy, and each of its servers that is enabled; with --name only that one
    #[arg(long, value_name = "FILE", conflicts_with_all = ["from", "vault", "exclude_database"])]
    pub(crate) policy: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) vault: VaultArgs,
}

impl SourceArgs {
    /// What they say about a backup; the rest is as usual.
    pub(crate) fn options(&self) -> BackupOptions {
        BackupOptions {
            name: self.name.clone(),
            lanes: count(self.lanes),
            exclude_databases: self.exclude_database.clone(),
            pg_bin: self.pg_bin.clone().or_else(env_vars::pg_bin),
            role_passwords: !self.no_role_passwords,
            stall_timeout: self.stall_timeout,
            tool: concat!("flexkeep ", env!("CARGO_PKG_VERSION")).to_owned(),
            ..BackupOptions::default()
        }
    }
}

impl BackupArgs {
    pub(crate) fn options(&self) -> BackupOptions {
        BackupOptions {
            level: self.level,
            attempts: self.attempts,
            keep_connections_free: self.keep_connections_free,
            split_tables: !self.no_split,
            ..self.source.options()
        }
    }
}

fn count(number: u64) -> usize {
    usize::try_from(number).expect("its range is checked when it is parsed")
}

fn stall_timeout(text: &str) -> Result<Duration, String> {
    let wrong = || "write it as 90s, 10m or 1h30m".to_owned();
    let time: SignedDuration = text.parse().map_err(|_| wrong())?;
    if time < SignedDuration::from_secs(1) || time > SignedDuration::from_hours(MAX_STALL_HOURS) {
        return Err(format!("it must be from 1s to {MAX_STALL_HOURS}h"));
    }
    Duration::try_from(time).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_has_no_contradictions() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_stall_timeout_has_a_unit_and_bounds() {
        assert_eq!(stall_timeout("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(stall_timeout("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(stall_timeout("1h30m"), Ok(Duration::from_secs(5400)));
        for wrong in ["", "10", "0s", "500ms", "-1m", "25h", "soon", "999999999999999999999h"] {
            assert!(stall_timeout(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn what_is_not_given_is_as_the_engine_has_it() {
        let line = ["flexkeep", "backup", "--from", "", "--vault", "v"];
        let Command::Backup(args) = Cli::try_parse_from(line).unwrap().command else { panic!() };
        let (given, usual) = (args.options(), BackupOptions::default());
        assert_eq!(
            (given.lanes, given.level, given.attempts),
            (usual.lanes, usual.level, usual.attempts)
        );
        assert_eq!(given.stall_timeout, usual.stall_timeout);
        assert!(given.role_passwords && usual.role_passwords);
        assert_eq!(given.keep_connections_free, usual.keep_connections_free);
        assert!(given.split_tables && usual.split_tables);
    }

    #[test]
    fn a_negative_level_is_no_option() {
        let line = ["flexkeep", "backup", "--level", "-3", "--lanes", "4"];
        let Command::Backup(args) = Cli::try_parse_from(line).unwrap().command else { panic!() };
        assert_eq!((args.level, args.options().lanes), (-3, 4));
        for wrong in [["--level", "20"], ["--lanes", "0"], ["--lanes", "65"], ["--attempts", "0"]] {
            assert!(Cli::try_parse_from(["flexkeep", "backup"].iter().chain(&wrong)).is_err());
        }
    }
}
