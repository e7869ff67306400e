//! What is written where: results to standard output, everything else to standard error.

use std::io::{self, ErrorKind, IsTerminal, Write};

use serde::Serialize;

use crate::env_vars::{self, TERM};
use crate::exit::{Exit, Failure};
use crate::live::SCREEN;
use crate::render::text::printable;
use crate::secrets::Mask;

/// How the user wants it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    /// One JSON document as the result.
    pub(crate) json: bool,
    /// No progress, no explanations.
    pub(crate) quiet: bool,
    /// How much is logged.
    pub(crate) verbose: u8,
    /// How progress is shown.
    pub(crate) progress: ProgressMode,
}

/// How progress is shown on standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProgressMode {
    Live,
    Lines,
    Json,
    None,
}

impl ProgressMode {
    /// A line that is rewritten needs a terminal.
    pub(crate) fn for_stderr() -> Self {
        let dumb = env_vars::get(TERM).is_ok_and(|term| term.as_deref() == Some("dumb"));
        if io::stderr().is_terminal() && !dumb { Self::Live } else { Self::Lines }
    }
}

/// Writes a result for people; control characters, which names from a server may have, are shown
/// as escapes.
pub(crate) fn text(text: &str) -> Result<(), Failure> {
    let mut text = printable(text).into_owned();
    if !text.ends_with('\n') {
        text.push('\n');
    }
    write(text.as_bytes())
}

/// Writes a result for programs.
pub(crate) fn json(document: &impl Serialize) -> Result<(), Failure> {
    let mut bytes =
        serde_json::to_vec_pretty(document).map_err(|error| Failure::new(Exit::Failed, error))?;
    bytes.push(b'\n');
    write(&bytes)
}

/// Writes a result as it is.
pub(crate) fn write(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        // Whoever read it had enough, such as `head`.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        Err(error) => {
            let error = anyhow::Error::new(error).context("cannot write to standard output");
            Err(Failure::new(Exit::Failed, error))
        }
        Ok(()) => Ok(()),
    }
}

/// The JSON result of a command that failed.
#[derive(Serialize)]
struct FailureDocument<'a> {
    status: &'static str,
    error: &'a str,
    hint: Option<&'a str>,
    exit_code: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<&'a serde_json::Value>,
}

/// Reports a failure, and gives the code to end with.
pub(crate) fn failure(failure: &Failure, output: &Output) -> Exit {
    let mask = Mask::of_process();
    let error = mask.hide(&format!("{:#}", failure.error));
    let hint = failure.hint.as_deref().map(|hint| mask.hide(hint));
    SCREEN.print(&format!("error: {error}"));
    if let Some(hint) = &hint {
        SCREEN.print(&format!("hint: {hint}"));
    }
    if output.json {
        let exit_code = failure.exit.code();
        let status = if failure.exit == Exit::Cancelled { "cancelled" } else { "failed" };
        let (hint, details) = (hint.as_deref(), failure.details.as_ref());
        let document = FailureDocument { status, error: &error, hint, exit_code, details };
        // The exit code tells it as well, and there is nowhere left to complain.
        let _ = json(&document);
    }
    failure.exit
}
