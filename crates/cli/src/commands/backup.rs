//! `flexkeep backup`

use flexkeep_vault::manifest::Manifest;
use serde::Serialize;

use crate::args::BackupArgs;
use crate::commands::watched;
use crate::exit::{Exit, Failure};
use crate::live::SCREEN;
use crate::output::{self, Output};
use crate::render::{self, losses, units};
use crate::{source, vault};

#[derive(Serialize)]
struct Document<'a> {
    status: &'static str,
    backup: &'a str,
    duration_seconds: f64,
    manifest: &'a Manifest,
}

pub(crate) fn run(args: &BackupArgs, output: &Output) -> Result<Exit, Failure> {
    let target = source::target(args.source.from.as_deref(), output)?;
    let chosen = vault::choose(&args.vault)?;
    let (vault, made) = chosen.open_or_create()?;
    if !output.quiet {
        let what = if made { "into a new vault" } else { "into the vault" };
        SCREEN.print(&format!("backing up {} {what} in {}", target.describe(), vault.location()));
    }
    let options = args.options();
    let manifest = watched(output, |progress| {
        Ok(flexkeep_engine::backup(&target, &vault, &options, progress)?)
    })?;
    report(&manifest, &chosen, output).map_err(|failure| {
        // Nobody may overlook a loss, also not for want of a place to write it to.
        let losses = losses::block(&manifest.losses);
        if !losses.is_empty() && !output.quiet {
            SCREEN.print(losses.trim_end());
        }
        let option = chosen.option();
        failure
            .of_report(&format!("backup {} is sealed", manifest.backup))
            .hint(format!("`flexkeep show {} {option}` tells what is in it", manifest.backup))
    })?;
    Ok(if manifest.losses.is_empty() { Exit::Success } else { Exit::Losses })
}

fn report(manifest: &Manifest, chosen: &vault::Chosen, output: &Output) -> Result<(), Failure> {
    let duration = units::between(manifest.started, manifest.sealed);
    if output.json {
        return output::json(&Document {
            status: losses::status_key(manifest),
            backup: &manifest.backup,
            duration_seconds: duration.as_secs_f64(),
            manifest,
        });
    }
    if output.quiet {
        // Nobody may overlook a loss, also not who wants to read as little as possible.
        if !manifest.losses.is_empty() {
            SCREEN.print(losses::block(&manifest.losses).trim_end());
        }
        return output::text(&manifest.backup);
    }
    output::text(&render::backup::summary(manifest, &chosen.option()))
}
