//! flexkeep as an Azure Functions app: one custom handler with all functions.
//!
//! Each function has a folder with its function.json, which the package carries to its root, and
//! a module that only translates: what is done is in `flexkeep-service`.

mod api;
mod app;
mod backup;
mod lane;
mod pgbin;
mod restore;
mod schedule;
mod settings;
mod trust;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use flexkeep_functions::{APP_ROOT_VARIABLE, BoxError, logging};

use crate::settings::{BadSetting, Settings};

/// The exit code for settings that cannot be used, which `flexkeep host` ends with as well.
const BAD_SETTINGS: u8 = 2;

/// How long threads that still work may hold up the end of the process. What they do survives it.
const END_LIMIT: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let result = run();
    if let Err(error) = &result {
        // The only place without a log: it may be what failed.
        let _ = std::io::Write::write_all(
            &mut std::io::stderr(),
            format!("error: {}\n", chain(error.as_ref())).as_bytes(),
        );
    }
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<BadSetting>() => BAD_SETTINGS.into(),
        Err(_) => ExitCode::FAILURE,
    }
}

fn run() -> Result<(), BoxError> {
    let root = std::env::var_os(APP_ROOT_VARIABLE).map_or_else(|| ".".into(), PathBuf::from);
    trust::restart_with_certificates(&root)?;
    logging::init("info")?;
    // One thread for requests: backups have threads of their own, and there is little else.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        let settings = Settings::read(&flexkeep_policy::ProcessEnv)?;
        app::app(&settings)?.run().await?;
        Ok(())
    });
    runtime.shutdown_timeout(END_LIMIT);
    result
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}
