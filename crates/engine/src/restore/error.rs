//! Why a restore is not complete.

use flexkeep_pg_archive as archive;
use flexkeep_pg_copy as pg;
use flexkeep_vault::VaultError;

use super::report::{RestorePlan, RestoreReport};
use crate::check::Severity;
use crate::error::some;
use crate::export::DamagedObject;

/// Why a restore is not complete. Before [`RestoreError::Incomplete`] and
/// [`RestoreError::Cancelled`] with a report nothing was changed on the target.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Options that contradict each other.
    #[error("{0}")]
    Options(String),
    /// A name that the backup does not have.
    #[error("{place} has no {kind} {name:?}{}", near_names(.near))]
    NoSuchObject {
        /// `backup shop-...` or `database "shop"`.
        place: String,
        /// `database`, `schema` or `table`.
        kind: &'static str,
        /// What was asked for.
        name: String,
        /// Names like it, best first.
        near: Vec<String>,
    },
    /// The target can't be reached, or refuses the login.
    #[error("cannot connect to {target}")]
    Connect {
        /// The connection in words, without secrets.
        target: String,
        /// What the connection said.
        #[source]
        source: Box<pg::Error>,
    },
    /// A statement failed, or the connection broke while it ran.
    #[error("{doing} failed{}", in_database(.database))]
    Server {
        /// What was being done.
        doing: String,
        /// In which database.
        database: Option<String>,
        /// What the server said.
        #[source]
        source: Box<pg::Error>,
    },
    /// The target is not fit for it. Nothing was changed.
    #[error("the restore cannot begin: {}", problems(.0))]
    Unfit(Box<RestorePlan>),
    /// Another restore works on the same database.
    #[error("another restore into database {database:?} is running; wait for it or stop it")]
    Busy {
        /// The database.
        database: String,
    },
    /// The target crashed, or moved to another machine, so often that it was given up.
    #[error("the server crashed again and again while database {database:?} was restored")]
    Crashes {
        /// The database.
        database: String,
    },
    /// Objects of the vault are missing or damaged. Nothing was changed.
    #[error("{}; nothing was changed on the target", damaged(.objects, *.more))]
    Damaged {
        /// The objects, each with what it is needed for.
        objects: Vec<DamagedObject>,
        /// Whether the search for more was given up.
        more: bool,
    },
    /// The vault refused or failed.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The backup's own parts do not fit each other.
    #[error("database {database:?} of the backup is inconsistent: {problem}")]
    Inconsistent {
        /// The database.
        database: String,
        /// What does not fit.
        problem: String,
    },
    /// The stored table of contents can't be read.
    #[error("the table of contents of database {database:?} cannot be read")]
    Toc {
        /// The database.
        database: String,
        /// What is wrong with it.
        #[source]
        source: archive::ReadError,
    },
    /// The stored roles are not the SQL that they should be.
    #[error("the roles of the backup cannot be prepared")]
    Roles(#[from] crate::roles::Unterminated),
    /// It ended before all was there. The report says what is there; the same restore can be
    /// continued.
    #[error("{cause}")]
    Incomplete {
        /// What ended it, in words.
        cause: String,
        /// What is there.
        report: Box<RestoreReport>,
        /// Damaged objects of the vault that were met.
        damaged: Vec<DamagedObject>,
        /// Whether what ended it may pass by itself, so that continuing may succeed.
        may_pass: bool,
    },
    /// The caller asked for it.
    #[error("cancelled")]
    Cancelled {
        /// What is there; `None` if nothing was changed.
        report: Option<Box<RestoreReport>>,
    },
    /// A promise that this program makes to itself was broken.
    #[error("internal check failed: {0}")]
    Internal(String),
}

impl RestoreError {
    /// Whether the same restore may succeed later, or be continued then, without anybody doing
    /// something.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Connect { source, .. } | Self::Server { source, .. } => source.is_transient(),
            Self::Vault(error) => error.may_pass(),
            Self::Incomplete { may_pass, .. } => *may_pass,
            Self::Busy { .. } | Self::Cancelled { .. } | Self::Crashes { .. } => true,
            _ => false,
        }
    }

    /// What is on the target, where something was changed.
    pub fn report(&self) -> Option<&RestoreReport> {
        match self {
            Self::Incomplete { report, .. } => Some(report),
            Self::Cancelled { report } => report.as_deref(),
            _ => None,
        }
    }
}

fn near_names(names: &[String]) -> String {
    const SHOWN: usize = 5;
    if names.is_empty() {
        return String::new();
    }
    let more = if names.len() > SHOWN { ", ..." } else { "" };
    format!("; it has {}{more}", names[..names.len().min(SHOWN)].join(", "))
}

fn in_database(database: &Option<String>) -> String {
    database.as_ref().map(|name| format!(" in database {name:?}")).unwrap_or_default()
}

fn problems(plan: &RestorePlan) -> String {
    let errors = plan.findings.iter().filter(|finding| finding.severity == Severity::Error);
    let texts: Vec<String> = errors
        .map(|finding| match &finding.way_out {
            Some(way_out) => format!("\n  {}: {}; {way_out}", finding.subject, finding.what),
            None => format!("\n  {}: {}", finding.subject, finding.what),
        })
        .collect();
    format!("{}\nnothing was changed", texts.concat())
}

/// Damaged objects in words.
pub(super) fn damaged(objects: &[DamagedObject], more: bool) -> String {
    let at_least = if more { "at least " } else { "" };
    let what = if objects.len() == 1 { "object" } else { "objects" };
    let mut text = format!("{at_least}{} {what} of the vault cannot be used:", objects.len());
    for object in objects {
        let of = object.database.as_ref().map(|name| format!(" of database {name:?}"));
        text.push_str(&format!(
            "\n  {} (needed for {}{}): {}",
            object.name,
            some(&object.entries),
            of.unwrap_or_default(),
            object.problem
        ));
    }
    text
}
