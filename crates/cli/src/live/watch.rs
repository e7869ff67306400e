//! The thread that shows a [`Progress`].

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use flexkeep_engine::{Progress, ProgressReading};
use serde::Serialize;

use crate::live::{SCREEN, line, meter::Meter};
use crate::output::{Output, ProgressMode};

/// How often a live line is rewritten, and messages are looked for.
const TICK: Duration = Duration::from_millis(200);

/// How often a log gets a line.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// How often a program gets a reading.
const JSON_EVERY: Duration = Duration::from_secs(1);

/// Columns assumed when the terminal does not say.
const USUAL_WIDTH: usize = 80;

/// Shows progress until it is dropped.
pub(crate) struct Watch {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Begins to show `progress`.
    pub(crate) fn start(progress: &Arc<Progress>, output: &Output) -> Self {
        let (stop, stopped) = mpsc::channel();
        let mut shown = Shown {
            progress: Arc::clone(progress),
            mode: output.progress,
            // With -v they come as log lines.
            messages: !output.quiet && output.verbose == 0,
            started: Instant::now(),
            last: Duration::ZERO,
            meter: Meter::default(),
        };
        let run = move || {
            while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                shown.tick();
            }
            shown.finish();
        };
        // Work without a display is better than no work.
        let thread = std::thread::Builder::new().name("progress".to_owned()).spawn(run).ok();
        Self { stop: Some(stop), thread }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Shown {
    progress: Arc<Progress>,
    mode: ProgressMode,
    messages: bool,
    started: Instant,
    /// When the last line was written.
    last: Duration,
    meter: Meter,
}

impl Shown {
    fn tick(&mut self) {
        self.show_messages();
        let now = self.started.elapsed();
        let reading = self.progress.read();
        self.meter.add(now, reading.clone());
        match self.mode {
            ProgressMode::Live => {
                let width = terminal_size::terminal_size_of(std::io::stderr());
                let width = width.map_or(USUAL_WIDTH, |(width, _)| width.0.into());
                SCREEN.show(line::live(&reading, &self.meter, width));
            }
            ProgressMode::Lines if now - self.last >= LOG_EVERY => {
                self.last = now;
                SCREEN.print(&line::log(&reading, &self.meter, now));
            }
            ProgressMode::Json if now - self.last >= JSON_EVERY => self.show_json(now, reading),
            ProgressMode::Lines | ProgressMode::Json | ProgressMode::None => {}
        }
    }

    fn finish(&mut self) {
        self.show_messages();
        if self.mode == ProgressMode::Json {
            self.show_json(self.started.elapsed(), self.progress.read());
        }
        SCREEN.clear();
    }

    fn show_messages(&self) {
        for text in self.progress.take_messages() {
            if self.mode == ProgressMode::Json {
                print_json(&Event::Message { text });
            } else if self.messages {
                SCREEN.print(&text);
            }
        }
    }

    fn show_json(&mut self, now: Duration, reading: ProgressReading) {
        self.last = now;
        let read_bytes_per_second = self.meter.read_speed();
        let seconds_left = self.meter.time_left().map(|time| time.as_secs());
        let ProgressReading {
            phase,
            total_bytes,
            done_bytes,
            read_bytes,
            stored_bytes,
            objects_total,
            objects_done,
        } = reading;
        print_json(&Event::Progress {
            elapsed_seconds: (now.as_secs_f64() * 10.0).round() / 10.0,
            phase,
            total_bytes,
            done_bytes,
            read_bytes,
            stored_bytes,
            objects_total,
            objects_done,
            read_bytes_per_second,
            seconds_left,
        });
    }
}

/// A line of `--progress json`.
#[derive(Serialize)]
#[serde(rename_all = "snake_case", tag = "event")]
enum Event {
    Progress {
        elapsed_seconds: f64,
        phase: String,
        total_bytes: u64,
        done_bytes: u64,
        read_bytes: u64,
        stored_bytes: u64,
        objects_total: u64,
        objects_done: u64,
        read_bytes_per_second: Option<u64>,
        seconds_left: Option<u64>,
    },
    Message {
        text: String,
    },
}

fn print_json(event: &Event) {
    if let Ok(text) = serde_json::to_string(event) {
        SCREEN.print(&text);
    }
}
