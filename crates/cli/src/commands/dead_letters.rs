//! `flexkeep dead-letters`

use flexkeep_local_host::{DeadLetter, DeadLetters, HostError};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use crate::args::DeadLettersArgs;
use crate::commands::host;
use crate::exit::{Exit, Failure};
use crate::output::{self, Output};
use crate::render;

/// What `--json` gives, and the table shows.
#[derive(Serialize)]
pub(crate) struct Document {
    status: &'static str,
    pub(crate) dead_letters: Vec<Letter>,
}

#[derive(Serialize)]
pub(crate) struct Letter {
    pub(crate) id: i64,
    pub(crate) queue: String,
    pub(crate) message: String,
    pub(crate) died: Timestamp,
    pub(crate) deliveries: u32,
    pub(crate) reason: String,
    pub(crate) description: String,
    pub(crate) body: Value,
}

impl From<DeadLetter> for Letter {
    fn from(letter: DeadLetter) -> Self {
        let body = serde_json::from_slice(&letter.body)
            .unwrap_or_else(|_| String::from_utf8_lossy(&letter.body).into_owned().into());
        Self {
            id: letter.id,
            queue: letter.queue,
            message: letter.message,
            died: letter.died,
            deliveries: letter.deliveries,
            reason: letter.reason,
            description: letter.description,
            body,
        }
    }
}

pub(crate) fn run(args: &DeadLettersArgs, output: &Output) -> Result<Exit, Failure> {
    let settings = host::settings(&args.app)?;
    let letters = DeadLetters::open(&args.app.app, &settings).map_err(host::unusable)?;
    let failed = |error: HostError| Failure::new(Exit::Failed, error);
    let all = letters.list().map_err(failed)?;
    let (status, chosen) = match (&args.resubmit[..], &args.purge[..]) {
        ([], []) => ("listed", all),
        ([], purge) => {
            let chosen = choose(&all, purge)?;
            chosen.iter().try_for_each(|letter| letters.purge(letter)).map_err(failed)?;
            ("purged", chosen)
        }
        (resubmit, _) => {
            let chosen = choose(&all, resubmit)?;
            chosen.iter().try_for_each(|letter| letters.resubmit(letter)).map_err(failed)?;
            ("resubmitted", chosen)
        }
    };
    let dead_letters = chosen.into_iter().map(Letter::from).collect();
    let document = Document { status, dead_letters };
    if output.json {
        output::json(&document)?;
    } else if output.quiet {
        let ids: Vec<String> =
            document.dead_letters.iter().map(|letter| letter.id.to_string()).collect();
        output::write(ids.iter().map(|id| format!("{id}\n")).collect::<String>().as_bytes())?;
    } else {
        output::text(&render::dead_letters::page(&document, status, Timestamp::now()))?;
    }
    Ok(Exit::Success)
}

/// The letters with these numbers; all of them are there, or none is touched.
fn choose(all: &[DeadLetter], ids: &[i64]) -> Result<Vec<DeadLetter>, Failure> {
    let one = |id: &i64| {
        let mut found = all.iter().filter(|letter| letter.id == *id);
        match (found.next(), found.next()) {
            (Some(letter), None) => Ok(letter.clone()),
            (None, _) => Err(Failure::usage(format!("there is no dead letter {id}"))
                .hint("`flexkeep dead-letters` without --resubmit and --purge lists them")),
            (Some(_), Some(_)) => {
                Err(Failure::usage(format!("two queue files have a dead letter {id}")))
            }
        }
    };
    ids.iter().map(one).collect()
}
