//! What must be left in the end: nothing but backups.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use flexkeep_tests::{Azurite, Rights, json, run, wait_for};

use crate::rounds::COMMAND_LIMIT;
use crate::world::{SESSIONS, Store, World};

/// How long what is under way may take to end: a request looks after its lanes for that long.
const DRAIN_LIMIT: Duration = Duration::from_secs(240);

/// How long a server may take to notice that a client has gone.
const SESSION_LIMIT: Duration = Duration::from_secs(30);

impl World {
    /// Ends what happens, waits for what is under way, and proves that nothing is left.
    pub(crate) fn end(&mut self) {
        self.diary.note("the end begins");
        while self.is_disturbed() {
            self.tend();
            std::thread::sleep(Duration::from_millis(50));
        }
        self.load.stop();
        self.expect_drained();
        self.expect_each_told_once();
        self.expect_server_free();
        self.expect_no_run();
        let report =
            json(&run(&mut self.flexkeep(&["verify", "--json"]), COMMAND_LIMIT).expect_success());
        assert_eq!(report["status"], "sound", "{report:#}");
        for app in &mut self.apps {
            app.stop();
        }
        self.expect_no_process();
    }

    fn expect_drained(&mut self) {
        let until = Instant::now() + DRAIN_LIMIT;
        for queue in ["backups", "lanes", "restores"] {
            loop {
                self.tend();
                let counts = self.apps[0].queues().counts(queue).expect("counts");
                if counts.active + counts.locked + counts.scheduled == 0 {
                    break;
                }
                let left = || self.apps[0].queues().peek(queue, 20);
                assert!(Instant::now() < until, "{queue} is not drained: {:#?}", left());
                std::thread::sleep(Duration::from_millis(50));
            }
            let dead = self.apps[0].queues().peek_dead(queue, 20).expect("a look");
            assert!(dead.is_empty(), "dead letters of {queue}: {dead:#?}");
        }
    }

    /// Each request ended once, and every backup is of a request that was completed.
    fn expect_each_told_once(&mut self) {
        self.apps[0].assert_events_keep_the_schema();
        let events = self.apps[0].events();
        for asked in &self.asked {
            let ends: BTreeSet<(String, String)> = events
                .iter()
                .filter(|event| event["data"]["request"] == asked.request.as_str())
                .filter(|event| {
                    let id = event["id"].as_str().unwrap_or_default();
                    id.ends_with("/completed") || id.ends_with("/failed")
                })
                .map(|event| (event["id"].to_string(), event["data"]["backup"].to_string()))
                .collect();
            assert_eq!(ends.len(), 1, "{asked:?}: {ends:?}");
        }
        let requests: BTreeSet<&str> =
            self.asked.iter().map(|asked| asked.request.as_str()).collect();
        for event in &events {
            let request = event["data"]["request"].as_str().unwrap_or_default();
            assert!(requests.contains(request), "nobody asked for this: {event:#}");
        }
        let listed =
            run(&mut self.flexkeep(&["list", "-q"]), COMMAND_LIMIT).expect_success().text();
        let listed: BTreeSet<&str> = listed.lines().collect();
        let sealed: BTreeSet<&str> =
            self.asked.iter().filter_map(|asked| asked.end.as_deref().ok()).collect();
        assert_eq!(listed, sealed, "the backups that are there, and those that were told");
    }

    /// No session and no advisory lock of a backup is left on the server.
    fn expect_server_free(&self) {
        let sql = "SELECT application_name, state, query FROM pg_stat_activity \
                   WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() \
                   UNION ALL SELECT locktype, mode, pid::text FROM pg_locks \
                   WHERE locktype = 'advisory' \
                   UNION ALL SELECT 'prepared', gid, '' FROM pg_prepared_xacts";
        let mut left = String::new();
        let until = Instant::now() + SESSION_LIMIT;
        while Instant::now() < until {
            left = self.server.psql("postgres", sql);
            if left.trim().is_empty() {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("left on the server: {left}");
    }

    /// Nothing of a run is in the run storage, and no block that no blob has.
    fn expect_no_run(&self) {
        let left: Vec<String> = match &self.store {
            Store::Folder => files(&self.apps[0].place().join("runs")),
            Store::Blobs { azurite, .. } => {
                let committed = blobs(azurite, "vault", false);
                let all = blobs(azurite, "vault", true);
                assert_eq!(committed, all, "blobs of blocks that were not committed");
                blobs(azurite, "vault-runs", true)
            }
        };
        let left: Vec<_> = left.iter().filter(|name| name.contains("runs/")).collect();
        assert!(left.is_empty(), "left of runs: {left:#?}");
    }

    /// No handler, pg_dump or host is left.
    fn expect_no_process(&self) {
        let ours = [self.apps[0].folder(), self.apps[1].folder()];
        let socket = self.server.socket_dir().display().to_string();
        wait_for("no process of the apps is left", Duration::from_secs(20), || {
            processes(&ours, &socket).is_empty().then_some(())
        });
        // The load has gone, and so have the sessions' names.
        assert_eq!(SESSIONS.len(), self.apps.len());
    }
}

/// Processes whose program is of these folders, or whose arguments or environment name the socket.
fn processes(folders: &[&Path], socket: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("/proc can be read").flatten() {
        let path = entry.path();
        let Ok(program) = std::fs::read_link(path.join("exe")) else { continue };
        let text = |name: &str| {
            String::from_utf8_lossy(&std::fs::read(path.join(name)).unwrap_or_default())
                .into_owned()
        };
        let is_ours = folders.iter().any(|folder| program.starts_with(folder));
        let is_client = program.ends_with("pg_dump") || program.ends_with("pg_dumpall");
        if is_ours || (is_client && (text("cmdline") + &text("environ")).contains(socket)) {
            found.push(format!("{} {}", path.display(), program.display()));
        }
    }
    found
}

/// All files below a folder that may not be there.
fn files(folder: &Path) -> Vec<String> {
    let mut folders = vec![folder.to_owned()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() { folders.push(path) } else { files.push(path.display().to_string()) }
        }
    }
    files
}

/// Names of a container's blobs, or of those that have blocks but were never committed too.
fn blobs(azurite: &Azurite, container: &str, uncommitted: bool) -> Vec<String> {
    let sas = azurite.account_sas(Rights::ALL);
    let include = if uncommitted { "&include=uncommittedblobs" } else { "" };
    let mut names = Vec::new();
    let mut marker = String::new();
    loop {
        let url = format!(
            "{}/{container}?restype=container&comp=list{include}&marker={marker}&{sas}",
            azurite.endpoint()
        );
        let request = ureq::get(&url).header("x-ms-version", "2022-11-02");
        let list = request.call().expect("it lists").body_mut().read_to_string().expect("text");
        let name = |part: &str| part.split_once("</Name>").map(|(name, _)| name.to_owned());
        names.extend(list.split("<Name>").skip(1).filter_map(name));
        let next = list.split_once("<NextMarker>").and_then(|(_, rest)| rest.split_once('<'));
        match next {
            Some((next, _)) if !next.is_empty() => marker = next.to_owned(),
            _ => return names,
        }
    }
}
