//! The package as it would be on Azure: unpacked in a bare root, started by the host, it backs up a
//! server like Flexible Server into Azurite. `make prove-azure` runs it: it takes the zip that
//! `make package` made, and the rights to mount.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use flexkeep_tests::{Azurite, DUMP_USER, Lookalike, Version, flexkeep_command, json, run};

const LIMIT: Duration = Duration::from_secs(500);

#[test]
#[ignore = "takes the zip that `make package` made; `make prove-azure` runs it"]
fn the_package_backs_the_look_alike_up_into_azurite() {
    let zip = std::env::var("FLEXKEEP_PACKAGE").expect("FLEXKEEP_PACKAGE names the zip");
    let server = Lookalike::with_sample(Lookalike::options(Version::V17).bypass_rls());
    let azurite = Azurite::start();
    let vault = azurite.container_url("vault");
    let with_password = server.dump_url("postgres");
    let password = with_password.split("password=").nth(1).expect("a password");
    // Not below /tmp: the bare root has a /tmp of its own.
    let trusted = tempfile::tempdir_in("/var/tmp").expect("a folder in /var/tmp");
    let certificate = trusted.path().join("ca.crt");
    std::fs::copy(server.root_cert(), &certificate).expect("the certificate is copied");
    for path in [trusted.path(), &certificate] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("our own");
    }
    let connection = server
        .url_as(DUMP_USER, None, "postgres")
        .replace(&*server.root_cert().to_string_lossy(), &certificate.to_string_lossy());
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let mut prove = Command::new(format!("{root}/scripts/prove-package.sh"));
    prove
        .arg(zip)
        .env("PROVE_CONNECTION", connection)
        .env("PROVE_PASSWORD", password.trim_matches('\''))
        .env("PROVE_BIND", trusted.path())
        .env("PROVE_VAULT", &vault);
    let out = run(&mut prove, LIMIT);
    assert_eq!(out.code(), Some(0), "{}\n{}", out.text(), out.errors());

    let mut verify = flexkeep_command(&["verify", "--json"]);
    let report = json(&run(verify.env("FLEXKEEP_VAULT", &vault), LIMIT).expect_success());
    assert_eq!(report["status"], "sound");
    assert!(report["counts"]["backups"].as_u64() >= Some(1), "{report:#}");
}
