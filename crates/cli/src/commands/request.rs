//! Asking a function app for a restore or a drill, and waiting for its end.

use std::time::Duration;

use flexkeep_service::{RestoreFate, What};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::app_client::{AppClient, Poll, poll};
use crate::args::RequestArgs;
use crate::exit::{Exit, Failure};
use crate::live::SCREEN;
use crate::output::{self, Output};
use crate::render::{self, units};

/// What the app answers, as far as it is used.
#[derive(Deserialize, Serialize)]
struct Answer {
    server: String,
    request: String,
    #[serde(flatten)]
    fate: Option<RestoreFate>,
    #[serde(default)]
    report: Option<Value>,
}

#[derive(Serialize)]
struct Document<'a> {
    status: &'static str,
    server: &'a str,
    request: &'a str,
    why: Option<&'a str>,
    report: Option<&'a Value>,
}

/// Asks, and waits if that is wanted.
pub(crate) fn run(
    what: What,
    order: &Value,
    args: &RequestArgs,
    output: &Output,
) -> Result<Exit, Failure> {
    let app = AppClient::new(args.app.url.as_deref())?;
    let mut headers = Vec::new();
    if let Some(key) = &args.idempotency_key {
        headers.push(("idempotency-key", key.as_str()));
    }
    let mut answer: Answer = app.post("/api/restores", order, &headers)?;
    let sent = answer.fate.is_none();
    if let Some(limit) = args.wait
        && !has_ended(&answer)
    {
        if !output.quiet && !output.json {
            SCREEN.print(&format!("asked for {}", answer.request));
        }
        answer = wait_for(&app, what, &answer, limit, output)?;
    }
    show(what, &answer, sent, output)
}

fn has_ended(answer: &Answer) -> bool {
    matches!(
        answer.fate,
        Some(RestoreFate::Completed | RestoreFate::Passed | RestoreFate::Failed { .. })
    )
}

fn show(what: What, answer: &Answer, sent: bool, output: &Output) -> Result<Exit, Failure> {
    let (status, why) = match &answer.fate {
        None => (if sent { "sent" } else { "waiting" }, None),
        Some(RestoreFate::Running) => ("running", None),
        Some(RestoreFate::PutOff { why, .. }) => ("put_off", Some(why.as_str())),
        Some(RestoreFate::Completed) => ("completed", None),
        Some(RestoreFate::Passed) => ("passed", None),
        Some(RestoreFate::Failed { why }) => ("failed", Some(why.as_str())),
    };
    let complete = answer.report.as_ref().is_none_or(|report| report["complete"] != false);
    let exit = match status {
        "failed" => Exit::Failed,
        "completed" if !complete => Exit::Losses,
        _ => Exit::Success,
    };
    if output.json {
        let (server, request) = (answer.server.as_str(), answer.request.as_str());
        let report = answer.report.as_ref();
        output::json(&Document { status, server, request, why, report })?;
        return Ok(exit);
    }
    if exit == Exit::Failed {
        let failed = match what {
            What::Drill => "the drill did not pass",
            What::Restore => "the restore failed",
        };
        let why = why.unwrap_or_default();
        return Err(Failure::new(exit, anyhow::anyhow!("{failed}: {why}")));
    }
    match &answer.report {
        Some(report) if !output.quiet => output::text(&render::drill::of_app(what, report))?,
        Some(_) => {}
        None => output::text(&answer.request)?,
    }
    Ok(exit)
}

/// Waits until the request has ended.
fn wait_for(
    app: &AppClient,
    what: What,
    asked: &Answer,
    limit: Duration,
    output: &Output,
) -> Result<Answer, Failure> {
    let path = format!("/api/restores?what={}&request={}", what.word(), asked.request);
    let ended = poll(limit, output, || {
        let answer: Answer = app.get(&path)?;
        Ok(match &answer.fate {
            _ if has_ended(&answer) => Poll::Ended(answer),
            Some(RestoreFate::PutOff { why, again }) => {
                Poll::GoesOn(format!("goes on at {}: {why}", units::time(*again)))
            }
            Some(_) => Poll::GoesOn("at work".to_owned()),
            None => Poll::GoesOn(String::new()),
        })
    })?;
    ended.ok_or_else(|| {
        let what = format!("{} has not ended yet", asked.request);
        Failure::new(Exit::Failed, anyhow::Error::msg(what))
            .hint("it goes on; an event is published at its end")
    })
}
