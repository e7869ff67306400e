//! The commands that have to do with the function app.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use flexkeep_vault::{BackupId, ServerName};
use jiff::SignedDuration;

use super::VaultArgs;

/// The longest `--wait`.
const MAX_WAIT_DAYS: i64 = 7;

pub(crate) const HOST_EXAMPLES: &str = "\
Examples:
  make app                                       puts the function app into target/app
  flexkeep host --app target/app
  flexkeep host --app /opt/flexkeep --settings /etc/flexkeep/settings.json --state /var/lib/flexkeep

The app's folder has host.json, the handler, and a folder with function.json for each function. The
settings are those of local.settings.json, and the environment, which wins. docs/self-hosting.md has
a systemd unit and a compose file.";

pub(crate) const TRIGGER_EXAMPLES: &str = "\
Examples:
  flexkeep trigger shop                          asks the local host for a backup
  flexkeep trigger shop --wait 2h                and waits until it is sealed, or has failed
  flexkeep trigger --schedule                    runs the schedule now: whatever is due is sent
  FLEXKEEP_API_KEY=... flexkeep trigger shop --url https://my-app.azurewebsites.net";

pub(crate) const STATUS_EXAMPLES: &str = "\
Examples:
  flexkeep status --vault /srv/vault             from any machine that sees the vault
  flexkeep status --policy policy.toml           with what the policy wants
  flexkeep status --url http://127.0.0.1:7071    by way of the function app
  flexkeep status --vault /srv/vault --json | jq '.servers[].runs'";

/// A function app on this machine.
#[derive(Args, Debug)]
pub(crate) struct AppArgs {
    /// The function app: the folder of host.json
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    pub(crate) app: PathBuf,
    /// The settings; local.settings.json in the app's folder when not given
    #[arg(long, value_name = "FILE")]
    pub(crate) settings: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct HostArgs {
    #[command(flatten)]
    pub(crate) app: AppArgs,
    /// Where the host keeps the state of timers and its keys; `.host-state` in the app's folder when not
    /// given
    #[arg(long, value_name = "FOLDER")]
    pub(crate) state: Option<PathBuf>,
    /// Where HTTP requests are taken
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7071")]
    pub(crate) listen: SocketAddr,
    /// Ask for keys on the loopback address too; elsewhere they are asked for always
    #[arg(long)]
    pub(crate) require_keys: bool,
    /// How long functions at work may go on after SIGTERM or Ctrl-C
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = grace)]
    pub(crate) grace: Duration,
}

#[derive(Args, Debug)]
pub(crate) struct AppUrlArgs {
    /// The function app [env: FLEXKEEP_URL] [default: http://127.0.0.1:7071]
    ///
    /// Its key, where it wants one, is taken from FLEXKEEP_API_KEY.
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<String>,
}

pub(crate) const DEAD_LETTERS_EXAMPLES: &str = "\
Examples:
  flexkeep dead-letters --app target/app               lists them
  flexkeep dead-letters --app target/app --resubmit 12 delivers number 12 again
  flexkeep dead-letters --app target/app --purge 12    removes it for good

A message becomes a dead letter when it was delivered ten times without success. Mend the cause
first; the host's log has it. On Azure, the portal's Service Bus Explorer does the same.";

#[derive(Args, Debug)]
pub(crate) struct DeadLettersArgs {
    #[command(flatten)]
    pub(crate) app: AppArgs,
    /// Put this one back on its queue, as if it had just been sent; may be given several times
    #[arg(long, value_name = "ID", conflicts_with = "purge")]
    pub(crate) resubmit: Vec<i64>,
    /// Remove this one for good; may be given several times
    #[arg(long, value_name = "ID")]
    pub(crate) purge: Vec<i64>,
}

/// How a function app is asked for something that takes a while.
#[derive(Args, Debug)]
#[command(next_help_heading = "Function app")]
pub(crate) struct RequestArgs {
    #[command(flatten)]
    pub(crate) app: AppUrlArgs,
    /// Makes several calls one request
    #[arg(long, value_name = "KEY")]
    pub(crate) idempotency_key: Option<String>,
    /// Wait for the end of what is asked for, at most this long, such as 30m or 6h
    #[arg(long, value_name = "TIME", value_parser = wait)]
    pub(crate) wait: Option<Duration>,
}

pub(crate) const DRILL_EXAMPLES: &str = "\
Examples:
  flexkeep drill shop --policy policy.toml       the drill of the policy, here and now
  flexkeep drill shop --policy policy.toml --database orders
  flexkeep drill shop --wait 2h                  by the function app

Exit code 0: the drill passed; 1: it did not pass, or could not be run.";

#[derive(Args, Debug)]
pub(crate) struct DrillArgs {
    /// The server, by its name in the policy; the policy has a [[drill]] for it
    #[arg(value_name = "SERVER")]
    pub(crate) server: ServerName,
    /// Run it here, as this policy says, instead of asking a function app; no event is published
    #[arg(long, value_name = "FILE", conflicts_with_all = ["url", "idempotency_key", "wait"])]
    pub(crate) policy: Option<PathBuf>,
    /// The id of a backup; the newest one when not given
    #[arg(long, value_name = "BACKUP")]
    pub(crate) backup: Option<BackupId>,
    /// This database, in place of those that the policy says; may be given several times
    #[arg(long, value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) database: Vec<String>,
    #[command(flatten)]
    pub(crate) request: RequestArgs,
}

#[derive(Args, Debug)]
pub(crate) struct TriggerArgs {
    /// The server, by its name in the policy
    #[arg(
        value_name = "SERVER",
        required_unless_present = "schedule",
        conflicts_with = "schedule"
    )]
    pub(crate) server: Option<ServerName>,
    /// Run the schedule now instead of at its next tick (needs the app's master key)
    #[arg(long)]
    pub(crate) schedule: bool,
    #[command(flatten)]
    pub(crate) app: AppUrlArgs,
    /// Makes several calls one request
    #[arg(long, value_name = "KEY", conflicts_with = "schedule")]
    pub(crate) idempotency_key: Option<String>,
    /// Wait until the backup is sealed or has failed, at most this long, such as 30m or 6h
    #[arg(long, value_name = "TIME", value_parser = wait, conflicts_with = "schedule")]
    pub(crate) wait: Option<Duration>,
}

#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) vault: VaultArgs,
    /// The policy: servers, schedules, and the vault
    #[arg(long, value_name = "FILE", conflicts_with = "vault")]
    pub(crate) policy: Option<PathBuf>,
    /// Ask a function app instead; its key is taken from FLEXKEEP_API_KEY
    #[arg(long, value_name = "URL", conflicts_with_all = ["vault", "policy"])]
    pub(crate) url: Option<String>,
    /// Only this server
    #[arg(long, value_name = "SERVER")]
    pub(crate) name: Option<ServerName>,
}

fn grace(text: &str) -> Result<Duration, String> {
    time(text, SignedDuration::from_hours(24))
}

fn wait(text: &str) -> Result<Duration, String> {
    time(text, SignedDuration::from_hours(24 * MAX_WAIT_DAYS))
}

/// A time such as `90s` or `1h30m`, up to a limit.
fn time(text: &str, limit: SignedDuration) -> Result<Duration, String> {
    let time: SignedDuration =
        text.parse().map_err(|_| "expected a time such as 90s, 10m or 1h30m".to_owned())?;
    if time < SignedDuration::ZERO || time > limit {
        return Err(format!("expected a time up to {limit:#}"));
    }
    time.try_into().map_err(|_| "expected a time such as 90s, 10m or 1h30m".to_owned())
}
