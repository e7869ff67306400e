//! `flexkeep show`

use flexkeep_vault::manifest::Manifest;
use jiff::Timestamp;
use serde::Serialize;

use crate::args::ShowArgs;
use crate::exit::{Exit, Failure};
use crate::output::{self, Output};
use crate::render::{self, losses};
use crate::vault;

#[derive(Serialize)]
struct Document<'a> {
    status: &'static str,
    backup: &'a str,
    manifest: &'a Manifest,
}

pub(crate) fn run(args: &ShowArgs, output: &Output) -> Result<Exit, Failure> {
    let chosen = vault::choose(&args.vault)?;
    let vault = chosen.open()?;
    let manifest = vault.manifest(&vault.resolve(&args.backup)?)?;
    if output.json {
        output::json(&Document {
            status: losses::status_key(&manifest),
            backup: &manifest.backup,
            manifest: &manifest,
        })?;
    } else {
        output::text(&render::show::page(&manifest, &chosen.option(), Timestamp::now()))?;
    }
    Ok(Exit::Success)
}
