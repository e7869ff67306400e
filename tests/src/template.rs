//! Fresh data directories, copied from one that initdb made once: a copy takes a tenth of the time.
//!
//! Templates live under `$FLEXKEEP_TOOLS/templates`, as they must lie where the user `postgres` may
//! go. Their servers share a system identifier; nothing in this project tells servers by it.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use rustix::process::geteuid;

use crate::programs::tools;
use crate::server::{START_LIMIT, as_postgres, postgres_ids};
use crate::{ServerOptions, pg_tool, run};

/// A template that no test has used for so long belongs to another checkout's past.
const STALE: Duration = Duration::from_secs(7 * 24 * 3600);

/// Makes `data`, which must not exist: what initdb makes for these options, everyone trusted.
/// `home` is a folder that the user `postgres` may work in.
#[track_caller]
pub(crate) fn fresh(options: &ServerOptions, data: &Path, home: &Path) {
    match template(options) {
        Ok(template) => {
            let mut copy = Command::new("cp");
            copy.args(["-a", "--reflink=auto"]).arg(&template).arg(data);
            run(&mut copy, START_LIMIT).expect_success();
        }
        // Servers named by the environment need no folder of tools; it may be another user's too.
        Err(_) => initdb(options, data, home),
    }
}

/// initdb but for how to authenticate. Segments of 1 MiB, so that little lies there unused.
pub(crate) fn initdb_command(options: &ServerOptions, data: &Path, home: &Path) -> Command {
    let mut command = as_postgres(&pg_tool("initdb", options.version));
    command
        .args(["--no-sync", "--wal-segsize=1", "-U", &options.superuser])
        .args(["-E", &options.encoding, "--locale", &options.locale, "-D"])
        .arg(data)
        .current_dir(home);
    command
}

#[track_caller]
fn initdb(options: &ServerOptions, data: &Path, home: &Path) {
    let mut command = initdb_command(options, data, home);
    run(command.args(["-A", "trust"]), START_LIMIT).expect_success();
}

/// The template for these options, made by whoever needs it first.
fn template(options: &ServerOptions) -> io::Result<PathBuf> {
    let folder = tools().join("templates");
    if !folder.is_dir() {
        fs::create_dir_all(&folder)?;
        fs::set_permissions(&folder, PermissionsExt::from_mode(0o755))?;
        if geteuid().is_root() {
            let (uid, gid) = postgres_ids();
            chown(&folder, Some(uid), Some(gid))?;
        }
    }
    let path = folder.join(name(options)?);
    // Held until the template is whole: other tests wait for it here.
    let lock = File::create(path.with_extension("lock"))?;
    lock.lock()?;
    if !path.is_dir() {
        remove_stale(&folder)?;
        let draft = path.with_extension("draft");
        drop(fs::remove_dir_all(&draft));
        initdb(options, &draft, &folder);
        fs::rename(&draft, &path)?;
    }
    lock.set_modified(SystemTime::now())?;
    Ok(path)
}

/// The name has in it all that the content hangs on: another build of the server is another name.
fn name(options: &ServerOptions) -> io::Result<String> {
    let program = fs::metadata(pg_tool("postgres", options.version))?;
    let mut hasher = DefaultHasher::new();
    (&options.encoding, &options.locale, &options.superuser).hash(&mut hasher);
    (pg_tool("postgres", options.version), program.len(), program.modified()?).hash(&mut hasher);
    Ok(format!("pg{}-{:016x}", options.version, hasher.finish()))
}

fn remove_stale(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)?.flatten() {
        let lock = entry.path();
        let used = entry.metadata()?.modified()?;
        let stale = used.elapsed().is_ok_and(|since| since > STALE);
        if stale && lock.extension().is_some_and(|extension| extension == "lock") {
            drop(fs::remove_dir_all(lock.with_extension("")));
            drop(fs::remove_file(&lock));
        }
    }
    Ok(())
}
