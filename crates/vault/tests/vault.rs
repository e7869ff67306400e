//! The vault's promises to its users.

mod pretend;

use std::sync::Arc;

use flexkeep_vault::contents::{ChunkRef, Cut, Entry, EntryKind};
use flexkeep_vault::damage::find_users;
use flexkeep_vault::manifest::ObjectRef;
use flexkeep_vault::store::{FolderStore, MemoryStore, PutMode, SharedStore, StoreErrorKind};
use flexkeep_vault::{
    BackupId, ChunkBuffer, ChunkEncoder, ContentHash, ContentsWriter, FoldersOnly, Place, Put,
    RunId, RunRecord, RunState, ServerName, Vault, VaultError, chunk_name, meta_name,
};
use pretend::{backup, verify_all};

const TIME: &str = "2026-11-22T22:53:00Z";

fn memory() -> Vault {
    let store: SharedStore = Arc::new(MemoryStore::new());
    Vault::create_in(Arc::clone(&store), store).unwrap()
}

fn place(path: &std::path::Path) -> Place {
    path.to_str().unwrap().parse().unwrap()
}

const MANIFEST: &str = "backups/srv/srv-20261122T225300Z.json";

#[test]
fn a_folder_vault_is_made_once_and_opened_again() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("vault");
    let missing = Vault::open(&place(&path), &FoldersOnly).unwrap_err();
    assert!(missing.to_string().contains("the vault is not there"), "{missing}");
    let made = Vault::create(&place(&path), &FoldersOnly).unwrap();
    backup(&made, "srv", TIME).unwrap();
    let opened = Vault::open(&place(&path), &FoldersOnly).unwrap();
    assert_eq!(opened.id(), made.id());
    assert_eq!(verify_all(&opened), 1);
    assert_eq!(Vault::open_or_create(&place(&path), &FoldersOnly).unwrap().id(), made.id());
    let again = Vault::create(&place(&path), &FoldersOnly).unwrap_err();
    assert!(matches!(again, VaultError::AlreadyAVault { .. }), "{again}");
    for name in ["format.json", "chunks", "meta", "backups/srv/srv-20261122T225300Z.json"] {
        assert!(path.join(name).exists(), "{name}");
    }
}

#[test]
fn a_folder_with_other_things_is_not_made_into_a_vault() {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("thesis.txt"), b"").unwrap();
    let open = Vault::open(&place(root.path()), &FoldersOnly).unwrap_err();
    assert!(matches!(open, VaultError::NotAVault { .. }), "{open}");
    let make = Vault::open_or_create(&place(root.path()), &FoldersOnly).unwrap_err();
    assert!(matches!(make, VaultError::NotEmpty { .. }), "{make}");
    let store: SharedStore = Arc::new(FolderStore::open(root.path()).unwrap());
    let make = Vault::create_in(Arc::clone(&store), store).unwrap_err();
    assert!(matches!(make, VaultError::NotEmpty { .. }), "{make}");
}

#[test]
fn of_many_that_make_a_vault_at_once_all_get_the_same() {
    let root = tempfile::tempdir().unwrap();
    let ids: Vec<String> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    Vault::open_or_create(&place(root.path()), &FoldersOnly)
                        .unwrap()
                        .id()
                        .to_owned()
                })
            })
            .collect();
        handles.into_iter().map(|handle| handle.join().unwrap()).collect()
    });
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
}

#[test]
fn a_newer_format_is_named_and_refused() {
    let store: SharedStore = Arc::new(MemoryStore::new());
    let body = br#"{"format": 7, "what": "is unknown"}"#;
    store.put("format.json", body, PutMode::Create).unwrap();
    let error = Vault::with_stores(Arc::clone(&store), store).unwrap_err().to_string();
    assert!(error.contains("format 7") && error.contains("up to 1"), "{error}");

    let vault = memory();
    vault.data().put("backups/srv/srv-20261122T225300Z.json", body, PutMode::Create).unwrap();
    let id: BackupId = "srv-20261122T225300Z".parse().unwrap();
    let error = vault.manifest(&id).unwrap_err();
    assert!(matches!(error, VaultError::NewerFormat { found: 7, known: 1, .. }), "{error}");
}

#[test]
fn fields_of_the_future_are_left_alone() {
    let vault = memory();
    let manifest = backup(&vault, "srv", TIME).unwrap();
    let mut json = serde_json::to_value(&manifest).unwrap();
    json["new_field"] = 1.into();
    json["source"]["new_field"] = "x".into();
    json["databases"][0]["new_field"] = serde_json::json!({"a": []});
    let id: BackupId = manifest.backup.parse().unwrap();
    let body = serde_json::to_string_pretty(&json).unwrap();
    let fields = body.strip_suffix("\n}").unwrap().to_owned() + ",\n";
    let sealed = format!("{fields}  \"blake3\": \"{}\"\n}}\n", ContentHash::of(fields.as_bytes()));
    vault.data().put(MANIFEST, sealed.as_bytes(), PutMode::Overwrite).unwrap();
    assert_eq!(vault.manifest(&id).unwrap(), manifest);
    // Without the checksum it is no manifest of the past either.
    vault.data().put(MANIFEST, body.as_bytes(), PutMode::Overwrite).unwrap();
    let error = vault.manifest(&id).unwrap_err();
    assert!(error.is_damage() && error.to_string().contains("new_field"), "{error}");
}

#[test]
fn a_manifest_of_before_there_was_a_checksum_is_read_as_ever() {
    let vault = memory();
    let mut manifest = backup(&vault, "srv", TIME).unwrap();
    manifest.request = Some("r".to_owned());
    let body = serde_json::to_vec_pretty(&manifest).unwrap();
    vault.data().put(MANIFEST, &body, PutMode::Overwrite).unwrap();
    assert_eq!(vault.manifest(&manifest.backup.parse().unwrap()).unwrap(), manifest);
}

#[test]
fn no_bit_of_a_manifest_turns_round_unseen() {
    let vault = memory();
    let manifest = backup(&vault, "srv", TIME).unwrap();
    let id: BackupId = manifest.backup.parse().unwrap();
    let body = vault.data().get(MANIFEST, 1 << 20).unwrap();
    for at in 0..body.len() {
        for bit in 0..8 {
            let mut flipped = body.clone();
            flipped[at] ^= 1 << bit;
            vault.data().put(MANIFEST, &flipped, PutMode::Overwrite).unwrap();
            let error = vault.manifest(&id).expect_err("a bit of it is another one");
            assert!(error.is_damage(), "byte {at}, bit {bit}: {error}");
        }
    }
    for length in 0..body.len() {
        vault.data().put(MANIFEST, &body[..length], PutMode::Overwrite).unwrap();
        assert!(vault.manifest(&id).unwrap_err().is_damage(), "{length} bytes");
    }
    vault.data().put(MANIFEST, &body, PutMode::Overwrite).unwrap();
    assert_eq!(vault.manifest(&id).unwrap(), manifest);
}

#[test]
fn chunks_are_stored_once() {
    let vault = memory();
    let raw = b"1\tone\n".repeat(1000);
    let hash = ContentHash::of(&raw);
    let object = ChunkEncoder::new(3).unwrap().encode_table(&raw).unwrap().to_vec();
    let other = ChunkEncoder::new(-7).unwrap().encode_table(&raw).unwrap().to_vec();
    assert_ne!(object.len(), other.len());
    let stored_bytes = object.len() as u64;
    assert_eq!(vault.chunk_exists(&hash).unwrap(), None);
    assert_eq!(vault.put_chunk(&hash, &object).unwrap(), Put::Stored);
    assert_eq!(vault.put_chunk(&hash, &other).unwrap(), Put::AlreadyThere { stored_bytes });
    assert_eq!(vault.chunk_exists(&hash).unwrap(), Some(stored_bytes));
    let chunk = ChunkRef {
        hash,
        raw_bytes: raw.len() as u32,
        stored_bytes: object.len() as u32,
        continued: false,
    };
    let mut buffer = ChunkBuffer::new();
    vault.get_chunk(EntryKind::Table, &chunk, &mut buffer).unwrap();
    assert_eq!((buffer.object(), buffer.raw()), (&object[..], &raw[..]));
    vault.data().delete(&chunk_name(&hash)).unwrap();
    let error = vault.get_chunk(EntryKind::Table, &chunk, &mut buffer).unwrap_err();
    assert!(error.is_damage() && buffer.raw().is_empty(), "{error}");
}

#[test]
fn what_cannot_be_a_chunk_is_not_taken_for_one() {
    let vault = memory();
    let hash = ContentHash::of(b"x");
    assert!(vault.put_chunk(&hash, b"").unwrap_err().is_damage());
    vault.data().put(&chunk_name(&hash), b"", PutMode::Create).unwrap();
    let error = vault.chunk_exists(&hash).unwrap_err();
    assert!(error.is_damage() && error.to_string().contains("remove it"), "{error}");
    let object = ChunkEncoder::new(3).unwrap().encode_table(b"x").unwrap().to_vec();
    assert!(vault.put_chunk(&hash, &object).unwrap_err().is_damage());
}

#[test]
fn meta_objects_read_back_verified() {
    let vault = memory();
    let raw = b"CREATE ROLE a;\n".repeat(500);
    let object = vault.put_meta(&raw).unwrap();
    assert_eq!(vault.put_meta(&raw).unwrap(), object);
    assert_eq!(vault.get_meta(&object, 1 << 20).unwrap(), raw);
    assert!(matches!(vault.get_meta(&object, 10), Err(VaultError::TooLong { .. })));
    assert_eq!(vault.get_meta(&vault.put_meta(b"").unwrap(), 0).unwrap(), b"");

    let name = meta_name(&object.hash);
    let stored = vault.data().get(&name, 1 << 20).unwrap();
    assert_eq!(zstd::decode_all(&stored[..]).unwrap(), raw, "it is a plain zstd file");
    let longer = [&stored[..], b"tail"].concat();
    let twice = [&stored[..], &stored].concat();
    let mut flipped = stored.clone();
    flipped[stored.len() / 2] ^= 1;
    for bytes in [&stored[..stored.len() - 1], &longer, &twice, &flipped, b""] {
        vault.data().put(&name, bytes, PutMode::Overwrite).unwrap();
        for stored_bytes in [object.stored_bytes, bytes.len() as u64] {
            let lying = ObjectRef { stored_bytes, ..object.clone() };
            assert!(vault.get_meta(&lying, 1 << 20).unwrap_err().is_damage());
        }
    }
    vault.data().put(&name, &stored, PutMode::Overwrite).unwrap();
    for raw_bytes in [0, object.raw_bytes - 1, object.raw_bytes + 1] {
        let lying = ObjectRef { raw_bytes, ..object.clone() };
        assert!(vault.get_meta(&lying, 1 << 20).unwrap_err().is_damage());
    }
}

#[test]
fn contents_are_one_entry_a_line() {
    let vault = memory();
    let entry = |dump_id, chunks: u32| Entry {
        dump_id,
        kind: EntryKind::Table,
        schema: Some("public".to_owned()),
        name: "line\nbreak \"quoted\"".to_owned(),
        oid: 1,
        rows: 2,
        cut: Cut::Pages { pages: 64, chunk_bytes: 1 << 20 },
        chunks: (0..chunks)
            .map(|i| ChunkRef {
                hash: ContentHash::of(&i.to_le_bytes()),
                raw_bytes: i,
                stored_bytes: i,
                continued: i % 2 == 1,
            })
            .collect(),
    };
    let entries = [entry(1, 0), entry(2, 3), entry(3, 20_000)];
    let mut writer = ContentsWriter::new().unwrap();
    for entry in &entries {
        writer.push(entry).unwrap();
    }
    let object = writer.finish(&vault).unwrap();
    let mut read = Vec::new();
    vault.read_contents(&object, |entry| read.push(entry)).unwrap();
    assert_eq!(read, entries);
    let raw = vault.get_meta(&object, 1 << 30).unwrap();
    assert_eq!(raw.iter().filter(|byte| **byte == b'\n').count(), 3);

    let empty = ContentsWriter::new().unwrap().finish(&vault).unwrap();
    vault.read_contents(&empty, |_| panic!("there is none")).unwrap();
    for bad in [&b"{}\n"[..], b"no json\n", b"\n", &raw[..raw.len() - 1]] {
        let object = vault.put_meta(bad).unwrap();
        assert!(vault.read_contents(&object, |_| {}).unwrap_err().is_damage());
    }
}

#[test]
fn nothing_of_a_damaged_contents_list_is_handed_out() {
    let vault = memory();
    let manifest = backup(&vault, "srv", TIME).unwrap();
    let object = &manifest.databases[0].contents;
    let name = meta_name(&object.hash);
    let mut stored = vault.data().get(&name, 1 << 20).unwrap();
    let last = stored.len() - 1;
    stored[last] ^= 1;
    vault.data().put(&name, &stored, PutMode::Overwrite).unwrap();
    let error = vault.read_contents(object, |_| panic!("not verified")).unwrap_err();
    assert!(error.is_damage(), "{error}");
}

#[test]
fn sealing_is_create_only_and_repeatable() {
    let vault = memory();
    let manifest = backup(&vault, "srv", TIME).unwrap();
    vault.seal(&manifest).expect("the same again");
    let mut other = manifest.clone();
    other.notes.push("another run".to_owned());
    assert!(matches!(vault.seal(&other), Err(VaultError::BackupTaken(_))));
    let id: BackupId = manifest.backup.parse().unwrap();
    other.backup = id.next().to_string();
    vault.seal(&other).unwrap();
    let server = id.server().clone();
    assert_eq!(vault.backups(&server).unwrap(), [id.clone(), id.next()]);
}

#[test]
fn what_must_not_be_sealed_is_refused() {
    let vault = memory();
    let manifest = backup(&vault, "srv", TIME).unwrap();
    let mut bad = vec![manifest.clone(); 6];
    bad[0].format = 2;
    bad[1].vault = "another".to_owned();
    bad[2].server = "another".to_owned();
    bad[3].backup = "../srv-20261122T225300Z".to_owned();
    bad[4].databases[0].toc.hash = ContentHash::of(b"never stored");
    bad[5].databases[0].contents.stored_bytes += 1;
    for manifest in bad {
        let error = vault.seal(&manifest).unwrap_err();
        assert!(matches!(error, VaultError::NotSealable { .. }), "{error}");
    }
    assert_eq!(verify_all(&vault), 1);
}

#[test]
fn a_manifest_of_another_vault_is_named() {
    let (ours, theirs) = (memory(), memory());
    let manifest = backup(&theirs, "srv", TIME).unwrap();
    let name = "backups/srv/srv-20261122T225300Z.json";
    let body = theirs.data().get(name, 1 << 20).unwrap();
    ours.data().put(name, &body, PutMode::Create).unwrap();
    let error = ours.manifest(&manifest.backup.parse().unwrap()).unwrap_err();
    let message = error.to_string();
    assert!(matches!(error, VaultError::OtherVault { .. }), "{message}");
    assert!(message.contains(ours.id()) && message.contains(theirs.id()), "{message}");

    // Renamed: the id inside is the authority.
    let renamed = "backups/srv/srv-20270101T000000Z.json";
    theirs.data().put(renamed, &body, PutMode::Create).unwrap();
    let error = theirs.manifest(&"srv-20270101T000000Z".parse().unwrap()).unwrap_err();
    assert!(error.is_damage(), "{error}");
}

#[test]
fn strange_objects_among_the_manifests_are_not_backups_but_are_told() {
    let vault = memory();
    backup(&vault, "srv", TIME).unwrap();
    let strange = [
        "backups/srv/notes.txt",
        "backups/other/srv-20261122T225300Z.json",
        "backups/srv/srv-20261122T225301Z.json",
    ];
    for name in strange {
        vault.data().put(name, b"?", PutMode::Create).unwrap();
    }
    let mut errors = Vec::new();
    vault
        .all_manifests(|read| {
            if let Err(error) = read {
                errors.push(error.to_string());
            }
        })
        .unwrap();
    assert_eq!(errors.len(), 3, "{errors:?}");
    for name in strange {
        assert!(errors.iter().any(|error| error.contains(name)), "{name}: {errors:?}");
    }
}

#[test]
fn backups_are_found_by_what_people_write() {
    let vault = memory();
    let latest = vault.resolve("latest").unwrap_err().to_string();
    assert!(latest.contains("the vault has no backups"), "{latest}");
    backup(&vault, "prod-a", "2026-11-22T22:53:00Z").unwrap();
    backup(&vault, "prod-a", "2026-11-23T22:53:00Z").unwrap();
    let resolve = |wanted: &str| vault.resolve(wanted).map(|id| id.to_string());
    assert_eq!(resolve("latest").unwrap(), "prod-a-20261123T225300Z");
    let manifest = backup(&vault, "prod-a.b", "2026-11-21T22:53:00Z").unwrap();
    let mut second = manifest.clone();
    second.backup += "-2";
    vault.seal(&second).unwrap();

    assert_eq!(resolve("prod-a/latest").unwrap(), "prod-a-20261123T225300Z");
    assert_eq!(resolve("prod-a.b/latest").unwrap(), "prod-a.b-20261121T225300Z-2");
    assert_eq!(resolve("prod-a-20261122T225300Z").unwrap(), "prod-a-20261122T225300Z");
    assert_eq!(resolve("prod-a-20261122").unwrap(), "prod-a-20261122T225300Z");
    assert_eq!(resolve("prod-a.b-20261121T225300Z").unwrap(), "prod-a.b-20261121T225300Z");
    assert_eq!(resolve("prod-a.b-20261121T225300Z-2").unwrap(), "prod-a.b-20261121T225300Z-2");

    let several = resolve("latest").unwrap_err().to_string();
    assert!(several.contains("prod-a/latest, prod-a.b/latest"), "{several}");
    let ambiguous = resolve("prod").unwrap_err();
    assert!(matches!(ambiguous, VaultError::AmbiguousBackup { .. }), "{ambiguous}");
    let near = resolve("prod-a-20261122T225301Z").unwrap_err().to_string();
    assert!(near.contains("did you mean prod-a-20261122T225300Z"), "{near}");
    // Its own manifest is gone; another backup of the same second is not what was asked for.
    vault.data().delete("backups/prod-a.b/prod-a.b-20261121T225300Z.json").unwrap();
    let gone = resolve("prod-a.b-20261121T225300Z").unwrap_err().to_string();
    assert!(gone.contains("did you mean prod-a.b-20261121T225300Z-2"), "{gone}");
    assert_eq!(resolve("prod-a.b-20261121").unwrap(), "prod-a.b-20261121T225300Z-2");
    let near = resolve("prd-a/latest").unwrap_err().to_string();
    assert!(near.contains("did you mean prod-a/latest"), "{near}");
    for wanted in ["", "/latest", "../latest", "x/y/latest", "\0"] {
        let error = vault.resolve(wanted).unwrap_err();
        assert!(matches!(error, VaultError::NoSuchBackup { .. }), "{wanted:?}: {error}");
    }
    let servers: Vec<String> = vault.servers().unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(servers, ["prod-a", "prod-a.b"]);
    assert!(vault.backups(&"nobody".parse().unwrap()).unwrap().is_empty());
}

#[test]
fn runs_come_and_go() {
    let vault = memory();
    let server: ServerName = "srv".parse().unwrap();
    let record = |time: &str| RunRecord {
        run: RunId::new(time.parse().unwrap()),
        server: server.clone(),
        request: None,
        attempt: 1,
        started: time.parse().unwrap(),
        host: "here".to_owned(),
        pid: 7,
        state: RunState::Running,
    };
    let (second, mut first) = (record("2026-11-23T00:00:00Z"), record(TIME));
    vault.open_run(&second).unwrap();
    let etag = vault.open_run(&first).unwrap();
    assert!(vault.open_run(&first).is_err(), "a run is opened once");
    for name in ["journal/1", "journal/2", "plan.json"] {
        let mode = PutMode::Create;
        vault.put_run_object(&server, &first.run, name, name.as_bytes(), mode).unwrap();
    }
    assert_eq!(vault.get_run_object(&server, &first.run, "plan.json").unwrap(), b"plan.json");
    let listed = vault.list_run_objects(&server, &first.run, "journal/").unwrap();
    let names: Vec<&str> = listed.iter().map(|object| object.name.as_str()).collect();
    assert_eq!(names, ["journal/1", "journal/2"]);

    first.state = RunState::Failed { reason: "source gone".to_owned() };
    vault.update_run(&first, etag.clone()).unwrap();
    let stale = vault.update_run(&first, etag).unwrap_err();
    let VaultError::Store(stale) = stale else { panic!("{stale}") };
    assert_eq!(stale.kind, StoreErrorKind::Changed);
    assert_eq!(vault.list_runs(&server).unwrap(), [first.clone(), second.clone()]);
    vault.remove_run(&server, &first.run).unwrap();
    vault.remove_run(&server, &first.run).unwrap();
    assert_eq!(vault.list_runs(&server).unwrap(), [second]);
    assert_eq!(vault.run(&server, &first.run).unwrap(), None);
    assert!(vault.list_run_objects(&server, &first.run, "").unwrap().is_empty());

    // Whoever did not notice that it was over.
    let late = b"a sign of life";
    vault.put_run_object(&server, &first.run, "lane-3.json", late, PutMode::Overwrite).unwrap();
    assert_eq!(vault.list_runs(&server).unwrap().len(), 1, "it has no record");
    vault.remove_runs(&server).unwrap();
    let mut left = Vec::new();
    vault.runs().list("runs/", &mut |meta| left.push(meta.name)).unwrap();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn damage_is_traced_to_backups_and_tables() {
    let vault = memory();
    let first = backup(&vault, "srv", TIME).unwrap();
    backup(&vault, "srv", "2026-11-23T22:53:00Z").unwrap();
    let find = |hashes: &[ContentHash]| -> Vec<String> {
        find_users(&vault, hashes)
            .unwrap()
            .into_iter()
            .map(|user| {
                let database = user.database.as_deref().unwrap_or("-");
                format!("{} {database} {}", user.backup, user.entry)
            })
            .collect()
    };
    assert!(find(&[ContentHash::of(b"nobody's")]).is_empty());
    assert_eq!(
        find(&[ContentHash::of(&pretend::table_chunks()[1])]),
        ["srv-20261122T225300Z app public.pretend", "srv-20261123T225300Z app public.pretend"]
    );
    let blob = ContentHash::of(&pretend::large_object_chunks()[0]);
    assert!(find(&[blob])[0].ends_with("app 16500..4000000000"));
    let globals = ContentHash::of(pretend::GLOBALS);
    assert!(find(&[globals])[0].ends_with("- (globals)"));
    assert_eq!(find(&[ContentHash::of(pretend::TOC), globals]).len(), 4);
    let contents = &first.databases[0].contents.hash;
    vault.data().delete(&meta_name(contents)).unwrap();
    assert!(find(&[])[1].ends_with("app (contents list)"));
}

#[test]
fn everything_can_be_shared_among_threads() {
    fn check<T: Send + Sync>() {}
    check::<Vault>();
    check::<VaultError>();
    check::<ChunkBuffer>();
    check::<ChunkEncoder>();
    check::<ContentsWriter>();
    check::<SharedStore>();
}
