//! `flexkeep trigger`

use std::time::{Duration, Instant};

use flexkeep_service::{Fate, RequestNote};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::app_client::AppClient;
use crate::args::TriggerArgs;
use crate::commands::status::{self, View};
use crate::exit::{Exit, Failure};
use crate::live::SCREEN;
use crate::output::{self, Output};
use crate::render::units;

/// How often the app is asked how far it is.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// Requests for how far it is that may fail in a row while a backup is waited for.
const MAX_FAILED_ASKS: u32 = 30;

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
    let until = Instant::now() + limit;
    let mut failed_asks = 0;
    let mut shown = String::new();
    loop {
        match status::ask(app) {
            Ok(view) => {
                failed_asks = 0;
                match state_of(&view, accepted) {
                    State::Sealed(backup) => return Ok(backup),
                    State::Failed(reason) => {
                        let what = format!("the backup of {} failed: {reason}", accepted.server);
                        return Err(Failure::new(Exit::Failed, anyhow::Error::msg(what)));
                    }
                    State::Waiting => {}
                    State::Running(line) => {
                        if !output.quiet && !output.json && line != shown {
                            SCREEN.print(&line);
                            shown = line;
                        }
                    }
                }
            }
            Err(failure) => {
                failed_asks += 1;
                if failed_asks >= MAX_FAILED_ASKS {
                    return Err(failure);
                }
            }
        }
        if Instant::now() >= until {
            let what = format!("the backup of {} is not sealed yet", accepted.server);
            return Err(Failure::new(Exit::Failed, anyhow::Error::msg(what))
                .hint("it goes on; `flexkeep status` shows how far it is"));
        }
        std::thread::sleep(ASK_EVERY.min(until.saturating_duration_since(Instant::now())));
    }
}

enum State {
    Waiting,
    Running(String),
    Sealed(String),
    Failed(String),
}

fn state_of(view: &View, accepted: &Accepted) -> State {
    let Some(server) = view.servers.iter().find(|one| one.server == accepted.server) else {
        return State::Waiting;
    };
    let ours = |request: Option<&str>| request == Some(accepted.request.as_str());
    let note = server.requests.iter().find(|note| ours(Some(&note.request)));
    let run = server.runs.iter().find(|run| ours(run.request.as_deref()));
    match (note.map(|note| &note.fate), run) {
        (Some(Fate::Sealed { backup }), _) => State::Sealed(backup.clone()),
        (Some(Fate::Failed { why }), _) => State::Failed(why.clone()),
        (_, Some(run)) if run.failure().is_none() => State::Running(run.line()),
        (Some(Fate::PutOff { why, again }), _) => {
            State::Running(format!("tried again at {}: {why}", units::time(*again)))
        }
        _ => State::Waiting,
    }
}
