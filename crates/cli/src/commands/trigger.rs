//! `flexkeep trigger`

use std::time::Duration;

use flexkeep_service::{Fate, RequestNote};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::app_client::{AppClient, Poll, poll};
use crate::args::TriggerArgs;
use crate::commands::status::{self, View};
use crate::exit::{Exit, Failure};
use crate::live::SCREEN;
use crate::output::{self, Output};
use crate::render::units;

/// What the app answers to "back up now".
#[derive(Deserialize, Serialize)]
struct Accepted {
    server: String,
    request: String,
    /// What became of the same request before; nothing is sent then.
    known: Option<RequestNote>,
}

#[derive(Serialize)]
struct Document<'a> {
    status: &'static str,
    server: &'a str,
    request: &'a str,
    backup: Option<&'a str>,
}

pub(crate) fn run(args: &TriggerArgs, output: &Output) -> Result<Exit, Failure> {
    let app = AppClient::new(args.app.url.as_deref())?;
    let Some(server) = &args.server else {
        app.post_quietly("/admin/functions/schedule", &json!({"input": ""}))?;
        if output.json {
            output::json(&json!({"status": "sent"}))?;
        } else if !output.quiet {
            SCREEN.print(&format!("{} is looking at its schedule", app.base()));
        }
        return Ok(Exit::Success);
    };
    let mut headers = Vec::new();
    if let Some(key) = &args.idempotency_key {
        headers.push(("idempotency-key", key.as_str()));
    }
    let body = json!({"server": server.as_str()});
    let accepted: Accepted = app.post("/api/backups", &body, &headers)?;
    let backup = match args.wait {
        None => None,
        Some(wait) => Some(wait_for(&app, &accepted, wait, output)?),
    };
    let (status, backup) = match (backup, accepted.known.as_ref().map(|note| &note.fate)) {
        (Some(backup), _) => ("sealed", Some(backup)),
        (None, Some(Fate::Sealed { backup })) => ("sealed", Some(backup.clone())),
        (None, Some(Fate::PutOff { .. })) => ("put_off", None),
        (None, Some(Fate::Failed { why })) => {
            let what = format!("this request for a backup of {} failed: {why}", accepted.server);
            return Err(Failure::new(Exit::Failed, anyhow::Error::msg(what))
                .hint("ask again under another --idempotency-key, or without one"));
        }
        (None, None) => ("sent", None),
    };
    if output.json {
        let (server, request) = (accepted.server.as_str(), accepted.request.as_str());
        output::json(&Document { status, server, request, backup: backup.as_deref() })?;
        return Ok(Exit::Success);
    }
    match backup {
        Some(backup) => output::text(&backup)?,
        None => {
            if !output.quiet {
                SCREEN.print(&match status {
                    "sent" => format!("asked for a backup of {}", accepted.server),
                    _ => format!("{} was asked for before, and is tried again", accepted.request),
                });
            }
            output::text(&accepted.request)?;
        }
    }
    Ok(Exit::Success)
}

/// Waits until the request's backup is sealed.
fn wait_for(
    app: &AppClient,
    accepted: &Accepted,
    limit: Duration,
    output: &Output,
) -> Result<String, Failure> {
    let server = &accepted.server;
    let fate = poll(limit, output, || Ok(state_of(&status::ask(app)?, accepted)))?;
    let (what, hint) = match fate {
        Some(Ok(backup)) => return Ok(backup),
        Some(Err(why)) => (format!("the backup of {server} failed: {why}"), None),
        None => (
            format!("the backup of {server} is not sealed yet"),
            Some("it goes on; `flexkeep status` shows how far it is".to_owned()),
        ),
    };
    Err(Failure { hint, ..Failure::new(Exit::Failed, anyhow::Error::msg(what)) })
}

/// The backup, or why there is none; until then, how far it is.
fn state_of(view: &View, accepted: &Accepted) -> Poll<Result<String, String>> {
    let Some(server) = view.servers.iter().find(|one| one.server == accepted.server) else {
        return Poll::GoesOn(String::new());
    };
    let ours = |request: Option<&str>| request == Some(accepted.request.as_str());
    let note = server.requests.iter().find(|note| ours(Some(&note.request)));
    let run = server.runs.iter().find(|run| ours(run.request.as_deref()));
    match (note.map(|note| &note.fate), run) {
        (Some(Fate::Sealed { backup }), _) => Poll::Ended(Ok(backup.clone())),
        (Some(Fate::Failed { why }), _) => Poll::Ended(Err(why.clone())),
        (_, Some(run)) if run.failure().is_none() => Poll::GoesOn(run.line()),
        (Some(Fate::PutOff { why, again }), _) => {
            Poll::GoesOn(format!("tried again at {}: {why}", units::time(*again)))
        }
        _ => Poll::GoesOn(String::new()),
    }
}
