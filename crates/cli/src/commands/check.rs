//! `flexkeep check`

use std::path::Path;

use flexkeep_engine::{BackupOptions, CheckReport, Severity};
use flexkeep_policy::{Policy, ProcessEnv, ServerPolicy};
use flexkeep_service::TargetError;
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
    if let Some(policy) = &args.policy {
        return of_policy(policy, args, output);
    }
    let target = source::target(args.source.from.as_deref(), output)?;
    let chosen = vault::choose(&args.vault)?;
    let report = flexkeep_engine::check(
        &target,
        &chosen.place,
        vault::remote().as_ref(),
        &args.source.options(),
    );
    let worst = report.worst();
    if output.json {
        output::json(&Document { status: status(worst), report: &report })?;
    } else {
        output::text(&render::check::page(&report, output.quiet))?;
    }
    Ok(exit(worst))
}

#[derive(Serialize)]
struct Checked {
    server: String,
    status: &'static str,
    #[serde(flatten)]
    report: CheckReport,
}

/// Checks the servers of a policy one after the other; the worst counts.
fn of_policy(path: &Path, args: &CheckArgs, output: &Output) -> Result<Exit, Failure> {
    let wrong = |error| Failure::new(Exit::Usage, anyhow::Error::new(error));
    let policy = Policy::load(path, &ProcessEnv).map_err(wrong)?;
    let chosen: Vec<ServerPolicy> = match &args.source.name {
        Some(name) => {
            let known: Vec<&str> =
                policy.servers().iter().map(|server| server.name().as_str()).collect();
            let server = policy.server(name.as_str()).ok_or_else(|| {
                Failure::usage(format!("the policy has no server {name}"))
                    .hint(format!("it has {}", known.join(", ")))
            })?;
            vec![server.clone()]
        }
        None => policy.servers().iter().filter(|server| server.enabled()).cloned().collect(),
    };
    let place = policy.vault().clone();
    // What the environment lacks for a server that is not looked at is no matter here.
    if args.source.name.is_none() {
        policy.strict().map_err(wrong)?;
    }
    let mut all = Vec::new();
    for server in chosen {
        let target = flexkeep_service::target(&server).map_err(|error| match error {
            TargetError::Policy(problems) => {
                let text: Vec<String> = problems.iter().map(ToString::to_string).collect();
                Failure::usage(text.join("\n"))
            }
            other => Failure::new(Exit::Usage, anyhow::Error::new(other)),
        })?;
        let options = BackupOptions {
            name: Some(server.name().clone()),
            lanes: server.lanes() as usize,
            exclude_databases: server.exclude_databases().to_vec(),
            ..args.source.options()
        };
        let report = flexkeep_engine::check(&target, &place, vault::remote().as_ref(), &options);
        if !output.json {
            let page = render::check::page(&report, output.quiet);
            output::text(&format!("{}\n{page}", server.name()))?;
        }
        let server = server.name().to_string();
        all.push(Checked { server, status: status(report.worst()), report });
    }
    if all.is_empty() {
        return Err(Failure::usage("no server of the policy is enabled"));
    }
    let worst = all.iter().map(|one| one.report.worst()).max().unwrap_or(Severity::Ok);
    if output.json {
        output::json(&serde_json::json!({"status": status(worst), "servers": all}))?;
    }
    Ok(exit(worst))
}

fn status(worst: Severity) -> &'static str {
    match worst {
        Severity::Ok | Severity::Note => "ready",
        Severity::Warning => "ready_with_losses",
        Severity::Error => "not_ready",
    }
}

fn exit(worst: Severity) -> Exit {
    match worst {
        Severity::Ok | Severity::Note => Exit::Success,
        Severity::Warning => Exit::Losses,
        Severity::Error => Exit::Failed,
    }
}
