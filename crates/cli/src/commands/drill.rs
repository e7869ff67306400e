//! `flexkeep drill`

use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;

use flexkeep_engine::{Progress, chain};
use flexkeep_policy::{Policy, ProcessEnv};
use flexkeep_service::{Drill, DrillError, DrillOrder, DrillResult, ServiceError, What};
use flexkeep_vault::Vault;
use jiff::Timestamp;
use serde::Serialize;

use crate::args::DrillArgs;
use crate::commands::{request, watched};
use crate::exit::{Exit, Failure};
use crate::live::SCREEN;
use crate::output::{self, Output};
use crate::{render, vault};

#[derive(Serialize)]
struct Document<'a> {
    status: &'static str,
    why: Option<String>,
    #[serde(flatten)]
    result: &'a DrillResult,
}

pub(crate) fn run(args: &DrillArgs, output: &Output) -> Result<Exit, Failure> {
    if let Some(policy) = &args.policy {
        return here(policy, args, output);
    }
    let backup = args.backup.as_ref().map_or_else(|| "latest".to_owned(), ToString::to_string);
    let drill = DrillOrder { backup, databases: args.database.clone() };
    let order = serde_json::json!({"server": args.server, "drill": drill});
    request::run(What::Drill, &order, &args.request, output)
}

fn here(path: &Path, args: &DrillArgs, output: &Output) -> Result<Exit, Failure> {
    let wrong = |error| Failure::new(Exit::Usage, anyhow::Error::new(error));
    let policy = Policy::load(path, &ProcessEnv).map_err(wrong)?;
    let Some(drill) = policy.drill(args.server.as_str()).cloned() else {
        return Err(Failure::usage(format!("the policy has no [[drill]] for {}", args.server))
            .hint("docs/restore.md has an example"));
    };
    if let Some(backup) = &args.backup
        && *backup.server() != args.server
    {
        return Err(Failure::usage(format!("{backup} is no backup of {}", args.server)));
    }
    let vault = Vault::open(policy.vault(), vault::remote().as_ref())?;
    let request =
        format!("{}/command/{}", args.server, Timestamp::now().strftime("%Y%m%dT%H%M%S%.fZ"));
    if !output.quiet {
        let target = drill.target();
        SCREEN.print(&format!("a drill of {} on target {target}", args.server));
    }
    let (backup, databases) = (args.backup.clone(), args.database.clone());
    let last_try = true;
    let drill = Drill { vault, policy, drill, request, backup, databases, last_try };
    let result = watched(output, |progress| held(&drill, progress))?;
    drill.note(&result).map_err(|error| of_drill(error.into()))?;
    let why = result.why();
    let exit = if why.is_none() { Exit::Success } else { Exit::Failed };
    if output.json {
        let status = if why.is_none() { "passed" } else { "failed" };
        output::json(&Document { status, why, result: &result })?;
    } else if !output.quiet || why.is_some() {
        output::text(&render::drill::page(&result))?;
    }
    Ok(exit)
}

/// Holds the drill. One that comes to no result is noted here: `flexkeep status` shall not go on
/// saying that the last one passed.
fn held(drill: &Drill, progress: &Arc<Progress>) -> Result<DrillResult, Failure> {
    let known = RefCell::new((None, Vec::new()));
    let chosen = |backup: &str, databases: &[String]| {
        *known.borrow_mut() = (Some(backup.to_owned()), databases.to_vec());
        Ok(())
    };
    drill.run(progress, &chosen).map_err(|error| {
        if error.is_failure() && !progress.is_cancelled() {
            let (backup, databases) = known.take();
            if let Err(error) = drill.note_failure(backup, databases, &chain(&error)) {
                tracing::error!("the drill's failure is not in the status: {}", chain(&error));
            }
        }
        of_drill(error)
    })
}

fn of_drill(error: DrillError) -> Failure {
    match error {
        DrillError::Restore(error) => error.into(),
        DrillError::Vault(error) | DrillError::Record(ServiceError::Vault(error)) => error.into(),
        error @ DrillError::Busy { .. } => Failure::new(Exit::Busy, error),
        error @ (DrillError::Target(_) | DrillError::NoTarget(_)) => {
            Failure::new(Exit::Usage, error)
        }
        error @ DrillError::Record(_) => Failure::new(Exit::Failed, error),
    }
}
