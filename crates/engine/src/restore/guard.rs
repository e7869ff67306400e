//! Watches whether the target lives while a statement works for a long time, and whether the
//! caller wants to stop.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::target::{Db, Target};
use crate::progress::Progress;

/// How soon a wish to stop is passed on.
const TICK: Duration = Duration::from_millis(100);

/// How often the server is asked for a sign of life.
const PING_EVERY: Duration = Duration::from_secs(15);

/// The watching thread; it ends when this is dropped.
pub(super) struct Guard {
    /// The database that is being restored.
    at_work: Arc<Mutex<Option<String>>>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Guard {
    pub(super) fn start(target: &Target, progress: &Arc<Progress>) -> Self {
        let (at_work, ended) = (Arc::new(Mutex::new(None)), Arc::new(AtomicBool::new(false)));
        let mut watch = Watch {
            target: target.clone(),
            progress: Arc::clone(progress),
            at_work: Arc::clone(&at_work),
            ended: Arc::clone(&ended),
            db: None,
            answered: Instant::now(),
            asked: Instant::now(),
        };
        let thread = std::thread::Builder::new().name("restore guard".to_owned());
        // Without it a dead server is noticed by TCP only.
        let thread = thread.spawn(move || watch.run()).ok();
        Self { at_work, ended, thread }
    }

    /// Says which database is being worked on; `None` when none is.
    pub(super) fn watch(&self, database: Option<&str>) {
        let mut at_work = self.at_work.lock().unwrap_or_else(PoisonError::into_inner);
        *at_work = database.map(str::to_owned);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // A panic there was reported when it happened.
            let _ = thread.join();
        }
    }
}

struct Watch {
    target: Target,
    progress: Arc<Progress>,
    at_work: Arc<Mutex<Option<String>>>,
    ended: Arc<AtomicBool>,
    db: Option<Db>,
    answered: Instant,
    asked: Instant,
}

impl Watch {
    fn run(&mut self) {
        while !self.ended.load(Ordering::Acquire) {
            if self.progress.is_cancelled() {
                self.target.stop.store(true, Ordering::Release);
            }
            let database = self.at_work.lock().unwrap_or_else(PoisonError::into_inner).clone();
            match database {
                None => (self.db, self.answered) = (None, Instant::now()),
                Some(name) if self.asked.elapsed() >= self.every() => self.ping(&name),
                Some(_) => {}
            }
            std::thread::sleep(TICK);
        }
    }

    fn every(&self) -> Duration {
        PING_EVERY.min(self.target.stall)
    }

    fn ping(&mut self, database: &str) {
        self.asked = Instant::now();
        if self.db.as_ref().is_none_or(|db| db.name != database) {
            // Short waits: it must not take long to see that this thread shall end.
            let short = Target { stall: self.every(), ..self.target.clone() };
            self.db = short.open(database).ok();
        }
        let answered = self
            .db
            .as_mut()
            .is_some_and(|db| db.run("asking for a sign of life", "SELECT").is_ok());
        if answered {
            self.answered = Instant::now();
            return;
        }
        self.db = None;
        if self.answered.elapsed() > self.target.stall {
            self.progress.message(format!(
                "the server has given no sign of life for {} s; giving up",
                self.answered.elapsed().as_secs()
            ));
            self.target.stop.store(true, Ordering::Release);
        }
    }
}
