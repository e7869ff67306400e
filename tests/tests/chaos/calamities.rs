//! What happens to a backup at work.

use std::time::{Duration, Instant};

use flexkeep_bus::Message;
use flexkeep_tests::{HttpFault, Requests};
use rustix::process::Signal;

use crate::world::{Paused, SESSIONS, Store, World, send};

/// What may happen, and how often of a hundred times.
const CALAMITIES: [(Calamity, u32); 14] = [
    (Calamity::KillHandler, 30),
    (Calamity::KillHost, 15),
    (Calamity::PauseHandler, 8),
    (Calamity::PauseHost, 5),
    (Calamity::CutSession, 10),
    (Calamity::KillBackend, 4),
    (Calamity::KillServer, 2),
    (Calamity::StopServerAtOnce, 2),
    (Calamity::PauseServer, 3),
    (Calamity::DoubleMessage, 8),
    (Calamity::StaleMessage, 4),
    (Calamity::StoreFaults, 5),
    (Calamity::StoreRefuses, 2),
    (Calamity::PauseStore, 2),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Calamity {
    /// SIGKILL.
    KillHandler,
    /// SIGKILL of the host; its handler goes with it.
    KillHost,
    /// SIGSTOP, and SIGCONT after 1 to 20 seconds; in a long soak now and then after 90.
    PauseHandler,
    PauseHost,
    /// pg_terminate_backend of a session of a lane.
    CutSession,
    /// SIGKILL of a lane's backend: the server ends all sessions and recovers.
    KillBackend,
    /// SIGKILL of the whole server.
    KillServer,
    /// The server's immediate stop.
    StopServerAtOnce,
    PauseServer,
    /// A message that waits or is worked on, once more under another id.
    DoubleMessage,
    /// A lane's message of this or an earlier run.
    StaleMessage,
    /// Some of the store's requests fail, in each way that networks and services have.
    StoreFaults,
    /// All of them do, for a while.
    StoreRefuses,
    PauseStore,
}

/// What SIGKILL ends.
const KILLS: [Calamity; 4] =
    [Calamity::KillHandler, Calamity::KillHost, Calamity::KillBackend, Calamity::KillServer];

impl Calamity {
    /// Its name in the counts.
    fn kind(self) -> &'static str {
        match self {
            Self::KillHandler => "kill handler",
            Self::KillHost => "kill host",
            Self::PauseHandler => "pause handler",
            Self::PauseHost => "pause host",
            Self::CutSession => "cut session",
            Self::KillBackend => "kill backend",
            Self::KillServer => "kill server",
            Self::StopServerAtOnce => "stop server at once",
            Self::PauseServer => "pause server",
            Self::DoubleMessage => "double message",
            Self::StaleMessage => "stale message",
            Self::StoreFaults => "store faults",
            Self::StoreRefuses => "store refuses",
            Self::PauseStore => "pause store",
        }
    }
}

/// How many processes SIGKILL was sent to, of all that were counted.
pub(crate) fn kills(world: &World) -> u32 {
    KILLS.iter().map(|calamity| world.diary.counted(calamity.kind())).sum()
}

impl World {
    /// Lets something happen.
    pub(crate) fn strike(&mut self) {
        // What is not possible at the moment is left out, and another one drawn.
        for _ in 0..10 {
            let mut calamity = self.draw();
            if self.lacks_kills() && !KILLS.contains(&calamity) {
                calamity = Calamity::KillHandler;
            }
            if let Some(what) = self.make(calamity) {
                return self.count_it(calamity, &what);
            }
        }
    }

    /// Counts and notes what was made to happen.
    pub(crate) fn count_it(&mut self, calamity: Calamity, what: &str) {
        self.diary.count(calamity.kind());
        self.diary.note(&format!("{}: {what}", calamity.kind()));
    }

    fn draw(&mut self) -> Calamity {
        let sum = CALAMITIES.iter().map(|(_, weight)| weight).sum();
        let mut drawn = self.rng.u32(0..sum);
        for (calamity, weight) in CALAMITIES {
            if drawn < weight {
                return calamity;
            }
            drawn -= weight;
        }
        unreachable!("it is less than the sum")
    }

    /// Makes it happen; says to whom, or `None` if there is nobody.
    fn make(&mut self, calamity: Calamity) -> Option<String> {
        let app = self.rng.usize(..2);
        match calamity {
            Calamity::KillHandler => self.kill_handler(app),
            Calamity::KillHost => {
                self.kill_app(app);
                self.start_app(app);
                Some(SESSIONS[app].to_owned())
            }
            Calamity::PauseHandler => {
                let pid = self.apps[app].live_handler()?;
                Some(self.pause(app, pid))
            }
            Calamity::PauseHost => {
                let pid = self.apps[app].host_pid();
                Some(self.pause(app, pid))
            }
            Calamity::CutSession => {
                let pid = self.session()?;
                let sql = format!("SELECT pg_terminate_backend({pid})");
                let out = self.server.try_psql("postgres", &sql);
                (out.text().trim() == "t").then(|| format!("session {pid}"))
            }
            Calamity::KillBackend => {
                let pid = self.session()?;
                send(pid, Signal::KILL);
                Some(format!("session {pid}"))
            }
            Calamity::KillServer | Calamity::StopServerAtOnce | Calamity::PauseServer => {
                self.strike_server(calamity)
            }
            Calamity::DoubleMessage => self.double(),
            Calamity::StaleMessage => {
                if self.seen.is_empty() {
                    return None;
                }
                let body = self.seen[self.rng.usize(..self.seen.len())].clone();
                Some(self.send_again("lanes", body))
            }
            Calamity::StoreFaults | Calamity::StoreRefuses | Calamity::PauseStore => {
                self.strike_store(calamity)
            }
        }
    }

    pub(crate) fn kill_handler(&mut self, app: usize) -> Option<String> {
        let pid = self.apps[app].live_handler()?;
        send(pid, Signal::KILL);
        Some(format!("{}, process {pid}", SESSIONS[app]))
    }

    fn pause(&mut self, app: usize, pid: u32) -> String {
        // In a soak, some for longer than others wait before they end a silent lane's sessions.
        let long = self.goal.time > Duration::from_secs(300) && self.rng.u32(0..8) == 0;
        let millis = if long { 90_000 } else { self.rng.u64(1_000..20_000) };
        send(pid, Signal::STOP);
        self.paused.push(Paused { pid, until: Instant::now() + Duration::from_millis(millis) });
        format!("{}, process {pid}, for {millis} ms", SESSIONS[app])
    }

    /// A session of a lane, or of its pg_dump.
    fn session(&mut self) -> Option<u32> {
        if self.server_paused_until.is_some() {
            return None;
        }
        let sql = format!(
            "SELECT pid FROM pg_stat_activity WHERE application_name IN ('{}', '{}') ORDER BY pid",
            SESSIONS[0], SESSIONS[1]
        );
        // It may be recovering.
        let out = self.server.try_psql("postgres", &sql);
        let pids: Vec<u32> =
            out.text().lines().filter_map(|line| line.trim().parse().ok()).collect();
        (out.status.success() && !pids.is_empty()).then(|| pids[self.rng.usize(..pids.len())])
    }

    fn strike_server(&mut self, calamity: Calamity) -> Option<String> {
        if self.server_paused_until.is_some() {
            return None;
        }
        if calamity == Calamity::PauseServer {
            let time = Duration::from_millis(self.rng.u64(500..8_000));
            self.server.pause();
            self.server_paused_until = Some(Instant::now() + time);
            return Some(format!("for {time:?}"));
        }
        if calamity == Calamity::KillServer {
            self.server.kill_nine();
        } else {
            self.server.stop_at_once();
        }
        let time = Duration::from_millis(self.rng.u64(0..3_000));
        std::thread::sleep(time);
        self.server.start_again();
        Some(format!("down for {time:?} and its recovery"))
    }

    /// A message that is in a queue, again.
    fn double(&mut self) -> Option<String> {
        let queue = if self.rng.u32(0..4) == 0 { "backups" } else { "lanes" };
        let messages = self.apps[0].queues().peek(queue, 20).ok()?;
        if messages.is_empty() {
            return None;
        }
        let chosen = self.rng.usize(..messages.len());
        Some(self.send_again(queue, messages[chosen].message.body.clone()))
    }

    fn send_again(&mut self, queue: &str, body: Vec<u8>) -> String {
        self.doubled += 1;
        let text = String::from_utf8_lossy(&body).into_owned();
        let message = Message::new(format!("again-{}", self.doubled), body);
        self.apps[0].queues().send(queue, &message).expect("a message is sent");
        format!("to {queue}: {text}")
    }

    fn strike_store(&mut self, calamity: Calamity) -> Option<String> {
        let Store::Blobs { azurite, proxy } = &self.store else { return None };
        if self.faults_until.is_some() || self.store_paused_until.is_some() {
            return None;
        }
        let seed = self.rng.u64(..);
        if calamity == Calamity::PauseStore {
            let time = Duration::from_millis(seed % 6_000);
            azurite.pause();
            self.store_paused_until = Some(Instant::now() + time);
            return Some(format!("for {time:?}"));
        }
        let (per_mille, most) = if calamity == Calamity::StoreFaults {
            proxy.fail_at_random(seed, 150, &faults());
            (150, 10_000)
        } else {
            let busy = HttpFault::Answer(503, "ServerBusy", Some(1));
            proxy.fail(Requests::ALL, u32::MAX, busy);
            (1000, 6_000)
        };
        let time = Duration::from_millis(1_000 + seed % most);
        self.faults_until = Some(Instant::now() + time);
        Some(format!("{per_mille} of 1000 for {time:?}"))
    }
}

fn faults() -> [HttpFault; 7] {
    [
        HttpFault::CutRequest(1000),
        HttpFault::DropAnswer,
        HttpFault::CutAnswer(10),
        HttpFault::Answer(500, "InternalError", None),
        HttpFault::Answer(503, "ServerBusy", Some(1)),
        HttpFault::Answer(429, "TooManyRequests", None),
        HttpFault::Delay(Duration::from_millis(1500)),
    ]
}
