//! Results as text for people.

pub(crate) mod backup;
pub(crate) mod check;
pub(crate) mod dead_letters;
pub(crate) mod drill;
pub(crate) mod export;
pub(crate) mod lanes;
pub(crate) mod list;
pub(crate) mod losses;
pub(crate) mod restore;
pub(crate) mod shell;
pub(crate) mod show;
pub(crate) mod status;
pub(crate) mod table;
pub(crate) mod text;
pub(crate) mod units;
pub(crate) mod verify;
