//! What moves on standard error while work is done.

mod line;
mod meter;
mod screen;
mod watch;

pub(crate) use screen::SCREEN;
pub(crate) use watch::Watch;
