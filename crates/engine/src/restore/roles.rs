//! Roles on the target: which are missing, and making them.

use std::collections::{BTreeSet, HashSet};

use flexkeep_vault::Vault;
use flexkeep_vault::manifest::Manifest;

use super::error::RestoreError;
use super::report::RolesReport;
use super::sql::{Statement, statements};
use super::target::{Db, TargetFacts, ident, literal, lossy};
use crate::check::{CheckReport, Severity};
use crate::error::some;
use crate::roles::{JOIN, RolesTarget, prepare};

/// Most bytes that the SQL of a server's roles can have.
const MAX_ROLES_BYTES: u64 = 256 << 20;

const SUBJECT: &str = "roles";

/// What is to be done about roles.
#[derive(Default)]
pub(super) struct RolesPlan {
    /// SQL that makes the missing ones.
    sql: Vec<u8>,
    /// Names of those, of the backup.
    pub(super) missing: BTreeSet<Vec<u8>>,
    /// Of the backup, and there already.
    kept: BTreeSet<Vec<u8>>,
    /// What has to be done by hand, in words.
    pub(super) notes: Vec<String>,
    /// Roles that own something, and that the restoring role must be able to become.
    owners: BTreeSet<Vec<u8>>,
}

/// Which roles are wanted.
pub(super) struct Wanted {
    /// All of the backup, not only those that are named.
    pub(super) all: bool,
    /// Named by the entries that are restored.
    pub(super) named: BTreeSet<Vec<u8>>,
    /// Owners among them.
    pub(super) owners: BTreeSet<Vec<u8>>,
    /// Whether missing ones are made.
    pub(super) make: bool,
}

impl RolesPlan {
    /// Compares the backup's roles with those of the target.
    pub(super) fn new(
        vault: &Vault,
        manifest: &Manifest,
        facts: &TargetFacts,
        wanted: &Wanted,
        report: &mut CheckReport,
    ) -> Result<Self, RestoreError> {
        let mut plan = Self { owners: wanted.owners.clone(), ..Self::default() };
        let globals = match &manifest.globals {
            Some(object) => vault.get_meta(object, MAX_ROLES_BYTES)?,
            None => Vec::new(),
        };
        let all = statements(&globals)?;
        let known: BTreeSet<Vec<u8>> = all.iter().filter_map(created_role).collect();
        let is_wanted = |name: &&Vec<u8>| wanted.all || wanted.named.contains(*name);
        if wanted.make {
            plan.kept = known
                .iter()
                .filter(is_wanted)
                .filter(|n| facts.roles.contains(*n))
                .cloned()
                .collect();
            let missing = known.iter().filter(is_wanted).filter(|n| !facts.roles.contains(*n));
            plan.missing = missing.cloned().collect();
            plan.prepare(&all, facts, manifest.source.version_num / 10_000)?;
        }
        let absent: Vec<String> = wanted
            .named
            .iter()
            .filter(|name| !facts.roles.contains(*name) && !plan.missing.contains(*name))
            .map(|name| lossy(name))
            .collect();
        if !absent.is_empty() {
            let what =
                format!("these are named by what is restored, and not there: {}", some(&absent));
            let way_out = if wanted.make {
                "the backup does not have them: make them, or restore without owners and rights \
                 (--no-owner --no-acl)"
            } else {
                "make them, have them made by leaving --no-roles away, or restore without owners \
                 and rights (--no-owner --no-acl)"
            };
            report.add_with_way_out(Severity::Error, SUBJECT, what, way_out);
        }
        if !plan.missing.is_empty() && !facts.create_role {
            report.add_with_way_out(
                Severity::Error,
                SUBJECT,
                format!(
                    "{} are missing, and this role may make none: {}",
                    plan.missing.len(),
                    names(&plan.missing)
                ),
                "give it CREATEROLE, or make them by hand",
            );
        }
        Ok(plan)
    }

    fn prepare(
        &mut self,
        all: &[Statement<'_>],
        facts: &TargetFacts,
        source_major: u32,
    ) -> Result<(), RestoreError> {
        let mut kept = Vec::new();
        for statement in all {
            if self.keeps(statement, facts) {
                kept.extend_from_slice(statement.text);
                kept.extend_from_slice(b";\n");
            }
        }
        let target = if facts.superuser {
            RolesTarget::Postgres
        } else {
            RolesTarget::FlexibleServer { major: Some(facts.major()) }
        };
        let prepared = prepare(&kept, target, source_major)?;
        // Memberships for the restore's sake are made, and ended, by the restore itself.
        let join = prepared.sql.windows(JOIN.len()).position(|part| part == JOIN);
        self.sql = prepared.sql;
        self.sql.truncate(join.unwrap_or(usize::MAX));
        self.notes = prepared.notes;
        Ok(())
    }

    /// Whether a statement is about a role that is made, or joins two that will be there, one of
    /// them new. Roles that are there stay as they are.
    fn keeps(&self, statement: &Statement<'_>, facts: &TargetFacts) -> bool {
        let new = |name: Option<Vec<u8>>| name.is_some_and(|name| self.missing.contains(&name));
        if statement.word(0, "grant") && statement.word(2, "to") {
            let (granted, member) = (statement.name(1), statement.name(3));
            let there = |name: &Option<Vec<u8>>| {
                name.as_ref()
                    .is_some_and(|name| facts.roles.contains(name) || self.missing.contains(name))
            };
            return there(&granted) && there(&member) && (new(granted) || new(member));
        }
        if statement.word(1, "role") {
            return new(statement.name(2));
        }
        let on_role =
            statement.tokens.windows(2).position(|pair| pair[0].is("on") && pair[1].is("role"));
        match on_role {
            Some(at) => new(statement.name(at + 2)),
            // Settings of the session count for all; tablespaces are for a person.
            None => statement.word(0, "set"),
        }
    }

    /// Makes the missing roles: all of them, or none if the run ends in the middle.
    pub(super) fn make(
        &self,
        db: &mut Db,
        facts: &TargetFacts,
    ) -> Result<RolesReport, RestoreError> {
        const DOING: &str = "making roles";
        let mut report = RolesReport {
            kept: self.kept.iter().map(|name| lossy(name)).collect(),
            ..RolesReport::default()
        };
        if self.missing.is_empty() {
            return Ok(report);
        }
        // Notices tell what was refused, but not what is as it should be.
        db.run(
            DOING,
            "BEGIN; SET LOCAL client_min_messages = warning; SET LOCAL synchronous_commit = on",
        )?;
        db.connection.take_notices();
        for statement in statements(&self.sql)? {
            db.run(DOING, "SAVEPOINT one")?;
            if let Err(error) = db.connection.execute(statement.text) {
                if error.server().is_none() {
                    return Err(super::target::failed(DOING, &db.name, error));
                }
                report.refused.push(super::lanes::server_words(&error));
                db.run(DOING, "ROLLBACK TO SAVEPOINT one")?;
            }
            db.run(DOING, "RELEASE SAVEPOINT one")?;
        }
        let notices = db.connection.take_notices();
        report.refused.extend(notices.iter().map(|notice| notice.message().to_owned()));
        db.run(DOING, "COMMIT")?;
        let now = db.set(DOING, "SELECT rolname FROM pg_catalog.pg_roles")?;
        let made =
            self.missing.iter().filter(|name| now.contains(*name) && !facts.roles.contains(*name));
        report.created = made.map(|name| lossy(name)).collect();
        Ok(report)
    }

    /// Looks whether the restoring role can become the owners of what it makes.
    pub(super) fn check_owners(
        &self,
        db: &mut Db,
        facts: &TargetFacts,
        report: &mut CheckReport,
    ) -> Result<(), RestoreError> {
        let there: Vec<Vec<u8>> =
            self.owners.iter().filter(|name| facts.roles.contains(*name)).cloned().collect();
        if facts.superuser || there.is_empty() {
            return Ok(());
        }
        let lacking = lacking_membership(db, facts, &there)?;
        let mut barred = Vec::new();
        for role in lacking {
            if !may_grant(db, facts, &role)? {
                barred.push(lossy(&role));
            }
        }
        if !barred.is_empty() {
            report.add_with_way_out(
                Severity::Error,
                SUBJECT,
                format!("{:?} may not act for these owners: {}", lossy(&facts.user), some(&barred)),
                "have their membership granted to it, or restore without owners (--no-owner)",
            );
        }
        Ok(())
    }

    /// How to become a member of the owners, where that is needed.
    pub(super) fn joining(
        &self,
        db: &mut Db,
        facts: &TargetFacts,
    ) -> Result<Joining, RestoreError> {
        let owners: Vec<Vec<u8>> = self.owners.iter().cloned().collect();
        let mut joining = Joining::default();
        if facts.superuser || owners.is_empty() {
            return Ok(joining);
        }
        let user = ident(&facts.user);
        for role in lacking_membership(db, facts, &owners)? {
            let (role_name, role) = (literal(&role), ident(&role));
            let mut back = [b"REVOKE ", &role[..], b" FROM ", &user].concat();
            let mut options = "";
            if facts.major() >= 16 {
                options = " WITH INHERIT TRUE, SET TRUE";
                if let Some(old) = own_grant(db, &role_name)? {
                    back = [b"GRANT ", &role[..], b" TO ", &user, old.as_bytes()].concat();
                }
            }
            let grant = [b"GRANT ", &role[..], b" TO ", &user, options.as_bytes()].concat();
            joining.0.push((grant, back));
        }
        Ok(joining)
    }
}

/// Memberships that are for the restore only: statements that begin and end each.
#[derive(Debug, Default)]
pub(super) struct Joining(Vec<(Vec<u8>, Vec<u8>)>);

impl Joining {
    /// Becomes a member. To repeat it changes nothing.
    pub(super) fn join(&self, db: &mut Db) -> Result<(), RestoreError> {
        for (grant, _) in &self.0 {
            db.run("becoming a member of an owner", grant)?;
        }
        Ok(())
    }

    /// The statements that undo it.
    pub(super) fn undo(&self) -> Vec<Vec<u8>> {
        self.0.iter().map(|(_, back)| back.clone()).collect()
    }
}

/// The options of a membership that the current role has given to itself, as a grant has them.
fn own_grant(db: &mut Db, role: &[u8]) -> Result<Option<String>, RestoreError> {
    let sql = [
        &b"SELECT m.inherit_option, m.set_option FROM pg_catalog.pg_auth_members m \
          JOIN pg_catalog.pg_roles me ON me.oid = m.member AND me.oid = m.grantor \
          JOIN pg_catalog.pg_roles r ON r.oid = m.roleid \
          WHERE me.rolname = current_user AND r.rolname = "[..],
        role,
    ];
    let rows = db.rows("asking for memberships", sql.concat())?;
    Ok(rows.first().map(|row| {
        let word = |at| if row.get(at) == Some("t") { "TRUE" } else { "FALSE" };
        format!(" WITH INHERIT {}, SET {}", word(0), word(1))
    }))
}

/// Ends memberships that were only for the restore.
pub(super) fn leave_owners(
    db: &mut Db,
    statements: &BTreeSet<Vec<u8>>,
) -> Result<(), RestoreError> {
    let ended = statements.iter().map(|statement| db.run("ending a membership", statement));
    // Each is tried; the first error is told.
    ended.fold(Ok(()), Result::and)
}

fn created_role(statement: &Statement<'_>) -> Option<Vec<u8>> {
    let creates = statement.word(0, "create") && statement.word(1, "role");
    creates.then(|| statement.name(2)).flatten()
}

fn names(roles: &BTreeSet<Vec<u8>>) -> String {
    some(&roles.iter().map(|name| lossy(name)).collect::<Vec<_>>())
}

/// Those of these roles whose rights the current role does not have, or which it can't become.
fn lacking_membership(
    db: &mut Db,
    facts: &TargetFacts,
    roles: &[Vec<u8>],
) -> Result<Vec<Vec<u8>>, RestoreError> {
    let become_it = if facts.major() >= 16 {
        " AND pg_catalog.pg_has_role(oid, 'SET')"
    } else {
        " AND pg_catalog.pg_has_role(oid, 'MEMBER')"
    };
    let member = db.set(
        "asking for memberships",
        &format!(
            "SELECT rolname FROM pg_catalog.pg_roles \
             WHERE pg_catalog.pg_has_role(oid, 'USAGE'){become_it}"
        ),
    )?;
    let lacking: HashSet<&Vec<u8>> = roles.iter().filter(|role| !member.contains(*role)).collect();
    let mut lacking: Vec<Vec<u8>> = lacking.into_iter().cloned().collect();
    lacking.sort();
    Ok(lacking)
}

fn may_grant(db: &mut Db, facts: &TargetFacts, role: &[u8]) -> Result<bool, RestoreError> {
    let name = literal(role);
    let (before, after) = if facts.major() >= 16 {
        (
            "SELECT EXISTS (SELECT FROM pg_catalog.pg_auth_members m \
             WHERE m.roleid = (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = "
                .to_owned(),
            ") AND m.admin_option AND pg_catalog.pg_has_role(m.member, 'USAGE'))",
        )
    } else {
        let create = facts.create_role;
        (format!("SELECT NOT rolsuper AND {create} FROM pg_catalog.pg_roles WHERE rolname = "), "")
    };
    let sql = [before.as_bytes(), &name, after.as_bytes()].concat();
    let rows = db.rows("asking for memberships", sql)?;
    Ok(rows.first().and_then(|row| row.get(0)) == Some("t"))
}
