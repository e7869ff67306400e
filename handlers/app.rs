//! The functions, under the names of their folders.

use flexkeep_functions::{App, BoxError, host_json_timeout};

use crate::settings::Settings;
use crate::{api, backup, schedule};

/// Messages and requests have a few hundred bytes; what is longer is refused.
const BODY_LIMIT: usize = 1 << 20;

const HOST_JSON: &str = include_str!("../host.json");

/// The app with all its functions.
pub(crate) fn app(settings: &Settings) -> Result<App, BoxError> {
    let service = settings.service()?;
    // The host.json beside the handler counts; the one that was built in is for a start without.
    let host_json = std::fs::read_to_string(settings.root.join("host.json"));
    let timeout = host_json_timeout(host_json.as_deref().unwrap_or(HOST_JSON))?;
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
    app.http("api", include_str!("api/function.json"), move |request, cx| {
        api::run(service.clone(), request, cx)
    })?;
    Ok(app)
}

#[cfg(test)]
mod tests;
