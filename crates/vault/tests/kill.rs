//! A process that is killed while it writes into a folder leaves whole objects or nothing.

use std::process::{Command, Stdio};
use std::time::Duration;

use flexkeep_vault::ContentHash;
use flexkeep_vault::store::{FolderStore, PutMode, Store};

const PLACE: &str = "FLEXKEEP_TEST_KILL_PLACE";
const LENGTH: usize = 4 << 20;

/// Not a test of its own: what the killed process does.
#[test]
fn writer() {
    let Ok(place) = std::env::var(PLACE) else { return };
    let store = FolderStore::open(place).unwrap();
    for round in 0_u32.. {
        let mut body = vec![0; LENGTH];
        blake3::Hasher::new()
            .update(&round.to_le_bytes())
            .update(&std::process::id().to_le_bytes())
            .finalize_xof()
            .fill(&mut body);
        let name = format!("chunks/{}", ContentHash::of(&body));
        store.put(&name, &body, PutMode::Create).unwrap();
        store.put("replaced", &body, PutMode::Overwrite).unwrap();
    }
}

#[test]
fn a_killed_writer_leaves_whole_objects_only() {
    let root = tempfile::tempdir().unwrap();
    let mut objects = 0;
    for round in 0..8_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "writer"])
            .env(PLACE, root.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(150 + 37 * round));
        child.kill().unwrap();
        assert!(!child.wait().unwrap().success(), "it was killed at work");

        let store = FolderStore::open(root.path()).unwrap();
        let mut names = Vec::new();
        store.list("chunks/", &mut |meta| names.push(meta.name)).unwrap();
        objects = names.len();
        for name in names {
            let body = store.get(&name, LENGTH as u64).unwrap();
            assert_eq!(format!("chunks/{}", ContentHash::of(&body)), name, "round {round}");
        }
        if let Ok(body) = store.get("replaced", LENGTH as u64) {
            assert_eq!(body.len(), LENGTH);
        }
        // A lock of a dead process holds up nobody.
        store.put("replaced", &vec![0; LENGTH], PutMode::Overwrite).unwrap();
    }
    assert!(objects > 0, "the writer has written something");
}
