//! scripts/bicepcheck: each kind of mistake is found, in files that were made for it and in ours.

use std::collections::BTreeMap;
use std::path::Path;

use super::{check, copy_folder, root};

const FIXTURES: &str = "tests/fixtures/bicep";

/// Findings by file, without their places: `FILE:LINE:COLUMN: TEXT`.
fn findings(stdout: &str) -> BTreeMap<String, Vec<String>> {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in stdout.lines() {
        let mut parts = line.splitn(4, ':');
        let file = parts.next().expect("splitn gives one part at least").to_owned();
        let text = parts.nth(2).unwrap_or_else(|| panic!("no finding: {line}"));
        all.entry(file).or_default().push(text.trim().to_owned());
    }
    all
}

#[test]
fn every_planted_mistake_is_found_and_nothing_else() {
    let output = check(&["--types", "tests/fixtures/bicep/types", FIXTURES]);
    assert_eq!(output.code(), Some(1), "{}", output.errors());
    let found = findings(&output.text());
    let mut clean = 0;
    for entry in std::fs::read_dir(root().join(FIXTURES)).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            continue;
        }
        let name = format!("{FIXTURES}/{}", path.file_name().expect("a name").to_string_lossy());
        let text = std::fs::read_to_string(&path).expect("a file");
        let expected: Vec<&str> =
            text.lines().filter_map(|line| line.strip_prefix("// expects: ")).collect();
        let mut found = found.get(&name).cloned().unwrap_or_default();
        for expected in &expected {
            let index = found.iter().position(|found| found.starts_with(expected));
            let index =
                index.unwrap_or_else(|| panic!("{name}: not found: {expected}\n{found:#?}"));
            found.remove(index);
        }
        assert_eq!(found, Vec::<String>::new(), "{name}: found, but not planted");
        clean += usize::from(expected.is_empty());
    }
    assert!(clean >= 2, "there are files without a mistake");
}

#[test]
fn ours_have_no_finding() {
    let output = check(&["infra"]);
    assert_eq!((output.code(), output.text().as_str()), (Some(0), ""), "{}", output.errors());
}

/// A file below infra/, what is replaced in it by what, and what has to be found then.
type Mistake = (&'static str, &'static str, &'static str, &'static str);

const MISTAKES: &[Mistake] = &[
    ("main.bicep", "    sku: vaultSku\n", "", "parameter sku of vault.bicep is missing"),
    (
        "main.bicep",
        "    sku: vaultSku\n",
        "    skuu: vaultSku\n",
        "vault.bicep has no parameter skuu",
    ),
    ("main.bicep", "vault.outputs.url", "vault.outputs.uri", "module vault has no output uri"),
    (
        "main.bicep",
        "modules/bus.bicep",
        "modules/buses.bicep",
        "there is no module modules/buses.bicep",
    ),
    (
        "main.bicep",
        "principalId: identity.outputs",
        "principalId: identitty.outputs",
        "identitty is not declared",
    ),
    (
        "main.bicep",
        "resourceId: hostStorage.outputs.accountId, groupId: 'table'",
        "resourceId: app.outputs.appId, groupId: 'table'",
        "depends on itself: endpoints -> app -> endpoints",
    ),
    ("modules/app.bicep", "  FLEXKEEP_TICK: tick\n", "", "param tick is not used"),
    (
        "modules/vault.bicep",
        "var ownKey = !empty(",
        "var ownKey = !emtpy(",
        "there is no function emtpy",
    ),
    (
        "modules/vault.bicep",
        "guid(container.id, principalId",
        "guid(container.properties.etag, principalId",
        "the name of writer depends on",
    ),
    (
        "modules/bus.bicep",
        "scope: queues[i]",
        "scope: queues.id",
        "queues is a loop: use queues[i]",
    ),
    (
        "modules/identity.bicep",
        "@description('Its region.')\n",
        "",
        "param location has no @description",
    ),
    (
        "modules/host-storage.bicep",
        "output accountName string = account.name",
        "output accountName string = account.listKeys().keys[0].value",
        "output accountName shows a key",
    ),
    (
        "examples/start.bicepparam",
        "param location = 'westeurope'\n",
        "",
        "parameter location of main.bicep is missing",
    ),
    ("examples/other-subscription.bicepparam", "'unlocked'", "'lcoked'", "'lcoked' is not one of"),
    (
        "examples/other-subscription.bicepparam",
        "param vaultSoftDeleteDays = 30",
        "param vaultSoftDeleteDays = 400",
        "breaks @maxValue(365)",
    ),
    (
        "examples/private-network.bicepparam",
        "SHOP_PASSWORD: '@Microsoft.KeyVault(SecretUri=https://kv-example.vault.azure.net/secrets/shop-backup)'",
        "SHOP_PASSWORD: 'hunter2'",
        "SHOP_PASSWORD has its value here",
    ),
    (
        "main.bicepparam",
        "int(readEnvironmentVariable('FLEXKEEP_MEMORY_MB', '2048'))",
        "readEnvironmentVariable('FLEXKEEP_MEMORY_MB', '2048')",
        "instanceMemoryMB takes int, got string",
    ),
    // Of Azure's types.
    (
        "modules/app.bicep",
        "runtime: { name: 'custom'",
        "runtime: { name: 'rust'",
        "'rust' is not one of",
    ),
    (
        "modules/app.bicep",
        "instanceMemoryMB: instanceMemoryMB",
        "instanceMemory: instanceMemoryMB",
        "instanceMemory: no such property",
    ),
    (
        "modules/bus.bicep",
        "disableLocalAuth: true",
        "disableLocalAuth: 'true'",
        "expected boolean, got string",
    ),
    (
        "modules/vault.bicep",
        "isVersioningEnabled",
        "versioningEnabled",
        "versioningEnabled: no such property",
    ),
    (
        "modules/vault.bicep",
        "blobTypes: ['blockBlob'], prefixMatch: ['${runsContainerName}/']",
        "prefixMatch: ['${runsContainerName}/']",
        "required 'blobTypes' is missing",
    ),
    (
        "modules/monitor.bicep",
        "insights.properties.ConnectionString",
        "insights.properties.Connection",
        "insights has no property Connection",
    ),
    ("modules/identity.bicep", "@2023-01-31", "@2023-01-32", "unknown resource type"),
];

/// Each mistake in a copy of infra/ of its own, and what is found in each, in one run of the check.
fn plant(mistakes: &[Mistake]) {
    let folder = tempfile::tempdir().expect("a folder");
    let copies: Vec<String> = (0..mistakes.len())
        .map(|index| folder.path().join(format!("{index}-")).to_str().expect("UTF-8").to_owned())
        .collect();
    for (copy, (file, from, to, _)) in copies.iter().zip(mistakes) {
        copy_folder(&root().join("infra"), Path::new(copy));
        let path = Path::new(copy).join(file);
        let text = std::fs::read_to_string(&path).expect("a file of infra/");
        assert!(text.contains(from), "{file} has {from:?} no more; mend this test");
        std::fs::write(&path, text.replacen(from, to, 1)).expect("a copy that can be written");
    }
    let paths: Vec<&str> = copies.iter().map(String::as_str).collect();
    let output = check(&paths);
    assert_eq!(output.code(), Some(1), "{}", output.errors());
    let all = output.text();
    for (copy, (file, _, to, expected)) in copies.iter().zip(mistakes) {
        let found: Vec<&str> = all.lines().filter(|line| line.starts_with(copy.as_str())).collect();
        let is_found = found.iter().any(|line| line.contains(expected));
        assert!(is_found, "{file}: {to:?}: expected {expected}\n{found:#?}");
    }
}

#[test]
fn mistakes_in_ours_would_be_found() {
    plant(MISTAKES);
}

#[test]
fn a_check_of_nothing_is_no_success() {
    let empty = tempfile::tempdir().expect("a folder");
    let empty = empty.path().to_str().expect("UTF-8").to_owned();
    for arguments in [
        vec![empty.as_str()],
        vec!["infra/gone.bicep"],
        vec!["--types", "gone", "infra"],
        // A folder without types.
        vec!["--types", "docs", "infra"],
        vec!["--typo", "infra"],
    ] {
        let output = check(&arguments);
        assert_eq!(output.code(), Some(2), "{arguments:?}: {}", output.errors());
    }
}
