//! Ctrl-C and SIGTERM: the first one asks the work to stop, the second one ends the process.

use std::sync::Arc;

use flexkeep_engine::Progress;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::exit::{Exit, Failure};
use crate::live::SCREEN;

/// Cancels `progress` at the first signal.
pub(crate) fn cancel_on_signal(progress: &Arc<Progress>) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        let error = anyhow::Error::new(error).context("cannot watch for signals");
        Failure::new(Exit::Failed, error)
    };
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(failed)?;
    let progress = Arc::clone(progress);
    let watch = move || {
        for (count, _) in signals.forever().enumerate() {
            if count > 0 {
                SCREEN.clear();
                // Nothing is sealed half: the manifest is one atomic put.
                std::process::exit(i32::from(Exit::Cancelled.code()));
            }
            progress.cancel();
            SCREEN.print("stopping; once more to stop at once");
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(watch).map_err(failed)?;
    Ok(())
}
