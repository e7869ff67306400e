//! `flexkeep export`

use flexkeep_engine::ExportReport;
use flexkeep_vault::manifest::Loss;
use serde::Serialize;

use crate::args::ExportArgs;
use crate::commands::watched;
use crate::exit::{Exit, Failure};
use crate::output::{self, Output};
use crate::render;
use crate::vault;

#[derive(Serialize)]
struct Document<'a> {
    status: &'static str,
    backup: &'a str,
    #[serde(flatten)]
    report: &'a ExportReport,
    losses: &'a [Loss],
}

pub(crate) fn run(args: &ExportArgs, output: &Output) -> Result<Exit, Failure> {
    let vault = vault::choose(&args.vault)?.open()?;
    let manifest = vault.manifest(&vault.resolve(&args.backup)?)?;
    let options = args.options();
    let report = watched(output, |progress| {
        Ok(flexkeep_engine::export(&vault, &manifest, &options, progress)?)
    })?;
    if output.json {
        let (backup, losses) = (manifest.backup.as_str(), manifest.losses.as_slice());
        output::json(&Document { status: "exported", backup, report: &report, losses })?;
    } else if output.quiet {
        let paths = report.files.iter().map(|file| format!("{}\n", file.path.display()));
        output::write(paths.collect::<String>().as_bytes())?;
    } else {
        output::text(&render::export::summary(&manifest, &report))?;
    }
    Ok(Exit::Success)
}
