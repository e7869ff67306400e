//! The load: money moves, each commit is logged three times, and pairs of tables change together.
//!
//! Each writer numbers its commits, and each commit says which commits of all writers had been
//! answered before it began. So a copy that has a commit and lacks one from before it, in any of the
//! three logs, is of no single state.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use fastrand::Rng;
use flexkeep_pg_copy::{Config, ConnectOptions, Connection, Error};
use flexkeep_tests::Server;

/// Connections that move money.
pub(crate) const WRITERS: usize = 3;

/// Accounts, and what each has at first.
pub(crate) const ACCOUNTS: u32 = 1000;
pub(crate) const BALANCE: u32 = 100;

/// Tables of about a megabyte; each has a stamp that it shares with its neighbour.
pub(crate) const PADS: u32 = 40;

/// How long a statement of the load may take: the server may be paused meanwhile.
const STALL: Duration = Duration::from_secs(60);

/// What the threads of the load share.
pub(crate) struct Shared {
    config: Config,
    stop: AtomicBool,
    /// Of each writer: the last commit that was answered, and the last that was begun.
    told: Vec<AtomicU64>,
    begun: Vec<AtomicU64>,
    /// What must never be, found by a thread.
    wrong: Mutex<Vec<String>>,
}

impl Shared {
    pub(crate) fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Sleeps, but not when the load is to end.
    pub(crate) fn rest(&self, time: Duration) {
        let mut left = time;
        while !left.is_zero() && !self.is_over() {
            let nap = left.min(Duration::from_millis(50));
            std::thread::sleep(nap);
            left -= nap;
        }
    }

    /// A session, as soon as there is one; `None` when the load is to end.
    pub(crate) fn connect(&self) -> Option<Connection> {
        let options = ConnectOptions {
            application_name: "chaos load".to_owned(),
            stall_timeout: STALL,
            ..ConnectOptions::default()
        };
        while !self.is_over() {
            match Connection::connect(&self.config, &options) {
                Ok(connection) => return Some(connection),
                Err(_) => self.rest(Duration::from_millis(200)),
            }
        }
        None
    }

    pub(crate) fn wrong(&self, what: String) {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }

    fn told(&self) -> Vec<u64> {
        self.told.iter().map(|one| one.load(Ordering::SeqCst)).collect()
    }
}

/// The load at work; it ends when this is dropped.
pub(crate) struct Load {
    pub(crate) shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// Makes the tables that the load works on.
pub(crate) fn create_tables(server: &Server) {
    server.create_database("zoo");
    server.psql("zoo", "CREATE TABLE animals AS SELECT i AS id FROM generate_series(1, 100) i");
    server.create_database("bank");
    server.psql(
        "bank",
        &format!(
            "CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL);
             INSERT INTO accounts SELECT i, {BALANCE} FROM generate_series(1, {ACCOUNTS}) i;
             -- One is larger than all others, one is between them, one is small: backups read large
             -- ones first.
             CREATE TABLE log_a (writer int, seq bigint, seen bigint[], filler text,
                                 PRIMARY KEY (writer, seq));
             CREATE TABLE log_b (LIKE log_a INCLUDING ALL);
             CREATE TABLE log_c (LIKE log_a INCLUDING ALL);
             INSERT INTO log_a SELECT -1, i, NULL, repeat(md5(i::text), 16)
                 FROM generate_series(1, 6000) i;
             INSERT INTO log_b SELECT -1, i, NULL, repeat(md5(i::text), 8)
                 FROM generate_series(1, 4000) i;"
        ),
    );
    for pad in 0..PADS {
        let rows = 2500 + 100 * pad;
        server.psql(
            "bank",
            &format!(
                "CREATE TABLE pad_{pad} AS SELECT i AS id, 0 AS stamp, \
                 repeat(md5((i * {PADS} + {pad})::text), 8) AS text \
                 FROM generate_series(1, {rows}) i"
            ),
        );
    }
}

impl Load {
    /// Starts the writers, and whoever changes pads.
    pub(crate) fn start(server: &Server, rng: &mut Rng) -> Self {
        let config = Config::parse(&server.conninfo("bank")).expect("the kit's own string");
        let counters = || (0..WRITERS).map(|_| AtomicU64::new(0)).collect();
        let shared = Arc::new(Shared {
            config,
            stop: AtomicBool::new(false),
            told: counters(),
            begun: counters(),
            wrong: Mutex::default(),
        });
        let mut load = Self { shared, threads: Vec::new() };
        for writer in 0..WRITERS {
            load.spawn(rng, move |shared, rng| write(shared, writer, rng));
        }
        load.spawn(rng, stamp);
        load
    }

    /// One more thread of the load.
    pub(crate) fn spawn(
        &mut self,
        rng: &mut Rng,
        work: impl FnOnce(&Shared, &mut Rng) + Send + 'static,
    ) {
        let (shared, mut rng) = (Arc::clone(&self.shared), rng.fork());
        self.threads.push(std::thread::spawn(move || work(&shared, &mut rng)));
    }

    /// Of each writer, the last commit that it knows of: a backup from now on has it.
    pub(crate) fn told(&self) -> Vec<u64> {
        self.shared.told()
    }

    /// Of each writer, the last commit that it began: a backup until now has none after it.
    pub(crate) fn begun(&self) -> Vec<u64> {
        self.shared.begun.iter().map(|one| one.load(Ordering::SeqCst)).collect()
    }

    /// Ends it, and panics if a thread of it has found something wrong, or died.
    pub(crate) fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            thread.join().expect("a thread of the load ends well");
        }
        let wrong = self.shared.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            // The test fails already, or `stop` has joined them.
            drop(thread.join());
        }
    }
}

/// A number that a query gives.
pub(crate) fn ask(connection: &mut Connection, sql: &str) -> Result<i64, Error> {
    let rows = connection.query(sql)?;
    let value = rows.first().and_then(|row| row.get(0)).and_then(|text| text.parse().ok());
    Ok(value.unwrap_or(0))
}

fn write(shared: &Shared, writer: usize, rng: &mut Rng) {
    while let Some(mut connection) = shared.connect() {
        let last = format!("SELECT max(seq) FROM log_c WHERE writer = {writer}");
        let Ok(last) = ask(&mut connection, &last) else { continue };
        let last = last.unsigned_abs();
        // The server writes down what it answers, so that a crash loses none of it.
        let told = shared.told[writer].load(Ordering::SeqCst);
        if last < told {
            shared.wrong(format!("commit {told} of writer {writer} was answered and is gone"));
        }
        shared.told[writer].store(last, Ordering::SeqCst);
        let mut seq = last + 1;
        while !shared.is_over() {
            shared.begun[writer].store(seq, Ordering::SeqCst);
            match connection.execute(commit_of(shared, writer, seq, rng)) {
                Ok(()) => {
                    shared.told[writer].store(seq, Ordering::SeqCst);
                    seq += 1;
                }
                // Such as a lock that was not to be had: the same one again.
                Err(_) if connection.execute("ROLLBACK").is_ok() => {}
                // Whether it was committed is asked anew.
                Err(_) => break,
            }
            shared.rest(Duration::from_millis(rng.u64(5..60)));
        }
        if shared.is_over() {
            return;
        }
    }
}

/// Moves money, and logs it before, between and after.
fn commit_of(shared: &Shared, writer: usize, seq: u64, rng: &mut Rng) -> String {
    let seen: Vec<String> = shared.told().iter().map(u64::to_string).collect();
    let row = format!("VALUES ({writer}, {seq}, '{{{}}}')", seen.join(","));
    let (one, other) = (rng.u32(1..=ACCOUNTS), rng.u32(1..=ACCOUNTS));
    let amount = rng.i32(-5..=5);
    // In the order of their ids: no two writers wait for each other.
    let (low, high) = (one.min(other), one.max(other));
    format!(
        "BEGIN; INSERT INTO log_a (writer, seq, seen) {row};
         UPDATE accounts SET balance = balance - {amount} WHERE id = {low};
         INSERT INTO log_b (writer, seq, seen) {row};
         UPDATE accounts SET balance = balance + {amount} WHERE id = {high};
         INSERT INTO log_c (writer, seq, seen) {row}; COMMIT;"
    )
}

/// Gives a pair of pads a new stamp, now and then: backups have something new to store.
fn stamp(shared: &Shared, rng: &mut Rng) {
    let mut stamp = 0;
    while let Some(mut connection) = shared.connect() {
        while !shared.is_over() {
            stamp += 1;
            let pad = rng.u32(0..PADS / 2) * 2;
            let sql = format!(
                "BEGIN; UPDATE pad_{pad} SET stamp = {stamp}; \
                 UPDATE pad_{} SET stamp = {stamp}; COMMIT",
                pad + 1
            );
            if connection.execute(sql).is_err() && connection.execute("ROLLBACK").is_err() {
                break;
            }
            shared.rest(Duration::from_millis(rng.u64(1500..4000)));
        }
        if shared.is_over() {
            return;
        }
    }
}
