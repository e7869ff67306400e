//! A world: a server under load, two function apps on one queue, a vault, and another server for
//! what is restored.

use std::fmt::Write as _;
use std::process::Command;
use std::time::{Duration, Instant};

use fastrand::Rng;
use flexkeep_bus::{LocalQueues, QueueOptions};
use flexkeep_tests::{Azurite, FaultProxy, Server, TestApp, flexkeep_command};
use rustix::process::{Pid, Signal, kill_process};

use crate::ddl::{self, Tally};
use crate::diary::{Diary, say};
use crate::load::{self, Load};
use crate::rounds::Asked;
use crate::terms::{Goal, Terms};

/// Short, so that what a dead host had locked comes back soon.
const LOCK: Duration = Duration::from_secs(2);

/// Lanes of the source's backups.
pub(crate) const LANES: u32 = 3;

/// How the sessions of the two apps are called on the server.
pub(crate) const SESSIONS: [&str; 2] = ["flexkeep one", "flexkeep two"];

/// Where the vault is.
pub(crate) enum Store {
    Folder,
    /// Azurite, and the proxy by which the apps reach it.
    Blobs {
        azurite: Box<Azurite>,
        proxy: FaultProxy,
    },
}

/// A process that was stopped, until then.
pub(crate) struct Paused {
    pub(crate) pid: u32,
    pub(crate) until: Instant,
}

pub(crate) struct World {
    pub(crate) terms: Terms,
    pub(crate) goal: Goal,
    pub(crate) began: Instant,
    pub(crate) rng: Rng,
    pub(crate) diary: Diary,
    /// First, so that it ends before its server does.
    pub(crate) load: Load,
    pub(crate) tally: Tally,
    pub(crate) apps: [TestApp; 2],
    pub(crate) store: Store,
    pub(crate) server: Server,
    /// Where backups are restored.
    pub(crate) copy: Server,
    pub(crate) paused: Vec<Paused>,
    pub(crate) server_paused_until: Option<Instant>,
    pub(crate) store_paused_until: Option<Instant>,
    pub(crate) faults_until: Option<Instant>,
    /// Messages of lanes that were seen in the queue, of whatever run.
    pub(crate) seen: Vec<Vec<u8>>,
    pub(crate) looked: Instant,
    pub(crate) asked: Vec<Asked>,
    /// Number of messages that were doubled; their ids are made of it.
    pub(crate) doubled: u32,
}

impl World {
    pub(crate) fn start(terms: Terms, goal: Goal) -> Self {
        say(&format!("chaos: {terms:?}, {goal:?}\n  again: {}", terms.command(&goal)));
        let mut rng = Rng::with_seed(terms.seed);
        let server = Server::options(terms.version)
            // What was answered survives a crash of the server: a copy is asked for it.
            .conf("synchronous_commit = on")
            .conf("autovacuum_naptime = 5s")
            .start();
        load::create_tables(&server);
        ddl::create_tables(&server);
        let copy = Server::start(terms.version);
        let store = if terms.blobs {
            let azurite = Box::new(Azurite::start());
            let proxy = FaultProxy::start(azurite.port());
            Store::Blobs { azurite, proxy }
        } else {
            Store::Folder
        };
        let apps = apps(&terms, &server, &store);
        let mut load = Load::start(&server, &mut rng);
        let tally =
            if terms.only_kills { Tally::default() } else { ddl::start(&mut load, &mut rng) };
        Self {
            terms,
            goal,
            began: Instant::now(),
            rng,
            diary: Diary::new(),
            load,
            tally,
            apps,
            store,
            server,
            copy,
            paused: Vec::new(),
            server_paused_until: None,
            store_paused_until: None,
            faults_until: None,
            seen: Vec::new(),
            looked: Instant::now(),
            asked: Vec::new(),
            doubled: 0,
        }
    }

    /// `flexkeep` on the vault, by the way without faults.
    pub(crate) fn flexkeep(&self, arguments: &[&str]) -> Command {
        let mut command = flexkeep_command(arguments);
        match &self.store {
            Store::Folder => command.env("FLEXKEEP_VAULT", self.apps[0].place()),
            Store::Blobs { azurite, .. } => {
                command.env("FLEXKEEP_VAULT", azurite.container_url("vault"))
            }
        };
        command.env("FLEXKEEP_PG_BIN", self.copy.version().bin());
        command
    }

    /// Starts an app's host.
    pub(crate) fn start_app(&mut self, app: usize) {
        self.apps[app].start(&self.server);
    }

    /// Kills an app's host where it stands, and keeps what it said.
    pub(crate) fn kill_app(&mut self, app: usize) {
        let log = self.apps[app].log();
        self.diary.keep_log(SESSIONS[app], &log);
        self.apps[app].kill_host();
    }

    /// Does what is due: ends pauses and faults, starts hosts that have ended, notes messages.
    pub(crate) fn tend(&mut self) {
        let now = Instant::now();
        let due: Vec<u32> =
            self.paused.iter().filter(|one| one.until <= now).map(|one| one.pid).collect();
        self.paused.retain(|one| one.until > now);
        for pid in due {
            send(pid, Signal::CONT);
            self.diary.note(&format!("process {pid} goes on"));
        }
        if self.server_paused_until.is_some_and(|until| until <= now) {
            self.server_paused_until = None;
            self.server.resume();
            self.diary.note("the server goes on");
        }
        if let Store::Blobs { azurite, proxy } = &self.store {
            if self.store_paused_until.is_some_and(|until| until <= now) {
                self.store_paused_until = None;
                azurite.resume();
                self.diary.note("the store goes on");
            }
            if self.faults_until.is_some_and(|until| until <= now) {
                self.faults_until = None;
                proxy.heal();
                self.diary.note("the store is healed");
            }
        }
        for (app, session) in SESSIONS.iter().enumerate() {
            if !self.apps[app].is_running() {
                // Three crashes of a handler within half an hour end a host, as on the platform.
                self.diary.note(&format!("{session}: the host has ended and is started again"));
                self.kill_app(app);
                self.start_app(app);
            }
        }
        self.look_at_queues();
    }

    /// Whether something is paused or failing that will not be for ever.
    pub(crate) fn is_disturbed(&self) -> bool {
        !self.paused.is_empty()
            || self.server_paused_until.is_some()
            || self.store_paused_until.is_some()
            || self.faults_until.is_some()
    }

    /// Remembers messages of lanes, so that they can come again long after.
    fn look_at_queues(&mut self) {
        const MOST: usize = 400;
        if self.looked.elapsed() < Duration::from_millis(400) || self.seen.len() >= MOST {
            return;
        }
        self.looked = Instant::now();
        let Ok(messages) = self.apps[0].queues().peek("lanes", 20) else { return };
        for message in messages {
            if !self.seen.contains(&message.message.body) {
                self.seen.push(message.message.body);
            }
        }
    }

    /// Writes all that is known into a file.
    fn tell_all(&self) {
        let mut more = String::new();
        for (app, session) in self.apps.iter().zip(SESSIONS) {
            let _ = writeln!(more, "\n=== {session}\n{}", app.log());
        }
        let server = self.server.log();
        let kept = server.len().saturating_sub(200_000);
        let _ = writeln!(more, "\n=== the server\n{}", server.get(kept..).unwrap_or_default());
        let events = self.apps[0].root().join("state/events.jsonl");
        let _ =
            writeln!(more, "\n=== events\n{}", std::fs::read_to_string(events).unwrap_or_default());
        if let Store::Blobs { proxy, .. } = &self.store {
            let seen = proxy.seen();
            let last = seen.len().saturating_sub(2000);
            let _ = writeln!(more, "\n=== requests to the store\n{}", seen[last..].join("\n"));
        }
        let path = self.diary.write(&format!("seed-{}", self.terms.seed), &more);
        let again = self.terms.command(&self.goal);
        say(&format!("chaos: all of it is in {}\n  again: {again}", path.display()));
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Nothing that is stopped would end.
        for one in &self.paused {
            send(one.pid, Signal::CONT);
        }
        self.server.resume();
        if std::thread::panicking() {
            self.tell_all();
        }
    }
}

/// Sends a signal to a process that may just have ended by itself.
pub(crate) fn send(pid: u32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
        let _ = kill_process(pid, signal);
    }
}

/// Two apps on one queue, each with a name of its own for its sessions.
fn apps(terms: &Terms, server: &Server, store: &Store) -> [TestApp; 2] {
    let mut one = TestApp::without_policy();
    let mut other = TestApp::without_policy();
    one.write_policy(&format!(
        "[vault]\nplace = \"${{FLEXKEEP_VAULT}}\"\n\n[[server]]\nname = \"src\"\n\
         connection = \"${{CHAOS_SOURCE}}\"\nlanes = {LANES}\nmax_mb_per_second = {}\nmax_attempts = 5\n\
         schedule = {{ every = \"week\", on = \"sunday\", at = \"02:30\", zone = \"UTC\" }}\n",
        terms.max_mb_per_second
    ));
    other.share(&one);
    let vault = match store {
        Store::Folder => one.place().display().to_string(),
        Store::Blobs { azurite, proxy } => {
            let direct = azurite.container_url("vault");
            direct.replace(&azurite.port().to_string(), &proxy.port().to_string())
        }
    };
    for (app, name) in [&mut one, &mut other].into_iter().zip(SESSIONS) {
        let source = format!("{} application_name='{name}'", server.conninfo("postgres"));
        app.set("CHAOS_SOURCE", &source);
        app.set("FLEXKEEP_VAULT", &vault);
        app.set("FLEXKEEP_LANE_SECONDS", &terms.lane_seconds.to_string());
    }
    let queues = LocalQueues::open(&one.root().join("state/queues.db")).expect("a new file");
    let options = QueueOptions { lock_duration: LOCK, ..QueueOptions::default() };
    for queue in ["backups", "lanes"] {
        queues.declare(queue, &options).expect("declared");
    }
    one.start(server);
    other.start(server);
    [one, other]
}
