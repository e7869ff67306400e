//! One file for each command: take the arguments, call the engine, show the result.

mod backup;
mod check;
mod completions;
pub(crate) mod dead_letters;
mod drill;
mod export;
mod request;
mod restore;

mod host;
pub(crate) mod list;
mod show;
pub(crate) mod status;
mod trigger;
mod verify;

use std::sync::Arc;

use flexkeep_engine::Progress;

use crate::args::Command;
use crate::exit::{Exit, Failure};
use crate::live::Watch;
use crate::output::Output;
use crate::signals;

/// Runs a command.
pub(crate) fn run(command: Command, output: &Output) -> Result<Exit, Failure> {
    match command {
        Command::Backup(args) => backup::run(&args, output),
        Command::List(args) => list::run(&args, output),
        Command::Show(args) => show::run(&args, output),
        Command::Export(args) => export::run(&args, output),
        Command::Restore(args) => restore::run(&args, output),
        Command::Drill(args) => drill::run(&args, output),
        Command::Verify(args) => verify::run(&args, output),
        Command::Check(args) => check::run(&args, output),
        Command::Status(args) => status::run(&args, output),
        Command::Trigger(args) => trigger::run(&args, output),
        Command::Host(args) => host::run(&args, output),
        Command::DeadLetters(args) => dead_letters::run(&args, output),
        Command::Completions { shell } => completions::run(shell),
    }
}

/// Does long work that can be watched and cancelled.
fn watched<T>(
    output: &Output,
    work: impl FnOnce(&Arc<Progress>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let progress = Arc::new(Progress::default());
    signals::cancel_on_signal(&progress)?;
    let watch = Watch::start(&progress, output);
    let result = work(&progress);
    drop(watch);
    // A program that Ctrl-C reached as well fails in its own way.
    result.map_err(|failure| failure.or_cancelled(progress.is_cancelled()))
}
