//! `flexkeep verify`

use flexkeep_engine::{VerifyOptions, VerifyReport};
use jiff::Timestamp;
use serde::Serialize;

use crate::args::VerifyArgs;
use crate::commands::watched;
use crate::exit::{Exit, Failure};
use crate::output::{self, Output};
use crate::render;
use crate::vault;

#[derive(Serialize)]
struct Document<'a> {
    status: &'static str,
    #[serde(flatten)]
    report: &'a VerifyReport,
}

pub(crate) fn run(args: &VerifyArgs, output: &Output) -> Result<Exit, Failure> {
    let vault = vault::choose(&args.vault)?.open()?;
    let backups = args.backups.iter().map(|one| vault.resolve(one)).collect::<Result<_, _>>()?;
    let drawn = Timestamp::now().as_nanosecond().unsigned_abs() as u64;
    let options = VerifyOptions { backups, depth: args.depth(drawn), threads: args.threads() };
    let report =
        watched(output, |progress| Ok(flexkeep_engine::verify(&vault, &options, progress)?))?;
    let sound = report.is_sound();
    if output.json {
        let status = if sound { "sound" } else { "damaged" };
        output::json(&Document { status, report: &report })?;
    } else if !(output.quiet && sound) {
        output::text(&render::verify::page(&report))?;
    }
    Ok(if sound { Exit::Success } else { Exit::Damage })
}
