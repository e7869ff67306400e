//! `flexkeep`, the operator's command: backs up PostgreSQL servers into a vault, and gets them
//! out again. docs/cli.md has its exit codes, its JSON and its environment.

mod app_client;
mod args;
mod commands;
mod env_vars;
mod exit;
mod hints;
mod live;
mod logging;
mod output;
mod render;
mod secrets;
mod signals;
mod source;
mod vault;

use std::process::ExitCode;

use clap::Parser;

use crate::args::Cli;
use crate::exit::Exit;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return parse_failure(&error).into(),
    };
    let mut output = cli.common.output();
    if matches!(cli.command, args::Command::Host(_)) && !output.quiet {
        // Its log is what it is for.
        output.verbose = output.verbose.max(1);
    }
    let result = logging::start(&output).and_then(|()| commands::run(cli.command, &output));
    match result {
        Ok(exit) => exit.into(),
        Err(failure) => output::failure(&failure, &output).into(),
    }
}

/// Help and version are results; everything else that the parser says is an error, in which it
/// repeats arguments: one of them may be a connection string in the wrong place.
fn parse_failure(error: &clap::Error) -> Exit {
    if !error.use_stderr() {
        return match output::text(&error.render().to_string()) {
            Ok(()) => Exit::Success,
            Err(failure) => failure.exit,
        };
    }
    let text = secrets::Mask::of_process().hide(&error.render().to_string());
    live::SCREEN.print(text.trim_end());
    Exit::Usage
}
