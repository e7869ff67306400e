//! Processes that tests end or wait for; those of a server are found by the folder they work in.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// All processes whose working directory is `data`: a server's main process and its backends.
pub(crate) fn working_in(data: &Path) -> Vec<i32> {
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc can be read").flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|n| n.parse().ok()) else { continue };
        // One that ended meanwhile, or of another user, has no link to read.
        if fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == data) {
            pids.push(pid);
        }
    }
    pids
}

/// Sends a signal; a process that is gone already is none to worry about.
pub(crate) fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal);
    }
}

/// Kills a process with SIGKILL, unless it has just ended by itself.
pub fn kill(pid: u32) {
    signal(pid.cast_signed(), Signal::KILL);
}

/// Whether all of them were gone before the limit.
pub(crate) fn gone(data: &Path, limit: Duration) -> bool {
    let end = Instant::now() + limit;
    while !working_in(data).is_empty() {
        if Instant::now() > end {
            return false;
        }
        thread::sleep(Duration::from_millis(10));
    }
    true
}
