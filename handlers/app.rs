//! The functions, under the names of their folders.

use std::path::Path;
use std::time::Duration;

use flexkeep_functions::{App, BoxError, host_json_timeout};

use crate::settings::Settings;
use crate::{api, backup, lane, restore, schedule};

/// Messages and requests have a few hundred bytes; what is longer is refused.
const BODY_LIMIT: usize = 1 << 20;

const HOST_JSON: &str = include_str!("../host.json");

/// The app with all its functions.
pub(crate) fn app(settings: &Settings) -> Result<App, BoxError> {
    let service = settings.service()?;
    let timeout = timeout(settings)?;
    let mut app = App::new();
    app.function_timeout(timeout).body_limit(BODY_LIMIT);
    app.timer("schedule", include_str!("schedule/function.json"), {
        let service = service.clone();
        move |event, cx| schedule::run(service.clone(), event, cx)
    })?;
    app.service_bus("backup", include_str!("backup/function.json"), {
        let service = service.clone();
        move |message, cx| backup::run(service.clone(), message, cx)
    })?;
    app.service_bus("lane", include_str!("lane/function.json"), {
        let service = service.clone();
        move |message, cx| lane::run(service.clone(), message, cx)
    })?;
    app.service_bus("restore", include_str!("restore/function.json"), {
        let service = service.clone();
        move |message, cx| restore::run(service.clone(), message, cx)
    })?;
    app.http("api", include_str!("api/function.json"), move |request, cx| {
        api::run(service.clone(), request, cx)
    })?;
    complete(&app, &settings.root)?;
    Ok(app)
}

/// A function without its folder is never started, and nobody would notice: an error, unless this is
/// no folder of an app at all.
fn complete(app: &App, root: &Path) -> Result<(), BoxError> {
    let is_there = |name: &str| root.join(name).join("function.json").is_file();
    let (there, missing): (Vec<&str>, Vec<&str>) =
        app.functions().map(|(name, _)| name).partition(|name| is_there(name));
    if there.is_empty() || missing.is_empty() {
        return Ok(());
    }
    let (missing, root) = (missing.join(", "), root.display());
    Err(format!(
        "{root} lacks the folders of these functions: {missing}; put the app together anew"
    )
    .into())
}

/// The host's time limit: of the setting that overrides host.json, of the host.json beside the
/// handler, or of the one that was built in.
fn timeout(settings: &Settings) -> Result<Option<Duration>, BoxError> {
    if let Some(text) = &settings.function_timeout {
        let host_json = serde_json::json!({"functionTimeout": text}).to_string();
        return Ok(host_json_timeout(&host_json)?);
    }
    match std::fs::read_to_string(settings.root.join("host.json")) {
        Ok(host_json) => Ok(host_json_timeout(&host_json)?),
        Err(_) => Ok(host_json_timeout(HOST_JSON)?),
    }
}

#[cfg(test)]
mod tests;
