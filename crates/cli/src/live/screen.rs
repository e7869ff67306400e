//! Standard error: whole lines, and below them at most one line that is rewritten.

use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use crate::render::text::printable;

/// Moves to the beginning of the line and clears it.
const CLEAR_LINE: &str = "\r\x1b[K";

/// The standard error of this process. Everything that writes there goes through it.
pub(crate) static SCREEN: Screen = Screen { live: Mutex::new(String::new()) };

/// Standard error.
pub(crate) struct Screen {
    /// The line that is shown and rewritten; empty when there is none.
    live: Mutex<String>,
}

impl Screen {
    /// Writes lines above the live one; control characters are shown as escapes.
    pub(crate) fn print(&self, text: &str) {
        self.print_as_it_is(&printable(text));
    }

    /// Writes lines above the live one.
    pub(crate) fn print_as_it_is(&self, text: &str) {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        if live.is_empty() {
            write(&format!("{text}\n"));
        } else {
            write(&format!("{CLEAR_LINE}{text}\n{live}"));
        }
    }

    /// Replaces the live line; `text` must fit on one line of the terminal.
    pub(crate) fn show(&self, text: String) {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        if *live != text {
            write(&format!("{CLEAR_LINE}{text}"));
            *live = text;
        }
    }

    /// Removes the live line.
    pub(crate) fn clear(&self) {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        if !live.is_empty() {
            write(CLEAR_LINE);
            live.clear();
        }
    }
}

fn write(text: &str) {
    let mut stderr = io::stderr().lock();
    // There is nowhere to say that standard error is gone, and no reason to stop for it.
    let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
}
