//! infra/: what the Bicep files declare is what the app uses, and the check that stands in for the
//! Bicep compiler finds what is wrong.

#[path = "infra/checker.rs"]
mod checker;
#[path = "infra/consistency.rs"]
mod consistency;
#[path = "infra/dump_user.rs"]
mod dump_user;
#[path = "infra/lock.rs"]
mod lock;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use flexkeep_tests::{Output, run};

/// The first call installs two Python packages.
const LIMIT: Duration = Duration::from_secs(300);

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests is in the checkout")
}

fn read(path: &str) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// `scripts/check-infra.sh` with these arguments, against the types that the project has.
fn check(arguments: &[&str]) -> Output {
    let mut command = Command::new(root().join("scripts/check-infra.sh"));
    run(command.args(arguments).current_dir(root()).env_remove("FLEXKEEP_BICEP_TYPES"), LIMIT)
}

/// Everything below `from`, copied below `to`.
fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder that can be read") {
        let path = entry.expect("an entry").path();
        let target: PathBuf = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy_folder(&path, &target);
        } else {
            std::fs::copy(&path, &target).expect("a file that can be copied");
        }
    }
}
