//! `flexkeep check`

use flexkeep_engine::{CheckReport, Severity};
use serde::Serialize;

use crate::args::CheckArgs;
use crate::exit::{Exit, Failure};
use crate::output::{self, Output};
use crate::render;
use crate::{source, vault};

#[derive(Serialize)]
struct Document<'a> {
    status: &'static str,
    #[serde(flatten)]
    report: &'a CheckReport,
}

pub(crate) fn run(args: &CheckArgs, output: &Output) -> Result<Exit, Failure> {
    let target = source::target(args.source.from.as_deref(), output)?;
    let chosen = vault::choose(&args.vault)?;
    let report = flexkeep_engine::check(&target, &chosen.place, &args.source.options());
    let worst = report.worst();
    if output.json {
        let status = match worst {
            Severity::Ok | Severity::Note => "ready",
            Severity::Warning => "ready_with_losses",
            Severity::Error => "not_ready",
        };
        output::json(&Document { status, report: &report })?;
    } else {
        output::text(&render::check::page(&report, output.quiet))?;
    }
    Ok(match worst {
        Severity::Ok | Severity::Note => Exit::Success,
        Severity::Warning => Exit::Losses,
        Severity::Error => Exit::Failed,
    })
}
