//! Vaults that earlier versions wrote can be read.

mod pretend;

use std::path::{Path, PathBuf};

use flexkeep_vault::{FoldersOnly, Place, Vault};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn place(path: &Path) -> Place {
    path.to_str().unwrap().parse().unwrap()
}

#[test]
fn format_1_can_be_read() {
    let vault = Vault::open(&place(&fixture("format-1")), &FoldersOnly).unwrap();
    assert_eq!(pretend::verify_all(&vault), 1);
    let manifest = vault.manifest(&vault.resolve("latest").unwrap()).unwrap();
    assert_eq!(manifest.format, 1);
    assert_eq!(manifest.vault, vault.id());
    assert_eq!(manifest.backup, "srv-20261122T225300Z");
    assert_eq!(manifest.databases[0].name, "app");
    assert_eq!(manifest.totals.chunks, 7);
}

#[test]
#[ignore = "writes the fixture of a new format; those of old formats must never change"]
fn write_the_fixture() {
    let path = fixture("format-1");
    let vault = Vault::create(&place(&path), &FoldersOnly).unwrap();
    pretend::backup(&vault, "srv", "2026-11-22T22:53:00Z").unwrap();
    std::fs::remove_dir_all(path.join(".tmp")).unwrap();
}
