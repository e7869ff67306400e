//! `-v` and `FLEXKEEP_LOG`: what the crates log, on standard error.

use std::io::{self, IsTerminal, Write};

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::env_vars::{self, FLEXKEEP_LOG, NO_COLOR};
use crate::exit::{Exit, Failure};
use crate::live::SCREEN;
use crate::output::Output;

/// Begins to log.
pub(crate) fn start(output: &Output) -> Result<(), Failure> {
    let filter = match env_vars::get(FLEXKEEP_LOG)? {
        Some(text) => text.parse::<Targets>().map_err(|_| {
            Failure::usage(format!("{FLEXKEEP_LOG} is no log filter"))
                .hint("write a level (error, warn, info, debug, trace) or TARGET=LEVEL,...")
        })?,
        None => {
            let (ours, others) = match (output.quiet, output.verbose) {
                (true, _) => (LevelFilter::ERROR, LevelFilter::ERROR),
                (false, 0) => (LevelFilter::WARN, LevelFilter::ERROR),
                (false, 1) => (LevelFilter::INFO, LevelFilter::WARN),
                (false, 2) => (LevelFilter::DEBUG, LevelFilter::INFO),
                (false, _) => (LevelFilter::TRACE, LevelFilter::DEBUG),
            };
            // The lines of a function app that `flexkeep host` runs are as much ours.
            let handler = ("handler", ours);
            Targets::new().with_default(others).with_targets([("flexkeep", ours), handler])
        }
    };
    let colour = io::stderr().is_terminal() && env_vars::get(NO_COLOR)?.is_none();
    let layer = tracing_subscriber::fmt::layer().with_writer(ScreenWriter).with_ansi(colour);
    let failed = |error| Failure::new(Exit::Failed, anyhow::Error::new(error));
    // Without -v a log line is a warning among other output; when it was and who said it are
    // for those who look closer.
    let start = tracing_subscriber::registry().with(filter);
    if output.verbose == 0 {
        start.with(layer.without_time().with_target(false)).try_init().map_err(failed)
    } else {
        start.with(layer).try_init().map_err(failed)
    }
}

/// Writes log lines above the live line.
struct ScreenWriter;

impl MakeWriter<'_> for ScreenWriter {
    type Writer = Line;

    fn make_writer(&self) -> Line {
        Line(Vec::new())
    }
}

/// One event; it is shown when it is complete.
struct Line(Vec<u8>);

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let text = String::from_utf8_lossy(&self.0);
        SCREEN.print_as_it_is(text.trim_end_matches('\n'));
    }
}
