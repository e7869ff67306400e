//! `flexkeep host`

use flexkeep_local_host::{Host, HostError, HostExit, HostOptions, Settings, TriggerInfo};
use tokio::signal::unix::{SignalKind, signal};

use crate::args::{AppArgs, HostArgs};
use crate::exit::{Exit, Failure};
use crate::live::SCREEN;
use crate::output::Output;

pub(crate) fn run(args: &HostArgs, output: &Output) -> Result<Exit, Failure> {
    let host = load(args)?;
    if !output.quiet {
        for function in host.describe() {
            SCREEN.print(&describe(&function.name, &function.trigger, args));
        }
    }
    let failed = |error: std::io::Error| {
        let error = anyhow::Error::new(error).context("cannot start the host");
        Failure::new(Exit::Failed, error)
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // Requests and timers are little work; what waits for disks has threads of its own.
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(failed)?;
    let exit = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let stopped = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        host.run(stopped)
            .await
            .map_err(|error| Failure::new(Exit::Failed, anyhow::Error::new(error)))
    })?;
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    match exit {
        HostExit::Stopped { unfinished } => {
            if unfinished > 0 && !output.quiet {
                SCREEN.print(&format!(
                    "{unfinished} invocations were cut off; their messages are delivered again"
                ));
            }
            Ok(Exit::Success)
        }
        HostExit::HandlerKeepsFailing { error, exit_code } => {
            // The handler ends with the same code when its settings cannot be used.
            let wrong_settings = exit_code == Some(i32::from(Exit::Usage.code()));
            Err(Failure::new(
                if wrong_settings { Exit::Usage } else { Exit::Failed },
                anyhow::Error::msg(error).context("the handler failed again and again"),
            ))
        }
        HostExit::NeverReady => {
            Err(Failure::new(Exit::Failed, anyhow::Error::msg("the handler never became ready")))
        }
        _ => Err(Failure::new(Exit::Failed, anyhow::Error::msg("the host ended"))),
    }
}

/// The app settings, as its host has them.
pub(crate) fn settings(args: &AppArgs) -> Result<Settings, Failure> {
    if let Some(path) = args.settings.as_ref().filter(|path| !path.exists()) {
        let what = format!("there is no settings file {}", path.display());
        return Err(Failure::usage(what).hint("check the path given with --settings"));
    }
    let read = match &args.settings {
        Some(path) => Settings::from_file(path),
        None => Settings::load(&args.app),
    };
    let mut settings = read.map_err(unusable)?;
    // What is not text cannot be a setting.
    settings.override_with(
        std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        }),
    );
    Ok(settings)
}

/// What is wrong with an app or its settings is the user's to put right.
pub(crate) fn unusable(error: HostError) -> Failure {
    Failure::new(Exit::Usage, error)
}

fn load(args: &HostArgs) -> Result<Host, Failure> {
    let mut options = HostOptions::new(&args.app.app, settings(&args.app)?);
    options.http_addr = args.listen;
    options.require_keys = args.require_keys;
    options.shutdown_grace = args.grace;
    if let Some(state) = &args.state {
        options.state_dir.clone_from(state);
    }
    Host::load(options).map_err(unusable)
}

fn describe(name: &str, trigger: &TriggerInfo, args: &HostArgs) -> String {
    let what = match trigger {
        TriggerInfo::Timer { schedule, .. } => format!("timer {schedule} (UTC)"),
        TriggerInfo::Queue { queue, .. } => format!("queue {queue}"),
        TriggerInfo::Http { methods, route, .. } => {
            format!("{} http://{}/{route}", methods.join(","), args.listen)
        }
        _ => "another trigger".to_owned(),
    };
    format!("{name:<10} {what}")
}
