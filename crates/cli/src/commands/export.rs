//! `flexkeep export`

use std::sync::Arc;

use flexkeep_engine::{ExportReport, ExportTarget};
use flexkeep_vault::Place;
use flexkeep_vault::manifest::{Loss, Manifest};
use serde::Serialize;

use crate::args::ExportArgs;
use crate::commands::watched;
use crate::exit::{Exit, Failure};
use crate::live::SCREEN;
use crate::output::{self, Output};
use crate::render;
use crate::vault;

/// What stands for standard output.
const STDOUT: &str = "-";

#[derive(Serialize)]
struct Document<'a> {
    status: &'static str,
    backup: &'a str,
    #[serde(flatten)]
    report: &'a ExportReport,
    losses: &'a [Loss],
}

pub(crate) fn run(args: &ExportArgs, output: &Output) -> Result<Exit, Failure> {
    let to_stdout = args.to == STDOUT;
    if to_stdout && output.json {
        return Err(Failure::usage("--json and the database both want standard output")
            .hint("give another --to, or leave out --json"));
    }
    let chosen = vault::choose(&args.vault)?;
    let target = target(&args.to, &chosen.place)?;
    let vault = chosen.open()?;
    let manifest = vault.manifest(&vault.resolve(&args.backup)?)?;
    let options = args.options(target);
    let report = watched(output, |progress| {
        Ok(flexkeep_engine::export(&vault, &manifest, &options, progress)?)
    })?;
    report_of(&manifest, &report, to_stdout, output).map_err(|failure| {
        failure.of_report(&format!("the export into {} is complete", report.folder))
    })?;
    Ok(Exit::Success)
}

fn report_of(
    manifest: &Manifest,
    report: &ExportReport,
    to_stdout: bool,
    output: &Output,
) -> Result<(), Failure> {
    if to_stdout {
        let summary = if output.quiet {
            render::losses::block(&manifest.losses)
        } else {
            render::export::summary(manifest, report)
        };
        if !summary.is_empty() {
            SCREEN.print(summary.trim_end());
        }
        Ok(())
    } else if output.json {
        let (backup, losses) = (manifest.backup.as_str(), manifest.losses.as_slice());
        output::json(&Document { status: "exported", backup, report, losses })
    } else if output.quiet {
        let paths = report.files.iter().map(|file| format!("{}\n", file.path));
        output::write(paths.collect::<String>().as_bytes())
    } else {
        output::text(&render::export::summary(manifest, report))
    }
}

fn target(text: &str, vault: &Place) -> Result<ExportTarget, Failure> {
    if text == STDOUT {
        return Ok(ExportTarget::Stdout);
    }
    let url = match text.parse()? {
        Place::Folder(folder) => return Ok(ExportTarget::Folder(folder)),
        Place::Url(url) => url,
        other => return Err(Failure::usage(format!("nothing can be exported into {other}"))),
    };
    let vault = match vault {
        Place::Url(vault) => Some(vault),
        _ => None,
    };
    let target = vault::azure().open_target(&url, vault)?;
    Ok(ExportTarget::Blocks(Arc::new(target)))
}
