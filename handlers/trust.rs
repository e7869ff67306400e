//! Certificates to trust where the system has none: those that came with the package.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What TLS libraries read in place of the system's certificates.
const VARIABLE: &str = "SSL_CERT_FILE";

/// The package's certificates.
const BUNDLE: &str = "pgbin/ca-certificates.crt";

/// Starts this program once more, in this process, with the package's certificates to trust, if
/// the system has none. Without any, the clients of Azure can't even be made, also where they would
/// speak http. A variable is how all of the libraries can be told; setting one is safe only before
/// a program has threads, which is when it starts.
///
/// # Errors
/// The program could not be started again.
pub(crate) fn restart_with_certificates(root: &Path) -> io::Result<()> {
    let found = openssl_probe::probe();
    let system = found.cert_file.is_some() || !found.cert_dir.is_empty();
    let Some(bundle) = missing(root, system, std::env::var_os(VARIABLE)) else { return Ok(()) };
    let mut again = Command::new(std::env::current_exe()?);
    Err(again.args(std::env::args_os().skip(1)).env(VARIABLE, bundle).exec())
}

/// The certificates to use, if none are there and none were named.
fn missing(root: &Path, system: bool, named: Option<OsString>) -> Option<PathBuf> {
    let bundle = root.join(BUNDLE);
    (!system && named.is_none() && bundle.is_file()).then_some(bundle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packages_certificates_are_for_systems_that_have_none() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(missing(root.path(), false, None), None, "there is no package");
        std::fs::create_dir(root.path().join("pgbin")).unwrap();
        let bundle = root.path().join(BUNDLE);
        std::fs::write(&bundle, "").unwrap();
        assert_eq!(missing(root.path(), false, None), Some(bundle));
        assert_eq!(missing(root.path(), true, None), None, "the system's come first");
        assert_eq!(missing(root.path(), false, Some("x".into())), None, "as does what is named");
    }
}
