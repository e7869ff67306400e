//! `flexkeep restore`

use flexkeep_engine::{RestoreError, RestorePlan, RestoreReport, RestoreStatus, Severity};
use flexkeep_service::What;
use flexkeep_vault::manifest::Loss;
use serde::Serialize;

use crate::args::RestoreArgs;
use crate::commands::{request, watched};
use crate::exit::{Exit, Failure};
use crate::live::SCREEN;
use crate::output::{self, Output};
use crate::render;
use crate::{source, vault};

#[derive(Serialize)]
struct Preview<'a> {
    status: &'static str,
    #[serde(flatten)]
    plan: &'a RestorePlan,
}

#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    report: &'a RestoreReport,
    losses: &'a [Loss],
}

pub(crate) fn run(args: &RestoreArgs, output: &Output) -> Result<Exit, Failure> {
    if let Some(target) = &args.target {
        let (server, order) = args.order(target)?;
        let order = serde_json::json!({"server": server, "restore": order});
        return request::run(What::Restore, &order, &args.request, output);
    }
    let options = args.options()?;
    let into = source::named_by("--into", args.into.as_deref().unwrap_or_default(), output)?;
    let vault = vault::choose(&args.vault)?.open()?;
    let backup = vault.resolve(&args.backup)?;
    if args.preview {
        let plan = watched(output, |progress| {
            Ok(flexkeep_engine::plan_restore(&vault, &backup, &into, &options, progress)?)
        })?;
        return preview(&plan, output);
    }
    if !output.quiet {
        SCREEN.print(&format!("restoring {backup} into {}", into.describe()));
    }
    let report = watched(output, |progress| {
        let restored = flexkeep_engine::restore(&vault, &backup, &into, &options, progress);
        restored.map_err(|error| told(error, output))
    })?;
    let manifest = vault.manifest(&backup)?;
    let reported = if output.json {
        output::json(&Document { report: &report, losses: &manifest.losses })
    } else if output.quiet {
        SCREEN.print(render::restore::troubles(&report).trim_end());
        Ok(())
    } else {
        output::text(&render::restore::summary(&report, &manifest.losses))
    };
    let (exit, done) = match report.status {
        RestoreStatus::Complete => (Exit::Success, "the restore is complete"),
        RestoreStatus::WithFailures => {
            (Exit::Losses, "the restore is complete, but for definitions that were refused")
        }
        RestoreStatus::Incomplete => (Exit::Failed, ""),
    };
    match reported {
        Ok(()) => Ok(exit),
        Err(failure) if exit == Exit::Failed => Err(failure),
        Err(failure) => Err(failure.of_report(done)),
    }
}

fn preview(plan: &RestorePlan, output: &Output) -> Result<Exit, Failure> {
    let fit = !plan.findings.iter().any(|finding| finding.severity == Severity::Error);
    let status = if fit { "ready" } else { "not_ready" };
    if output.json {
        output::json(&Preview { status, plan })?;
    } else {
        output::text(&render::restore::plan(plan))?;
    }
    Ok(if fit { Exit::Success } else { Exit::Failed })
}

/// Shows what is there before the error is told.
fn told(error: RestoreError, output: &Output) -> Failure {
    if let Some(report) = error.report()
        && !output.json
    {
        SCREEN.print(render::restore::there(report).trim_end());
    }
    error.into()
}
